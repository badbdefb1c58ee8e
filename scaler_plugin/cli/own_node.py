"""The cluster that this machine is a node of, by what `boot` wrote: for commands on a node that are told nothing else.

A node's settings, and the login to etcd that they refer to, are root's. Whoever may not read them is told so.
"""

from __future__ import annotations

import os

from scaler_plugin.config.connect import ClusterAddress, EtcdSettings
from scaler_plugin.config.kept_secrets import IN_AWS
from scaler_plugin.config.secret_ref import parse_secret_ref
from scaler_plugin.errors import HostError
from scaler_plugin.node.setup import FILE_NAME, read_setup, state_dir


def own_address() -> ClusterAddress | None:
    """``None`` where this machine is no node. Raises ``HostError`` where it is one, or may be, and its files can't be read."""
    directory = state_dir()
    try:
        (directory / FILE_NAME).stat()
    except PermissionError:
        raise _not_for_this_user(str(directory)) from None
    except OSError:
        return None
    setup = read_setup(directory)
    login = directory / "etcd"
    if _is_in_aws(setup.etcd) and login.exists() and not os.access(login, os.X_OK):
        # AWS would be asked again, which the node's firewall keeps everybody but root from.
        raise _not_for_this_user(str(login))
    return ClusterAddress(setup.etcd, setup.prefix, setup.identity.cluster)


def _is_in_aws(etcd: EtcdSettings) -> bool:
    if etcd.password is not None and etcd.password.source in IN_AWS:
        return True
    for given in (etcd.ca, etcd.cert, etcd.key):
        if given is not None and not given.startswith("/"):
            try:
                if parse_secret_ref(given).source in IN_AWS:
                    return True
            except ValueError:
                continue  # a path
    return False


def _not_for_this_user(place: str) -> HostError:
    return HostError(
        f"This machine's own settings and its login to etcd ({place}) are for root alone: call this with sudo. For another cluster "
        "give --config FILE, or --cluster NAME and --etcd."
    )
