"""A ``systemd-run`` and a ``systemctl`` for machines without systemd: transient services as far as scripts of a pool need them.

``hook_cases.py`` says what the real ones do, and ``tests/ami/test_checks_on_node.py`` holds these to the same cases. As there: a
service's environment is bare, what its main process leaves behind is killed with it, its group is empty for a moment before
``ExecStopPost`` runs in it, and the group goes with the service.
"""

from __future__ import annotations

import sys
from pathlib import Path

_RUN = """#!{python} -I
import ctypes, os, shlex, signal, subprocess, sys, time
from pathlib import Path

GROUPS, refused = Path("{groups}"), Path("{refused}")
words, command, properties = sys.argv[1:], [], {{}}
while words:
    word = words.pop(0)
    if not word.startswith("--"):
        command = [word, *words]
        break
    name, _, value = word[2:].partition("=")
    if name == "property":
        name, _, value = value.partition("=")
    properties[name] = value
if refused.exists():
    sys.exit("Failed to start transient service unit: " + refused.read_text())
group = GROUPS / properties["unit"]
begun, beginning = os.pipe()
if os.fork():
    os.close(beginning)
    sys.exit(0 if os.read(begun, 1) else 1)

os.setsid()
null = os.open("/dev/null", os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: whatever escapes in here becomes our child
bare = {{"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "INVOCATION_ID": "0" * 32}}


def populated(yes):
    (group / "new").write_text("populated %d\\nfrozen 0\\n" % yes)
    (group / "new").rename(group / "cgroup.events")


def end_all():
    while children := Path("/proc/self/task/%d/children" % os.getpid()).read_text().split():
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        os.waitpid(-1, 0)


group.mkdir()
populated(True)
main = subprocess.Popen(command, env=bare, cwd="/", start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: main.kill() if main.returncode is None else None)
(group / "supervisor").write_text(str(os.getpid()))
os.write(beginning, b".")
os.close(beginning)
code = main.wait()
end_all()
populated(False)
time.sleep(0.3)
populated(True)
told = ("exited", str(code)) if code >= 0 else ("killed", signal.Signals(-code).name.removeprefix("SIG"))
subprocess.run(shlex.split(properties["ExecStopPost"]), env={{**bare, "EXIT_CODE": told[0], "EXIT_STATUS": told[1]}})
for left in group.iterdir():
    left.unlink()
group.rmdir()
"""

_CTL = """#!{python} -I
import os, signal, sys
from pathlib import Path

*options, unit = sys.argv[1:]
supervisor = Path("{groups}") / unit / "supervisor"
if "stop" not in options or not supervisor.exists():
    sys.exit(5)
if not Path("{deaf}").exists():
    os.kill(int(supervisor.read_text()), signal.SIGTERM)
"""


class SystemdDouble:
    """Both programs in ``programs``, to be put into ``PATH``. ``groups`` is what ``/sys/fs/cgroup/system.slice`` is to the real."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.groups = folder / "programs", folder / "groups"
        self._refused, self._deaf = folder / "refused", folder / "deaf"
        for made in (self.programs, self.groups):
            made.mkdir()
        places = {"python": sys.executable, "groups": self.groups, "refused": self._refused, "deaf": self._deaf}
        for name, text in (("systemd-run", _RUN), ("systemctl", _CTL)):
            (self.programs / name).write_text(text.format(**places))
            (self.programs / name).chmod(0o755)

    def refuse(self, why: str) -> None:
        """Start nothing from now on."""
        self._refused.write_text(why)

    def hold_on_to_processes(self, hold: bool) -> None:
        """As the kernel holds a process that waits for a file system: no stop ends it."""
        self._deaf.touch() if hold else self._deaf.unlink()

    @property
    def units(self) -> list[str]:
        return [path.name for path in self.groups.iterdir()]
