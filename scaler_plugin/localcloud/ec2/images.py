"""The machine images that the double's EC2 offers."""

from __future__ import annotations

from typing import Any

#: The image that the demo and the tests launch. It exists in every region of the double.
DEMO_IMAGE_ID = "ami-5ca1e0000000de001"


def image(ami_id: str) -> dict[str, Any]:
    """What moto needs to know of an image."""
    return {
        "ami_id": ami_id,
        # As in EC2, no two images of an account have one name.
        "name": "scaler-sidecar-demo" if ami_id == DEMO_IMAGE_ID else f"scaler-sidecar-{ami_id}",
        "description": "A machine of the local cloud: its instances are process groups on this host",
        "owner_id": "123456789012",
        "public": True,
        "architecture": "x86_64",
        "state": "available",
        "image_type": "machine",
        "image_location": "local/scaler-sidecar-demo",
        "hypervisor": "xen",
        "virtualization_type": "hvm",
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
    }
