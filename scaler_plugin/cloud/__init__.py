"""EC2 and instance metadata: the adapters of :class:`scaler_plugin.core.ports.Fleet` and their in-memory twins."""
