"""The machines behind the EC2 double: each instance is a supervisor process with everything that runs on the machine below it.

A machine does what the image's systemd units do: boot, the sidecar, one agent a slot, each restarted when it dies, all ended in
order when the system shuts down. Nothing of a machine outlives it, and no machine outlives the process that started it, not even
when that is killed: a supervisor is the subreaper of its processes, and ends them when its standard input closes.

What it does not do: containers (the docker daemon stands beside the machine), networks, disks, and limits of CPU or memory.
"""
