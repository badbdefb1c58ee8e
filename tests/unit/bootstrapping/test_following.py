"""A person who has launched an instance hears how it comes up, or by its own words why it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scaler_plugin.bootstrapping.following import ClusterSight, Following, patience_with
from scaler_plugin.cloud.memory_fleet import MemoryFleet
from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.events import Event, record
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.memory_store import MemoryStore
from scaler_plugin.coordination.store import Put
from scaler_plugin.core.model import LaunchId, LaunchRequest, Node, NodeIdentity, NodeRole, NodeState, PoolName
from scaler_plugin.errors import ScalerError, StoreUnavailable
from scaler_plugin.simulation.clock import VirtualClock

KEYS = Keys("p", "c")
#: What systemd copies to the console when `boot` cannot reach etcd.
AWAY = "[   5.1] scaler-sidecar[411]: etcd at 10.0.0.5:2379 did not answer within 5 s; check the address.\n"


class Scene:
    """One instance that was just launched; ``at`` says what happens to it when."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.etcd = MemoryStore(self.clock)
        self.fleet = MemoryFleet("c", self.clock, boot_delay_s=20.0)
        request = LaunchRequest("c", PoolName("cpu"), LaunchId("l"), 1, "c5.large", "ami-1")
        (self.instance,) = self.fleet.run_instances(request, "token")
        self.lines: list[str] = []
        self._plan: list[tuple[float, Callable[[], None]]] = []

    def at(self, second: float, act: Callable[[], None]) -> None:
        self._plan.append((second, act))

    def follow(self, etcd_from_here: bool = True, short_lived: bool = False, first_boot: bool = False) -> None:
        sight = ClusterSight(self.etcd.client("desk") if etcd_from_here else None, KEYS)
        following = Following(self.instance, self.fleet, sight, self.clock, self.lines.append, self._wait)
        following.run(patience_with(1200.0 if first_boot else 600.0, first_boot), short_lived)

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def register(self) -> None:
        identity = NodeIdentity("c", self.instance, NodeRole.WORKER, PoolName("cpu"))
        node = Node(identity, NodeState.UP, self.clock.now())
        self.etcd.client("node").transact([], [Put(KEYS.node(self.instance), encode(node))])

    def tell(self, sentence: str) -> None:
        event = Event(self.clock.now(), "start_failed", self.instance, f"Instance {self.instance} {sentence}")
        record(self.etcd.client("node"), KEYS, event)

    def write(self, text: str) -> None:
        self.fleet.write_console(self.instance, text)

    def end(self) -> None:
        self.fleet.guest_shut_down(self.instance)

    def _wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        due = [act for second, act in self._plan if second <= self.clock.monotonic()]
        self._plan = [(second, act) for second, act in self._plan if second > self.clock.monotonic()]
        for act in due:
            act()


def test_each_state_is_one_line_until_its_node_registers() -> None:
    scene = Scene()
    scene.at(40, scene.register)
    scene.follow()
    states = [line.partition(f"{scene.instance} ")[2] for line in scene.lines]
    assert states == ["is pending.", "runs, and boots.", "has registered: its sidecar is up."]


def test_one_that_ends_is_a_failure_with_the_sentence_of_its_console() -> None:
    scene = Scene()
    scene.at(25, lambda: scene.write(AWAY))
    scene.at(700, scene.end)
    with pytest.raises(
        ScalerError, match=r"ended without becoming a node. It said: etcd at 10.0.0.5:2379 did not answer"
    ):
        scene.follow()
    assert scene.said.count("did not answer") == 1, "told more than once"
    assert scene.clock.monotonic() < 720


def test_its_last_output_is_waited_for() -> None:
    scene = Scene()
    scene.at(30, scene.end)
    scene.at(50, lambda: scene.write(AWAY))
    with pytest.raises(ScalerError, match="did not answer within"):
        scene.follow()


def test_one_that_ends_without_a_word_is_a_failure_that_says_so() -> None:
    scene = Scene()
    scene.at(30, scene.end)
    with pytest.raises(ScalerError, match="It said nothing of why"):
        scene.follow()


