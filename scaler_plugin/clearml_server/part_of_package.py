"""Importing part of a package without running its ``__init__``, where that would load much more than the part."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec


@contextmanager
def without_init(package: str) -> Iterator[None]:
    """Within this, ``import package.part`` runs only the part's code. Whoever imports the package afterwards gets it whole;
    other parts of it must not be imported before that, as they would find their parent missing.

    A package that is loaded already stays as it is.
    """
    spec = None if package in sys.modules else find_spec(package)
    if spec is None:
        yield
        return
    sys.modules[package] = module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[package]
