"""Users' scripts as units of their own beside the sidecar's, for the sidecar that systemd keeps in a sandbox.

A script of the pool's is root's on purpose: it mounts, writes and asks docker. As the sidecar's child it would live under the
sidecar's own rules, on a file system that is read-only. So each run is a transient service (``systemd-run``): root without a
sandbox, in a control group of its own. The script and its environment are in a folder that only root enters, and in no argument.

Guarantees: a run has ended when its control group is empty, so nothing that a script starts outlives it; a run ends with the
sidecar that started it, however that ends, and runs once even if systemd restarts it along; a script that nobody looks at any more
is seen to its end all the same. Its output fills no disk.

Not guaranteed: that a process which the kernel holds dies; the run lasts until it does.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from scaler_plugin.node.hooks import NotStarted, OutputTail, ShellHooks, passed_on
from scaler_plugin.sidecar.ports import HookOutcome, HookRun, Hooks

log = structlog.get_logger(__name__)

#: The one of our services that has a sandbox. Its name is also what a script's unit is bound to.
SANDBOXED = "scaler-sidecar.service"
#: Where systemd keeps the control groups of these units, one hierarchy for all.
GROUPS = Path("/sys/fs/cgroup/system.slice")
FOLDER = "scripts"

_LOOK_S = 0.2
_STOP_AGAIN_S = 2.0
#: Between the end of a script and systemd's word on how it ended, its group is empty for a moment.
_WORD_LATE_S = 10.0
_READ_BYTES = 65_536
_PIPE_FULL_READS = 64


def hooks_for_sidecar(state_dir: Path) -> Hooks:
    """Units where this process is the sandboxed service of a machine that systemd runs; else children."""
    if os.geteuid() == 0 and own_service() == SANDBOXED and shutil.which("systemd-run") and shutil.which("systemctl"):
        return UnitHooks(state_dir / FOLDER)
    return ShellHooks()


def own_service(groups: Path = Path("/proc/self/cgroup")) -> str | None:
    """The systemd service that this process belongs to, as its place in the one hierarchy of control groups says."""
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            if line.startswith("0::") and line.endswith(".service"):
                return line.rpartition("/")[2]
    return None


class UnitHooks:
    """Implements ``sidecar.ports.Hooks`` with systemd. ``folder`` is made, for root alone, and is this process's own.

    What an earlier process of the sidecar left in it is removed: its units have ended with it.
    """

    def __init__(self, folder: Path, groups: Path = GROUPS) -> None:
        self._folder = folder
        self._groups = groups
        for left in folder.glob("*"):
            if left.name.partition("-")[0] != str(os.getpid()):
                shutil.rmtree(left, ignore_errors=True)

    def start(self, script: str, environment: Mapping[str, str]) -> HookRun:
        folder = self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            _write(folder, script, {**passed_on(), **environment})
            run = _UnitRun(folder, self._groups)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no more threads
            shutil.rmtree(folder, ignore_errors=True)
            return NotStarted(str(error))
        return run


def _write(folder: Path, script: str, environment: Mapping[str, str]) -> None:
    """What the unit runs, and what it tells of its end.

    It runs once: systemd starts a bound unit again when the sidecar's is restarted by hand, and finds nothing then.
    """
    if "\0" in script or any("\0" in text or "=" in name for name, text in environment.items()):
        raise ValueError("a null byte in a script or its environment, or a name with '='")
    given = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in environment.items())
    here = shlex.quote(str(folder))
    files = {
        "script": script,
        "run": f"rm {here}/run || exit 126\nexec >{here}/output 2>&1\n{given}exec /bin/sh {here}/script\n",
        "tell": f'echo "$EXIT_CODE $EXIT_STATUS" >{here}/ended.new && mv {here}/ended.new {here}/ended\n',
    }
    for name, text in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    os.mkfifo(folder / "output", 0o600)


def start_command(unit: str, folder: Path) -> list[str]:
    """It returns when the script has begun or can't; without ``--wait`` and ``--pipe`` it needs no message bus."""
    properties = (
        f"BindsTo={SANDBOXED}",
        # At a shutdown, the reverse: a sidecar that lives must not take the end of its script for a verdict on the machine.
        f"Before={SANDBOXED}",
        # At once, and the shutdown of the machine waits for no script either.
        "KillSignal=SIGKILL",
        # Else each run of each check is three lines in the journal; what fails is still told there.
        "LogLevelMax=warning",
        "TimeoutStartSec=10s",
        "TimeoutStopSec=5s",
        f'ExecStopPost=/bin/sh "{folder}/tell"',
    )
    return [
        *("systemd-run", "--quiet", "--collect", "--service-type=exec", "--slice=system.slice", f"--unit={unit}"),
        "--description=A script of the pool's configuration",
        *(f"--property={each}" for each in properties),
        *("/bin/sh", f"{folder}/run"),
    ]


