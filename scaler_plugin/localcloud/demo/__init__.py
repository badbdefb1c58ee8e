"""``scaler-sidecar demo``: the main job on a local cloud, watched from outside as a user would see it.

Nothing here talks to a sidecar: what is shown and reported was read from ClearML, EC2 and etcd.
"""
