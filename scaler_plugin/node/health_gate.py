"""The health gate: a machine that isn't fit for tasks never starts an agent, says why, and ends itself.

It runs once per boot, after ``scaler-sidecar boot`` and before sidecar and agents: ``scaler-sidecar health --gate``. What it tells
goes to etcd, where ``status`` shows it and the leader counts it (a pool whose instances fail in a row pauses).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.core.health import HealthPolicy, find_ailment, hung, judge_check
from scaler_plugin.core.ports import Host
from scaler_plugin.errors import HostError, ScalerError
from scaler_plugin.node.failed_boot import tell
from scaler_plugin.node.setup import NodeSetup
from scaler_plugin.node.vitals import Equipment, VitalSigns
from scaler_plugin.sidecar.ports import HookRun, Hooks

log = structlog.get_logger(__name__)

#: Docker takes some seconds to start, and the GPU driver may load after us.
PATIENCE_S = 60.0
_LOOK_AGAIN_S = 3.0


def equipment(setup: NodeSetup) -> Equipment:
    """What this node's pool needs of its machine."""
    return Equipment(docker=setup.docker_image is not None, gpus=0 if setup.cpu_only else setup.gpus)


def why_unfit(signs: VitalSigns, policy: HealthPolicy, hooks: Hooks, environment: dict[str, str]) -> str | None:
    """Look once at everything, the user's own checks too; why the machine is not fit, as a sentence."""
    ailment = find_ailment(signs.look(), policy)
    if ailment is not None:
        return ailment
    for check in policy.checks:
        outcome = _wait(hooks.start(check.script, environment), check.timeout_s)
        verdict = hung(check) if outcome is None else judge_check(check, outcome[0], mask_secrets(outcome[1]))
        if verdict.unusable is not None:
            log.warning("check_unusable", check=check.name, why=verdict.unusable)
        if verdict.unfit is not None:
            return verdict.unfit
    return None


def wait_until_fit(look: Callable[[], str | None], patience_s: float) -> str | None:
    """Look again and again until all is well (``None``) or the time is over (the last reason)."""
    deadline = time.monotonic() + patience_s
    while (reason := look()) is not None and time.monotonic() < deadline:
        log.info("not_fit_yet", reason=reason)
        time.sleep(_LOOK_AGAIN_S)
    return reason


def health_policy(setup: NodeSetup) -> HealthPolicy:
    """What the published configuration expects of this node's machine; the defaults where it can't be read."""
    # The configuration's schema is 12 MB: for the gate, which ends, and not for the sidecar, which uses this module too.
    from scaler_plugin.config.policy import cluster_policy  # noqa: PLC0415
    from scaler_plugin.coordination.published_config import read_config  # noqa: PLC0415

    try:
        store = setup.etcd.open()
        try:
            published = read_config(store, Keys(setup.prefix, setup.identity.cluster))
        finally:
            store.close()
    except ScalerError as error:
        log.warning("health_policy_not_known", error=str(error))
        return HealthPolicy()
    pool = cluster_policy(published.config).pool(setup.identity.pool) if published else None
    return pool.health if pool else HealthPolicy()


def give_up(setup: NodeSetup, host: Host, reason: str, now: float) -> None:
    """Put the reason on record and end the machine. Raises ``HostError`` when it can't be ended."""
    instance = setup.identity.instance_id
    sentence = f"Instance {instance} did not pass its health gate and ended itself: {reason}"
    try:
        tell(setup.etcd, Keys(setup.prefix, setup.identity.cluster), instance, sentence, now)
    except ScalerError as error:
        log.error("reason_not_recorded", reason=reason, error=str(error))
    host.shut_down(reason)


def check_environment(setup: NodeSetup) -> dict[str, str]:
    """What a check script is told."""
    identity = setup.identity
    return {
        "SCALER_INSTANCE_ID": identity.instance_id,
        "SCALER_INSTANCE_TYPE": identity.instance_type,
        "SCALER_POOL": identity.pool or "",
    }


def run_gate(
    setup: NodeSetup, hooks: Hooks, host: Host, known_reason: str | None = None, patience_s: float = PATIENCE_S
) -> None:
    """Pass, or end this machine; ``known_reason`` is one that an earlier step has found. Raises ``HostError`` with the reason."""
    reason = known_reason
    if reason is None:
        policy, signs = health_policy(setup), VitalSigns(equipment(setup))
        reason = wait_until_fit(lambda: why_unfit(signs, policy, hooks, check_environment(setup)), patience_s)
    if reason is None:
        log.info("machine_fit", instance=setup.identity.instance_id)
        return
    give_up(setup, host, reason, time.time())
    raise HostError(f"This machine is not fit for its pool and ends itself: {reason}")


def _wait(run: HookRun, timeout_s: float) -> tuple[int | None, str] | None:
    deadline = time.monotonic() + timeout_s
    while (outcome := run.poll()) is None:
        if time.monotonic() > deadline:
            run.kill()
            return None
        time.sleep(0.05)
    return outcome.exit_code, outcome.output
