"""The account's own role for EC2 Spot. An account that never used spot has none, and nodes may not make roles."""

from __future__ import annotations

from scaler_plugin.bootstrapping.account import Account
from scaler_plugin.bootstrapping.deployment import Progress
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.core.model import Market
from scaler_plugin.errors import CloudRefused

SPOT_ROLE = "AWSServiceRoleForEC2Spot"


def lacks_spot_role(config: ScalerConfig, account: Account) -> bool:
    """Whether a pool is spot and the account lacks the role. Raises ``CloudError``."""
    if all(pool.market is not Market.SPOT for pool in config.pools):
        return False
    return account.found("iam", "get_role", f"role {SPOT_ROLE}", RoleName=SPOT_ROLE) is None


def plan_of_spot_role(config: ScalerConfig, account: Account) -> str | None:
    """A line about what :func:`ensure_spot_role` would do; ``None`` if nothing."""
    try:
        if not lacks_spot_role(config, account):
            return None
    except CloudRefused as refused:
        return (
            f"  ? {SPOT_ROLE}  AWS::IAM::ServiceLinkedRole (unless the account has it, which is not known: {refused})"
        )
    return (
        f"  + {SPOT_ROLE}  AWS::IAM::ServiceLinkedRole (the account's own role for spot; it stays when the stack goes)"
    )


def ensure_spot_role(config: ScalerConfig, account: Account, progress: Progress) -> None:
    """Make the role if a pool is spot and the account lacks it. It belongs to the account and stays when the stack goes."""
    if lacks_spot_role(config, account):
        progress(f"The account has never used spot; making EC2's own role {SPOT_ROLE}.")
        try:
            account.call("iam", "create_service_linked_role", f"role {SPOT_ROLE}", AWSServiceName="spot.amazonaws.com")
        except CloudRefused as refused:
            # Somebody else's spot request has made it meanwhile. IAM's word for that is InvalidInput, "has been taken".
            if refused.code != "EntityAlreadyExists" and "has been taken" not in str(refused):
                raise
