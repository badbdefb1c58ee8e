"""On a node its commands need no options: what `boot` wrote names the cluster and etcd. On a real etcd."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler_plugin.config.connect import EtcdSettings
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.etcd_store import open_store
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.published_config import push_config
from scaler_plugin.coordination.store import Put
from scaler_plugin.core.model import InstanceId, Node, NodeIdentity, NodeRole, NodeState, PoolName
from scaler_plugin.localcloud.etcd import EtcdProcess, free_port
from scaler_plugin.node.setup import NodeSetup, write_setup

pytestmark = pytest.mark.real

NOBODY = 65534
WORKER = NodeIdentity("own", InstanceId("i-own"), NodeRole.WORKER, PoolName("gpu"))
CONFIG = """
cluster: own
pools:
  - {name: gpu, queues: [q-1], instance_types: [c5.large], ami: ami-12345678, max_instances: 1}
"""


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdProcess]:
    with EtcdProcess() as process:
        store, keys = open_store([process.endpoint]), Keys("mine", "own")
        push_config(store, keys, parse_yaml(CONFIG, "test"))
        store.transact([], [Put(keys.node(WORKER.instance_id), encode(Node(WORKER, NodeState.UP, 0.0, ())))])
        store.close()
        yield process


@pytest.fixture
def folder() -> Iterator[Path]:
    """A state directory as the image has it: others than root and the agents' group can't look into it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        state = Path(name) / "run"
        state.mkdir(mode=0o750)
        yield state


def on_node(folder: Path, etcd: EtcdSettings) -> None:
    write_setup(folder, NodeSetup(WORKER, etcd, "mine"))


def run(
    folder: Path, *arguments: str, before: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SCALER_")}
    done = subprocess.run(
        [*before, sys.executable, "-m", "scaler_plugin", *arguments],
        env={**kept, "SCALER_STATE_DIR": str(folder), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def shut_out(folder: Path) -> tuple[str, ...]:
    """Make the folder one that the caller may not look into, and say what to put before the call for that."""
    if os.geteuid() != 0:
        folder.chmod(0)
        return ()
    # Root without the right to pass over modes: any other user could not run this interpreter where it lies in root's home.
    os.chown(folder, NOBODY, NOBODY)
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("status",), "own  no leader"),
        (("config", "show"), "# cluster own, revision"),
        (("protect", "i-own"), "i-own: Protected by"),
        (("unprotect", "i-own"), "i-own is not protected any more"),
        (("drain", "i-own"), "1 node will finish and end: i-own"),
        (("undrain", "i-own"), "1 node may take tasks again"),
        (("etcd", "status", "--allow-open"), "etcd is well"),
    ],
)
def test_on_a_node_a_command_means_its_cluster(
    etcd: EtcdProcess, folder: Path, arguments: tuple[str, ...], says: str
) -> None:
    on_node(folder, EtcdSettings((etcd.endpoint.removeprefix("http://"),)))
    _, out, err = run(folder, *arguments)
    assert err == ""
    assert says in out


def test_what_is_named_comes_before_the_node(etcd: EtcdProcess, folder: Path, tmp_path: Path) -> None:
    on_node(folder, EtcdSettings((f"127.0.0.1:{free_port()}",)))
    assert run(folder, "status")[0] == 3
    assert "own  no leader" in run(folder, "status", "--etcd", etcd.endpoint)[1]
    environment = {"SCALER_ETCD": etcd.endpoint}
    assert "own  no leader" in run(folder, "status", environment=environment)[1]
    _, out, err = run(folder, "config", "show", "--cluster", "other", "--etcd", etcd.endpoint)
    assert (out, "for cluster other" in err) == ("", True)
    file = tmp_path / "scaler.yaml"
    file.write_text(
        CONFIG.replace("cluster: own", f"cluster: own\nprefix: mine\netcd: {{endpoints: ['{etcd.endpoint}']}}")
    )
    assert "own  no leader" in run(folder, "status", "--config", str(file))[1]


def test_a_machine_that_is_no_node_is_told_what_to_name(folder: Path) -> None:
    assert run(folder, "status") == (
        2,
        "",
        "No cluster is named; give --cluster NAME, set SCALER_CLUSTER, or give --config FILE.\n",
    )


@pytest.mark.parametrize(
    "command", [("status",), ("drain", "--idle"), ("etcd", "status"), ("protect",), ("health",), ("node",)]
)
def test_who_may_not_read_the_nodes_files_is_told_to_use_sudo(folder: Path, command: tuple[str, ...]) -> None:
    on_node(folder, EtcdSettings(("127.0.0.1:1",)))
    code, out, err = run(folder, *command, before=shut_out(folder))
    assert (code, out) == (1, "")
    assert "call this with sudo" in err
    assert len(err.splitlines()) == 1


def test_who_may_read_the_nodes_settings_and_not_its_login_is_told_so_too(folder: Path) -> None:
    on_node(folder, EtcdSettings(("127.0.0.1:1",), "ssm:/scaler-sidecar/own/etcd-ca"))
    folder.chmod(0o755)
    (folder / "etcd").mkdir(mode=0o700)
    code, out, err = run(folder, "status", before=shut_out(folder / "etcd"))
    assert (code, out) == (1, "")
    assert f"({folder}/etcd) are for root alone: call this with sudo" in err


def test_an_identitys_folder_says_where_etcd_is(etcd: EtcdProcess, folder: Path, tmp_path: Path) -> None:
    """As `etcd-backup.service` is given it, and as a person who has just that folder."""
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).write_text("no certificate, which is found out only after the address")
    port = free_port()
    (tmp_path / "client.env").write_text(f"SCALER_ETCD=127.0.0.1:{port}\n")
    identity = ("--identity", str(tmp_path))
    assert f"127.0.0.1:{port}" in run(folder, "etcd", "backup", *identity, str(tmp_path / "copy"))[2]
    other = free_port()
    assert (
        f"127.0.0.1:{other}"
        in run(folder, "etcd", "backup", *identity, "--etcd", f"127.0.0.1:{other}", str(tmp_path / "copy"))[2]
    )
    (tmp_path / "client.key").unlink()
    code, _, err = run(folder, "etcd", "backup", *identity, str(tmp_path / "copy"))
    assert (code, "there is no client.key in it" in err) == (2, True)
