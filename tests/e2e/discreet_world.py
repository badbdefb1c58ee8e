"""A local cloud whose machines get their secrets by reference alone, as on EC2."""

from __future__ import annotations

from collections.abc import Mapping

from scaler_plugin.localcloud.world import World


class DiscreetWorld(World):
    """A local cloud whose machines find no key in their environment."""

    def user_environment(self) -> dict[str, str]:
        """What the person who enqueues tasks has."""
        return super().clearml_environment()

    def clearml_environment(self) -> dict[str, str]:
        return {name: value for name, value in super().clearml_environment().items() if not name.endswith("_KEY")}

    def exports(self) -> dict[str, str]:
        return self._discreet(super().exports())

    def _cloud_in(self, region: str) -> dict[str, str]:
        return self._discreet(super()._cloud_in(region))

    def _discreet(self, environment: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in environment.items() if not name.startswith(("AWS_ACCESS", "AWS_SECRET"))}
        return {**kept, "AWS_SHARED_CREDENTIALS_FILE": self._caller["TEST_AWS_CREDENTIALS"]}
