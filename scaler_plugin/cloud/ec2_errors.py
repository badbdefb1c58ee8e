"""What an error of EC2 means for the caller, as a sentence for the person who must act.

Two kinds only: ``CloudRefused`` when EC2 said no and nothing happened, ``CloudUnavailable`` when nobody can say; of the latter
``CloudFailed`` where it was this very call that EC2 failed at.
Sources of the codes: "Error codes for the Amazon EC2 API" and the error types of botocore.
"""

from __future__ import annotations

import re
from typing import Any

from botocore import exceptions
from botocore.parsers import ResponseParserError

from scaler_plugin.errors import CloudError, CloudFailed, CloudRefused, CloudUnavailable

#: Said with HTTP 4xx or 503: slow down, nothing is known to have happened.
THROTTLING = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "BandwidthLimitExceeded",
        "SlowDown",
    }
)

#: Said with HTTP 5xx by the service as a whole; any other such code may be about the one call.
OVERLOADED = frozenset({"Unavailable", "ServiceUnavailable"})

#: Codes that begin so are said with HTTP 500, and yet definite: EC2 has looked and has none, of whatever it was: addresses,
#: volumes, hosts, ….
_INSUFFICIENT = "Insufficient"
_NO_CAPACITY = "EC2 has no more of this type there now. Name more instance types, zones or subnets in the pool."

_CREDENTIALS = "Check the AWS credentials of this machine (`aws sts get-caller-identity` shows which are used)."
_RIGHTS = (
    "Allow this action to whoever calls (bootstrap/policies/ has the nodes' policies; for people: docs/bootstrap.md, \"Who may do "
    "this\"); after a change of a pool's image, types or places call `scaler-sidecar bootstrap apply`, and then push the "
    "configuration."
)
_RIGHTS_OF_PEOPLE = 'docs/bootstrap.md, "Who may do this", lists the rights.'
_QUOTA = "Ask for a higher limit in the Service Quotas console, or lower the pool's max_instances."

#: What to do, by code or by the part of a code before its dot.
_WHAT_TO_DO = {
    "InsufficientInstanceCapacity": _NO_CAPACITY,
    "InsufficientHostCapacity": _NO_CAPACITY,
    "InsufficientReservedInstanceCapacity": _NO_CAPACITY,
    "InsufficientCapacity": _NO_CAPACITY,
    "InsufficientFreeAddressesInSubnet": "The subnet has no free addresses. Add another subnet to the pool.",
    "Unsupported": "The type is not offered there. Choose another instance type, zone or subnet for the pool.",
    "SpotMaxPriceTooLow": "The spot price is above the limit. Raise or remove it.",
    "VcpuLimitExceeded": _QUOTA,
    "InstanceLimitExceeded": _QUOTA,
    "MaxSpotInstanceCountExceeded": _QUOTA,
    "VolumeLimitExceeded": _QUOTA,
    "InvalidAMIID": "Check the pool's image: an AMI belongs to one region and must be shared with this account.",
    "InvalidKeyPair": "Check the pool's key_name: a key pair belongs to one region.",
    "InvalidSubnetID": "Check the pool's subnets.",
    "InvalidSubnet": "Check the pool's subnets.",
    "InvalidGroup": "Check the pool's security groups: they must be ids (sg-…) of the subnet's own VPC.",
    "InvalidSecurityGroupID": "Check the pool's security groups: they must be ids (sg-…) of the subnet's own VPC.",
    "InvalidInstanceType": "Check the spelling of the pool's instance types, and that the region offers them.",
    "InvalidBlockDeviceMapping": "Check the pool's volume: it must not be smaller than the image's snapshot.",
    "InvalidParameterValue": "Check the pool's settings.",
    "InvalidParameterCombination": "Check the pool's settings: some do not go together.",
    "InvalidLaunchTemplateName": "Make the pool's launch template: `scaler-sidecar bootstrap apply` (aws.stack names its stack).",
    "InvalidLaunchTemplateId": "Make the pool's launch template: `scaler-sidecar bootstrap apply` (aws.stack names its stack).",
    "VPCIdNotSpecified": "The account has no default VPC in this region. Name subnets in the pool.",
    "IdempotentParameterMismatch": "This is a mistake of ours: a launch was repeated with other parameters. Please report it.",
    "IdempotentInstanceTerminated": "The instances of this launch have been terminated already; the next launch is a new one.",
    "UnauthorizedOperation": _RIGHTS,
    "AccessDenied": _RIGHTS,
    "AccessDeniedException": _RIGHTS,
    "OperationNotPermitted": "Switch off the instance's termination protection.",
    "AuthFailure": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "ExpiredToken": "The AWS session has expired. Renew it, or use an instance role, which renews itself.",
    "RequestExpired": "The AWS session has expired, or this machine's clock is wrong. Check both.",
    "OptInRequired": "Activate EC2 for this account, or the region in the account's settings.",
    "PendingVerification": "AWS is still verifying the account for this region. It will write an e-mail; wait for it.",
    "Blocked": "AWS has blocked the account. Contact AWS Support.",
}

