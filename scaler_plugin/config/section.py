"""The base of every section of the configuration: unknown keys are errors, and nothing changes after loading."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    # Building is deferred because pydantic builds a model again inside every model that holds it; only the outermost is used.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)
