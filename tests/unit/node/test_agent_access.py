"""What the agents' own user gets of a node's state, checked on real files. The tests that change owners need root."""

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from scaler_plugin.agent.gate import Gate
from scaler_plugin.agent.slots import NodeSlots
from scaler_plugin.errors import HostError
from scaler_plugin.node.agent_access import AgentUser, agent_user, make_slot_directories
from scaler_plugin.node.clearml_conf import use_clearml_conf, write_clearml_conf
from scaler_plugin.node.clock import SystemClock


def mode_and_group(path: Path) -> tuple[int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_gid


@pytest.fixture
def reader() -> AgentUser:
    """A group that this user may give files to: for root another one than its own."""
    if os.geteuid() == 0:
        return AgentUser("nobody", pwd.getpwnam("nobody").pw_gid)
    return AgentUser(pwd.getpwuid(os.geteuid()).pw_name, os.getegid())


def test_without_the_variable_one_user_is_everything() -> None:
    assert agent_user({}) is None


def test_the_agents_user_is_found_with_its_group() -> None:
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert agent_user({"SCALER_AGENT_USER": name}) == AgentUser(name, pwd.getpwnam(name).pw_gid)


def test_a_user_that_the_machine_lacks_is_named() -> None:
    with pytest.raises(HostError, match="SCALER_AGENT_USER names the user no-such-user"):
        agent_user({"SCALER_AGENT_USER": "no-such-user"})


def test_clearml_conf_is_for_this_user_alone_when_there_is_no_other(tmp_path: Path) -> None:
    path = write_clearml_conf(tmp_path, "api.credentials.secret_key: x\n")
    assert mode_and_group(path)[0] == 0o600


def test_the_agents_group_can_read_clearml_conf_and_nobody_but_its_writer_can_change_it(
    tmp_path: Path, reader: AgentUser
) -> None:
    path = write_clearml_conf(tmp_path, "api.credentials.secret_key: x\n", reader)
    assert mode_and_group(path) == (0o640, reader.group_id)
    assert path.stat().st_uid == os.geteuid()
    assert grp.getgrgid(reader.group_id)


def test_the_agents_group_writes_into_its_slots_and_only_reads_above_them(tmp_path: Path, reader: AgentUser) -> None:
    make_slot_directories(tmp_path, 2, reader)
    make_slot_directories(tmp_path, 2, reader)  # `boot` runs again after a failure
    assert mode_and_group(tmp_path / "slots") == (0o750, reader.group_id)
    for slot in ("0", "1"):
        assert mode_and_group(tmp_path / "slots" / slot) == (0o2770, reader.group_id)
        assert mode_and_group(tmp_path / "slots" / slot / "gate.lock") == (0o660, reader.group_id)


def test_a_symbolic_link_in_place_of_the_gate_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "node.json"
    target.write_text("{}")
    target.chmod(0o644)
    (tmp_path / "gate.lock").symlink_to(target)
    with pytest.raises(HostError, match="cannot be used"):
        Gate(tmp_path).try_exclusive()
    assert mode_and_group(target)[0] == 0o644


def test_a_symbolic_link_in_place_of_the_gate_costs_the_sidecar_no_more_than_a_gate_that_does_not_close(
    tmp_path: Path,
) -> None:
    sidecar = NodeSlots(tmp_path, 1, ["w"], SystemClock())
    (tmp_path / "slots" / "0" / "gate.lock").symlink_to(tmp_path / "node.json")
    assert not sidecar.close()
    assert "gate.lock" in sidecar.slots()[0].problem
    assert not (tmp_path / "node.json").exists()


def test_agents_use_the_clearml_conf_that_boot_wrote(tmp_path: Path) -> None:
    environment = {"CLEARML_CONFIG_FILE": "/root/clearml.conf"}
    use_clearml_conf(tmp_path, environment)
    assert environment == {"CLEARML_CONFIG_FILE": "/root/clearml.conf"}
    path = write_clearml_conf(tmp_path, "api.api_server: x\n")
    use_clearml_conf(tmp_path, environment)
    assert environment == {"CLEARML_CONFIG_FILE": str(path)}
