"""Makes the EC2 double all of AWS for this process."""

from __future__ import annotations

import boto3
import pytest

from scaler_plugin.localcloud.ec2 import Ec2DoubleProcess


def use_as_aws(double: Ec2DoubleProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, everything in this process that asks AWS asks the double."""
    for name, value in {
        "AWS_ENDPOINT_URL": double.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
