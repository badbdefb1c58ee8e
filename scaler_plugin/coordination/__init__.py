"""Who leads, which nodes live, what was launched: the cluster's agreement, kept in etcd.

:mod:`.store` is the port; everything else here is built on it once and runs on both of its adapters.
"""
