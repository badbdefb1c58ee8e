"""In which order a launch tries its candidates: an *offering* (type, place and market) that EC2 refused lately is the last.

While the preferred type is short everywhere, each launch would else ask for it first in every zone, call after call, and EC2
throttles RunInstances. An offering rests longer with each refusal in a row. Nothing is left out: when all others are refused too,
it is tried all the same, so a wrong guess costs no launch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scaler_plugin.core.model import Launch, LaunchRequest, Market

#: Capacity comes back in minutes: Karpenter leaves an offering alone for three.
FIRST_REST_S = 60.0
LONGEST_REST_S = 900.0
#: So long after its rest an offering that nobody has tried begins anew.
FORGOTTEN_AFTER_S = 3600.0


@dataclass(frozen=True)
class RefusedOffering:
    """``place`` is a subnet or a zone, empty for EC2's choice. ``failures`` counts refusals in a row, ``until`` ends the rest."""

    instance_type: str
    market: Market
    place: str
    failures: int
    until: float


def in_order_of_hope(
    candidates: tuple[LaunchRequest, ...], refused: Iterable[RefusedOffering], now: float
) -> tuple[LaunchRequest, ...]:
    """The candidates in the user's order, those whose offering rests behind all others."""
    resting = {(o.instance_type, o.market, o.place) for o in refused if o.until > now}
    return tuple(sorted(candidates, key=lambda candidate: _offering(candidate) in resting))


def after_answers(refused: Iterable[RefusedOffering], launch: Launch, now: float) -> tuple[RefusedOffering, ...]:
    """What is known after a launch, of which each answered attempt counts once.

    Args:
        refused: what was known before it.
        launch: its record, with every attempt.
        now: seconds since the epoch.
    """
    known = {
        (offering.instance_type, offering.market, offering.place): offering
        for offering in refused
        if now - offering.until < FORGOTTEN_AFTER_S
    }
    for attempt in launch.attempts:
        offering = _offering(attempt.request)
        if attempt.instance_ids:
            known.pop(offering, None)
        elif attempt.error is not None:
            failures = known[offering].failures + 1 if offering in known else 1
            rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(failures - 1, 10))
            known[offering] = RefusedOffering(*offering, failures, now + rest_s)
    return tuple(known.values())


def _offering(request: LaunchRequest) -> tuple[str, Market, str]:
    return request.instance_type, request.market, request.subnet_id or request.zone or ""
