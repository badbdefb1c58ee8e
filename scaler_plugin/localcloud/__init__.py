"""Stand-ins on loopback for everything a cluster needs: EC2, instance metadata, machines, the ClearML API, etcd."""
