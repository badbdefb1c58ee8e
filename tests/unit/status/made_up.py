"""Made-up clusters of any size, as the keys that etcd would hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from scaler_plugin.coordination.codec import encode
from scaler_plugin.coordination.events import Event
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Entry, Put
from scaler_plugin.core.model import (
    Attempt,
    InstanceId,
    Launch,
    LaunchId,
    LaunchRequest,
    Load,
    Market,
    Node,
    NodeIdentity,
    NodeRole,
    NodeState,
    PoolName,
    Problem,
    QueueName,
    Slot,
    SlotState,
    TaskId,
)
from scaler_plugin.core.observation import Cooldown
from scaler_plugin.core.view import PoolView, QueueView, View
from scaler_plugin.status.make_report import make_report
from scaler_plugin.status.reading import sort_records
from scaler_plugin.status.report import StatusReport

KEYS = Keys("scaler-sidecar", "demo")
GPU, CPU = PoolName("gpu-large"), PoolName("cpu")
NOW = 1_800_000_000.0
LEADER = InstanceId("i-0aa00000000000000")


CONFIG = (
    '{"cluster": "demo", "pools": [{"name": "cpu", "queues": ["default"], "max_instances": 4, "instance_types": ["m5.large"],'
    ' "ami": "ami-0123456789abcdef0"}]}'
)


def task_id(number: int) -> TaskId:
    return TaskId(hashlib.md5(str(number).encode()).hexdigest())


def slot(state: SlotState, age_s: float, index: int = 0, task: int = 0, now: float = NOW) -> Slot:
    busy = state is SlotState.BUSY
    return Slot(index, state, now - age_s, task_id(task) if busy else None, QueueName("train") if busy else None)


def node(
    number: int,
    state: SlotState = SlotState.IDLE,
    for_s: float = 60.0,
    *,
    pool: PoolName | None = CPU,
    node_state: NodeState = NodeState.UP,
    reason: str = "",
    slots: tuple[Slot, ...] | None = None,
    launch: LaunchId | None = None,
    age_s: float = 7200.0,
    now: float = NOW,
) -> Node:
    gpu = pool == GPU
    identity = NodeIdentity(
        "demo",
        InstanceId(f"i-0aa{number:014x}"),
        NodeRole.WORKER,
        pool,
        "g4dn.12xlarge" if gpu else "m5.large",
        Market.SPOT if gpu else Market.ON_DEMAND,
        f"us-east-1{'abc'[number % 3]}",
        launch,
    )
    own = slots if slots is not None else (slot(state, for_s, task=number, now=now),)
    load = Load(93.0, 41.0, 88.0, 70.0) if gpu else Load(12.0, 20.0)
    return Node(identity, node_state, now - age_s, own, load, reason, "0.1.0")


def launch(
    name: str = "demo-1",
    *,
    pool: PoolName = GPU,
    count: int = 2,
    instances: tuple[str, ...] = (),
    awaited: tuple[str, ...] | None = None,
    error: str | None = None,
    age_s: float = 70.0,
    now: float = NOW,
) -> Launch:
    request = LaunchRequest(
        "demo", pool, LaunchId(name), count, "g4dn.12xlarge", "ami-1", Market.SPOT, "subnet-1", "us-east-1a"
    )
    ids = tuple(InstanceId(i) for i in instances)
    tried = (Attempt(0, f"{name}-0", request, now - age_s, (), error),) if error else ()
    last = Attempt(len(tried), f"{name}-{len(tried)}", request, now - age_s, ids)
    return Launch(
        LaunchId(name),
        pool,
        count,
        1,
        7,
        now - age_s,
        f"{count} waiting in train",
        (request, request),
        (*tried, last),
        ids if awaited is None else tuple(InstanceId(i) for i in awaited),
    )


def view(
    *,
    term: int = 7,
    waiting: int = 0,
    oldest_s: float | None = None,
    unserved: str = "",
    problems: tuple[Problem, ...] = (),
    gpu_instances: int = 0,
    cpu_instances: int = 0,
    backlog_known: bool = True,
    now: float = NOW,
) -> View:
    return View(
        term,
        LEADER,
        1,
        60,
        backlog_known,
        (
            QueueView(QueueName("train"), waiting, now - oldest_s if oldest_s else None, unserved),
            QueueView(QueueName("default"), 0),
        ),
        (
            PoolView(GPU, (QueueName("train"),), gpu_instances, 0, 0, 0, 20),
            PoolView(CPU, (QueueName("default"), QueueName("train")), cpu_instances, 0, 0, 1, 40),
        ),
        problems,
    )


def puts(*records: object, leader: str | None = LEADER, since: float = NOW - 11_520) -> list[Put]:
    """The records under their keys; the leader's key, unless it is ``None``, comes first."""
    out = [Put(KEYS.leader, f'{{"candidate":"{leader}","since":{since}}}')] if leader else []
    for number, record in enumerate(records):
        out.append(Put(_key(record, number), encode(record)))
    return out


