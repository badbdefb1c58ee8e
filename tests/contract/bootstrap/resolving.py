"""The template's intrinsic functions, resolved as CloudFormation does, with made-up ids: policies are judged without AWS."""

from __future__ import annotations

import re
from typing import Any

ACCOUNT = "111122223333"
REGION = "eu-central-1"
IDS = {
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "PoolGpu": "lt-0aaaaaaaaaaaaaaa1",
    "PoolCpu": "lt-0aaaaaaaaaaaaaaa2",
    "ProbeTemplate": "lt-0aaaaaaaaaaaaaaa3",
    "NodeSecurityGroup.GroupId": "sg-0aaaaaaaaaaaaaaa1",
    "NodeRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/scaler-sidecar-research-NodeRole-1ABC",
    "NodeProfile.Arn": f"arn:aws:iam::{ACCOUNT}:instance-profile/scaler-sidecar-research-NodeProfile-1ABC",
    "ProbeRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/scaler-sidecar-research-ProbeRole-1ABC",
}


def resolve(value: Any) -> Any:
    """The value as AWS will see it. Raises ``KeyError`` for a reference that the stack does not have."""
    if isinstance(value, dict):
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref":
                return IDS[argument]
            if function == "Fn::GetAtt":
                return IDS[".".join(argument)]
            if function == "Fn::Sub":
                return re.sub(r"\$\{([^}]+)\}", lambda found: IDS[found[1]], argument)
            if function == "Fn::Base64":
                return resolve(argument)
        return {key: resolve(inner) for key, inner in value.items()}
    return [resolve(inner) for inner in value] if isinstance(value, list) else value
