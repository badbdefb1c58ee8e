"""The one family of errors, each a sentence for the person who must act, each with the exit code of the command line.

Exit codes (also in ``docs/cli.md``): 0 done · 1 failed · 2 wrong usage or configuration · 3 etcd cannot be used ·
4 ClearML cannot be used · 5 AWS cannot be used. A traceback is always a bug.
"""

from __future__ import annotations


class ScalerError(Exception):
    """Something failed. The message is a whole sentence: what failed, on what, and what to do about it."""

    exit_code = 1


class ConfigError(ScalerError):
    """The configuration, an argument or an environment variable is wrong; nothing was changed."""

    exit_code = 2


class StoreError(ScalerError):
    """etcd cannot be used."""

    exit_code = 3


class StoreUnavailable(StoreError):
    """etcd did not answer in time. A write that ended so may or may not have been applied."""


class StoreRefused(StoreError):
    """etcd answered and refused: wrong credentials, no permission, no space. Nothing was written."""


class RecordMalformed(StoreError):
    """A value in etcd is not what stands under such a key: another program wrote it, a person, or a newer version."""


class LeaseLost(StoreError):
    """The lease expired or was revoked, and every key under it is gone."""


class NotLeader(StoreError):
    """A fenced write was refused, or the local deadline has passed: another leader may be acting."""


class TaskServerError(ScalerError):
    """The ClearML server cannot be used. ``subcode`` is the API's own ``result_subcode``, 0 where there is none."""

    exit_code = 4

    def __init__(self, message: str, subcode: int = 0) -> None:
        super().__init__(message)
        self.subcode = subcode


class TaskServerUnavailable(TaskServerError):
    """ClearML did not answer, or answered 5xx. The call may or may not have had its effect."""


class TaskServerRefused(TaskServerError):
    """ClearML answered and refused (credentials, unknown id, a transition that is not allowed); nothing changed."""


class CloudError(ScalerError):
    """AWS cannot be used. ``code`` is the API's own error code where there is one."""

    exit_code = 5

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CloudUnavailable(CloudError):
    """AWS did not answer, throttled, or answered 5xx. The call may or may not have had its effect."""


class CloudFailed(CloudUnavailable):
    """AWS answered 5xx: to this call, which may have had its effect all the same. Others may well work."""


class CloudRefused(CloudError):
    """AWS answered and refused (no capacity, unknown AMI, no permission, quota); nothing was started."""


class HostError(ScalerError):
    """The machine itself refused: shutdown, process control, a file that should be there."""
