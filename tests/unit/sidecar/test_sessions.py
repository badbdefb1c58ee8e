"""Somebody logged in counts as activity where the pool says so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from scaler_plugin.core.model import InstanceId, Node, NodeIdentity, NodeRole, NodeState, PoolName
from scaler_plugin.core.policy import ClusterPolicy, PoolPolicy
from scaler_plugin.node.logins import LocalLogins
from scaler_plugin.sidecar.sessions import LOOK_EVERY_S, Sessions
from scaler_plugin.simulation.clock import VirtualClock

POOL = PoolPolicy(PoolName("gpu"), (), max_instances=1, idle_timeout_s=600.0, sessions_keep_alive=True)
NODE = Node(NodeIdentity("c", InstanceId("i-1"), NodeRole.WORKER, PoolName("gpu")), NodeState.UP, 0.0)


class SomeLogins:
    def __init__(self) -> None:
        self.who: tuple[str, ...] = ()
        self.looks = 0

    def sessions(self) -> tuple[str, ...]:
        self.looks += 1
        return self.who


def protection(pool: PoolPolicy = POOL) -> tuple[Sessions, SomeLogins, VirtualClock]:
    logins, clock = SomeLogins(), VirtualClock()
    return Sessions(logins, clock, lambda: ClusterPolicy("c", (pool,), 1)), logins, clock


def test_a_node_is_protected_while_somebody_is_logged_in_and_for_its_idle_timeout_after() -> None:
    sessions, logins, clock = protection()
    assert sessions.why_protected(NODE) is None
    logins.who = ("ann",)
    clock.advance(LOOK_EVERY_S)
    assert sessions.why_protected(NODE) == "Somebody is logged in: ann."
    logins.who = ()
    clock.advance(LOOK_EVERY_S)
    assert sessions.why_protected(NODE) == "Somebody was logged in until a short time ago."
    clock.advance(600.0)
    assert sessions.why_protected(NODE) is None


def test_where_the_pool_does_not_say_so_nobody_even_looks() -> None:
    sessions, logins, _ = protection(replace(POOL, sessions_keep_alive=False))
    logins.who = ("ann",)
    assert sessions.why_protected(NODE) is None
    assert logins.looks == 0


def test_the_processes_are_looked_through_only_now_and_then() -> None:
    sessions, logins, clock = protection()
    for _ in range(60):
        sessions.why_protected(NODE)
        clock.advance(1.0)
    assert logins.looks == 4


@pytest.mark.parametrize(
    ("title", "found"),
    [
        ("ssm-session-worker", "by Session Manager"),
        ("sshd-session: ann@pts/0", "ann"),
        ("sshd: bob@notty", "bob"),
    ],
)
def test_sessions_are_found_by_their_processes(title: str, found: str) -> None:
    # A process shows the name and the command line that the real one has.
    code = (
        "import ctypes, sys; libc = ctypes.CDLL(None); libc.prctl(15, sys.argv[1].split(':')[0].encode()[:15]);"
        "print('up', flush=True); sys.stdin.read()"
    )
    read, write = os.pipe()
    script = ["/bin/sh", "-c", 'exec -a "$2" "$0" -c "$1" "$3"', sys.executable, code, title, title]
    script[0] = "/bin/bash"
    with subprocess.Popen(script, stdin=read, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            deadline = time.monotonic() + 10
            while found not in LocalLogins().sessions():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            os.close(write)
            os.close(read)
            process.kill()
