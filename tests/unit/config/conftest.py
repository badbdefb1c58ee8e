"""The smallest configuration, for tests to change."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def minimal() -> dict[str, Any]:
    return {
        "cluster": "demo",
        "pools": [
            {
                "name": "cpu",
                "queues": ["default"],
                "instance_types": ["c6i.large"],
                "ami": "ami-1234",
                "max_instances": 3,
            }
        ],
    }
