"""Decisions: pure functions over plain immutable values. Imports only the standard library and itself."""
