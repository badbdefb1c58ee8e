"""One API call as an endpoint sees it, and how an endpoint is declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from scaler_plugin.localcloud.clearml_api.answers import USER_ID, ApiError, Document, missing_field
from scaler_plugin.localcloud.clearml_api.state import State


@dataclass
class Call:
    """The request's data with everything an endpoint may need. ``now`` is aware, in UTC."""

    action: str
    version: tuple[int, int]
    data: Document
    state: State
    now: datetime
    batch: list[Document] = field(default_factory=list)
    #: What the client calls its machine (X-ClearML-Worker) and where it calls from.
    caller: str = ""
    address: str = ""
    #: Issues a token that is valid for so many seconds.
    new_token: Callable[[int | None], str] = lambda _: ""
    check_token: Callable[[str], None] = lambda _: None

    def stamp(self) -> str:
        """Now as documents keep it: the database stores milliseconds."""
        return f"{self.now:%Y-%m-%dT%H:%M:%S}.{self.now.microsecond // 1000:03d}000+00:00"

    def exact_stamp(self) -> str:
        """Now as answers to changes show it."""
        return f"{self.now:%Y-%m-%dT%H:%M:%S.%f}+00:00"

    @property
    def tasks(self) -> dict[str, Document]:
        """All tasks by id."""
        return self.state.documents["task"]

    @property
    def queues(self) -> dict[str, Document]:
        """All queues by id."""
        return self.state.documents["queue"]

    @property
    def workers(self) -> dict[str, Document]:
        """All workers by id, expired ones included."""
        return self.state.documents["worker"]

    @property
    def projects(self) -> dict[str, Document]:
        """All projects by id."""
        return self.state.documents["project"]

    def note(self, action: str, task: Document, old: str, new: str, **more: Any) -> None:
        """Write down what happens to a task, for those who check from outside."""
        self.state.add_transition(
            {
                "t": self.now.timestamp(),
                "action": action,
                "task": task["id"],
                "name": task.get("name"),
                "from": old,
                "to": new,
                "worker": task.get("last_worker"),
                "caller": self.caller,
                "by": task.get("last_changed_by", USER_ID),
                "queue": task.get("execution", {}).get("queue"),
                **more,
            }
        )


Handler = Callable[[Call], Document]


@dataclass(frozen=True)
class Endpoint:
    """An action: the version it appeared in, the fields it insists on, and what answers it."""

    handler: Handler
    since: str = "1.0"
    required: Mapping[str, type] = field(default_factory=dict)
    #: Answered without credentials.
    public: bool = False
    #: The body may be JSON lines.
    batch: bool = False

    @property
    def since_version(self) -> tuple[int, int]:
        """``since`` as numbers, to compare."""
        major, minor = self.since.split(".")
        return int(major), int(minor)

    def check(self, data: Document) -> None:
        """Raise the server's validation error for a missing field or one of the wrong type."""
        for name, wanted in self.required.items():
            value = data.get(name)
            if value is None:
                raise missing_field(name)
            if not isinstance(value, wanted):
                detail = f"('value is wrong, expected type \"{wanted.__name__}\"', {value!r})."
                raise ApiError(400, 12, f"Validation error (error for field '{name}': {detail})")
