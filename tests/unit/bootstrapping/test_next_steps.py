"""After `apply` a person is told what comes next, and how nodes reach etcd and ClearML."""

from __future__ import annotations

from scaler_plugin.bootstrapping.next_steps import next_steps

from .made_up import CONFIG, changed, config

OUTPUTS = {"NodeSecurityGroup": "sg-1"}


def opened(text: str = CONFIG) -> list[str]:
    steps = next_steps(config(text), "eu-central-1", {}, OUTPUTS, "scaler.yaml")
    return [step.partition("--protocol ")[2] for step in steps if "authorize-security-group-ingress" in step]


def test_after_the_first_apply_etcd_is_to_be_opened_and_hosted_clearml_is_not() -> None:
    assert opened() == ["tcp --port 2379 --source-group sg-1"]


def test_a_clearml_server_of_ones_own_is_to_be_opened_too() -> None:
    text = CONFIG.replace(
        "api_host: https://api.clear.ml", 'api_host: "http://10.0.0.5:8008"\n  files_host: http://files.internal'
    )
    assert [line.split()[2] for line in opened(text)] == ["2379", "80", "8008"]


def test_groups_of_a_pools_own_are_opened_for_as_well() -> None:
    steps = next_steps(changed(security_groups=["sg-own"]), "eu-central-1", {}, OUTPUTS, "f")
    assert [step.rpartition(" ")[2] for step in steps if "authorize" in step] == ["sg-1", "sg-own"]


def test_where_the_group_was_there_before_nothing_is_said_of_it() -> None:
    steps = next_steps(config(), "eu-central-1", OUTPUTS, OUTPUTS, "scaler.yaml")
    assert steps[0] == "Next: scaler-sidecar config push scaler.yaml"
    assert "every 5m" in steps[1]


def test_without_a_probe_the_first_instance_comes_next() -> None:
    of = config(CONFIG.replace("probe_every: 5m", "mode: keep_one"))
    assert next_steps(of, "eu-central-1", OUTPUTS, OUTPUTS, "f")[-1] == "Then: scaler-sidecar bootstrap first f"


def test_a_standby_is_started_where_the_configuration_wants_one_and_the_files_name_is_one_word() -> None:
    of = config(CONFIG.replace("probe_every: 5m", "mode: standby"))
    next_, then = next_steps(of, "eu-central-1", OUTPUTS, OUTPUTS, "my file.yaml")
    assert next_ == "Next: scaler-sidecar config push 'my file.yaml'"
    assert then.endswith(": scaler-sidecar run --standby --config 'my file.yaml'")


def test_the_probe_is_woken_by_a_command_to_copy() -> None:
    assert (
        "`scaler-sidecar wake 'my file.yaml'`"
        in next_steps(config(), "eu-central-1", OUTPUTS, OUTPUTS, "my file.yaml")[-1]
    )
