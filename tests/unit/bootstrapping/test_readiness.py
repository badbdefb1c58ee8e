"""What stands between a launch and a node that comes up is named with the command that puts it right."""

from __future__ import annotations

import pytest

from scaler_plugin.bootstrapping.readiness import compare_with_published
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import MemoryStore
from scaler_plugin.errors import ConfigError
from scaler_plugin.node.clock import SystemClock

from .made_up import config


def test_the_command_that_publishes_takes_a_file_whatever_its_name_is() -> None:
    keys = Keys("scaler-sidecar", "research")
    with pytest.raises(ConfigError, match=r"scaler-sidecar config push 'my file\.yaml'$"):
        compare_with_published(config(), None, MemoryStore(SystemClock()).client("desk"), keys, "my file.yaml")