def _key(record: object, number: int) -> str:
    if isinstance(record, Node):
        return KEYS.node(record.instance_id)
    if isinstance(record, Launch):
        return KEYS.launch(record.launch_id)
    if isinstance(record, Cooldown):
        return KEYS.cooldown(record.pool)
    if isinstance(record, Event):
        return f"{KEYS.events}{int(record.at * 1000):014d}-{number:08d}"
    assert isinstance(record, View)
    return KEYS.view


def entries(
    *records: object, leader: str | None = LEADER, since: float = NOW - 11_520, config: bool = True
) -> list[Entry]:
    """The same as read from etcd, in term 7."""
    written = puts(*records, leader=leader, since=since)
    found = [Entry(put.key, put.value, 7 if put.key == KEYS.leader else 9, 9) for put in written]
    return [*found, Entry(KEYS.config, CONFIG, 1, 1)] if config else found


def report(*records: object, now: float = NOW, **how: Any) -> StatusReport:
    return make_report(sort_records(entries(*records, **how), KEYS), now)


def large_cluster(size: int, now: float = NOW, term: int = 7) -> Iterable[object]:
    """A cluster in trouble: its GPU pool is full and EC2 refuses more, a start has failed, some nodes are ill."""
    gpus = min(size // 3, 20)
    for number in range(size):
        gpu = number < gpus
        busy = number % 10 < 7
        odd = {1: SlotState.STARTING, 2: SlotState.DOWN}.get(number % 29 if number > 20 else 0)
        state = odd or (SlotState.BUSY if busy else SlotState.IDLE)
        leaving = number == 21
        four = tuple(
            slot(SlotState.BUSY if i < 3 else SlotState.IDLE, 60.0 * (number + i + 1), i, number * 4 + i, now)
            for i in range(4)
        )
        yield node(
            number,
            state,
            37.0 * (number + 1),
            pool=GPU if gpu else CPU,
            now=now,
            age_s=40_000.0 + 97 * number,
            slots=four if gpu and number % 2 == 0 else None,
            node_state=NodeState.INTERRUPTED if leaving else NodeState.UP,
            reason="EC2 takes this spot instance back at 03:12:40; its gates are closed." if leaving else "",
        )
    yield Node(
        NodeIdentity("demo", InstanceId("standby-etcd-host-1"), NodeRole.STANDBY, None, "standby"),
        NodeState.UP,
        now - 900_000,
    )
    refused = (
        "EC2 refused RunInstances for pool gpu-large: There is no Spot capacity available that matches your request "
        "(InsufficientInstanceCapacity). EC2 has no more of this type there now. Name more instance types, zones or subnets "
        "in the pool."
    )
    yield view(
        term=term,
        waiting=14,
        oldest_s=2520,
        unserved=f"Pool gpu-large pauses after a failed launch: {refused} Pool cpu is at its max_instances of 40.",
        gpu_instances=gpus + 2,
        cpu_instances=size - gpus,
        now=now,
        problems=(
            Problem(
                "pool gpu-large",
                f"Launching failed 3 times in a row: {refused}",
                "The pool pauses with growing intervals and then tries again by itself.",
                now - 720,
            ),
        ),
    )
    yield Cooldown(GPU, 3, now + 42, refused)
    yield launch(instances=("i-0bb1", "i-0bb2"), now=now)
    yield launch("demo-2", count=1, error=refused, age_s=3.0, now=now)
    console = "\n".join(f"[{i:5}.1] cloud-init: step {i}" for i in range(80)) + "\n\x1b[31mdocker: not found\x1b[0m\n"
    for number in range(3):
        instance = f"i-0dd{number:014x}"
        yield Event(
            now - 1000 + number * 100,
            "start_failed",
            instance,
            f"Instance {instance} did not register within 10m; it was terminated.",
            console,
        )
    yield Event(now - 65, "launched", GPU, f"Launched 2 for pool {GPU} (2 waiting in train): i-0bb1, i-0bb2.")
