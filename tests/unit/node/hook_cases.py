"""What becomes of scripts, each with its exit code and output, however they are run; and a program that runs them as units.

The same cases hold for the stand-in of systemd in the unit tests and for the real one on the booted image.
"""

from __future__ import annotations

from typing import NamedTuple

NASTY = 'it\'s $HOME `id` "quoted" \\ back\nand a second line % %n\ttab ü'


class Case(NamedTuple):
    name: str
    script: str
    exit_code: int | None
    output: str


CASES = (
    Case("success", "echo out; echo err >&2", 0, "out\nerr\n"),
    Case("its own exit code", "echo no; exit 7", 7, "no\n"),
    Case("killed", "echo before; kill -KILL $$", -9, "before\n"),
    Case("ended by a signal that the service manager takes for success", "kill -TERM $$", -15, ""),
    Case("a missing command is the shell's code", "exec /no/such/command 2>/dev/null", 127, ""),
    Case("no input", "cat; echo done", 0, "done\n"),
    Case("a nasty variable", 'printf %s "$SCALER_NASTY"', 0, NASTY),
    Case("what is left behind ends, too", "sleep 5151 & setsid sleep 5151 & echo left", 0, "left\n"),
    Case("only the end of much output", "head -c 300000 /dev/zero | tr '\\0' x; printf end", 0, "x" * 1997 + "end"),
    Case("the folder", "pwd", 0, "/\n"),
)

#: ``argv``: the folder of the scripts. Cases on standard input and outcomes on standard output, as JSON.
RUN_AS_UNITS = """
import json, pathlib, sys, time
from scaler_plugin.node.hook_units import UnitHooks

hooks, told = UnitHooks(pathlib.Path(sys.argv[1])), []
for script, nasty in json.loads(sys.argv[2]):
    run = hooks.start(script, {"SCALER_NASTY": nasty})
    deadline = time.monotonic() + 30
    while (outcome := run.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    told.append([outcome.exit_code, outcome.output] if outcome else "no end")
print(json.dumps(told))
"""
