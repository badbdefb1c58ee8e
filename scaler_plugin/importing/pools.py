"""The original's resources and queues become pools, in the order in which the queues prefer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from scaler_plugin.config.pool_schema import QUEUE
from scaler_plugin.importing.fitting import misfit, misfit_of, misfits_together
from scaler_plugin.importing.plain import name_of
from scaler_plugin.importing.report import Part, Report
from scaler_plugin.importing.resources import SOURCES, translate_machine


class FoundPool(NamedTuple):
    """``path``: where the resource stood in the file."""

    path: str
    data: dict[str, Any]


def translate_pools(more: Part, ami: str | None, stack: bool, region: str | None) -> list[FoundPool]:
    """``ami``: one to use instead of the file's. What a pool needs may still be missing: see :func:`usable`."""
    report = more.report
    resources, queues = _section(more, "resource_configurations"), _section(more, "queues")
    names: dict[str, str] = {}
    for resource in resources:
        names[resource] = name_of(resource, list(names.values()))
    served: dict[str, dict[str, int]] = {}
    for queue, entries in queues.items():
        _queue(more, queue, entries, names, served)
    pools: list[FoundPool] = []
    for resource, limits in served.items():
        path, described = more.key(f"resource_configurations.{resource}"), resources[resource]
        if not isinstance(described, Mapping):
            report.not_translated(path, "it is no section of keys and values; write the pool yourself")
            continue
        report.translated(path, f"pool {names[resource]}")
        machine = translate_machine(Part(path, described, report), ami, stack, region)
        pool = {"name": names[resource], "queues": list(limits), **machine, "max_instances": sum(limits.values())}
        pools.append(FoundPool(path, {key: value for key, value in pool.items() if _fits(key, value, path, report)}))
    for resource in names:
        if resource not in served:
            report.not_translated(
                more.key(f"resource_configurations.{resource}"), "no queue uses it, so there is no pool for it"
            )
    return pools


def usable(pool: FoundPool, report: Report) -> dict[str, Any] | None:
    """The pool as our schema takes it, an image aside; ``None``, with a line that says why, if it lacks what every pool needs."""
    kept = dict(pool.data)
    while problems := misfits_together(kept):
        missing = {key: why for key, why in problems.items() if key not in kept}
        if missing:
            report.withdraw([pool.path], f"pool {kept['name']} was left out: {'; '.join(missing.values())}")
            return None
        for key, why in problems.items():
            report.withdraw(_sources(key, pool.path), f"it was left out: {why}")
            del kept[key]
    return kept


def _section(more: Part, name: str) -> dict[str, Any]:
    """With texts for keys: YAML takes a resource called 1 for a number."""
    given = more.take(name)
    if isinstance(given, Mapping):
        return {str(key): value for key, value in given.items()}
    reason = "there is none, so that no pool has a queue" if name == "queues" else "there is none"
    more.report.not_translated(more.key(name), f"{reason}; write the pools yourself")
    return {}


def _fits(key: str, value: Any, path: str, report: Report) -> bool:
    """Whether our schema takes the pool's value; a line if not."""
    reason = misfit(key, value)
    if reason:
        report.withdraw(_sources(key, path), f"it was left out: {reason}")
    return reason is None


def _sources(key: str, path: str) -> list[str]:
    """The keys of the file from which the pool's setting came."""
    return [f"{path}.{source}" for source in SOURCES.get(key, (key,))]


def _queue(more: Part, queue: str, entries: Any, names: Mapping[str, str], served: dict[str, dict[str, int]]) -> None:
    key = more.key(f"queues.{queue}")
    if reason := misfit_of(QUEUE, queue):
        more.report.not_translated(key, f"its name must be {reason}")
        return
    if entries and not isinstance(entries, list | tuple):
        more.report.not_translated(key, "it is no list of [resource, number]; add it to the pools' queues")
        return
    said = []
    for entry in entries or ():
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            more.report.not_translated(key, "an entry of it is not [resource, number]; add it to the pool's queues")
            continue
        resource, count = str(entry[0]), str(entry[1])
        if resource not in names:
            more.report.not_translated(key, f"it names the resource {resource}, which the file does not describe")
        elif not (count.isascii() and count.isdigit()) or int(count) < 1:
            more.report.not_translated(key, f"at most {count} instances of {resource} means none; it was left out")
        elif reason := misfit("max_instances", int(count)):
            more.report.not_translated(key, f"{resource}: {reason}")
        else:
            served.setdefault(resource, {})[queue] = int(count)
            said.append(f"pool {names[resource]}, max_instances: {count}")
    if said:
        more.report.translated(key, "; ".join(said))
    elif not entries:
        more.report.not_translated(key, "no resource serves it, so no pool does")
