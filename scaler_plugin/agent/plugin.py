"""``scaler-sidecar agent``: the stock ``clearml-agent daemon``, in this process, with the gate around its pulls.

Guarantees: it does not ask the server for a task while the sidecar holds the gate, and what the slot does is on disk before
the gate is given back (:mod:`scaler_plugin.agent.gate`). Everything else is the stock agent's own doing: its options, its
docker and virtual-environment modes, its signals. SIGTERM aborts a running task, as it does without the plugin; it is not how a
node drains.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from scaler_plugin.agent.agent_slot import AgentSlot
from scaler_plugin.agent.gated_pulls import wrap
from scaler_plugin.agent.pool_queues import QueuesChanged, queues_watch
from scaler_plugin.agent.processes import SLOT_MARKER
from scaler_plugin.agent.stock_agent import load_stock_agent
from scaler_plugin.core.model import NodeIdentity
from scaler_plugin.errors import ConfigError

log = structlog.get_logger(__name__)

_REFUSED = {
    "--detached": "the plugin must stay in the process that the service manager watches; leave --detached out",
    "--services-mode": "several tasks at once under one agent have no slot of their own; give the pool more slots instead",
    "--dynamic-gpus": "several tasks at once under one agent have no slot of their own; give the pool more slots instead",
    "--stop": "this command only starts an agent; a stock agent is stopped with `clearml-agent daemon --stop`",
}

#: Where the agent itself looks for AMD's GPUs.
AMD_GPUS = Path("/dev/kfd")


@dataclass(frozen=True)
class AgentSetup:
    """What an agent must know of its node. ``docker_image`` is ``None`` for virtual-environment mode."""

    identity: NodeIdentity
    slot: int
    slots: int
    queues: tuple[str, ...]
    docker_image: str | None
    cpu_only: bool
    state_dir: Path
    freeze: bool = False  # no plugin: the sidecar freezes the stock agent instead
    gpus: int = 0  # NVIDIA GPUs of the machine

    @property
    def worker_id(self) -> str:
        return self.identity.worker_id(self.slot, self.slots)


def run_agent(setup: AgentSetup, arguments: Sequence[str]) -> int:
    """Run the daemon until it ends, and return its exit code. ``arguments`` are options of ``clearml-agent daemon``.

    Raises ``ConfigError`` for options that don't go with the plugin, ``HostError`` for an agent that does not fit, a state
    directory that can't be used, or a slot that has an agent.
    """
    refuse_options(arguments)
    if not 0 <= setup.slot < setup.slots:
        raise ConfigError(
            f"There is no slot {setup.slot}: this node has {setup.slots}, counted from 0. Give another --slot."
        )
    options = daemon_options(setup, arguments)
    if setup.freeze:
        become_stock_agent(setup, options)
    before = dict(os.environ)
    slot = AgentSlot(setup.state_dir, setup.slot, setup.worker_id, docker=_in_docker_mode(options))
    os.environ[SLOT_MARKER] = str(slot.directory)  # for every process that the agent starts
    os.environ["CLEARML_WORKER_ID"] = setup.worker_id
    agent = load_stock_agent()
    follows = not any(_is_option(argument, "--queue") for argument in arguments)
    wrap(agent, slot, queues_watch(setup.state_dir, setup.queues) if follows else lambda: False)
    sys.argv = ["clearml-agent", "daemon", *options]
    try:
        return int(agent.main() or 0)
    except QueuesChanged:
        return start_again(before)


def start_again(environment: Mapping[str, str]) -> int:
    """Replace this process, whose daemon has ended and unregistered, by a new one that reads its pool's queues anew.

    In this process rather than by the service manager: the slot stays idle and does not look as if its agent had died. Returns 0
    where that can't be, and then the service manager does it all the same.
    """
    try:
        # The daemon's claim to its worker id: a file that would go with the interpreter, and an exec is no end of one.
        importlib.import_module("clearml_agent.helper.singleton").Singleton.close_pid_file()
    except Exception as error:  # whatever another version has there instead
        log.warning("agent_ends_for_new_queues", why=str(error))
        return 0
    log.info("agent_starts_again_for_new_queues")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, sys.orig_argv, dict(environment))  # noqa: S606


def become_stock_agent(setup: AgentSetup, options: Sequence[str]) -> NoReturn:
    """Replace this process by the stock daemon, known to the sidecar by its worker id (:mod:`scaler_plugin.agent.freeze`)."""
    environment = {**os.environ, "CLEARML_WORKER_ID": setup.worker_id}
    command = [sys.executable, "-m", "clearml_agent", "daemon", *options]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606


def refuse_options(arguments: Sequence[str]) -> None:
    """Raise ``ConfigError`` for an option of the daemon that the plugin can't honour."""
    for argument in arguments:
        for option, reason in _REFUSED.items():
            if _is_option(argument, option):
                raise ConfigError(f"`scaler-sidecar agent` does not take {option}: {reason}.")


def daemon_options(setup: AgentSetup, arguments: Sequence[str]) -> list[str]:
    """The daemon's options: those given, and the node's own where none was given for the same thing."""

    def given(*options: str) -> bool:
        return any(_is_option(argument, option) for argument in arguments for option in options)

    options: list[str] = []
    if not given("--foreground"):
        options.append("--foreground")
    if setup.queues and not given("--queue"):
        options += ["--queue", *setup.queues]
    if setup.docker_image is not None and not given("--docker", "--podman"):
        options += ["--docker", setup.docker_image]
    if not given("--cpu-only", "--gpus"):
        options += _gpu_options(setup, in_docker=_in_docker_mode([*options, *arguments]))
    return [*options, *arguments]


def _gpu_options(setup: AgentSetup, *, in_docker: bool) -> list[str]:
    if setup.cpu_only:
        return ["--cpu-only"]
    if setup.gpus and setup.slots > 1:
        return ["--gpus", ",".join(map(str, gpus_of_slot(setup.slot, setup.slots, setup.gpus)))]
    # The agent wants all GPUs for a container, and docker starts none where there is no GPU. AMD's are the agent's own care.
    if in_docker and not setup.gpus and not AMD_GPUS.exists():
        return ["--cpu-only"]
    return []


def gpus_of_slot(slot: int, slots: int, gpus: int) -> range:
    """Indexes of the GPUs of one slot: neighbours, as equally many for each slot as can be; shared only where there are too few."""
    first = slot * gpus // slots
    return range(first, max((slot + 1) * gpus // slots, first + 1))


def _in_docker_mode(options: Sequence[str]) -> bool:
    return any(_is_option(option, docker) for option in options for docker in ("--docker", "--podman"))


def _is_option(argument: str, option: str) -> bool:
    """Whether argparse would read the argument as that option: it accepts abbreviations and ``--option=value``."""
    name = argument.partition("=")[0]
    return len(name) > 3 and name.startswith("--") and option.startswith(name)
