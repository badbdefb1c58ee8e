from __future__ import annotations

import pytest

from .node_world import NodeWorld


@pytest.fixture
def world() -> NodeWorld:
    return NodeWorld()
