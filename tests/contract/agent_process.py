"""An agent's side of one slot as a process of its own, driven by lines on stdin; each is answered by one line on stdout.

It stands where ``clearml-agent`` with the plugin stands in real life, and starts a real child as its task.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from scaler_plugin.agent.agent_slot import AgentSlot
from scaler_plugin.agent.processes import SLOT_MARKER
from scaler_plugin.core.model import QueueName, TaskId


def main() -> None:
    slot = AgentSlot(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    os.environ[SLOT_MARKER] = str(slot.directory)
    task: subprocess.Popen[bytes] | None = None
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        answer = "ok"
        if words[0] == "enter":
            answer = "yes" if slot.try_enter_pull() else "no"
        elif words[0] == "empty":
            slot.finish_pull(None)
        elif words[0] == "pulled":
            slot.finish_pull(TaskId(words[1]), QueueName(words[2]))
            task = subprocess.Popen(["sleep", "600"])
            # Popen returns a moment before the kernel has put the new program's environment where /proc shows it.
            while not Path(f"/proc/{task.pid}/environ").read_bytes():
                time.sleep(0.001)
            answer = str(task.pid)
        elif words[0] == "ended":
            assert task is not None
            task.kill()
            task.wait()
            slot.task_ended(returned=True)
        elif words[0] == "leave-behind":
            task = subprocess.Popen(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE)
            assert task.stdout is not None
            answer = task.stdout.readline().decode().strip()
            task.wait()
        elif words[0] == "raised":
            slot.task_ended(returned=False)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
