"""The demo's end report: the stable JSON of ``demo --json``, and the same as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scaler_plugin.localcloud.demo.scene import DONE, Scene

_ENDED_BY = {"guest": "itself", "api": "TerminateInstances", "ec2": "EC2"}


@dataclass(frozen=True)
class DemoReport:
    """``failure`` says why the demo did not come to its natural end, where that is so."""

    scene: Scene
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Every task completed, no instance left."""
        return (
            not self.failure
            and bool(self.scene.tasks)
            and all(task.status in DONE for task in self.scene.tasks)
            and not any(instance.left for instance in self.scene.instances)
        )

    def to_json(self) -> str:
        """One object in one line; documented in ``docs/demo.md``."""
        tasks = [
            {"id": t.id, "queue": t.queue, "status": t.status, "wait_s": t.wait_s, "run_s": t.run_s, "node": t.node}
            for t in self.scene.tasks
        ]
        instances = [
            {"id": i.id, "pool": i.pool, "launched_s": i.launched_s, "ended_s": i.ended_s, "ended_by": i.ended_by}
            for i in self.scene.instances
        ]
        leaders = [{"node": t.node, "term": t.term, "from_s": t.from_s, "to_s": t.to_s} for t in self.scene.terms]
        return json.dumps(
            {
                "tasks": tasks,
                "instances": instances,
                "leaders": leaders,
                "tasks_completed": sum(1 for task in self.scene.tasks if task.status in DONE),
                "tasks_lost": sum(1 for task in self.scene.tasks if task.lost),
                "instances_launched": len(self.scene.instances),
                "instances_left": sum(1 for instance in self.scene.instances if instance.left),
                "ok": self.ok,
            }
        )

    def show(self, console: Console) -> None:
        """Print the tables and the verdict."""
        for table in (self._tasks(), self._instances(), self._leaders()):
            console.print()
            for line in _lines(console, table):
                console.print(line)
        console.print()
        console.print(self._verdict())

    def _tasks(self) -> Table:
        table = _table("Task", "Queue", "Status", ">Waited", ">Ran", "Node")
        for task in self.scene.tasks:
            style = "green" if task.status in DONE else "red"
            table.add_row(
                task.name, task.queue, Text(task.status, style), _s(task.wait_s), _s(task.run_s), task.node or "-"
            )
        return table

    def _instances(self) -> Table:
        table = _table("Instance", "Pool", ">Launched at", ">Ended at", "Ended by")
        for instance in self.scene.instances:
            by = _ENDED_BY.get(instance.ended_by or "", "-") if not instance.left else Text(instance.state, "red")
            table.add_row(instance.id, instance.pool, _s(instance.launched_s), _s(instance.ended_s), by)
        return table

    def _leaders(self) -> Table:
        table = _table("Leader", ">Term", ">From", ">To")
        for term in self.scene.terms:
            table.add_row(term.node, str(term.term), _s(term.from_s), _s(term.to_s))
        return table

    def _verdict(self) -> Text:
        scene = self.scene
        done = sum(1 for task in scene.tasks if task.status in DONE)
        left = sum(1 for instance in scene.instances if instance.left)
        what = (
            f"{done} of {len(scene.tasks)} tasks completed, {len(scene.instances)} instances launched, "
            f"{left or 'none'} left, {scene.at_s:.0f} s."
        )
        if self.ok:
            return Text(f"✓ {what}", "bold green")
        return Text(f"✗ {what} {self.failure}".rstrip(), "bold red")


def _table(*columns: str) -> Table:
    """``>`` in front of a heading puts the column to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table


def _lines(console: Console, table: Table) -> Iterator[Text]:
    """The table without the blanks that fill its last column."""
    for segments in console.render_lines(table, pad=False):
        line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
        line.rstrip()
        yield line


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
