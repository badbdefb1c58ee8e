"""Writes ``docs/cli.md`` from the commands themselves: ``python -m scaler_plugin.cli.reference > docs/cli.md``.

Every word about a command comes from its function, so the page and ``--help`` cannot say different things. It loads every command,
which no command of the tool itself does.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from scaler_plugin import errors
from scaler_plugin.cli.commands import COMMANDS
from scaler_plugin.errors import ScalerError

_INTRODUCTION = """\
# Command line

<!-- Generated from scaler_plugin/cli: python -m scaler_plugin.cli.reference > docs/cli.md -->

`scaler-sidecar COMMAND --help` shows the same, and `scaler-sidecar --version` the version. What goes wrong is said in one
sentence on stderr: what failed, on what, what to do. A traceback is a bug.
"""

_ENVIRONMENT = """\
## Environment

An option comes before a variable, a variable before the file of `--config`. On a node, commands that are told no cluster mean
its own, by what `boot` wrote; that and the login to etcd are root's, so: `sudo scaler-sidecar status`.

| variable | what it is |
| --- | --- |
| `SCALER_ETCD` | etcd's endpoints, `HOST:PORT,…` |
| `SCALER_ETCD_CA`, `SCALER_ETCD_CERT`, `SCALER_ETCD_KEY` | PEM files for TLS to etcd |
| `SCALER_ETCD_USER`, `SCALER_ETCD_PASSWORD_FILE` | etcd's user, and the file that holds the password |
| `SCALER_CLUSTER` | the cluster's name |
| `SCALER_PREFIX` | first part of every etcd key, `scaler-sidecar` if not set |
| `SCALER_STATE_DIR` | where a node keeps this boot's state, `/run/scaler-sidecar` if not set |
| `SCALER_AGENT_USER` | the user that the agents run as, where that is not the sidecar's own |
| `SCALER_SHUTDOWN_COMMAND` | what ends the machine, `systemctl poweroff` if not set |
| `AWS_…` | boto3's own, such as `AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL_EC2` |
| `CLEARML_…` | ClearML's own: `CLEARML_API_HOST`, `CLEARML_API_ACCESS_KEY`, `CLEARML_API_SECRET_KEY`, `CLEARML_CONFIG_FILE` … |

"""


def reference() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "| command | what it does |\n| --- | --- |"]
    parts[-1] += "".join(f"\n| [`{entry.name}`](#{entry.name}) | {entry.summary} |" for entry in COMMANDS) + "\n"
    parts += [_exit_codes(), _ENVIRONMENT.rstrip("\n") + "\n"]
    for entry in COMMANDS:
        parts += _command(entry.name, entry.load(), "##", passthrough=entry.passthrough)
    return "\n".join(parts)


def _exit_codes() -> str:
    families: dict[int, list[str]] = {0: ["Done."]}
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        # Only the class that brings the code; its subclasses say more than a caller of the command line can act on.
        if issubclass(kind, ScalerError) and "exit_code" in vars(kind):
            families.setdefault(kind.exit_code, []).append((inspect.getdoc(kind) or "").partition("\n")[0])
    rows = [f"| {code} | {_cell(_sentence(texts[0]))} |" for code, texts in sorted(families.items())]
    return "\n".join(["## Exit codes\n", "| code | meaning |", "| --- | --- |", *rows, ""])


def _sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."


def _command(path: str, command: Any, heading: str, *, passthrough: bool = False) -> Iterator[str]:
    subcommands = getattr(command, "commands", None)
    yield f"{heading} {path}\n"
    yield from (f"{_prose(paragraph)}\n" for paragraph in (command.help or "").split("\n\n"))
    if subcommands:
        for name, subcommand in subcommands.items():
            yield from _command(f"{path} {name}", subcommand, "###")
        return
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [
        parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden and "--help" not in parameter.opts
    ]
    usage = ["scaler-sidecar", path, *(["[OPTIONS]"] if options else []), *(_metavar(one) for one in arguments)]
    if passthrough:
        usage.append("[OPTIONS OF THE PROGRAM IT RUNS]")
    yield f"```\n{' '.join(usage)}\n```\n"
    if arguments or options:
        yield "| option | what it is |\n| --- | --- |"
        for parameter in (*arguments, *options):
            yield f"| {_cell(_spelling(parameter))} | {_cell(_prose(parameter.help or ''))}{_default(parameter)} |"
        yield ""


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_metavar(parameter)}`"
    value = "" if parameter.is_flag else f" {_metavar(parameter)}"
    names = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(f"`{name}{value}`" for name in names)


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _default(parameter: Any) -> str:
    told, default = getattr(parameter, "show_default", True), parameter.default
    nothing = default in (None, "", ()) or isinstance(default, bool)
    if nothing or parameter.required or callable(default) or not told:
        return ""
    return f" Default: `{_cell(str(parameter.default))}`."


def _prose(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
