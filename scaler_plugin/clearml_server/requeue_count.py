"""The count of a task's requeues, as a system tag of the task: ``scaler-requeued:<count>:<start of the task's id>``.

Why there is in ``docs/decisions/0011-requeues-counted-in-a-system-tag.md``. The id tells the task's own count from one that a clone
brought along.
"""

from __future__ import annotations

from collections.abc import Sequence

from scaler_plugin.core.model import TaskId

_PREFIX = "scaler-requeued"
_ID_LENGTH = 8


def requeues_in(system_tags: Sequence[str], task_id: TaskId) -> int:
    """How often a rescue has put the task back; 0 without a tag of its own."""
    counts = [0]
    for tag in system_tags:
        prefix, _, rest = tag.partition(":")
        count, _, start = rest.partition(":")
        if prefix == _PREFIX and start == task_id[:_ID_LENGTH] and count.isdecimal():
            counts.append(int(count))
    return max(counts)


def with_requeues(system_tags: Sequence[str], task_id: TaskId, count: int) -> list[str]:
    """The task's other system tags, and the count unless it is 0."""
    others = [tag for tag in system_tags if not tag.startswith(f"{_PREFIX}:")]
    return [*others, f"{_PREFIX}:{count}:{task_id[:_ID_LENGTH]}"] if count else others
