"""Reasons for which a node must leave, or must stay, other than idleness: each is one small part that looks at one thing.

A :class:`Concern` demands that the node takes no further task (its gates are closed and stay so), lets a running one finish
and then ends. A :class:`Protection` forbids an idle node to retire. Both are asked in every pass and keep nothing that matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from scaler_plugin.core.leaving import Demand
from scaler_plugin.core.model import Node


class Concern(Protocol):
    def demand(self, node: Node) -> Demand | None:
        """What this part demands of the node now. Raises nothing: what it cannot find out is no demand."""


class Protection(Protocol):
    def why_protected(self, node: Node) -> str | None:
        """Why the node must not retire although it is idle, as a sentence."""


def first_protection(protections: Iterable[Protection], node: Node) -> str | None:
    return next((why for protection in protections if (why := protection.why_protected(node)) is not None), None)
