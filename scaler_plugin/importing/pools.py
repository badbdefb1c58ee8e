"""The original's resources and queues become pools, in the order in which the queues prefer them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from scaler_plugin.config.pool_schema import QUEUE
from scaler_plugin.importing.fitting import misfit, misfit_of, misfits_together
from scaler_plugin.importing.plain import name_of
from scaler_plugin.importing.report import Part, Report
from scaler_plugin.importing.resources import SOURCES, translate_machine


class FoundPool(NamedTuple):
    """``path``: where the resource stood in the file. ``keys``: all of its keys that have lines."""

    path: str
    keys: frozenset[str]
    data: dict[str, Any]


@dataclass(frozen=True)
class FoundPools:
    """``limits``: for each queue the resources that serve it, with their instances; ``names``: of the resources' pools."""

    pools: list[FoundPool]
    limits: Mapping[str, Mapping[str, int]]
    names: Mapping[str, str]


def translate_pools(more: Part, ami: str | None, stack: bool, region: str | None) -> FoundPools:
    """``ami``: one to use instead of the file's. What a pool needs may still be missing: see :func:`usable`.

    The queues' lines are for :func:`tell_queues`, once it is known which pools are left.
    """
    report = more.report
    resources, queues = _section(more, "resource_configurations"), _section(more, "queues")
    names: dict[str, str] = {}
    for resource in resources:
        names[resource] = name_of(resource, list(names.values()))
    limits = {queue: found for queue, entries in queues.items() if (found := _queue(more, queue, entries, names))}
    served: dict[str, dict[str, int]] = {}
    for queue, found in limits.items():
        for resource, count in found.items():
            served.setdefault(resource, {})[queue] = count
    pools: list[FoundPool] = []
    for resource, own in served.items():
        path, described = more.key(f"resource_configurations.{resource}"), resources[resource]
        if not isinstance(described, Mapping):
            report.not_translated(path, "it is no section of keys and values; write the pool yourself")
            continue
        report.translated(path, f"pool {names[resource]}")
        begin = len(report.lines)
        machine = translate_machine(Part(path, described, report), ami, stack, region)
        keys = frozenset(line.key for line in report.lines[begin:])
        pool = {"name": names[resource], "queues": list(own), **machine, "max_instances": sum(own.values())}
        data = {key: value for key, value in pool.items() if _fits(key, value, path, report)}
        pools.append(FoundPool(path, keys, data))
    for resource in names:
        if resource not in served:
            report.not_translated(
                more.key(f"resource_configurations.{resource}"), "no queue uses it, so there is no pool for it"
            )
    return FoundPools(pools, limits, names)


def usable(pool: FoundPool, report: Report) -> dict[str, Any] | None:
    """The pool as our schema takes it, an image aside; ``None``, with a line that says why, if it lacks what every pool needs."""
    kept = dict(pool.data)
    while problems := misfits_together(kept):
        missing = {key: why for key, why in problems.items() if key not in kept}
        if missing:
            report.withdraw([pool.path], f"pool {kept['name']} was left out: {'; '.join(missing.values())}")
            report.forget(pool.keys)
            return None
        for key, why in problems.items():
            report.withdraw(_sources(key, pool.path), f"it was left out: {why}")
            del kept[key]
    return kept


def tell_queues(more: Part, found: FoundPools, kept: Collection[str]) -> None:
    """Write what serves each queue; ``kept`` are the names of the pools that were not left out."""
    for queue, limits in found.limits.items():
        key = more.key(f"queues.{queue}")
        pools = {found.names[resource]: count for resource, count in limits.items()}
        gone = ", ".join(f"pool {name}" for name in pools if name not in kept)
        served = "; ".join(f"pool {name}, max_instances: {count}" for name, count in pools.items() if name in kept)
        if served:
            more.report.translated(key, f"{served}; without {gone}, left out" if gone else served)
        else:
            more.report.not_translated(
                key, f"no pool serves it, as {gone} was left out; add it to another pool's queues"
            )


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


def _queue(more: Part, queue: str, entries: Any, names: Mapping[str, str]) -> dict[str, int]:
    """The resources that serve the queue, with their instances; a line for each entry that cannot be used."""
    key = more.key(f"queues.{queue}")
    if reason := misfit_of(QUEUE, queue):
        more.report.not_translated(key, f"its name must be {reason}")
        return {}
    if entries and not isinstance(entries, list | tuple):
        more.report.not_translated(key, "it is no list of [resource, number]; add it to the pools' queues")
        return {}
    found: dict[str, int] = {}
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
            found[resource] = int(count)
    if not found:
        more.report.not_translated(key, "no resource serves it, so no pool does")
    return found
