"""The node's service: it reports what the machine does, stands for election, and ends the machine when it is idle."""
