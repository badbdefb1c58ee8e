"""A group whose commands are imported only when they are called, and whose errors are sentences.

``--help`` shows the summaries from the list alone. A ``ScalerError`` from any command is printed to stderr as the sentence it is
and ends the process with the error's exit code; every other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from scaler_plugin.errors import ScalerError


@dataclass(frozen=True)
class LazyCommand:
    """One command. ``target`` is ``module:name``.

    With ``passthrough``, options that the command does not know are not refused but stand, in order, in ``typer.Context.args``
    (also ``--help``, which then is not ours): for commands that hand them to another program.
    """

    name: str
    target: str
    summary: str
    passthrough: bool = False

    def load(self) -> Any:
        module, _, attribute = self.target.partition(":")
        target = getattr(importlib.import_module(module), attribute)
        if isinstance(target, typer.Typer):
            return get_command(target)
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        settings = {"ignore_unknown_options": True, "allow_extra_args": True} if self.passthrough else {}
        single.command(self.name, context_settings=settings, add_help_option=not self.passthrough)(target)
        return get_command(single)


class LazyGroup(TyperGroup):
    """Set ``entries`` in a subclass."""

    entries: Sequence[LazyCommand] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        return [entry.name for entry in self.entries]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that has just the name and the summary: enough for ``--help``; :meth:`resolve_command` gives the real one."""
        entry = self._entry(cmd_name)
        return TyperCommand(entry.name, help=entry.summary) if entry else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        entry = self._entry(name or "")
        return name, entry.load() if entry else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ScalerError as error:
            from scaler_plugin.cli.wrapping import fitted  # noqa: PLC0415

            # A sentence may end with a command to copy, which the terminal itself breaks so that it stays one; in a list it
            # has a line of its own.
            text = str(error)
            typer.echo(fitted(text, sys.stderr) if "\n" in text else text, err=True)
            raise typer.Exit(error.exit_code) from None

    def _entry(self, name: str) -> LazyCommand | None:
        return next((entry for entry in self.entries if entry.name == name), None)
