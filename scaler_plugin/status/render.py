"""The report as text for a terminal of any width: pure, one :class:`rich.text.Text` per line.

The order is that of a person who was just woken: who leads, how much waits and runs, what is wrong and what to do; then the queues
with the reason why they wait; then pools, launches and nodes. Every word stands without its colour, and no line is longer
than the width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from rich.text import Text

from scaler_plugin.status.grid import Column, Layout, Note, Row, fit, paragraph, table
from scaler_plugin.status.node_table import node_lines
from scaler_plugin.status.report import LaunchStatus, PoolStatus, ProblemStatus, QueueStatus, StatusReport
from scaler_plugin.status.wording import counted, duration, plain

#: So many lines of a failure's detail (a console's end) are shown, and so many with ``verbose``.
DETAIL_LINES = 3
DETAIL_LINES_VERBOSE = 60
#: What is wrong takes so many lines at most where room is short.
BRIEF_LINES = 2
#: Of nodes with the same problem, so many are named.
LISTED_ABOUTS = 3
#: An error's text shorter than this may stand twice.
SHORTEST_REPEAT = 40
#: Empty queues beyond so many are only counted.
LISTED_EMPTY_QUEUES = 6


def render(
    report: StatusReport, width: int, *, list_all: bool = False, verbose: bool = False, brief: bool = False
) -> list[Text]:
    """The lines. ``list_all`` lists every node of a large cluster, ``verbose`` shows more of what failures left behind.

    ``brief`` cuts each problem to a few lines, for a screen on which queues and pools must find room, too.
    """
    said = [problem.what for problem in report.problems]
    sections = (
        _header(report, width),
        _problem_lines(report.problems, width, verbose, brief),
        _queue_lines(report.queues, width, said),
        _pool_lines(report.pools, width),
        _launch_lines(report.launches, width, said),
        node_lines(report, width, list_all),
    )
    lines: list[Text] = []
    for section in sections:
        block = list(section)
        if block and lines:
            lines.append(Text())
        lines.extend(block)
    return lines


def _header(report: StatusReport, width: int) -> Iterator[Text]:
    clock = time.strftime("%H:%M:%S", time.localtime(report.at))
    first = Text()
    first.append(f"{plain(report.cluster)}  ", style="bold")
    first.append(*_leader(report))
    room = width - len(clock) - 2
    fit(first, room)
    first.append(" " * (width - first.cell_len - len(clock)) + clock, style="dim")
    yield first
    if stale := _stale(report):
        yield from paragraph(stale, width, indent="", style="bold yellow")
    yield from paragraph(_summary(report), width, indent="")


def _leader(report: StatusReport) -> tuple[str, str]:
    if report.zero is not None and report.zero.last_look_s is not None:
        zero = report.zero
        seen = f"the last {duration(zero.last_look_s or 0.0)} ago"
        return f"at zero: a probe looks for tasks every {duration(zero.probe_every_s)}, {seen}", ""
    if report.leader is None:
        return "no leader", "bold red"
    leader = report.leader
    return f"leader {plain(leader.node)} for {duration(leader.for_s)}, term {leader.term}", ""


def _stale(report: StatusReport) -> str:
    view = report.view
    if view is not None and view.fresh:
        return ""
    if report.zero is not None and not report.zero.overdue:
        return ""
    if report.leader is None:
        return f"no leader: figures are from term {view.term}" if view else ""
    if view is None:
        return "the leader has not published its first figures yet"
    return f"the leader has not published figures yet: those of queues are from term {view.term}"


def _summary(report: StatusReport) -> str:
    known = [queue for queue in report.queues if queue.waiting is not None]
    waiting = sum(queue.waiting or 0 for queue in known)
    parts = []
    if known:
        oldest = max((queue.oldest_wait_s or 0.0 for queue in known), default=0.0)
        since = f", the oldest for {duration(oldest)}" if waiting and oldest else ""
        parts.append((f"{counted(waiting, 'task')} waiting{since}") if waiting else "no task waits")
    elif report.queues:
        parts.append("waiting tasks are not known")
    most = f" of {report.max_instances}" if report.max_instances is not None else ""
    parts.append(f"{report.instances}{most} instances{_breakdown(report.pools)}")
    return " · ".join(parts)


def _breakdown(pools: Iterable[PoolStatus]) -> str:
    pools = list(pools)
    totals = {
        "busy": sum(pool.busy for pool in pools),
        "idle": sum(pool.idle for pool in pools),
        "booting": sum(pool.booting for pool in pools),
        "retiring": sum(pool.retiring for pool in pools),
        "down": sum(pool.down for pool in pools),
    }
    totals["without record"] = sum(pool.instances for pool in pools) - sum(totals.values())
    named = ", ".join(f"{number} {name}" for name, number in totals.items() if number > 0)
    return f": {named}" if named else ""


def _problem_lines(problems: Iterable[ProblemStatus], width: int, verbose: bool, brief: bool) -> Iterator[Text]:
    alike: dict[tuple[bool, str, str], list[ProblemStatus]] = {}
    for problem in problems:
        alike.setdefault((problem.current, problem.what, problem.what_to_do), []).append(problem)
    if alike:
        yield Text("PROBLEMS", style="bold")
    for same in alike.values():
        first = same[0]
        mark, style = ("! ", "bold red") if first.current else ("- ", "yellow")
        about = f"{mark}{plain(_abouts(same))}{_when(same)}"
        if brief:
            yield fit(Text(about, style=style), width)
            yield from _first_lines(first.what, BRIEF_LINES, width)
            yield from _first_lines(first.what_to_do, 1, width, first="  → ")
            continue
        yield from paragraph(about, width, first="", style=style)
        yield from paragraph(first.what, width)
        yield from paragraph(first.what_to_do, width, indent="    ", first="  → ", style="bold")
        yield from _detail(first.detail, width, verbose)


def _first_lines(text: str, most: int, width: int, first: str = "  ") -> Iterator[Text]:
    lines = list(paragraph(text, width, first=first))
    if len(lines) > most:
        lines[most - 1] = fit(Text(f"{lines[most - 1].plain} …"), width)
    yield from lines[:most]


def _abouts(same: Sequence[ProblemStatus]) -> str:
    named = ", ".join(problem.about for problem in same[:LISTED_ABOUTS])
    others = len(same) - LISTED_ABOUTS
    return f"{named} and {counted(others, 'other')}" if others > 0 else named


def _when(same: Sequence[ProblemStatus]) -> str:
    longest = max((problem.for_s for problem in same if problem.for_s is not None), default=None)
    if longest is None:
        return ""
    if same[0].current:
        return f", {'the longest ' if len(same) > 1 else ''}for {duration(longest)}"
    times = same[0].times
    return f", {duration(longest)} ago" if times == 1 else f", the last of {times} times {duration(longest)} ago"


def _without_repeats(text: str, said: Iterable[str]) -> str:
    """The text without what the problems above it have said already, after a colon, at length."""
    for sentence in said:
        cause = sentence.partition(": ")[2]
        if len(cause) > SHORTEST_REPEAT:
            text = text.replace(cause, "see the problem above.")
    return text[:1].upper() + text[1:]


def _detail(detail: str, width: int, verbose: bool) -> Iterator[Text]:
    lines = [line.rstrip().expandtabs(4) for line in plain(detail).split("\n") if line.strip()]
    shown = lines[-(DETAIL_LINES_VERBOSE if verbose else DETAIL_LINES) :]
    if len(shown) < len(lines) and not verbose:
        yield fit(
            Text(f"  | … {counted(len(lines) - len(shown), 'line')} before (--verbose shows more)", style="dim"), width
        )
    for line in shown:
        yield fit(Text(f"  | {line}", style="dim"), width)


_QUEUE_LAYOUTS = (
    Layout((Column("queue", ""), Column("waiting", "waiting", right=True), Column("oldest", "oldest", right=True))),
)


def _queue_lines(queues: Sequence[QueueStatus], width: int, said: Iterable[str]) -> Iterable[Text]:
    """The longest wait first."""
    if not queues:
        return ()
    occupied = sorted(
        (queue for queue in queues if queue.waiting != 0), key=lambda queue: -(queue.oldest_wait_s or 0.0)
    )
    empty = [queue for queue in queues if queue.waiting == 0]
    rows: list[Row | Note] = []
    for queue in (*occupied, *(empty if len(empty) <= LISTED_EMPTY_QUEUES else ())):
        rows.append(
            {
                "queue": queue.name,
                "waiting": "?" if queue.waiting is None else str(queue.waiting),
                "oldest": duration(queue.oldest_wait_s),
            }
        )
        if queue.unserved:
            rows.append(Note(_without_repeats(queue.unserved, said), "yellow", indent=4))
    if len(empty) > LISTED_EMPTY_QUEUES:
        rows.append(Note(counted(len(empty), "empty queue")))
    return table("QUEUES", _QUEUE_LAYOUTS, rows, width)


_POOL_COLUMNS = (
    Column("pool", ""),
    Column("waiting", "waiting", right=True),
    Column("busy", "busy", right=True),
    Column("idle", "idle", right=True),
    Column("booting", "booting", right=True),
    Column("retiring", "retiring", right=True),
    Column("down", "down", right=True),
    Column("instances", "instances", right=True),
)
_POOL_LAYOUTS = (
    Layout((*_POOL_COLUMNS, Column("slots", "busy slots", right=True), Column("queues", "queues"))),
    Layout((*_POOL_COLUMNS, Column("queues", "queues"))),
    Layout(_POOL_COLUMNS),
    Layout(_POOL_COLUMNS, gap=1),
)


def _pool_lines(pools: Sequence[PoolStatus], width: int) -> Iterable[Text]:
    if not pools:
        return ()
    rows: list[Row | Note] = []
    for pool in pools:
        several = pool.slots > pool.busy + pool.idle + pool.booting + pool.retiring + pool.down
        rows.append(
            {
                "pool": pool.name or "without a pool",
                "waiting": "?" if pool.waiting is None else str(pool.waiting),
                "busy": str(pool.busy),
                "idle": str(pool.idle),
                "booting": str(pool.booting),
                "retiring": str(pool.retiring),
                "down": str(pool.down) if pool.down else "",
                "instances": _of_most(pool),
                "slots": f"{pool.busy_slots}/{pool.slots}" if several else "",
                "queues": ", ".join(pool.queues),
            }
        )
        if pool.pause_left_s:
            rows.append(Note(f"pauses after failed launches, {duration(pool.pause_left_s)} more", "yellow", indent=4))
    return table("POOLS", _POOL_LAYOUTS, rows, width)


def _of_most(pool: PoolStatus) -> str:
    if pool.max_instances is None:
        return str(pool.instances)
    least = f" (min {pool.min_instances})" if pool.min_instances else ""
    return f"{pool.instances} of {pool.max_instances}{least}"


_LAUNCH_COLUMNS = (
    Column("pool", ""),
    Column("count", "awaited", right=True),
    Column("phase", "state"),
    Column("for", "for", right=True),
    Column("type", "type"),
)
_MARKET, _ZONE, _WHY = Column("market", "market"), Column("zone", "zone"), Column("reason", "why")
_LAUNCH_LAYOUTS = (
    Layout((*_LAUNCH_COLUMNS, _MARKET, _ZONE, _WHY, Column("id", "id"))),
    Layout((*_LAUNCH_COLUMNS, _MARKET, _ZONE, _WHY)),
    Layout((*_LAUNCH_COLUMNS, _MARKET, _WHY)),
    Layout((*_LAUNCH_COLUMNS, _MARKET)),
    Layout(_LAUNCH_COLUMNS, gap=1),
)


def _launch_lines(launches: Sequence[LaunchStatus], width: int, said: Iterable[str]) -> Iterable[Text]:
    if not launches:
        return ()
    rows: list[Row | Note] = []
    for launch in launches:
        tried = f" {launch.candidate}/{launch.candidates}" if launch.candidate > 1 else ""
        rows.append(
            {
                "pool": launch.pool,
                "count": str(launch.count) if launch.phase != "booting" else f"{len(launch.awaited)} of {launch.count}",
                "phase": f"{launch.phase}{tried}",
                "for": duration(launch.age_s),
                "type": launch.instance_type,
                "market": launch.market.value,
                "zone": launch.zone or "",
                "reason": launch.reason,
                "id": launch.launch_id,
            }
        )
        if launch.last_error:
            rows.append(Note(_without_repeats(launch.last_error, said), indent=4))
    return table("LAUNCHES", _LAUNCH_LAYOUTS, rows, width)
