"""Machines in network namespaces: cut off silently, healed, and nothing of them is left, whoever was killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scaler_plugin.localcloud.machines.ground import PREFIX, NamespaceGround

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"


def left_of(pid: int) -> list[str]:
    """Links, namespaces and mounts that carry the process's mark."""
    tag = f"{PREFIX}{pid}"
    links = [link.name for link in Path("/sys/class/net").iterdir()]
    namespaces = [entry.name for entry in Path("/run/netns").iterdir()] if Path("/run/netns").is_dir() else []
    mounts = [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines()]
    return [
        name for name in (*links, *namespaces, *mounts) if name.startswith(tag) and not name[len(tag) :][:1].isdigit()
    ]


@pytest.mark.usefixtures("namespaces")
def test_a_machine_is_cut_off_without_being_told_and_can_be_healed(tmp_path: Path) -> None:
    (tmp_path / "m1").mkdir()
    with NamespaceGround() as ground:
        enter = ground.settle(tmp_path / "m1")
        with socket.create_server((ground.server_address("server"), 0)) as server:
            command = [*enter, sys.executable, "-c", CONNECT, *map(str, server.getsockname())]

            def connects() -> tuple[bool, bool]:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                return done.returncode == 0, "timed out" in done.stderr

            assert connects() == (True, False)
            assert server.accept()[1][0] == ground.address("m1")
            ground.cut("m1", "server")
            assert connects() == (False, True), "it was told at once instead of waiting in vain"
            ground.heal("m1", "server")
            assert connects() == (True, False)
        ground.vacate(tmp_path / "m1")
    assert left_of(os.getpid()) == []


@pytest.mark.usefixtures("namespaces")
def test_what_a_killed_owner_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "m1").mkdir()
    program = (
        "import sys; from pathlib import Path\n"
        "from scaler_plugin.localcloud.machines.ground import NamespaceGround\n"
        "ground = NamespaceGround(65536).__enter__()\n"
        "ground.server_address('server'); ground.settle(Path(sys.argv[1])); print('up', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "m1")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    owner.kill()
    owner.communicate()
    assert len(left_of(owner.pid)) >= 4, "a bridge, a veth, a namespace and a mount"

    with NamespaceGround():
        assert left_of(owner.pid) == []
