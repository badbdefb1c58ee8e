"""A ClearML autoscaler for AWS without a service worker.

Every EC2 instance with a ``clearml-agent`` carries a sidecar. Sidecars elect a leader through etcd; the leader launches
instances for the queue backlog, and each sidecar ends its own instance once it has been idle for long enough.
"""

__version__ = "0.1.0"
