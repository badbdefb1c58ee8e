"""The list of commands. A new command is one line here: its name, where it is, and the line that ``--help`` shows.

The target is a function with typer's annotations, or a ``typer.Typer`` for a group of commands. Its module is imported only when
the command is called, so that no command pays for another's libraries.
"""

from __future__ import annotations

from scaler_plugin.cli.lazy_group import LazyCommand

COMMANDS = (
    LazyCommand("config", "scaler_plugin.cli.config:app", "Validate, publish and show a cluster's configuration."),
)
