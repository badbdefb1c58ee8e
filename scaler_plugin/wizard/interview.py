"""Asks the questions: each once, with a default, checked against the schema and then against the world.

Without a terminal nothing is asked: what has no default and was not given is a mistake, and so is what a check finds wrong. A
secret is never asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import PydanticCustomError

from scaler_plugin.config.rules import ListOf, Rule
from scaler_plugin.errors import ConfigError
from scaler_plugin.wizard.checks import State, Verdict


@dataclass(frozen=True)
class Question:
    """``option`` answers it on the command line. ``default`` ``None``: there is none. A check without a verdict says nothing."""

    option: str
    text: str
    rule: Rule
    default: str | None = None
    check: Callable[[Any], Verdict | None] | None = None


class Desk(Protocol):
    """Where the questions are asked: a terminal."""

    def ask(self, text: str, default: str | None) -> str: ...

    def say(self, text: str) -> None: ...


@dataclass
class Interview:
    """``desk`` ``None``: nothing is asked. ``unchecked`` collects what could not be checked, ``wrong`` what is."""

    desk: Desk | None
    say: Callable[[str], None]
    checking: bool = True

    def __post_init__(self) -> None:
        self.unchecked: list[str] = []
        self.wrong: list[str] = []
        self._seen: set[str] = set()

    def answer(self, question: Question, given: str | None) -> Any:
        """The value, as the rule holds it. ``given`` is the option's, if there is one. Raises ``ConfigError``."""
        while True:
            asked = given is None and self.desk is not None
            text = given
            if text is None:
                text = self.desk.ask(question.text, question.default) if self.desk else question.default
            if text is None:
                raise ConfigError(f"{question.text}: there is no default; give {question.option}. Nothing was written.")
            try:
                value = accepted(question.rule, text)
            except ValueError as error:
                if not asked:
                    raise ConfigError(f"{question.option} {text}: it must be {error}. Nothing was written.") from None
                self.say(f"  It must be {error}.")
                continue
            verdict = question.check(value) if question.check and self.checking else None
            if verdict is not None and verdict.state is State.WRONG:
                if asked:
                    self.say(f"  That is not right: {verdict.text}.")
                    continue
                self.wrong.append(f"{question.option} {text}: {verdict.text}.")
            elif verdict is not None:
                self._tell(question.option, verdict)
            return value

    def also_check(self, option: str, check: Callable[[], Verdict]) -> None:
        """Tell what can be said of an answer only after a later one."""
        if self.checking:
            self._tell(option, check())

    def refuse_wrong(self) -> None:
        """Raise ``ConfigError`` if a check found something wrong that could not be asked again."""
        if self.wrong:
            lines = "\n".join(f"  - {line}" for line in self.wrong)
            raise ConfigError(
                f"Nothing was written, because of what the checks found (--no-checks leaves them out):\n{lines}"
            )

    def _tell(self, option: str, verdict: Verdict) -> None:
        name = option.lstrip("-")
        if verdict.state is State.RIGHT:
            self.say(f"  ✓ {name}: {verdict.text}.")
            return
        # The same reason for five answers is said once.
        self.unchecked.append(name)
        if verdict.text not in self._seen:
            self._seen.add(verdict.text)
            self.say(f"  ? {name} was not checked: {verdict.text}.")


def accepted(rule: Rule, text: str) -> Any:
    """The text as the rule's value. Raises ``ValueError`` with what is allowed."""
    value: Any = text.strip()
    if isinstance(rule, ListOf):
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif rule.kind == "whole number":
        value = int(value) if value.isdigit() else value
    try:
        return rule.accept(value)
    except PydanticCustomError as error:
        raise ValueError((error.context or {})["allowed"]) from None
