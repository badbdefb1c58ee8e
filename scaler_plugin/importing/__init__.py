"""Reads the configuration of ClearML's own autoscaler (``aws_autoscaler.yaml``, or the task that was cloned) into ours."""
