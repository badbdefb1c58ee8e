"""The stock ``clearml-agent``: load it, and refuse one that the plugin would not hold back.

The plugin replaces two names of ``clearml_agent.commands.worker`` that the daemon's loop looks up when it calls them. If a future
version renames or moves them, the wrapping would have no effect and tasks could die with their node, so names,
parameters and their use in the loop are checked before anything runs. Checked here against 1.9, 2.0 and 3.0.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from scaler_plugin.errors import HostError

#: The versions that the end-to-end tests run.
KNOWN_VERSIONS = "1.9 to 3.0"


@dataclass(frozen=True)
class StockAgent:
    """The loaded agent: its module with the loop, the class that runs it, and its command line."""

    version: str
    module: ModuleType  # clearml_agent.commands.worker
    worker: type[Any]  # its class Worker
    main: Callable[[], Any]  # clearml_agent.__main__.main, which reads sys.argv


def load_stock_agent() -> StockAgent:
    """Import ``clearml-agent`` and check what the plugin wraps. Raises ``HostError`` with what is missing."""
    found = agent_version()
    try:
        module = importlib.import_module("clearml_agent.commands.worker")
        main = importlib.import_module("clearml_agent.__main__").main
    except (ImportError, AttributeError) as error:
        raise HostError(
            f"clearml-agent {found} cannot be loaded ({error}): install it next to the sidecar, "
            f"`pip install clearml-agent` (versions {KNOWN_VERSIONS} are known to work)."
        ) from error
    worker = getattr(module, "Worker", None)
    if not isinstance(worker, type):
        raise _unfit(found, "clearml_agent.commands.worker has no class Worker")
    for name, owner, parameters in (
        ("get_next_task", module, ("session", "queue")),
        ("Worker.run_one_task", worker, ("self", "queue", "task_id")),
    ):
        _expect_function(found, name, owner, parameters)
    loop = getattr(worker, "run_tasks_loop", None)
    used = getattr(getattr(loop, "__code__", None), "co_names", ())
    for name in ("get_next_task", "run_one_task"):
        if name not in used:
            raise _unfit(found, f"Worker.run_tasks_loop no longer calls {name}")
    return StockAgent(found, module, worker, main)


def agent_version() -> str:
    try:
        return version("clearml-agent")
    except PackageNotFoundError:
        return "(not installed)"


def _expect_function(found: str, name: str, owner: object, parameters: tuple[str, ...]) -> None:
    function = getattr(owner, name.rpartition(".")[2], None)
    if not callable(function):
        raise _unfit(found, f"clearml_agent.commands.worker has no {name}")
    have = tuple(inspect.signature(function).parameters)
    if have[: len(parameters)] != parameters:
        raise _unfit(found, f"{name} takes ({', '.join(have)}) instead of ({', '.join(parameters)}, …)")


def _unfit(found: str, what: str) -> HostError:
    return HostError(
        f"clearml-agent {found} does not fit: {what}, so its pulls could not be held back and a task could die with its "
        f"node. Install a version from {KNOWN_VERSIONS}, or a newer scaler-sidecar that knows this one."
    )
