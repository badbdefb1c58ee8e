"""The table of nodes: grouped by pool, several slots per node, and thousands of nodes in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from rich.text import Text

from scaler_plugin.core.model import Market, NodeRole, SlotState
from scaler_plugin.status.grid import Column, Layout, Note, Row, table
from scaler_plugin.status.report import Doing, NodeStatus, SlotStatus, StatusReport
from scaler_plugin.status.wording import counted, duration

#: With more nodes than this, busy ones are summed up.
LISTED_NODES = 40
#: … and of the others, so many of one pool that do the same are listed.
LISTED_ALIKE = 10

_SHORT_TASK = 8
#: EC2's ids have 19 characters and are never cut; a standby is named after its host, which can be long.
_LONGEST_INSTANCE = 19

_EMPHASIS: Mapping[str, str] = {
    "down": "bold red",
    "interrupted": "bold yellow",
    "draining": "yellow",
    "retiring": "yellow",
    "booting": "cyan",
    "starting": "cyan",
    "busy": "green",
}

_INSTANCE = Column("instance", "")
_SHORT_INSTANCE = Column("short instance", "")
_TYPE = Column("type", "type")
_MARKET = Column("market", "market")
_SHORT_MARKET = Column("short market", "mkt")
_ZONE = Column("zone", "zone")
_SHORT_ZONE = Column("short zone", "az")
_DOING = Column("doing", "state", emphasis=_EMPHASIS)
_FOR = Column("for", "for", right=True)
_AGE = Column("age", "age", right=True)
_SHORT_FOR = Column("short for", "for", right=True)
_SHORT_AGE = Column("short age", "age", right=True)
_LOAD = Column("load", "load")
_QUEUE = Column("queue", "queue")
_TASK = Column("task", "task")
_SHORT_TASK_COLUMN = Column("short task", "task")

_LAYOUTS = (
    Layout((_INSTANCE, _TYPE, _MARKET, _ZONE, _DOING, _FOR, _AGE, _LOAD, _QUEUE, _TASK)),
    Layout((_INSTANCE, _TYPE, _MARKET, _ZONE, _DOING, _FOR, _AGE, _QUEUE, _TASK)),
    Layout((_SHORT_INSTANCE, _TYPE, _MARKET, _SHORT_ZONE, _DOING, _FOR, _AGE, _TASK)),
    Layout((_SHORT_INSTANCE, _TYPE, _MARKET, _SHORT_ZONE, _DOING, _FOR, _AGE, _QUEUE, _SHORT_TASK_COLUMN)),
    Layout((_SHORT_INSTANCE, _TYPE, _MARKET, _SHORT_ZONE, _DOING, _FOR, _AGE, _SHORT_TASK_COLUMN)),
    Layout(
        (_SHORT_INSTANCE, _TYPE, _SHORT_MARKET, _SHORT_ZONE, _DOING, _SHORT_FOR, _SHORT_AGE, _SHORT_TASK_COLUMN), gap=1
    ),
    Layout((_SHORT_INSTANCE, _DOING, _SHORT_FOR, _SHORT_AGE, _SHORT_TASK_COLUMN), gap=1),
)


def node_lines(report: StatusReport, width: int, list_all: bool) -> Iterable[Text]:
    """The table's lines. Unless ``list_all``, a large cluster's busy nodes are one line per pool."""
    if not report.nodes:
        return ()
    everything = list_all or len(report.nodes) <= LISTED_NODES
    rows: list[Row | Note] = []
    for pool, nodes in groupby(report.nodes, key=lambda node: node.pool or ""):
        group = list(nodes)
        without = "without a pool" if group[0].role is NodeRole.WORKER else "standby"
        rows.append(Note(pool or without, style="bold"))
        for doing, alike in groupby(group, key=lambda node: node.doing):
            rows.extend(_rows_of(doing, list(alike), everything))
    return table("NODES", _LAYOUTS, rows, width)


def _rows_of(doing: Doing, nodes: Sequence[NodeStatus], everything: bool) -> Iterator[Row | Note]:
    listed = nodes if everything else nodes[: 0 if doing is Doing.BUSY else LISTED_ALIKE]
    for node in listed:
        yield from _rows(node)
    rest = nodes[len(listed) :]
    if rest:
        longest = duration(max((node.for_s or 0.0 for node in rest), default=0.0))
        more = "more " if listed else ""
        yield Note(f"{counted(len(rest), f'{more}{doing.value} node')}, the longest for {longest} (--all lists them)")


def _rows(node: NodeStatus) -> Iterator[Row | Note]:
    several = len(node.slots) > 1
    yield {
        "instance": node.instance_id,
        "short instance": _cut(node.instance_id, _LONGEST_INSTANCE),
        "type": node.instance_type,
        **(_market_cells(node.market) if node.role is NodeRole.WORKER else {}),
        "zone": node.zone,
        "short zone": _short_zone(node.zone),
        "doing": _doing(node),
        **_time_cells("for", node.for_s),
        **_time_cells("age", node.age_s),
        "load": _load(node),
        **({} if several else _task_cells(node.slots)),
    }
    if node.reason:
        yield Note(node.reason, indent=4)
    if node.protected:
        yield Note(node.protected, indent=4)
    if several:
        for slot in node.slots:
            name = f"  slot {slot.index}"
            yield {
                "instance": name,
                "short instance": name,
                "doing": slot.state.value,
                **_time_cells("for", slot.for_s),
                **_task_cells((slot,)),
            }


def _doing(node: NodeStatus) -> str:
    busy = sum(1 for slot in node.slots if slot.state is SlotState.BUSY)
    share = f" {busy}/{len(node.slots)}" if len(node.slots) > 1 and busy else ""
    return f"{node.doing.value}{share}"


def _market_cells(market: Market) -> Row:
    return {"market": market.value, "short market": "spot" if market is Market.SPOT else "od"}


def _time_cells(name: str, seconds: float | None) -> Row:
    text = duration(seconds)
    return {name: text, f"short {name}": text.replace(" ", "")}


def _task_cells(slots: Sequence[SlotStatus]) -> Row:
    if not slots or not slots[0].task_id:
        return {}
    task = slots[0].task_id
    return {"task": task, "short task": _cut(task, _SHORT_TASK + 1), "queue": slots[0].queue or ""}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _short_zone(zone: str) -> str:
    """``1a`` of ``us-east-1a``: within a cluster the region is always the same."""
    return zone.rpartition("-")[2]


def _load(node: NodeStatus) -> str:
    if node.load is None:
        return ""
    gpu = f" gpu {node.load.gpu:.0f}%" if node.load.gpu is not None else ""
    return f"cpu {node.load.cpu:.0f}%{gpu}"
