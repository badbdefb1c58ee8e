"""Who is logged in to this machine: by SSH or at a terminal, and by AWS Session Manager.

SSH sessions are found by their server processes as well as in utmp: newer distributions no longer write utmp.
"""

from __future__ import annotations

import re

import psutil

#: Session Manager's own process, one for each session.
_SSM_WORKER = "ssm-session-worker"
#: OpenSSH names the process of a session after user and terminal (``notty`` for commands and copies).
_SSH_SESSION = re.compile(r"^sshd(?:-session)?: (?P<user>[^\s@\[]+)@(?P<terminal>\S+)")


class LocalLogins:
    """Implements ``sidecar.sessions.Logins``."""

    def sessions(self) -> tuple[str, ...]:
        found = {user.name for user in psutil.users()}
        by_process: set[str] = set()
        for process in psutil.process_iter():
            try:
                name = process.name()
                if name.startswith(_SSM_WORKER[:15]):  # the kernel cuts names at 15 characters
                    by_process.add("by Session Manager")
                elif name.startswith("sshd") and (match := _SSH_SESSION.match(" ".join(process.cmdline()))):
                    found.add(match["user"])
            except psutil.Error:  # it ended meanwhile, or is not ours to see
                continue
        return (*sorted(found), *sorted(by_process))
