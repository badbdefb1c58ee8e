"""What a single value of the configuration may be: one rule per kind of value, each able to say so in words.

A rule stands in a field's ``Annotated[...]``. It gives pydantic the check, the JSON schema its part, and the reference page and
every error the same words. Values are never converted silently: ``"5"`` is no number, and YAML's ``yes`` is no text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from pydantic_core import PydanticCustomError, core_schema

from scaler_plugin.config import duration, secret_ref
from scaler_plugin.config.duration import Duration, parse_duration

#: The error type of a value that is wrong; the context's ``allowed`` says what it should be.
REFUSED = "refused"
#: The same for a value that may be a secret: whoever prints the error must not print the value.
REFUSED_SECRET = "refused_secret"

Handler = Callable[..., Any]


def refused(allowed: str, key: str = "", secret: bool = False) -> PydanticCustomError:
    """The error "this value is not allowed; ``allowed`` is". ``key`` names the field when a whole section was checked."""
    return PydanticCustomError(REFUSED_SECRET if secret else REFUSED, "{allowed}", {"allowed": allowed, "key": key})


class Rule:
    """A check of one value. ``words`` completes the sentence "must be …"; ``kind`` is the reference page's type column."""

    kind: ClassVar[str]

    @property
    def words(self) -> str:
        raise NotImplementedError

    def accept(self, value: object) -> Any:
        """The value as the model holds it, or the error of :func:`refused`."""
        raise NotImplementedError

    def store(self, value: Any) -> Any:
        """The value as JSON and YAML hold it."""
        return value

    def json_schema(self) -> dict[str, Any]:
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Handler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.accept, serialization=core_schema.plain_serializer_function_ser_schema(self.store)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Handler) -> dict[str, Any]:
        return self.json_schema()


@dataclass(frozen=True)
class Text(Rule):
    """One line of text. ``pattern`` must match it whole."""

    words_: str
    pattern: str = r"\S(?:.*\S)?"
    longest: int = 255
    secret: bool = False  # the value could hold a login: keep it out of errors
    kind: ClassVar[str] = "text"

    @property
    def words(self) -> str:
        return self.words_

    def accept(self, value: object) -> str:
        if not isinstance(value, str):
            quote = "; put it in quotes" if isinstance(value, bool | int | float) else ""
            raise refused(self.words + quote, secret=self.secret)
        if len(value) > self.longest:
            raise refused(f"{self.words} of at most {self.longest} characters", secret=self.secret)
        if not re.fullmatch(self.pattern, value):
            raise refused(self.words, secret=self.secret)
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": self.longest}


@dataclass(frozen=True)
class TextOrNone(Text):
    """Text, or the word ``none`` for doing without. An empty value is refused: it does not say which was meant."""

    kind: ClassVar[str] = "text or `none`"

    @property
    def words(self) -> str:
        return f"{self.words_}, or none"

    def accept(self, value: object) -> Any:
        return None if value == "none" else super().accept(value)

    def store(self, value: Any) -> Any:
        return "none" if value is None else value


@dataclass(frozen=True)
class FreeText(Rule):
    """Several lines of the user's own: a script, a piece of configuration."""

    words_: str
    longest: int
    kind: ClassVar[str] = "several lines of text"

    @property
    def words(self) -> str:
        return self.words_

    def accept(self, value: object) -> str:
        from scaler_plugin.config.masking import MASK, holds_mask  # noqa: PLC0415

        if not isinstance(value, str) or not value.strip():
            raise refused(self.words, secret=True)
        if len(value) > self.longest:
            raise refused(f"{self.words} of at most {self.longest} characters", secret=True)
        if holds_mask(value):
            raise refused(
                f"{self.words} as it was written; this one holds {MASK}, the mark that `config show` prints for a secret",
                secret=True,
            )
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "maxLength": self.longest}


@dataclass(frozen=True)
class CommandLine(FreeText):
    """One line of the user's own; what looks like a secret in it is masked when it is shown, as in a script."""

    kind: ClassVar[str] = "text"

    def accept(self, value: object) -> str:
        if isinstance(value, str) and len(value.splitlines()) > 1:
            raise refused(self.words, secret=True)
        return super().accept(value)


@dataclass(frozen=True)
class Count(Rule):
    """A whole number within bounds."""

    at_least: int
    at_most: int
    kind: ClassVar[str] = "whole number"

    @property
    def words(self) -> str:
        return f"a whole number from {self.at_least} to {self.at_most}"

    def accept(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self.at_least <= value <= self.at_most:
            raise refused(self.words)
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.at_least, "maximum": self.at_most}


