"""Looking after a real etcd: its certificates, how it is, and copies of its data."""