_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.NoAuthTokenError,
    exceptions.TokenRetrievalError,
    exceptions.ProfileNotFound,
)

_ENCODED = re.compile(r"\s*Encoded authorization failure message:\s*(\S+)")


def cloud_error(
    error: Exception, action: str, about: str, service: str = "EC2", *, of_command: bool = False
) -> CloudError:
    """The error as one of ours. ``about`` says what the call was for: "pool gpu", "the instances of cluster demo".

    ``of_command``: a person called, who has rights of their own, and nothing is tried again without them.
    """
    if isinstance(error, exceptions.ClientError):
        return _answered(error, action, about, service, of_command)
    reason = str(error).rstrip(". ")
    if isinstance(error, _NO_CREDENTIALS):
        return CloudRefused(
            f"{service} {action} for {about} was not sent, because there are no AWS credentials: {reason}. "
            "Give this machine an instance profile, or set AWS_PROFILE or AWS_ACCESS_KEY_ID.",
            "NoCredentials",
        )
    if isinstance(error, exceptions.NoRegionError):
        return CloudRefused(
            f"{service} {action} for {about} was not sent, because no region is known. Set aws.region in the configuration, "
            "or AWS_DEFAULT_REGION.",
            "NoRegion",
        )
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError | ResponseParserError):
        return CloudUnavailable(
            f"{service} did not answer {action} for {about}: {reason}. {_again(of_command)}; check the network and "
            "https://health.aws.amazon.com if it stays so.",
            type(error).__name__,
        )
    return CloudRefused(
        f"{service} {action} for {about} could not be sent ({type(error).__name__}): {reason}. Check the configuration.",
        "NotSent",
    )


def _again(of_command: bool) -> str:
    return "Call this again" if of_command else "It will be tried again"


def _answered(error: exceptions.ClientError, action: str, about: str, service: str, of_command: bool) -> CloudError:
    details: Any = error.response.get("Error", {})
    code, message = details.get("Code", "Unknown"), details.get("Message") or "no reason given"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    what_to_do = _WHAT_TO_DO.get(code) or _WHAT_TO_DO.get(code.partition(".")[0])
    if what_to_do is _RIGHTS and of_command:
        what_to_do = _RIGHTS_OF_PEOPLE
    if what_to_do is None and status >= 500 and code.startswith(_INSUFFICIENT):
        what_to_do = _NO_CAPACITY
    if code in THROTTLING:
        later = "in a minute" if of_command else "less often"
        return CloudUnavailable(
            f"{service} throttles {action} for {about} ({code}). {_again(of_command)}, {later}.", code
        )
    if status >= 500 and what_to_do is None:
        failed = CloudUnavailable if code in OVERLOADED else CloudFailed
        return failed(f"{service} failed at {action} for {about}: {message} ({code}). {_again(of_command)}.", code)
    decode = ""
    if encoded := _ENCODED.search(message):
        message = _ENCODED.sub("", message)
        decode = f" `aws sts decode-authorization-message --encoded-message {encoded[1]}` shows which policy refused."
    message = message.rstrip(". ")
    advice = f" {what_to_do}" if what_to_do else ""
    return CloudRefused(f"{service} refused {action} for {about}: {message} ({code}).{advice}{decode}", code)