@dataclass(frozen=True)
class Switch(Rule):
    kind: ClassVar[str] = "`true` or `false`"

    @property
    def words(self) -> str:
        return "true or false"

    def accept(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise refused(self.words)
        return value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Choice(Rule):
    """One of an enum's values."""

    options: type[Enum]
    kind: ClassVar[str] = "choice"

    @property
    def values(self) -> list[str]:
        return [str(option.value) for option in self.options]

    @property
    def words(self) -> str:
        return "one of " + ", ".join(self.values)

    def accept(self, value: object) -> Enum:
        if isinstance(value, self.options):
            return value
        if not isinstance(value, str) or value not in self.values:
            raise refused(self.words)
        return self.options(value)

    def store(self, value: Any) -> Any:
        return None if value is None else value.value

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": self.values}


@dataclass(frozen=True)
class Timespan(Rule):
    """A duration within bounds; ``never`` only where waiting for ever makes sense, and then ``None`` in the model."""

    at_least: str
    at_most: str
    never: bool = False
    whole_seconds: bool = False
    kind: ClassVar[str] = "duration"

    @property
    def words(self) -> str:
        return f"{duration.FORMS}, {self._bounds}"

    @property
    def _bounds(self) -> str:
        seconds = ", in whole seconds" if self.whole_seconds else ""
        return f"from {self.at_least} to {self.at_most}{seconds}" + (", or never" if self.never else "")

    def accept(self, value: object) -> Duration | None:
        if isinstance(value, Duration):
            value = str(value)
        if self.never and value == "never":
            return None
        try:
            span = parse_duration(value)
        except ValueError as error:
            # The duration's own reason (why not 0?) comes last, after what would be right here.
            raise refused(str(error).replace(duration.FORMS, self.words)) from None
        in_bounds = parse_duration(self.at_least) <= span <= parse_duration(self.at_most)
        if not in_bounds or (self.whole_seconds and span.milliseconds % 1000):
            raise refused(f"a duration {self._bounds}")
        return span

    def store(self, value: Any) -> Any:
        return "never" if value is None else str(value)

    def json_schema(self) -> dict[str, Any]:
        never = "|^never$" if self.never else ""
        return {"type": "string", "pattern": duration.JSON_PATTERN + never, "minLength": 2}


@dataclass(frozen=True)
class SecretReference(Rule):
    """Where a secret is kept. The value never appears in an error, for it may be the secret itself."""

    kind: ClassVar[str] = "secret reference"

    @property
    def words(self) -> str:
        return secret_ref.FORMS

    def accept(self, value: object) -> secret_ref.SecretRef:
        if isinstance(value, secret_ref.SecretRef):
            return value
        try:
            return secret_ref.parse_secret_ref(value)
        except ValueError as error:
            raise refused(str(error), secret=True) from None

    def store(self, value: Any) -> Any:
        return str(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": secret_ref.JSON_PATTERN}


@dataclass(frozen=True)
class Tags(Rule):
    """EC2 tags of the user's own. Limits: "Tag restrictions" in the EC2 user guide; the cluster's own tags need some room."""

    most: int = 40
    kind: ClassVar[str] = "mapping of text to text"

    @property
    def words(self) -> str:
        return f"a mapping of at most {self.most} tag names to values, such as {{team: vision}}"

    def accept(self, value: object) -> Mapping[str, str]:
        if not isinstance(value, Mapping) or len(value) > self.most:
            raise refused(self.words)
        for name, text in value.items():
            if not isinstance(name, str) or not re.fullmatch(r"[\w .:/=+@-]{1,128}", name):
                raise refused(f"{self.words}, with names of 1 to 128 letters, digits, spaces and _ . : / = + - @")
            if name.lower().startswith(("aws:", "scaler:")):
                raise refused(f"{self.words}; names that begin with aws: or scaler: are reserved, and {name} does")
            if not isinstance(text, str):
                raise refused("text; put it in quotes", key=name)
            if not re.fullmatch(r"[\w .:/=+@-]{0,256}", text):
                raise refused("at most 256 letters, digits, spaces and _ . : / = + - @", key=name)
        return dict(value)

    def json_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": 256},
            "maxProperties": self.most,
        }


@dataclass(frozen=True)
class ListOf(Rule):
    """A list without repetitions, in order of preference; held as a tuple."""

    item: Rule
    example: str
    empty_allowed: bool = False
    kind: ClassVar[str] = "list"

    @property
    def words(self) -> str:
        return f"a list such as [{self.example}]"

    def accept(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not (value or self.empty_allowed):
            raise refused(self.words)
        items: list[Any] = []
        for index, item in enumerate(value):
            try:
                accepted = self.item.accept(item)
            except PydanticCustomError as error:
                raise refused((error.context or {})["allowed"], key=f"[{index}]") from None
            if accepted in items:
                raise refused(f"different from the items before it; {item} stands twice", key=f"[{index}]")
            items.append(accepted)
        return tuple(items)

    def store(self, value: Any) -> Any:
        return [self.item.store(item) for item in value]

    def json_schema(self) -> dict[str, Any]:
        least = 0 if self.empty_allowed else 1
        return {"type": "array", "items": self.item.json_schema(), "minItems": least, "uniqueItems": True}
