"""When a probe ends, and when it hands the lead over: the pure part of life from zero.

Guarantees: a probe never ends while it leads and something remains to be done that no other node could do; it never stays for long
when it can see nothing. What it took for a living leader was seen for longer than a dead one's key can stand: after the
death of every machine at once the first probe stays, and not the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scaler_plugin.core.model import InstanceId

#: A dead leader's key stands for its TTL; another one may need a moment more to be noticed.
LEADER_MARGIN_S = 2.0

#: A probe that cannot read etcd or ClearML, or is not elected, ends after so long: the next one tries again, and until then
#: nothing is spent on it.
BLIND_LIMIT_S = 150.0


@dataclass(frozen=True)
class Remains:
    """What a leader's last pass left to be done, as a sentence; empty when nothing is. ``known`` is false when a source could not
    be read."""

    known: bool
    what: str = ""


@dataclass(frozen=True)
class ProbeSight:
    """What a probe sees. ``other_leads`` leads instead of it, without a break for ``other_for_s``. ``remains`` is of its own
    pass, ``None`` unless it leads. ``workers`` is how many nodes that may lead are up besides it. ``blind_for_s`` is how long it
    has known nothing for certain."""

    other_leads: InstanceId | None = None
    other_for_s: float = 0.0
    remains: Remains | None = None
    workers: int = 0
    blind_for_s: float = 0.0


class ProbeAct(str, Enum):
    STAY = "stay"
    HAND_OVER = "hand-over"  # give up the lead, so that a worker takes it
    END = "end"


@dataclass(frozen=True)
class ProbeVerdict:
    act: ProbeAct
    reason: str


def judge_probe(sight: ProbeSight, leader_ttl_s: float) -> ProbeVerdict:
    """What the probe does next; the reason is a sentence."""
    if sight.other_leads is not None:
        patience_s = leader_ttl_s + LEADER_MARGIN_S
        if sight.other_for_s < patience_s:
            return ProbeVerdict(ProbeAct.STAY, f"{sight.other_leads} holds the lead; whether it lives shows soon.")
        return ProbeVerdict(ProbeAct.END, f"{sight.other_leads} leads the cluster.")
    remains = sight.remains
    if remains is not None and remains.known:
        if not remains.what:
            return ProbeVerdict(ProbeAct.END, "Nothing is to be done.")
        if sight.workers:
            return ProbeVerdict(ProbeAct.HAND_OVER, f"A worker is up and takes over: {remains.what}")
        return ProbeVerdict(ProbeAct.STAY, remains.what)
    if sight.blind_for_s >= BLIND_LIMIT_S:
        what = remains.what if remains and remains.what else "It was not elected, or etcd does not answer."
        return ProbeVerdict(ProbeAct.END, f"{what} The next probe tries again.")
    return ProbeVerdict(ProbeAct.STAY, "It does not know yet whether something is to be done.")


def what_remains(waiting: int | None, launches: int, suspects: int | None, fleet_known: bool) -> Remains:
    """Of one pass of a leader.

    Args:
        waiting: tasks in the queues, ``None`` when ClearML could not be read.
        launches: launches begun or under way.
        suspects: tasks that look as if no one will ever run them, ``None`` when nobody has looked yet.
        fleet_known: whether EC2 could be listed.
    """
    if waiting is None:
        return Remains(False, "ClearML cannot be read.")
    if not fleet_known:
        return Remains(False, "EC2 cannot be listed.")
    if waiting:
        return Remains(True, f"{waiting} tasks wait.")
    if launches:
        return Remains(True, "A launch is under way.")
    if suspects is None:
        return Remains(False, "Whether tasks are stranded is not known yet.")
    if suspects:
        return Remains(True, f"{suspects} tasks look stranded.")
    return Remains(True)