def test_what_it_tells_in_etcd_is_shown_at_once_and_it_may_still_come_up() -> None:
    scene = Scene()
    scene.at(30, lambda: scene.tell("could not be set up: The secret ssm:/x cannot be read."))
    scene.at(90, scene.register)
    scene.follow()
    assert "told: The secret ssm:/x cannot be read." in scene.said
    assert "has registered" in scene.lines[-1]


def test_one_that_its_health_gate_ended_gives_that_reason() -> None:
    scene = Scene()
    scene.at(30, lambda: scene.tell("did not pass its health gate and ended itself: No GPU."))
    scene.at(32, scene.end)
    with pytest.raises(ScalerError, match=r"did not pass its health gate and ended itself: No GPU."):
        scene.follow()


def test_one_that_neither_registers_nor_ends_is_not_followed_for_ever() -> None:
    scene = Scene()
    with pytest.raises(
        ScalerError, match=r"runs, and boots after 14 minutes. Its node has not registered. Its console"
    ):
        scene.follow()


def test_where_etcd_cannot_be_reached_from_here_its_console_still_tells() -> None:
    scene = Scene()
    scene.at(25, lambda: scene.write(AWAY))
    with pytest.raises(ScalerError, match=r"was not seen from here.*It said: etcd at 10.0.0.5") as failed:
        scene.follow(etcd_from_here=False)
    assert failed.value.exit_code == 1


def test_where_etcd_cannot_be_reached_from_here_one_that_says_nothing_wrong_is_let_go_and_called_unseen() -> None:
    scene = Scene()
    with pytest.raises(StoreUnavailable, match=r"tells of no failure. Whether its node has registered.*was not seen"):
        scene.follow(etcd_from_here=False)
    assert "only EC2 and its console tell" in scene.lines[0]
    assert scene.clock.monotonic() < 300


def test_a_first_boot_is_looked_at_blindly_for_as_long_as_it_may_take() -> None:
    failing = Scene()
    failing.at(
        900, lambda: failing.write("[  880.1] sh[512]: scaler-sidecar: This is no node: its first boot failed.\n")
    )
    failing.at(1190, failing.end)
    with pytest.raises(ScalerError, match="its first boot failed") as failed:
        failing.follow(etcd_from_here=False, first_boot=True)
    assert failed.value.exit_code == 1
    quiet = Scene()
    with pytest.raises(StoreUnavailable):
        quiet.follow(etcd_from_here=False, first_boot=True)
    assert quiet.clock.monotonic() > 1200


def test_a_node_that_nobody_could_see_register_is_not_said_to_be_missing() -> None:
    scene = Scene()
    scene.at(60, scene.etcd.stop)
    with pytest.raises(StoreUnavailable, match=r"after 14 minutes, and its console tells of no failure.*was not seen"):
        scene.follow()


def test_a_probe_that_ends_unseen_is_not_called_well() -> None:
    scene = Scene()
    scene.at(30, scene.end)
    with pytest.raises(StoreUnavailable, match="has ended, and its console tells of no failure"):
        scene.follow(etcd_from_here=False, short_lived=True)


def test_sources_that_fail_meanwhile_are_named_once_and_asked_again() -> None:
    scene = Scene()
    scene.at(4, scene.etcd.stop)
    scene.at(60, scene.etcd.start)
    scene.at(62, scene.register)
    scene.follow()
    assert scene.said.count("Etcd cannot be read from here") == 1


def test_a_probe_may_end_without_a_word_and_not_with_one() -> None:
    quiet = Scene()
    quiet.at(30, quiet.end)
    quiet.follow(short_lived=True)
    assert "as a probe does when nothing is to be done" in quiet.said
    failed = Scene()
    failed.at(30, lambda: failed.write(AWAY))
    failed.at(60, failed.end)
    with pytest.raises(ScalerError, match="did not answer"):
        failed.follow(short_lived=True)
