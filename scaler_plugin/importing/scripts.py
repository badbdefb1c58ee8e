"""The original's shell script and pieces of ``clearml.conf``: taken over without the lines that look like secrets."""

from __future__ import annotations

import re
from typing import Any

from scaler_plugin.importing.fitting import misfit
from scaler_plugin.importing.plain import without_secrets
from scaler_plugin.importing.report import Part

_DELIMITER = "END_OF_SCRIPT"


def translate_scripts(more: Part) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ours in (
        ("extra_vm_bash_script", "init_script"),
        ("extra_clearml_conf", "extra_clearml_conf"),
        ("extra_trains_conf", "extra_clearml_conf"),
    ):
        text = more.take(name)
        if not text or not str(text).strip():
            more.empty(name)
            continue
        kept, dropped = without_secrets(str(text))
        whole = for_bash(kept) if ours == "init_script" else found.get(ours, "") + kept
        if reason := misfit(ours, whole):
            more.report.not_translated(more.key(name), reason)
            continue
        found[ours] = whole
        more.report.translated(more.key(name), f"pools[].{ours}{_script_advice(ours, kept)}")
        if dropped:
            numbers = ", ".join(map(str, dropped))
            more.report.secret(
                more.key(name),
                f"line {numbers} looks like a secret and was left out. Configurations are stored in clear: let the script fetch it "
                "at boot with the instance's role, or put it into clearml.conf of the image; then read what is left once more",
            )
    return found


def for_bash(script: str) -> str:
    """A script for ``/bin/sh`` that has bash run this one, as the original did: no ``sh`` knows arrays or ``[[``.

    Bash reads it from a descriptor of its own, so that no command of the script takes the rest of it for its input.
    """
    delimiter = _DELIMITER
    while re.search(rf"^{delimiter}$", script, re.MULTILINE):
        delimiter += "_"
    return f"exec bash -e /dev/fd/3 3<<'{delimiter}'\n{script}{delimiter}\n"


def _script_advice(ours: str, text: str) -> str:
    if ours != "init_script":
        return ""
    advice = "; root runs it with bash -e before the agent starts: a command that fails ends the start"
    if "export " in text:
        advice += "; its exports do not reach the agent: put what tasks need into agent.extra_docker_arguments"
    return advice
