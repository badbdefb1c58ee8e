"""How long a cluster is without a leader: from the end of one to the end of the next one's first pass."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

from bench.stage import Stage, config, stage
from bench.table import Row, seconds

#: What a promise allows beyond the TTL, and without one where the leader could say goodbye.
BEYOND_TTL_S = 1.0


def measure(trials: int, ttls_s: tuple[int, ...] = (10, 5)) -> Iterator[Row]:
    for ttl_s in ttls_s:
        with stage(config(leader_ttl=f"{ttl_s}s")) as made:
            killed = _changes(made, signal.SIGKILL, trials)
            limit = ttl_s + BEYOND_TTL_S
            what = f"leader killed → next leader's first pass, TTL {ttl_s} s"
            yield Row(what, f"≤ {limit:.0f} s (TTL + {BEYOND_TTL_S:.0f} s)", seconds(killed), limit, max(killed))
            if ttl_s == ttls_s[0]:
                told = _changes(made, signal.SIGTERM, trials)
                yield Row("SIGTERM → next leader's first pass", "< 1 s", seconds(told), 1.0, max(told))


def _changes(made: Stage, how: signal.Signals, trials: int) -> list[float]:
    """End the leader so many times; each time a fresh candidate waits that has never led."""
    gaps = []
    leader = made.candidate(f"{how.name.lower()}-0")
    term = made.await_first_pass().term
    for number in range(1, trials + 1):
        successor = made.candidate(f"{how.name.lower()}-{number}")
        time.sleep(3.0 + random.uniform(0.0, 3.0))  # noqa: S311 - it is up, and the leader somewhere between two renewals
        ended = time.monotonic()
        leader.process.send_signal(how)
        term = made.await_first_pass(after_term=term).term
        gaps.append(time.monotonic() - ended)
        leader.process.wait()
        leader = successor
    leader.process.terminate()
    leader.process.wait()
    return gaps
