"""The cluster's state for people and programs: read from etcd in one snapshot, reported purely, shown as text or JSON."""
