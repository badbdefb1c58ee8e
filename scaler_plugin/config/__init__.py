"""``scaler.yaml``: its schema, loading with sentences for every mistake, and what the other parts make of it."""
