"""A machine's folder: what its supervisor and the layer above tell each other through it, and where its parts keep their files.

``machine.json`` is the supervisor's own report, replaced in one step at each change; anybody may read it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

SIDECAR = "sidecar"


class Phase(str, Enum):
    """What a machine is in, as EC2 would see it. ``ENDED`` is a system that has shut down in order."""

    PENDING = "pending"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting-down"
    ENDED = "ended"


@dataclass(frozen=True)
class MachineReport:
    """``units`` has the process id of each unit that runs: ``sidecar``, ``agent-0``, ``agent-1``, …"""

    name: str
    phase: Phase
    supervisor: int
    imds: str = ""
    units: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MachineFolder:
    """The places in a machine's folder."""

    path: Path

    @property
    def state(self) -> Path:
        """``SCALER_STATE_DIR`` of the machine."""
        return self.path / "run"

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def temporary(self) -> Path:
        return self.path / "tmp"

    @property
    def console(self) -> Path:
        """All that the machine's processes say."""
        return self.path / "console.log"

    @property
    def facts(self) -> Path:
        """What its metadata service tells; rewritten with ``imds.write_facts``, it changes at once."""
        return self.path / "facts.json"

    @property
    def power_button(self) -> Path:
        """A named pipe; whatever is written to it shuts the system down."""
        return self.path / "power"

    @property
    def shutdown_command(self) -> str:
        """For ``SCALER_SHUTDOWN_COMMAND``. ``<>`` opens the pipe without waiting for a reader, who may be gone."""
        return f"/bin/sh -c 'echo poweroff 1<>{self.power_button}'"

    def make(self) -> None:
        for folder in (self.path, self.state, self.home, self.temporary):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write_report(self, report: MachineReport) -> None:
        beside = self.path / "machine.json.new"
        beside.write_text(json.dumps({**asdict(report), "phase": report.phase.value}))
        beside.replace(self.path / "machine.json")

    def read_report(self) -> MachineReport | None:
        """The last report; ``None`` before there was one."""
        try:
            value = json.loads((self.path / "machine.json").read_text())
        except FileNotFoundError:
            return None
        return MachineReport(**{**value, "phase": Phase(value["phase"])})
