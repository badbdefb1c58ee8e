"""A pool's own health checks in the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from scaler_plugin.config.duration import Duration
from scaler_plugin.config.rules import CommandLine, FreeText, Text, Timespan, refused
from scaler_plugin.config.section import Section

#: A check travels through etcd with the rest of the configuration.
LONGEST_CHECK = 20_000


class CheckConfig(Section):
    """A check of your own that every node of the pool runs, before its agents start and then again and again. An exit code other
    than 0, or no end in time, means that the machine is not fit: it takes no further task, finishes the one it has, and is
    replaced."""

    name: Annotated[str | None, Text("a short name", r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")] = Field(
        None, description="What `status` calls it; left out, its place in the list.", examples=["nfs"]
    )
    command: Annotated[str | None, CommandLine("a command line", 1000)] = Field(
        None, description="What to run; either this or `script`.", examples=["/opt/checks/nfs.sh --quick"]
    )
    script: Annotated[str | None, FreeText("a shell script", LONGEST_CHECK)] = Field(
        None,
        description="Or a shell script that stands here. Stored in etcd as it is: no secrets in it.",
        examples=["mountpoint -q /data && touch /data/.alive\n"],
    )
    every: Annotated[Duration, Timespan("5s", "1d")] = Field(
        Duration(60_000), description="How long after the start of one run the next one starts.", examples=["1m"]
    )
    timeout: Annotated[Duration, Timespan("1s", "10m")] = Field(
        Duration(30_000), description="A run that takes longer is killed and counts as failed.", examples=["30s"]
    )

    @model_validator(mode="after")
    def _check(self) -> CheckConfig:
        if (self.command is None) == (self.script is None):
            raise refused("given: either command or script", key="script" if self.script is None else "command")
        return self

    @property
    def shell_text(self) -> str:
        return self.command or self.script or ""
