"""The demo on a terminal: one calm picture that is redrawn in place; elsewhere a line per event."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaler_plugin.core.model import Node, NodeRole, NodeState, Slot, SlotState
from scaler_plugin.localcloud.demo.scene import DONE, FINAL, InstanceSeen, Scene, TaskSeen

NEWS_SHOWN = 7

_STATE_STYLE = {
    "waiting": "yellow",
    "running": "cyan",
    "completed": "green",
    "pending": "yellow",
    "booting": "yellow",
    "busy": "cyan",
    "idle": "white",
    "retiring": "magenta",
    "shutting-down": "magenta",
    "ended": "bright_black",
}


class Lines:
    """Where no terminal is: a line per event."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def news(self, at_s: float, sentence: str) -> None:
        self._console.print(f"{at_s:6.1f} s  {sentence}", highlight=False, markup=False, soft_wrap=True)

    def scene(self, scene: Scene) -> None:
        """Only changes are told."""


class Picture:
    """On a terminal. Use it through :meth:`shown`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._news: deque[tuple[float, str]] = deque(maxlen=NEWS_SHOWN)
        self._scene = Scene(0.0)
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")

    @contextmanager
    def shown(self) -> Iterator[Picture]:
        """The picture stands while this lasts, and is wiped away afterwards."""
        with self._live:
            yield self

    def news(self, at_s: float, sentence: str) -> None:
        self._news.append((at_s, sentence))
        self._live.update(self._draw(), refresh=True)

    def scene(self, scene: Scene) -> None:
        self._scene = scene
        self._live.update(self._draw(), refresh=True)

    def _draw(self) -> RenderableType:
        scene = self._scene
        at_s = max([scene.at_s, *(at for at, _ in self._news)])
        parts: list[RenderableType] = [_heading(scene, at_s)]
        if scene.tasks:
            parts += [Text(), _queues(scene), Text(), _tasks(scene), Text(), _instances(scene)]
        parts += [Text(), _news(self._news)]
        return Padding(Group(*parts), (1, 2))


def _heading(scene: Scene, at_s: float) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    leader = scene.leader
    who = f"{leader.node} leads, term {leader.term}" if leader else "nobody leads"
    title = Text.assemble(
        ("scaler-sidecar demo", "bold"), ("  ·  ", "bright_black"), (who, "white" if leader else "yellow")
    )
    for server in sorted(scene.away):
        title.append(f"  ·  {server} is away", "red")
    line.add_row(title, Text(f"{int(at_s) // 60}:{int(at_s) % 60:02d}", "bright_black"))
    return line


def _queues(scene: Scene) -> RenderableType:
    table = _table("Queue", "Waiting", "Running", "Completed")
    for queue in dict.fromkeys(task.queue for task in scene.tasks):
        tasks = [task for task in scene.tasks if task.queue == queue]
        table.add_row(
            queue,
            _count(sum(1 for task in tasks if task.status in ("queued", "created")), "yellow"),
            _count(sum(1 for task in tasks if task.status == "in_progress"), "cyan"),
            _count(sum(1 for task in tasks if task.status in DONE), "green"),
        )
    return table


def _tasks(scene: Scene) -> RenderableType:
    table = _table("Task", "Queue", "State", "Node")
    for task in scene.tasks:
        table.add_row(task.name, task.queue, _task_state(task), task.node or "")
    return table


def _instances(scene: Scene) -> RenderableType:
    table = _table("Instance", "Pool", "State", "")
    nodes = {str(node.instance_id): node for node in scene.nodes if node.identity.role is NodeRole.WORKER}
    names = {task.id: task.name for task in scene.tasks}
    for instance in scene.instances:
        state, more = _instance_state(instance, nodes.get(instance.id), names)
        table.add_row(instance.id, instance.pool, _styled(state), Text(more, "bright_black"))
    if not scene.instances:
        table.add_row(Text("none yet", "bright_black"), "", "", "")
    return table


def _instance_state(instance: InstanceSeen, node: Node | None, names: dict[str, str]) -> tuple[str, str]:
    if not instance.left:
        return "ended", "by itself" if instance.ended_by == "guest" else ""
    if instance.state in ("pending", "shutting-down"):
        return instance.state, ""
    if node is None or not node.slots:
        return "booting", ""
    if node.state is not NodeState.UP:
        return node.state.value, node.reason
    return _slot_state(node.slots[0], names)


def _slot_state(slot: Slot, names: dict[str, str]) -> tuple[str, str]:
    if slot.state is SlotState.BUSY:
        return "busy", names.get(slot.task_id or "", "")
    return ("idle", "") if slot.state is SlotState.IDLE else ("booting", "agent starts")


def _task_state(task: TaskSeen) -> Text:
    if task.status in ("queued", "created"):
        return _styled("waiting")
    if task.status == "in_progress":
        return _styled("running")
    text = _styled("completed") if task.status in DONE else Text(f"● {task.status}", "red")
    if task.status in FINAL and task.run_s is not None:
        text.append(f"  ran {task.run_s:.1f} s", "bright_black")
    return text


def _news(news: deque[tuple[float, str]]) -> RenderableType:
    lines = [
        Text(f"{at:6.1f} s  {sentence}", "bright_black", no_wrap=True, overflow="ellipsis") for at, sentence in news
    ]
    # Always the same height, so that nothing above it jumps.
    return Group(*lines, *(Text() for _ in range(NEWS_SHOWN - len(lines))))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bright_black")
    for column in columns:
        table.add_column(column, no_wrap=True, min_width=10)
    return table


def _styled(state: str) -> Text:
    return Text(f"● {state}", _STATE_STYLE.get(state, "white"))


def _count(number: int, style: str) -> Text:
    return Text(str(number), style if number else "bright_black")
