"""What the agents' user may reach of a node's state: its ``clearml.conf`` to read, its slots' directories to write, no more.

On an image where sidecar and agents run as different users, ``SCALER_AGENT_USER`` names that of the agents. ``boot``, which runs
as root, then gives that user's *group* what it needs; nothing is made the user's own, so a task can change neither the
configuration nor what the sidecar believes about its machine. The group must have no other member. Without the variable one
user is everything.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scaler_plugin.errors import HostError

USER_VARIABLE = "SCALER_AGENT_USER"

#: As in ``agent/gate.py``: whatever is made in a slot's directory belongs to the group that shares it.
_SLOT_MODE = 0o2770
_SLOTS_MODE = 0o750


@dataclass(frozen=True)
class AgentUser:
    name: str
    group_id: int


def agent_user(environment: Mapping[str, str]) -> AgentUser | None:
    """The user that the agents run as, if it is another one. Raises ``HostError`` if the machine has no such user."""
    name = environment.get(USER_VARIABLE)
    if not name:
        return None
    try:
        return AgentUser(name, pwd.getpwnam(name).pw_gid)
    except KeyError:
        raise HostError(f"{USER_VARIABLE} names the user {name}, which this machine does not have.") from None


def make_slot_directories(directory: Path, slots: int, user: AgentUser) -> None:
    """Make ``slots/<n>`` with its gate for the agents' group to write into; the directory above is only to be read."""
    above = directory / "slots"
    try:
        for path, mode in ((above, _SLOTS_MODE), *((above / str(slot), _SLOT_MODE) for slot in range(slots))):
            path.mkdir(exist_ok=True)
            os.chown(path, -1, user.group_id)
            path.chmod(mode)
        for slot in range(slots):
            _make_gate(above / str(slot) / "gate.lock", user)
    except OSError as error:
        raise HostError(f"{above} could not be given to the group of {user.name}: {error}. Run as root.") from error


def _make_gate(path: Path, user: AgentUser) -> None:
    """Made here, so that neither side ever finds it with the other's umask."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
    try:
        os.fchown(fd, -1, user.group_id)
        os.fchmod(fd, 0o660)
    finally:
        os.close(fd)
