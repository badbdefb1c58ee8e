"""The AWS account as bootstrap uses it: clients of its services, and errors as sentences. boto3 is loaded at the first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from scaler_plugin.config.schema import AwsConfig
from scaler_plugin.errors import CloudRefused, ConfigError

T = TypeVar("T")

_NAMES = {
    "cloudformation": "CloudFormation",
    "ec2": "EC2",
    "iam": "IAM",
    "service-quotas": "Service Quotas",
    "secretsmanager": "Secrets Manager",
    "ssm": "Systems Manager",
    "sts": "STS",
}


#: boto3's names for where it found credentials, and what people call those places.
_METHODS = {
    "env": "environment variables",
    "shared-credentials-file": "~/.aws/credentials",
    "config-file": "~/.aws/config",
    "assume-role": "a role that ~/.aws/config assumes",
    "assume-role-with-web-identity": "a web identity token",
    "sso": "AWS SSO",
    "iam-role": "this instance's role",
    "container-role": "this container's role",
    "custom-process": "a credential_process",
}
_OF_PROFILES = ("shared-credentials-file", "config-file", "assume-role", "sso", "custom-process")


class Account:
    """The region comes from the configuration, else from boto3's own chain, credentials always from that."""

    def __init__(self, aws: AwsConfig) -> None:
        self._aws = aws
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        """Raises ``ConfigError`` when none is known."""
        region = self._client("ec2").meta.region_name
        return str(region)

    @property
    def credentials(self) -> str:
        """Where boto3 found the credentials, in words; never a part of them. Empty when it has none."""
        import boto3  # noqa: PLC0415

        self._client("ec2")  # makes the session that all clients share
        session: Any = boto3.DEFAULT_SESSION
        found = session.get_credentials() if session else None
        if found is None:
            return ""
        profile = f", profile {session.profile_name}" if found.method in _OF_PROFILES else ""
        return f"{_METHODS.get(found.method, found.method)}{profile}"

    def call(self, service: str, action: str, about: str, **parameters: Any) -> dict[str, Any]:
        """One call. ``action`` is boto3's name of it. Raises ``CloudError``."""
        answer: dict[str, Any] = self._guarded(
            service, action, about, lambda: getattr(self._client(service), action)(**parameters)
        )
        return answer

    def pages(self, service: str, action: str, key: str, about: str, **parameters: Any) -> list[Any]:
        """Every entry under ``key`` of every page. Raises ``CloudError``."""

        def read() -> list[Any]:
            paginator = self._client(service).get_paginator(action)
            return [entry for page in paginator.paginate(**parameters) for entry in page.get(key, [])]

        return self._guarded(service, action, about, read)

    def found(self, service: str, action: str, about: str, **parameters: Any) -> dict[str, Any] | None:
        """One call about something that need not exist: ``None`` when AWS says that it does not."""
        try:
            return self.call(service, action, about, **parameters)
        except CloudRefused as refused:
            if any(word in refused.code for word in ("NotFound", "NoSuch", "Malformed", "DoesNotExist")) or (
                "does not exist" in str(refused)
            ):
                return None
            raise

    def _guarded(self, service: str, action: str, about: str, call: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from botocore.parsers import ResponseParserError  # noqa: PLC0415

        from scaler_plugin.cloud.ec2_errors import cloud_error  # noqa: PLC0415

        try:
            return call()
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            wire_name = "".join(part.capitalize() for part in action.split("_"))
            raise cloud_error(error, wire_name, about, _NAMES[service], of_command=True) from error

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            import boto3  # noqa: PLC0415
            from botocore.config import Config  # noqa: PLC0415
            from botocore.exceptions import NoRegionError, ProfileNotFound  # noqa: PLC0415

            settings = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 4})
            endpoint = self._aws.endpoint_url if service == "ec2" else None
            make: Any = boto3.client
            try:
                self._clients[service] = make(
                    service, region_name=self._aws.region, endpoint_url=endpoint, config=settings
                )
            except NoRegionError:
                raise ConfigError("No AWS region is known; set aws.region in the configuration.") from None
            except ProfileNotFound as error:
                raise CloudRefused(f"{error}. Correct AWS_PROFILE.", "NoCredentials") from None
        return self._clients[service]
