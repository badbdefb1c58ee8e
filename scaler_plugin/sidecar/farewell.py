"""What is done for one running task when EC2 is about to take its instance: hook, abort, end, and back into its queue.

The order, and why:

1. The user's hook lets the task save its state; it is killed when its time is up.
2. The promise to put the task back is written to etcd (:mod:`scaler_plugin.core.handback`), and only then the agent is asked to
   stop the task, as a person would: ClearML's own abort callback runs, and the task becomes ``stopped``.
3. If it does not stop in time, agent and task are killed. That also happens, without asking, when etcd or ClearML do not answer:
   the task then stays ``in_progress``, and should this node not get to put it back, the leader's rescue does.
4. The task goes back only when nothing of it runs here any more, so it never runs twice at once.

Guarantees: :meth:`Farewell.step` never waits for the hook or the agent, and it is over when EC2's time is. A hook that hangs, fails
or cannot be started is an event and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from scaler_plugin.coordination.handbacks import forget, promise
from scaler_plugin.coordination.keys import Keys
from scaler_plugin.coordination.store import Store
from scaler_plugin.core.handback import Handback, HandbackAct, judge_handback
from scaler_plugin.core.interruption import Announced
from scaler_plugin.core.model import NodeIdentity, QueueName, Slot, SlotState, TaskId, TaskInHand, WorkerId
from scaler_plugin.core.policy import PoolPolicy
from scaler_plugin.core.ports import Clock, TaskServer
from scaler_plugin.errors import ScalerError, StoreError, TaskServerRefused
from scaler_plugin.sidecar.ports import HookRun, Hooks, SlotEnder

if TYPE_CHECKING:
    from scaler_plugin.leader.journal import Journal

log = structlog.get_logger(__name__)

#: Of EC2's time, this much is kept for killing the task and putting it back: some seconds until the process tree is known to be
#: empty, and two tries at a slow server.
HANDBACK_RESERVE_S = 20.0
#: … and this much in all for what comes after the hook: the abort callback gets the difference.
AFTER_HOOK_S = 45.0
#: An agent looks every 5 s whether its task is to be stopped, then kills it and reports: longer than this it does not take.
AGENT_STOPS_WITHIN_S = 9.0
#: How long etcd and ClearML are tried before the task is ended without asking.
ASK_PATIENCE_S = 6.0
#: A hook with less time than this could only be killed half-way.
SHORTEST_HOOK_S = 2.0
#: Between two kills of what has not died.
KILL_AGAIN_S = 2.0


class Stage(Enum):
    HOOK = "hook"
    ASK = "ask"
    WAIT = "wait"
    HAND_BACK = "hand back"
    DONE = "done"


@dataclass(frozen=True)
class FarewellTools:
    """What farewells share. ``server`` is made on first use: only an interrupted node pays for ClearML's library.

    It must be no one else's: its connection is not for several threads.
    """

    identity: NodeIdentity
    store: Store
    keys: Keys
    clock: Clock
    server: Callable[[], TaskServer]
    ender: SlotEnder
    hooks: Hooks
    journal: Journal


class Farewell:
    """One task's. ``kept`` is the promise that an earlier process of this sidecar left behind, whose hook has then run already."""

    def __init__(
        self,
        tools: FarewellTools,
        announced: Announced,
        task_id: TaskId,
        worker_id: WorkerId,
        queue: QueueName | None,
        deadline: float,
        kept: Handback | None = None,
    ) -> None:
        """``deadline`` is when EC2 acts, on the clock's monotonic time."""
        self.task_id = task_id
        self.stage = Stage.HOOK if kept is None else Stage.ASK
        self._tools = tools
        self._announced = announced
        self._worker_id = worker_id
        self._queue = queue
        self._deadline = deadline
        self._promise = kept
        self._hook: HookRun | None = None
        self._hook_until = 0.0
        self._asking_since: float | None = None
        self._kill_at = self._latest_kill
        self._foreign_stop = False
        self._handback_failed = ""

    @property
    def done(self) -> bool:
        return self.stage is Stage.DONE

    @property
    def _now(self) -> float:
        return self._tools.clock.monotonic()

    @property
    def _latest_kill(self) -> float:
        return self._deadline - HANDBACK_RESERVE_S

    def step(self, slot: Slot, pool: PoolPolicy | None, max_requeues: int) -> None:
        """One pass. ``slot`` is what the slot did when the sidecar last looked, behind closed gates."""
        if self._now > self._deadline and self.stage is not Stage.DONE:
            self._give_up()
            return
        gone = slot.state is not SlotState.BUSY or slot.task_id not in (None, self.task_id)
        if gone and self.stage in (Stage.HOOK, Stage.ASK, Stage.WAIT):
            self._end_hook("the task has ended")
            self.stage = Stage.HAND_BACK
        if self.stage is Stage.HOOK:
            self._step_hook(slot, pool)
        if self.stage is Stage.ASK:
            self._step_ask(slot)
        if self.stage is Stage.WAIT:
            self._step_wait(slot)
        elif self.stage is Stage.HAND_BACK:
            self._step_hand_back(max_requeues)

    # 1. The hook.

    def _step_hook(self, slot: Slot, pool: PoolPolicy | None) -> None:
        if self._hook is None:
            if pool is None or pool.on_interruption is None:
                self.stage = Stage.ASK
                return
            time_s = min(pool.on_interruption_timeout_s, self._deadline - AFTER_HOOK_S - self._now)
            if time_s < SHORTEST_HOOK_S:
                self._tell("hook_failed", f"EC2 leaves no time for the on_interruption script of task {self.task_id}.")
                self.stage = Stage.ASK
                return
            self._hook_until = self._now + time_s
            self._hook = self._tools.hooks.start(pool.on_interruption, self._environment(slot, time_s))
        outcome = self._hook.poll()
        if outcome is None:
            if self._now < self._hook_until:
                return
            self._end_hook("its time is up")
        else:
            self._hook = None
            if outcome.exit_code == 0:
                self._tell("hook_ended", f"The on_interruption script of task {self.task_id} is through.")
            else:
                how = "could not be started" if outcome.exit_code is None else f"failed with code {outcome.exit_code}"
                self._tell("hook_failed", f"The on_interruption script of task {self.task_id} {how}.", outcome.output)
        self.stage = Stage.ASK

    def _end_hook(self, why: str) -> None:
        if self._hook is not None:
            self._hook.kill()
            self._hook = None
            self._tell("hook_failed", f"The on_interruption script of task {self.task_id} was killed: {why}.")

    def _environment(self, slot: Slot, time_s: float) -> dict[str, str]:
        identity = self._tools.identity
        return {
            "SCALER_TASK_ID": self.task_id,
            "SCALER_QUEUE": self._queue or "",
            "SCALER_ACTION": self._announced.action,
            "SCALER_INTERRUPTION_AT": f"{self._announced.at or 0.0:.0f}",
            "SCALER_TIMEOUT": f"{time_s:.0f}",
            "SCALER_INSTANCE_ID": identity.instance_id,
            "SCALER_POOL": identity.pool or "",
            "SCALER_CLUSTER": identity.cluster,
            "SCALER_SLOT": str(slot.index),
            "SCALER_WORKER_ID": self._worker_id,
        }

    # 2. The abort, as ClearML does it.

    def _step_ask(self, slot: Slot) -> None:
        if self._asking_since is None:
            self._asking_since = self._now
        try:
            self._ask(slot)
        except ScalerError as error:
            if isinstance(error, TaskServerRefused) or self._now - self._asking_since >= ASK_PATIENCE_S:
                log.warning("task_ended_without_asking", task_id=self.task_id, error=str(error))
                self._kill_at = self._now
                self.stage = Stage.WAIT

    def _ask(self, slot: Slot) -> None:
        found = self._tools.server().find_task(self.task_id)
        if found is not None and found.stopping:
            self._foreign_stop = self._promise is None
        elif found is not None:
            self._promise_handback(found, slot)
            self._tools.server().ask_to_stop(self.task_id, self._announced.reason)
        patience_s = AGENT_STOPS_WITHIN_S + ((found.abort_callback_s or 0.0) if found is not None else 0.0)
        self._kill_at = min(self._now + patience_s, self._latest_kill)
        self.stage = Stage.WAIT

    def _promise_handback(self, found: TaskInHand, slot: Slot) -> None:
        queue = found.task.queue or self._queue
        if queue is None:
            return
        self._queue = queue
        made = Handback(
            self.task_id,
            self._tools.identity.instance_id,
            self._worker_id,
            queue,
            found.task.requeues,
            self._announced.reason,
            self._tools.clock.now(),
        )
        promise(self._tools.store, self._tools.keys, made)
        self._promise = made

    # 3. The end by force.

    def _step_wait(self, slot: Slot) -> None:
        if self._now >= self._kill_at:
            self._kill_at = self._now + KILL_AGAIN_S
            self._tools.ender.end(slot)

    # 4. Back into the queue.

    def _step_hand_back(self, max_requeues: int) -> None:
        try:
            if self._hand_back(max_requeues):
                self._forget_promise()
                self.stage = Stage.DONE
        except TaskServerRefused as error:
            self._tell("task_not_handed_back", f"Task {self.task_id} could not be put back into its queue: {error}")
            self.stage = Stage.DONE
        except ScalerError as error:
            if not self._handback_failed:
                log.warning("handback_delayed", task_id=self.task_id, error=str(error))
            self._handback_failed = str(error)

    def _hand_back(self, max_requeues: int) -> bool:
        """Whether nothing is left to do; false if the task changed meanwhile and must be looked at again."""
        if self._foreign_stop:
            return True
        found = self._tools.server().find_task(self.task_id)
        task = found.task if found is not None else None
        verdict = judge_handback(task, self._worker_id, self._promise, max_requeues)
        queue = (task.queue if task is not None else None) or self._queue
        if task is None or verdict.act is HandbackAct.LEAVE or queue is None:
            log.info("task_left_as_it_is", task_id=self.task_id, why=verdict.why)
            return True
        if verdict.act is HandbackAct.FAIL:
            sentence = f"Task {self.task_id} was interrupted and not put back into {queue}: {verdict.why}."
            if not self._tools.server().fail_task(task, sentence):
                return False
            self._tell("task_failed", sentence)
            return True
        instance = self._tools.identity.instance_id
        if not self._tools.server().requeue(task, queue, f"Interrupted on {instance}. {self._announced.reason}"):
            return False
        self._tell("task_handed_back", f"Task {self.task_id} is back in queue {queue}: {self._announced.reason}")
        return True

    def _forget_promise(self) -> None:
        if self._promise is not None:
            instance = self._tools.identity.instance_id
            try:
                forget(self._tools.store, self._tools.keys, instance, self.task_id)
            except StoreError as error:  # the leader sees that it is kept, and removes it
                log.warning("handback_not_forgotten", task_id=self.task_id, error=str(error))

    def _give_up(self) -> None:
        self._end_hook("EC2's time is up")
        why = f": {self._handback_failed}" if self._handback_failed else "."
        self._tell("task_not_handed_back", f"Time ran out for task {self.task_id}; the leader will rescue it{why}")
        self.stage = Stage.DONE

    def _tell(self, kind: str, sentence: str, detail: str = "") -> None:
        log.info(kind, task_id=self.task_id, sentence=sentence)
        self._tools.journal.record(kind, self._tools.identity.instance_id, sentence, detail)
