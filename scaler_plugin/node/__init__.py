"""One machine: what it is, its boot, its processes, its clock, and the loop that runs the sidecar on it."""
