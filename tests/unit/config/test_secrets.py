from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from scaler_plugin.config.secret_ref import SecretRef, SecretSource, parse_secret_ref
from scaler_plugin.config.secrets import resolve
from scaler_plugin.errors import CloudRefused, ConfigError

REGION = "eu-central-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SSM", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


@pytest.mark.parametrize(
    "text",
    [
        "env:TOKEN",
        "file:/run/secrets/a b",
        "ssm:/scaler/key",
        "secretsmanager:scaler/key",
        "secretsmanager:arn:aws:secretsmanager:eu-central-1:123456789012:secret:scaler-AbCdEf",
    ],
)
def test_a_reference_prints_as_it_was_written(text: str) -> None:
    assert str(parse_secret_ref(text)) == text


@pytest.mark.parametrize(
    "value", ["hunter2", "env:", "env:no name", "file:relative", "ssm:no-slash", "vault:hunter2", "", 42, None]
)
def test_what_is_no_reference_is_refused_without_being_repeated(value: object) -> None:
    with pytest.raises(ValueError, match="a reference to the secret: env:NAME") as caught:
        parse_secret_ref(value)
    assert "hunter2" not in str(caught.value)


def test_an_environment_variable_is_read() -> None:
    assert resolve(SecretRef(SecretSource.ENV, "TOKEN"), environ={"TOKEN": "hunter2"}) == "hunter2"


def test_a_missing_environment_variable_is_a_sentence() -> None:
    with pytest.raises(
        ConfigError, match=r"^The secret env:TOKEN cannot be read: the environment variable TOKEN is not set"
    ):
        resolve(SecretRef(SecretSource.ENV, "TOKEN"), environ={})


def test_a_file_is_read_without_its_last_newline(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    assert resolve(parse_secret_ref(f"file:{tmp_path}/password")) == "hunter2"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "No such file or directory; create the file"), (b"", "the file is empty"), (b"\xff\xfe", "not UTF-8 text")],
)
def test_a_file_that_cannot_be_used_is_a_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        resolve(parse_secret_ref(f"file:{tmp_path}/password"))


@pytest.mark.usefixtures("aws")
def test_parameter_store_and_secrets_manager_are_read_without_the_last_newline_of_who_typed_them() -> None:
    boto3.client("ssm", REGION).put_parameter(Name="/scaler/key", Value="from-ssm\n", Type="SecureString")
    boto3.client("secretsmanager", REGION).create_secret(Name="scaler/key", SecretString="from-manager")
    assert resolve(parse_secret_ref("ssm:/scaler/key"), region=REGION) == "from-ssm"
    assert resolve(parse_secret_ref("secretsmanager:scaler/key"), region=REGION) == "from-manager"


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("text", "code"), [("ssm:/scaler/none", "ParameterNotFound"), ("secretsmanager:none", "ResourceNotFoundException")]
)
def test_a_secret_that_aws_does_not_give_is_a_sentence_with_its_code(text: str, code: str) -> None:
    with pytest.raises(CloudRefused, match=f"^The secret {text} cannot be read: AWS answered {code}; check") as caught:
        resolve(parse_secret_ref(text), region=REGION)
    assert caught.value.code == code
    assert "these credentials (on an instance: its role's) may read it" in str(caught.value)
