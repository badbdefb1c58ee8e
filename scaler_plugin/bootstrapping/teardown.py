"""The end of a cluster's stack.

Guarantees: nothing is deleted while an instance of the cluster runs, unless told to end them; and unless told that too, none is
ended with a task on it: a worker closes its own gate and ends itself, as for any drain. A leader or the schedule may launch
meanwhile: it looks again until nothing is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from scaler_plugin.bootstrapping.activity import Activity, NodeRecords, look, named
from scaler_plugin.bootstrapping.deployment import Deployment, Progress
from scaler_plugin.bootstrapping.instances import END_PATIENCE_S, LOOK_S, alive_of, end_all, terminate_each
from scaler_plugin.core.model import InstanceId, InstanceState, NodeRole, NodeState
from scaler_plugin.core.ports import Fleet
from scaler_plugin.errors import CloudRefused, CloudUnavailable, ScalerError

#: A stack whose security group is in use by an instance that was launched meanwhile fails to delete; then once more.
ROUNDS = 3

_KILL = "--terminate --kill-tasks ends them whatever runs on them."


class Ending(str, Enum):
    """What may be done to instances that still run."""

    NOTHING = "nothing"
    IDLE_ONES = "idle ones"
    ALL = "all"


class TearDown:
    """One cluster's end. ``wait`` sleeps between two looks."""

    def __init__(
        self,
        cluster: str,
        deployment: Deployment,
        fleet: Fleet,
        records: NodeRecords,
        progress: Progress,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cluster = cluster
        self._deployment = deployment
        self._fleet = fleet
        self._records = records
        self._progress = progress
        self._wait = wait
        self._so_far = "Nothing was deleted"

    def run(self, ending: Ending) -> bool:
        """Delete the stack; false if there was none. Raises ``CloudRefused`` while instances run that may not be ended."""
        if ending is not Ending.ALL:
            self._refuse_early(ending)
        for round_ in range(ROUNDS):
            self._end_instances(ending)
            try:
                deleted = self._deployment.delete()
            except CloudRefused:
                if ending is Ending.NOTHING or round_ == ROUNDS - 1 or not alive_of(self._fleet):
                    raise
                self._progress("An instance was launched meanwhile; once more.")
                self._so_far = "The stack is deleted in part"
            else:
                self._so_far = "The stack is deleted, and nothing can be launched any more"
                # The last that a leader or the schedule launched: without templates there can be no other.
                self._end_instances(ending)
                return deleted
        return False

    def _look(self) -> Activity:
        return look(self._cluster, alive_of(self._fleet), self._records)

    def _refuse_early(self, ending: Ending) -> None:
        """Before anything is touched."""
        activity = self._look()
        if not activity.alive:
            return
        if not activity.nothing_is_lost:
            advice = "Call this again when that is over" if activity.tasks else "Call this again when it is known"
            raise CloudRefused(f"{self._so_far}: {activity.sentence} {advice}; {_KILL}")
        if ending is Ending.NOTHING:
            raise CloudRefused(
                f"{self._so_far}: {activity.sentence} Give --terminate to end them first, or wait until they have retired."
            )

    def _end_instances(self, ending: Ending) -> None:
        if ending is Ending.ALL:
            end_all(self._fleet, self._cluster, self._progress, self._wait)
        elif ending is Ending.IDLE_ONES:
            self._end_idle_ones()

    def _end_idle_ones(self) -> None:
        """Until those have ended that run now. Raises ``CloudRefused`` when a task runs, ``CloudUnavailable`` past patience.

        What is launched meanwhile is for the next round: where a pool has a minimum, each is replaced until the stack is gone.
        """
        awaited = {instance.instance_id for instance in alive_of(self._fleet)}
        asked: set[InstanceId] = set()
        told: set[InstanceId] = set()
        for _ in range(round(END_PATIENCE_S / LOOK_S)):
            listed = self._fleet.instances()
            activity = look(self._cluster, [i for i in listed if not i.state.ending], self._records)
            if activity.tasks:
                raise CloudRefused(
                    f"{self._so_far}: {activity.sentence} Its node could not be kept from it in time. Call this again when it has "
                    f"ended; {_KILL}"
                )
            if all(i.instance_id not in awaited or i.state is InstanceState.TERMINATED for i in listed):
                return
            self._end_by_ec2(activity)
            for node in activity.nodes:
                if node.instance_id in awaited - asked:
                    self._ask_to_drain(node.instance_id)
                    asked.add(node.instance_id)
            # One that was asked and has left etcd has closed its gate; it shuts down.
            unknown = [instance for instance in activity.unknown if instance in awaited - asked - told]
            if unknown:
                told.update(unknown)
                self._progress(f"Waiting for {named(unknown)}: {activity.why_unknown}")
            self._wait(LOOK_S)
        raise CloudUnavailable(
            f"{self._so_far}: {self._look().sentence} They do not end. Look at their consoles; {_KILL}"
        )

    def _end_by_ec2(self, activity: Activity) -> None:
        """What has no agent, and what has sealed its gate: EC2 is quicker than a shutdown."""
        sealed = [node.instance_id for node in activity.nodes if node.state is NodeState.RETIRING]
        harmless = [i.instance_id for i in activity.alive if i.role is not NodeRole.WORKER] + sealed
        if harmless:
            self._progress(f"Terminating {named(harmless)}.")
            terminate_each(self._fleet, harmless)

    def _ask_to_drain(self, instance_id: InstanceId) -> None:
        self._progress(f"Asking {instance_id} to end.")
        try:
            self._records.drain(instance_id, time.time(), "the cluster is being taken down")
        except ScalerError as error:
            raise CloudUnavailable(f"{self._so_far}: {instance_id} could not be asked to end. {error}") from error
