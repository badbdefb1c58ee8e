"""The command line ``scaler-sidecar``: one module per command or group, loaded only when it is called."""
