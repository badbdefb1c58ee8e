"""Where a cluster's secrets are kept, by name: what goes into ``scaler.yaml``, and how to put the secret there.

The places are those that the nodes' policy lets them read (``bootstrap/policies/node.yaml``).
"""

from __future__ import annotations

from dataclasses import dataclass

from scaler_plugin.bootstrapping.stored_secrets import command_to_store
from scaler_plugin.config.secret_ref import SecretRef, SecretSource

FOLDER = "/etc/scaler"
ENVIRONMENT = f"{FOLDER}/environment"
#: What of a node reads secrets: its boot and its sidecar.
UNITS = ("scaler-bootstrap.service", "scaler-sidecar.service")


@dataclass(frozen=True)
class SecretPlaces:
    """``reference("git-password")`` is what the file says."""

    source: SecretSource
    cluster: str

    def reference(self, name: str) -> str:
        return f"{self.source.value}:{self.name(name)}"

    @property
    def in_aws(self) -> bool:
        return self.source in (SecretSource.SSM, SecretSource.SECRETS_MANAGER)

    def how_to_store(self, name: str, region: str, file: str = "/dev/stdin") -> str:
        """A command or a sentence; the secret is read from a file or from standard input, never from an argument."""
        where = self.name(name)
        if self.in_aws:
            return command_to_store(SecretRef(self.source, where), region, file)
        if self.source is SecretSource.FILE:
            return f"put it into {where} of every node, readable for root alone (mode 0600)"
        return f"write a line {where}=… into {ENVIRONMENT} of every node's image, which is root's alone (mode 0600)"

    def name(self, name: str) -> str:
        """Under which the place keeps it."""
        if self.source is SecretSource.SSM:
            return f"/scaler-sidecar/{self.cluster}/{name}"
        if self.source is SecretSource.SECRETS_MANAGER:
            return f"scaler-sidecar/{self.cluster}/{name}"
        if self.source is SecretSource.FILE:
            return f"{FOLDER}/{name}"
        return f"SCALER_{name.upper().replace('-', '_')}"
