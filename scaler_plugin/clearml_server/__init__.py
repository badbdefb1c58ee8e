"""The ClearML server as the leader sees it: queues, workers and, for the simulated world, tasks.

``api`` is the real server through the ``clearml`` package (heavy; only a leader imports it), ``memory`` its in-memory twin.
"""
