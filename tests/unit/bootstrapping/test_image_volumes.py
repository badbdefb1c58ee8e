"""An image may bring more volumes than its root: the rights to launch must cover them, too."""

from __future__ import annotations

from typing import Any

import pytest

from scaler_plugin.bootstrapping.survey import survey

from .made_up import config
from .test_survey import MadeUpAccount


class TwoVolumes(MadeUpAccount):
    region = "eu-central-1"

    def describe_images(self, ImageIds: list[str]) -> dict[str, Any]:
        answer = super().describe_images(ImageIds)
        answer["Images"][0]["BlockDeviceMappings"] += [
            {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 300, "VolumeType": "st1"}},
            {"DeviceName": "/dev/sdc", "VirtualName": "ephemeral0"},
        ]
        return answer


def test_the_other_volumes_of_an_image_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TwoVolumes, "credentials", "environment variables")
    place = survey(config(), TwoVolumes()).ground.pools["cpu"]
    assert (place.root_gb, place.more_gb, place.more_types) == (30, (300,), ("st1",))
