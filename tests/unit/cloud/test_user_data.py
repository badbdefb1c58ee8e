"""User-data: small, readable, without secrets, and read back as it was written."""

from __future__ import annotations

from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest

from scaler_plugin.cloud.multipart import join_parts
from scaler_plugin.cloud.user_data import EtcdAccess, UserData, parse_user_data
from scaler_plugin.config.secret_ref import parse_secret_ref
from scaler_plugin.core.model import LaunchId, NodeRole, PoolName
from scaler_plugin.errors import ConfigError

WORKER = UserData(
    cluster="demo",
    role=NodeRole.WORKER,
    etcd=EtcdAccess(
        ("10.0.0.5:2379", "10.0.0.6:2379"),
        ca="/etc/ca.pem",
        user="scaler",
        password=parse_secret_ref("ssm:/etcd/password"),
    ),
    pool=PoolName("cpu"),
    launch_id=LaunchId("l-1"),
    secrets=(("clearml_secret_key", parse_secret_ref("secretsmanager:clearml")),),
)


def test_what_was_rendered_is_read_back() -> None:
    standby = UserData("demo", NodeRole.STANDBY, EtcdAccess(("127.0.0.1:2379",)), prefix="x/y")
    assert parse_user_data(WORKER.render()) == WORKER
    assert parse_user_data(standby.render()) == standby


def test_the_text_is_yaml_behind_a_comment_and_no_script() -> None:
    assert WORKER.render() == (
        "# scaler-sidecar: what this instance is. It holds names of secrets, never a secret.\n"
        "cluster: demo\n"
        "prefix: scaler-sidecar\n"
        "role: worker\n"
        "pool: cpu\n"
        "launch: l-1\n"
        "etcd:\n"
        "  endpoints:\n"
        "  - 10.0.0.5:2379\n"
        "  - 10.0.0.6:2379\n"
        "  ca: /etc/ca.pem\n"
        "  user: scaler\n"
        "  password: ssm:/etcd/password\n"
        "secrets:\n"
        "  clearml_secret_key: secretsmanager:clearml\n"
    )


def test_names_that_look_like_other_types_survive() -> None:
    data = UserData("123", NodeRole.WORKER, EtcdAccess(("a:1",)), pool=PoolName("on"), launch_id=LaunchId("1e3"))
    assert parse_user_data(data.render()) == data


def test_keys_of_a_newer_version_are_passed_over() -> None:
    assert parse_user_data(WORKER.render() + "budget: 7\n") == WORKER


def test_more_than_four_kilobytes_is_refused() -> None:
    many = tuple((f"name_{n}", parse_secret_ref(f"ssm:/{'x' * 200}")) for n in range(20))
    with pytest.raises(ConfigError, match="4096"):
        UserData("demo", NodeRole.STANDBY, EtcdAccess(("a:1",)), secrets=many).render()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("pool: cpu", "pol: cpu"), "pool"),
        (("role: worker", "role: boss"), "role"),
        (("role: worker", ""), "role"),
        (("cluster: demo", "cluster: 7"), "cluster"),
        (("  user: scaler", "  user: [a]"), "etcd.user"),
        (("- 10.0.0.5:2379", "- 5"), "etcd.endpoints"),
        (("secretsmanager:clearml", "hunter2"), "secrets.clearml_secret_key"),
        (("ssm:/etcd/password", "hunter2"), "etcd.password"),
    ],
)
def test_a_mistake_is_named_by_its_key_and_a_secret_is_not_repeated(change: tuple[str, str], key: str) -> None:
    with pytest.raises(ConfigError, match=f"`{key}`") as error:
        parse_user_data(WORKER.render().replace(*change))
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("text", ["", "#!/bin/sh\necho hello\n", "- a\n", "a: b\n"])
def test_foreign_user_data_is_recognised(text: str) -> None:
    with pytest.raises(ConfigError, match="not written by a scaler-sidecar"):
        parse_user_data(text)


def test_text_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match="YAML"):
        parse_user_data("a: [\n")


def test_behind_a_part_for_cloud_init_it_is_read_as_well() -> None:
    assert parse_user_data(join_parts("#cloud-config\nruncmd: []\n", WORKER.render())) == WORKER


def test_in_the_encoding_of_another_tool_too() -> None:
    message = MIMEMultipart()
    message.attach(MIMEText("#cloud-config\n", "cloud-config"))
    part = MIMEText(WORKER.render(), "x-scaler-node", "utf-8")
    assert part["Content-Transfer-Encoding"] == "base64"
    message.attach(part)
    assert parse_user_data(message.as_string()) == WORKER


def test_keys_in_one_document_with_cloud_inits_are_read_as_well() -> None:
    assert parse_user_data("#cloud-config\nbootcmd: []\n" + WORKER.render()) == WORKER


def test_parts_without_one_for_the_sidecar_are_refused() -> None:
    with pytest.raises(ConfigError, match="no part of the type text/x-scaler-node"):
        parse_user_data(join_parts("#cloud-config\n", WORKER.render()).replace("x-scaler-node", "plain"))


def test_more_than_ec2_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match="16384"):
        join_parts("#" * 16_000, WORKER.render())
