"""A cluster at zero that a probe looks after: nothing runs, and that is as it should be, as long as the probes come.

A probe that finds nothing to do leads for some seconds and publishes its view, so that view's term tells when one looked last.
"""

from __future__ import annotations

from scaler_plugin.status.reading import ClusterRecords
from scaler_plugin.status.report import ZeroStatus

#: One probe may be refused by EC2 or find etcd away; after two that did not come something is wrong.
PERIODS_MISSED = 2
#: What a probe needs from its launch to its view.
PROBE_BOOT_S = 120.0


def look_at_zero(records: ClusterRecords, now: float) -> ZeroStatus | None:
    """``None`` unless nothing is up and a schedule is there to launch probes."""
    view, every_s = records.view, records.probe_every_s
    if records.leader is not None or records.nodes or every_s is None:
        return None
    if view is None:
        return ZeroStatus(every_s, None, None, overdue=False)
    # A worker that led for long leaves with an event of its own.
    last = max([view.since, *(event.at for event in records.events)])
    ago_s = round(max(0.0, now - last), 1)
    return ZeroStatus(every_s, last, ago_s, overdue=ago_s > PERIODS_MISSED * every_s + PROBE_BOOT_S)
