"""The gate: the lock between "this slot's agent may pull a task" and "this node may retire".

A slot has a directory ``<state-dir>/slots/<n>/`` with two files: ``gate.lock``, which is only ever locked (``flock``), and
``state.json``, which says what the slot does (:mod:`scaler_plugin.agent.slot_record`). The agent's side
(:mod:`scaler_plugin.agent.agent_slot`) takes the lock **shared** around each pull, the sidecar's side
(:mod:`scaler_plugin.agent.slots`) takes it **exclusive** to retire. Nobody ever waits for it.

**The invariant.** While the sidecar holds the gate and ``state.json`` says idle, no task is on the slot and none can come
onto it: the agent holds no answer of ``get_next_task`` that is not yet on disk, and it can ask for none.

Why it holds. The agent asks the server only between taking the shared lock and giving it back, and it gives it back only
when the answer was empty or "busy with task T" stands in ``state.json`` (an atomic rename). So whoever gets the exclusive
lock finds each earlier pull either empty or on disk; and a later one does not begin, because the shared lock is refused.
"Idle" is written only when the task has ended. If "busy" can't be written (a full disk), the agent keeps the shared lock
until the task has ended: the gate stays open for want of a record.

Crashes. The kernel gives back the lock of a dead process, so

- an agent that dies outside a pull changes nothing: ``state.json`` is right, and a task's processes that survive it are
  found by the process tree (:mod:`scaler_plugin.agent.processes`), which has the last word over "busy" and "idle" alike;
- an agent that dies between the server's pop and the rename loses the answer: the task is ``queued`` in no queue ("limbo"), no
  process of it was ever started, and the leader's rescue puts it back. That window is the arrival of the answer plus one
  rename; no order of the two steps can close it, since the server pops first;
- a sidecar that dies while it holds the gate leaves an open gate and an agent that pulls at its next poll;
- a machine that dies takes everything along; ``state.json`` of an earlier boot is not believed.

The lock lives and dies with *one* open file: every descriptor here is close-on-exec, or a task's process would inherit the
shared lock and keep its node from retiring for ever. Giving back is an explicit unlock, not only a close, so that a child
caught between ``fork`` and ``exec`` keeps nothing.

What it does not do: it is no fence against a task with ill intent. A task in virtual-environment mode is a process of the
agent's own user, and a lock file that the agent can open, it can open, lock, delete and replace as well. What it gains is
bounded: an exclusive lock keeps its own agent from pulling, and a shared one, or something that is no lock file, keeps its own
node from retiring until the sidecar puts a gate of its own in that place (:meth:`Gate.replace`). In docker mode the directory is
not mounted into the container. Other users are kept out by the modes: directories 2770 (setgid, so files keep the state
directory's group), ``gate.lock`` 0660, ``state.json`` 0640. Agent and sidecar run as the same user, or the sidecar as root, or
both in the group of the state directory.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
from pathlib import Path

from scaler_plugin.errors import HostError

_DIRECTORY_MODE = 0o2770
_LOCK_MODE = 0o660

#: So often a file may be replaced between its opening and its lock before that is no accident.
_TRIES = 10


def slot_directory(state_dir: Path, slot: int) -> Path:
    """The directory of one slot, made if it is missing, as a path that both sides spell the same.

    Raises ``HostError`` when this user can't make it or can't write into it.
    """
    directory = Path(os.path.realpath(state_dir)) / "slots" / str(slot)
    try:
        for path in (directory.parent.parent, directory.parent, directory):
            try:
                path.mkdir()
            except FileExistsError:
                continue
            path.chmod(_DIRECTORY_MODE)
    except OSError as error:
        raise _unusable(directory, error) from error
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise _unusable(directory, PermissionError("no right to read and write"))
    return directory


def _unusable(path: Path, error: OSError) -> HostError:
    return HostError(
        f"The slot's state in {path} cannot be used ({error.strerror or error}): make the state directory "
        f"readable and writable for the users of both the agent and the sidecar, or set SCALER_STATE_DIR."
    )


class Gate:
    """One side's hand on one slot's gate. Not for use by several threads at once."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "gate.lock"
        self._seal = directory / "sealed"
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def try_shared(self) -> bool:
        """Take the gate to pull a task. False at once when the sidecar has closed it, or has sealed it."""
        if not self._try(fcntl.LOCK_SH):
            return False
        if self.sealed:  # looked at behind the lock: whoever seals holds it
            self.release()
            return False
        return True

    @property
    def sealed(self) -> bool:
        return os.path.lexists(self._seal)

    def seal(self) -> None:
        """Close it for the rest of this boot. The kernel gives a dead process's lock back, and the machine takes seconds to end.

        The file's content means nothing. Raises ``HostError``.
        """
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            os.close(os.open(self._seal, flags, _LOCK_MODE))
        except OSError as error:
            if not self.sealed:
                raise _unusable(self._seal, error) from error

    def try_exclusive(self) -> bool:
        """Close the gate. False at once while a pull is under way."""
        return self._try(fcntl.LOCK_EX)

    def replace(self) -> None:
        """Close it whoever holds it and whatever lies in its place: put a new gate there, locked before it appears.

        The caller has to make sure *afterwards* that no agent holds the old one: whoever locks that from now on finds it replaced.
        Raises ``HostError``, and then holds nothing.
        """
        if self._fd is not None:
            raise RuntimeError(f"{self.path} is held already")
        fd = -1
        try:
            # Made above the slots, where their user can write nothing, and on the same file system.
            fd, made = tempfile.mkstemp(prefix=".gate-", dir=self.path.parent.parent)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                group = os.stat(self.path.parent).st_gid
                if os.fstat(fd).st_gid != group:
                    os.fchown(fd, -1, group)
                os.fchmod(fd, _LOCK_MODE)
                _move_into(Path(made), self.path)
            except BaseException:
                os.unlink(made)
                raise
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise _unusable(self.path, error) from error
        self._fd = fd

    def release(self) -> None:
        """Give the gate back. Harmless when it is not held."""
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_UN)
            finally:
                os.close(fd)

    def _try(self, kind: int) -> bool:
        if self._fd is not None:
            raise RuntimeError(f"{self.path} is held already")
        for _ in range(_TRIES):
            fd = self._open()
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                current = self._is_current(fd)
            except BlockingIOError:
                os.close(fd)
                return False
            except OSError as error:
                os.close(fd)
                raise _unusable(self.path, error) from error
            if current:
                self._fd = fd
                return True
            os.close(fd)
        raise _unusable(self.path, OSError("it is replaced again and again"))

    def _open(self) -> int:
        # Opened anew for each try: an agent polls every few seconds, and a file that was replaced is noticed.
        try:
            # The agents' user owns this directory's contents: a sidecar that is root follows no link there and waits for no lease.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(self.path, flags, _LOCK_MODE)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                os.close(fd)
                raise OSError("it is no file")
            if status.st_uid == os.geteuid() and status.st_mode & 0o777 != _LOCK_MODE:
                os.fchmod(fd, _LOCK_MODE)  # the umask took the group's right to write
        except OSError as error:
            raise _unusable(self.path, error) from error
        return fd

    def _is_current(self, fd: int) -> bool:
        """A lock on a file that somebody has since deleted or replaced locks nobody out."""
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self.path))
        except FileNotFoundError:
            return False


def _move_into(made: Path, place: Path) -> None:
    """Put the file there, whatever lies there now. A directory, which a file can't replace, is moved out of the way first."""
    try:
        made.replace(place)
    except IsADirectoryError:
        # Beside it: into another directory only its owner could move it.
        place.rename(place.with_name(f".taken-{secrets.token_hex(8)}"))
        made.replace(place)
