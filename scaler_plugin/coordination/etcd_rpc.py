"""The one place that imports ``etcd3`` (its generated etcd v3 messages and stubs) and gRPC.

``etcd3`` 0.12.0, the last release, carries code generated for protobuf 3. From protobuf 4 on the C implementation refuses it
("Descriptors cannot be created directly"); the pure Python implementation still takes it. Which one is used is read from the
environment at the first import of protobuf, so the variable is set for just that moment: child processes (the agent
and the tasks it runs) must not inherit it. Parsing 10,000 keys of 400 bytes costs 0.1 s this way.
"""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import Any

from scaler_plugin.errors import StoreError

#: ``GRPC_VERBOSITY`` keeps gRPC's own C log lines off the terminal: every failure reaches the caller as an error anyway.
_ONLY_WHILE_IMPORTING = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python", "GRPC_VERBOSITY": "NONE"}


def _load() -> tuple[Any, ModuleType]:
    before = {name: os.environ.get(name) for name in _ONLY_WHILE_IMPORTING}
    os.environ.update(_ONLY_WHILE_IMPORTING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # protobuf's, 100 of them, about how etcd3 was generated
            import grpc  # noqa: PLC0415
            from etcd3 import etcdrpc  # noqa: PLC0415
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
    return etcdrpc, grpc


rpc, grpc = _load()
