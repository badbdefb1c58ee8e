"""The running node's health put together from real parts: what is looked at, how, and where an unusable check is told."""

from __future__ import annotations

from scaler_plugin.core.model import NodeRole
from scaler_plugin.core.ports import Clock, Host
from scaler_plugin.leader.journal import Journal
from scaler_plugin.node.health_gate import check_environment, equipment
from scaler_plugin.node.hooks import ShellHooks
from scaler_plugin.node.setup import NodeSetup
from scaler_plugin.node.vitals import VitalSigns, VitalsWatch
from scaler_plugin.sidecar.checks import CheckRounds
from scaler_plugin.sidecar.concerns import Concern
from scaler_plugin.sidecar.health import Health
from scaler_plugin.sidecar.settings import FollowedSettings


def vitals_watch(setup: NodeSetup, clock: Clock) -> VitalsWatch:
    return VitalsWatch(VitalSigns(equipment(setup)), clock)


def health_concerns(
    setup: NodeSetup, host: Host, settings: FollowedSettings, clock: Clock, journal: Journal
) -> tuple[Concern, ...]:
    """A worker's health is a concern; a standby node takes no task."""
    if setup.identity.role is not NodeRole.WORKER:
        return ()
    own = setup.identity.instance_id

    def report_unusable(why: str) -> None:
        journal.record("check_failed", own, f"On {own}: {why}")

    checks = CheckRounds(ShellHooks(), clock, check_environment(setup), report_unusable)
    return (Health(host, settings, clock, checks),)
