"""``python -m bench``: measure, and print each figure beside its promise as soon as it is there.

Everything is measured in this very run, on real processes where the promise is about them. The exit code is 0 whatever comes
out: a loaded machine is no defect. ``--json`` prints one object instead.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable

from bench.table import Row, heading, shown


def _measurements(trials: int, minute_s: float) -> dict[str, Callable[[], Iterable[Row]]]:
    from bench import failover, footprint, planning, reaction  # noqa: PLC0415

    return {
        "plan": planning.measure,
        "reaction": lambda: reaction.measure(2 * trials, minute_s),
        "failover": lambda: failover.measure(trials),
        "footprint": lambda: footprint.measure(minute_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed and size against their limits.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="plan, reaction, failover, footprint")
    parser.add_argument(
        "--trials", type=int, default=4, help="of each change of leader; twice as many of each reaction"
    )
    parser.add_argument(
        "--minute", type=float, default=60.0, metavar="SECONDS", help="how long to watch what is averaged"
    )
    parser.add_argument("--json", action="store_true", help="print one object at the end and nothing else")
    chosen = parser.parse_args()
    measurements = _measurements(chosen.trials, chosen.minute)
    unknown = set(chosen.only or ()) - set(measurements)
    if unknown:
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}; there are {', '.join(measurements)}")
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    if not chosen.json:
        print(f"{machine}; takes about four minutes\n\n{heading()}", flush=True)
    rows = []
    for name in chosen.only or measurements:
        for row in measurements[name]():
            rows.append(row)
            if not chosen.json:
                print(shown(row), flush=True)
    if chosen.json:
        json.dump({"machine": machine, "rows": [row.as_json() for row in rows]}, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
