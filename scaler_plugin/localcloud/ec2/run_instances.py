"""The rules of RunInstances that moto leaves out, as EC2 documents them.

Sources: the API reference of RunInstances and "Ensuring idempotency in Amazon EC2 API requests".
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from scaler_plugin.localcloud.ec2.calls import Answer, Call, error

#: Bytes of user-data before base64.
USER_DATA_LIMIT = 16 * 1024
#: Characters of a client token.
TOKEN_LIMIT = 64


@dataclass(frozen=True)
class TokenUse:
    """What a client token stands for: the parameters of its first successful call, and that call's answer."""

    params: tuple[tuple[str, str], ...]
    answer: Answer


def parameters_of(call: Call) -> tuple[tuple[str, str], ...]:
    """What must be the same for a repeated token: every parameter but the token itself."""
    return tuple(sorted((k, v) for k, v in call.params.items() if k not in ("ClientToken", "Version")))


def mistake_in(call: Call, key_names: set[str]) -> Answer | None:
    """The error EC2 gives for a call that moto would accept; ``None`` if the call is well-formed."""
    params = call.params
    if len(params.get("ClientToken", "")) > TOKEN_LIMIT:
        return error("InvalidParameterValue", f"Client token must be no longer than {TOKEN_LIMIT} ASCII characters")
    counts = [params.get("MinCount", ""), params.get("MaxCount", "")]
    if not all(count.isdigit() for count in counts):
        return error("MissingParameter", "The request must contain the parameters MinCount and MaxCount")
    if not 1 <= int(counts[0]) <= int(counts[1]):
        return error("InvalidParameterValue", f"Value ({counts[0]}) for parameter minCount is invalid.")
    if not params.get("ImageId") and not any(key.startswith("LaunchTemplate.") for key in params):
        return error("MissingParameter", "The request must contain the parameter ImageId")
    if (key_name := params.get("KeyName")) and key_name not in key_names:
        return error("InvalidKeyPair.NotFound", f"The key pair '{key_name}' does not exist")
    return _mistake_in_user_data(params.get("UserData", ""))


def _mistake_in_user_data(encoded: str) -> Answer | None:
    try:
        user_data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return error("InvalidParameterValue", "Invalid BASE64 encoding of user data")
    if len(user_data) > USER_DATA_LIMIT:
        return error("InvalidParameterValue", f"User data is limited to {USER_DATA_LIMIT} bytes")
    return None


def count_to_start(call: Call, available: int | None) -> int:
    """EC2 starts as many as it can up to MaxCount, and nothing at all below MinCount (0 here)."""
    wanted = int(call.params["MaxCount"])
    count = wanted if available is None else min(wanted, available)
    return count if count >= int(call.params["MinCount"]) else 0


def no_capacity(call: Call, zone: str) -> Answer:
    """EC2's words when an instance type has run out in a zone; the HTTP status is really 500."""
    instance_type = call.params.get("InstanceType", "m1.small")
    message = (
        f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone})."
    )
    return error("InsufficientInstanceCapacity", message, 500)
