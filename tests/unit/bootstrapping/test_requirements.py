"""What a stack asks of the configuration is refused with every place that breaks it, before AWS is asked."""

from __future__ import annotations

import pytest

from scaler_plugin.bootstrapping.requirements import check_requirements
from scaler_plugin.config.load import parse_yaml
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.errors import ConfigError

from .made_up import CONFIG, changed, config


def test_a_configuration_that_fits_passes() -> None:
    check_requirements(config())


def test_an_instance_profile_or_a_volume_in_clear_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pools\[1\]\.instance_profile") as refused:
        check_requirements(changed(instance_profile="admin", volume={"size_gb": 20, "encrypted": False}))
    assert "pools[1].volume.encrypted" in str(refused.value)


def test_a_secret_outside_of_the_clusters_path_is_refused_with_the_name_it_should_have() -> None:
    elsewhere = CONFIG.replace("ssm:/scaler-sidecar/research/etcd-password", "ssm:/production/etcd-password")
    with pytest.raises(ConfigError, match="store it as ssm:/scaler-sidecar/research/etcd-password"):
        check_requirements(parse_yaml(elsewhere, "test"))


def test_etcds_certificates_are_secrets_too_unless_the_image_has_them() -> None:
    password = "  user: scaler\n  password: ssm:/scaler-sidecar/research/etcd-password\n"
    assert password in CONFIG
    own = "ssm:/scaler-sidecar/research"

    def with_tls(ca: str, cert: str, key: str) -> ScalerConfig:
        return parse_yaml(CONFIG.replace(password, f"  tls: {{ca: '{ca}', cert: '{cert}', key: '{key}'}}\n"), "test")

    check_requirements(with_tls(f"{own}/etcd-ca", f"{own}/etcd-cert", f"{own}/etcd-key"))
    check_requirements(with_tls("/etc/scaler/ca.pem", "/etc/scaler/client.pem", "/etc/scaler/client.key"))
    with pytest.raises(ConfigError, match=r"etcd\.tls\.key: ssm:/keys/etcd-key lies outside"):
        check_requirements(with_tls(f"{own}/etcd-ca", f"{own}/etcd-cert", "ssm:/keys/etcd-key"))


def test_a_path_that_begins_alike_is_another_clusters() -> None:
    alike = CONFIG.replace("ssm:/scaler-sidecar/research/etcd", "ssm:/scaler-sidecar/research-2/etcd")
    with pytest.raises(ConfigError, match=r"etcd\.password"):
        check_requirements(parse_yaml(alike, "test"))
