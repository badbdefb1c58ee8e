"""Words for an instance that did not become a node: what happened, and by its console output why.

What looks like a secret is masked: an init script prints what it likes, and these words go into etcd and are shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from scaler_plugin.config.masking import mask_secrets
from scaler_plugin.coordination.events import START_FAILED, Event
from scaler_plugin.core.breaker import FailedStart
from scaler_plugin.core.console_output import read_console
from scaler_plugin.core.model import InstanceId
from scaler_plugin.core.ports import Fleet
from scaler_plugin.errors import CloudError


def in_short(instance_id: InstanceId, cause: str, told: Event | None = None) -> FailedStart:
    """What is known without its console. ``cause`` completes "Instance i-… "; ``told``: what it said in etcd itself."""
    if told is not None:
        return FailedStart(instance_id, told.sentence, told.detail)
    return FailedStart(instance_id, f"Instance {instance_id} {cause}.")


def failed_start(fleet: Fleet, instance_id: InstanceId, cause: str, told: Event | None = None) -> FailedStart:
    """``cause`` completes "Instance i-… "; an output that can't be read is said in the detail. ``told``: what it said in etcd."""
    what = f"Instance {instance_id} {cause}."
    if told is not None:
        # EC2 keeps a console's last minutes, and hands them out late.
        return FailedStart(instance_id, f"{what} {told.sentence}", told.detail)
    try:
        console = read_console(fleet.console_output(instance_id))
    except CloudError as error:
        return FailedStart(instance_id, what, f"(The console output could not be read: {error})")
    said = f"{what} It said: {mask_secrets(console.said)}" if console.said else what
    return FailedStart(instance_id, said, mask_secrets(console.kept))


def told_of_starts(events: Iterable[Event]) -> dict[str, Event]:
    """What was told last of each instance that could not start."""
    return {event.about: event for event in events if event.kind == START_FAILED}
