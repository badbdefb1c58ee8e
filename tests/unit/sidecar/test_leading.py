"""A candidate stands for election, leads, follows its configuration, and hands over when it is blind."""

from __future__ import annotations

from scaler_plugin.clearml_server.memory_client import Fault
from scaler_plugin.coordination.election import read_leader
from scaler_plugin.coordination.published_view import read_view
from scaler_plugin.core.view import View
from scaler_plugin.errors import ConfigError
from scaler_plugin.sidecar.leading import BLIND_LIMIT_S, CRASHES_BEFORE_HANDOVER

from .node_world import KEYS, NodeWorld, OneNode


def leader_of(world: NodeWorld) -> str | None:
    leader = read_leader(world.people, KEYS)
    return leader.candidate if leader else None


def view_of(world: NodeWorld) -> View:
    view = read_view(world.people, KEYS)
    assert view is not None
    return view


def test_the_first_candidate_leads_and_the_others_wait(world: NodeWorld) -> None:
    first, second = world.standby("a"), world.standby("b")
    world.run(30)
    assert leader_of(world) == "a"
    assert first.sidecar.report.term is not None
    assert second.sidecar.report.term is None
    assert world.leaders_made == 1


def test_a_stopped_sidecar_resigns_and_a_watching_successor_leads_in_its_next_step(world: NodeWorld) -> None:
    first, second = world.standby("a"), world.standby("b")
    world.run(5)
    woken = []
    second.election.watch(lambda: woken.append(True))
    first.sidecar.stop()
    assert woken
    second.leading.step()
    assert leader_of(world) == "b"
    first.leading.step()
    assert first.election.leadership is None, "who has stopped does not stand again"


def test_without_a_configuration_nobody_stands(world: NodeWorld) -> None:
    world.etcd.wipe()
    world.standby()
    world.run(10)
    assert leader_of(world) is None
    world.configure()
    world.run(4)
    assert leader_of(world) is not None


def test_a_new_configuration_is_in_force_within_a_poll_and_a_bad_one_changes_nothing_and_is_shown(
    world: NodeWorld,
) -> None:
    node = world.standby()
    world.run(5)
    world.configure(max_instances=7)
    world.run(4)
    assert view_of(world).pools[0].max_instances == 7
    world.configure(max_instances=0)
    world.run(4)
    assert view_of(world).pools[0].max_instances == 7
    assert "max_instances" in {problem.about: problem.what for problem in view_of(world).problems}["config"]
    assert node.election.leadership is not None
    world.configure(max_instances=8)
    world.run(4)
    assert view_of(world).pools[0].max_instances == 8
    assert view_of(world).problems == ()


def test_a_leader_makes_its_clients_anew_for_a_new_configuration_only(world: NodeWorld) -> None:
    world.standby()
    world.run(30)
    assert world.leaders_made == 1
    world.configure(cluster={"clearml": {"api_host": "http://elsewhere:8008"}})
    world.run(5)
    assert world.leaders_made == 2


def test_a_leader_that_is_blind_hands_over_and_does_not_come_back_at_once(world: NodeWorld) -> None:
    blind, other = world.standby("a"), world.standby("b")
    world.run(5)
    blind.server.fault = Fault.BAD_CREDENTIALS
    world.run(BLIND_LIMIT_S + 20)
    assert leader_of(world) == "b"
    other.leading.stop()
    world.run(10)
    assert leader_of(world) is None, "it abstains"
    world.run(BLIND_LIMIT_S)
    assert leader_of(world) == "a"


def test_a_blind_leader_without_a_rival_goes_on_with_new_clients(world: NodeWorld) -> None:
    alone = world.standby("a")
    world.run(5)
    alone.server.fault = Fault.UNAVAILABLE_BEFORE
    world.run(BLIND_LIMIT_S + 10)
    assert leader_of(world) == "a"
    assert world.leaders_made == 2
    alone.server.fault = Fault.NONE
    world.run(70)
    assert view_of(world).problems == ()


def test_a_node_that_cannot_read_a_secret_says_so_and_lets_another_lead(world: NodeWorld) -> None:
    unfit = world.standby("a")

    def unreadable() -> object:
        raise ConfigError("The secret env:KEY cannot be read.")

    unfit.leading._make_leader = unreadable  # type: ignore[assignment]
    other = world.standby("b")
    world.run(10)
    assert unfit.unfit == ["The secret env:KEY cannot be read."]
    assert leader_of(world) == other.id


def test_while_etcd_is_away_a_leader_tries_once_a_second_and_not_all_the_time(world: NodeWorld) -> None:
    node = world.standby()
    world.run(5)
    world.etcd.stop()
    for _ in range(30):
        node.leading.step()
        pause = node.leading.seconds_to_next_step()
        assert pause >= 1.0
        world.clock.advance(pause)
    assert node.election.leadership is None


def test_what_a_leader_remembers_ends_with_its_term(world: NodeWorld) -> None:
    first: OneNode = world.standby("a")
    world.run(5)
    first.store.partition()
    world.run(30)
    first.store.heal()
    world.run(30)
    assert first.election.leadership is not None
    assert world.leaders_made == 2


def test_a_node_at_rest_writes_nothing_although_its_load_is_noise(world: NodeWorld) -> None:
    world.configure(idle_timeout="never")
    world.standby()
    node = world.worker()
    world.run(60)
    before = world.revision
    for second in range(600):
        node.host.cpu = (2.4, 2.6, 4.9, 0.3)[second // 15 % 4]
        world.run(1)
    assert world.revision == before
    node.host.cpu = 80.0
    world.run(16)
    load = world.records()[node.id].load
    assert load is not None
    assert load.cpu == 80.0


def test_a_leader_whose_passes_crash_begins_anew_and_after_some_lets_another_lead(world: NodeWorld) -> None:
    stumbling = world.standby("a")
    world.run(5)
    made = world.leaders_made
    stumbling.leading.recover(1)
    world.run(5)
    assert (leader_of(world), world.leaders_made) == ("a", made + 1)
    other = world.standby("b")
    world.run(5)
    stumbling.leading.recover(CRASHES_BEFORE_HANDOVER)
    world.run(10)
    assert leader_of(world) == "b"
    other.leading.stop()
    world.run(BLIND_LIMIT_S + 10)
    assert leader_of(world) == "a", "it stands again later"


def test_a_leader_whose_passes_crash_goes_on_when_nobody_else_could_lead(world: NodeWorld) -> None:
    alone = world.standby("a")
    world.run(5)
    term = alone.election.leadership
    alone.leading.recover(CRASHES_BEFORE_HANDOVER)
    world.run(5)
    assert alone.election.leadership == term
    assert world.leaders_made == 2


def test_a_leader_that_crashes_before_it_has_seen_the_other_nodes_lets_another_lead(world: NodeWorld) -> None:
    stumbling = world.standby("a")
    world.run(5)
    other = world.standby("b")
    stumbling.leading.recover(1)
    stumbling.leading.recover(CRASHES_BEFORE_HANDOVER)
    world.run(10)
    assert leader_of(world) == other.id
