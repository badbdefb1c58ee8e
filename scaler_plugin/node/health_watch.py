"""The running node's health put together from real parts: what is looked at, how, and where an unusable check is told."""

from __future__ import annotations

import structlog

from scaler_plugin.core.model import NodeRole
from scaler_plugin.core.ports import Clock, Host
from scaler_plugin.leader.journal import Journal
from scaler_plugin.node.health_gate import check_environment, equipment
from scaler_plugin.node.hook_units import hooks_for_sidecar
from scaler_plugin.node.setup import NodeSetup, state_dir
from scaler_plugin.node.vitals import VitalSigns, VitalsWatch
from scaler_plugin.sidecar.checks import CheckRounds
from scaler_plugin.sidecar.concerns import Concern
from scaler_plugin.sidecar.health import Health
from scaler_plugin.sidecar.settings import FollowedSettings

log = structlog.get_logger(__name__)


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

    def report_unseen(why: str) -> None:
        log.warning("health_unseen", why=why)
        journal.record("health_look_failed", own, f"On {own}: {why}")

    checks = CheckRounds(hooks_for_sidecar(state_dir()), clock, check_environment(setup), report_unusable)
    return (Health(host, settings, clock, checks, report_unseen),)
