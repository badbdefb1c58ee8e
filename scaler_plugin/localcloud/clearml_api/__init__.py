"""A ClearML API server on loopback that the real SDK and the real agent accept as their own.

What it guarantees: requests and answers as recorded from the open-source server (API 2.31), including its
surprises (a popped task stays ``queued`` in no queue; a failing second enqueue changes the task); everything it
acknowledged survives SIGKILL and a restart on the same state file.

What it does not: users, roles and companies (there is one of each), plots and statistics, artifacts' files.
Documents are JSON objects here, as they are on the wire; nothing outside this package sees them.
"""
