"""Writes a first ``scaler.yaml``: asks little, checks what it is told, never sees a secret."""
