"""The one place that imports ``etcd3`` (its generated etcd v3 messages and stubs) and gRPC.

``etcd3`` 0.12.0, the last release, carries code generated for protobuf 3. From protobuf 4 on the C implementation refuses it
("Descriptors cannot be created directly"); the pure Python implementation still takes it. Which one is used is read from the
environment at the first import of protobuf, so the variable is set for just that moment: child processes (the agent
and the tasks it runs) must not inherit it. Parsing 10,000 keys of 400 bytes costs 0.1 s this way.

Of ``etcd3`` only the messages and stubs are used, so its client is not loaded (2 MB in each sidecar): it knows one endpoint,
keeps an expired token, and sets no timeout on a watch.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from scaler_plugin.errors import StoreError

#: ``GRPC_VERBOSITY`` keeps gRPC's own C log lines off the terminal: every failure reaches the caller as an error anyway.
_ONLY_WHILE_IMPORTING = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python", "GRPC_VERBOSITY": "NONE"}


def _load() -> tuple[Any, Any]:
    before = {name: os.environ.get(name) for name in _ONLY_WHILE_IMPORTING}
    os.environ.update(_ONLY_WHILE_IMPORTING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # protobuf's, 100 of them, about how etcd3 was generated
            return _without_the_client("etcd3", "etcd3.etcdrpc"), import_module("grpc")
    except TypeError as error:
        raise StoreError(
            "the etcd3 package cannot be loaded, because another part of this program has loaded protobuf's C "
            "implementation first; start the program with PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python"
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _without_the_client(package: str, module: str) -> ModuleType:
    """Import the module without running its package's ``__init__``; whoever imports the package later gets it whole."""
    spec = find_spec(package)
    if package in sys.modules or spec is None:
        return import_module(module)
    sys.modules[package] = module_from_spec(spec)
    try:
        return import_module(module)
    finally:
        del sys.modules[package]


rpc, grpc = _load()