class _UnitRun:
    """One run, seen from its start to its end by a thread of its own, whether anybody asks or not.

    Raises ``OSError`` or ``RuntimeError`` where it can't begin.
    """

    def __init__(self, folder: Path, groups: Path) -> None:
        self._folder = folder
        self._unit = f"scaler-script-{folder.name}.service"
        self._group = groups / self._unit
        self._doomed = threading.Event()
        self._outcome: HookOutcome | None = None
        self._tail = OutputTail()
        self._reading = os.open(folder / "output", os.O_RDONLY | os.O_NONBLOCK)
        try:
            # Kept open: a pipe without a writer is at its end, and the script has not opened it yet.
            self._writing = os.open(folder / "output", os.O_WRONLY)
            try:
                threading.Thread(target=self._see_through, name="hook-unit", daemon=True).start()
            except RuntimeError:
                os.close(self._writing)
                raise
        except (OSError, RuntimeError):
            os.close(self._reading)
            raise

    def poll(self) -> HookOutcome | None:
        return self._outcome

    def kill(self) -> None:
        self._doomed.set()

    def _see_through(self) -> None:
        try:
            code = self._run()
        except OSError as error:
            code = None
            self._tail.hear(str(error).encode())
        finally:
            os.close(self._writing)
            os.close(self._reading)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._outcome = HookOutcome(code, str(self._tail))

    def _run(self) -> int | None:
        """The exit code as a child process has it; ``None`` if systemd did not start the script: its words are the output."""
        starter = subprocess.Popen(
            start_command(self._unit, self._folder),
            stdin=subprocess.DEVNULL,
            stdout=self._writing,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        while (failed := starter.poll()) is None:
            self._listen()
        if failed:
            self._hear_last_words()
            return None
        stop_at, empty_since = float("-inf"), None
        while True:
            self._listen()
            told = _told(self._folder / "ended")  # before the look at the group: who tells is in it
            now = time.monotonic()
            if self._populated():
                empty_since = None
            elif empty_since is None:
                empty_since = now
            if empty_since is not None and (told is not None or now - empty_since > _WORD_LATE_S):
                self._hear_last_words()
                return -signal.SIGKILL if told is None else told
            if self._doomed.is_set() and now >= stop_at:
                stop_at = now + _STOP_AGAIN_S
                self._stop()

    def _listen(self) -> None:
        waiting = select.poll()  # not select(): a descriptor may be above 1023
        waiting.register(self._reading, select.POLLIN)
        if waiting.poll(_LOOK_S * 1000):
            self._read()

    def _read(self) -> bool:
        try:
            part = os.read(self._reading, _READ_BYTES)
        except BlockingIOError:
            return False
        self._tail.hear(part)
        return bool(part)

    def _hear_last_words(self) -> None:
        for _ in range(_PIPE_FULL_READS):  # whoever still holds the pipe may fill it for ever
            if not self._read():
                return

    def _populated(self) -> bool:
        try:
            return "populated 1" in (self._group / "cgroup.events").read_text()
        except OSError:  # the group goes with its unit
            return False

    def _stop(self) -> None:
        try:
            command = ["systemctl", "stop", "--no-block", "--quiet", self._unit]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("script_not_stopped", unit=self._unit, error=str(error))


def _told(path: Path) -> int | None:
    """systemd's ``$EXIT_CODE $EXIT_STATUS`` (systemd.exec(5)) as a child's exit code: negative for a signal."""
    try:
        how, _, status = path.read_text().strip().partition(" ")
    except OSError:
        return None
    if how == "exited" and status.isdigit():
        return int(status)
    with suppress(KeyError):
        return -signal.Signals[f"SIG{status}"]
    return -signal.SIGKILL
