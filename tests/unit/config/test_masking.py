import pytest

from scaler_plugin.config.masking import holds_mask, mask_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('api { credentials { secret_key: "hunter2" } }', 'api { credentials { secret_key: "***" } }'),
        ("export GIT_TOKEN=hunter2", "export GIT_TOKEN=***"),
        ("agent.git_pass = 'hunter2'", "agent.git_pass = '***'"),
        ('{"password": "hunter2"}', '{"password": "***"}'),
        ("git clone https://me:hunter2@example.org/x", "git clone https://***@example.org/x"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    assert mask_secrets(text) == shown
    assert holds_mask(shown)
    assert not holds_mask(text)


@pytest.mark.parametrize(
    "text", ["agent.git_pass: ${GIT_PASS}", "mkdir -p /data", "echo '***'", "curl https://example.org:80/x"]
)
def test_everything_else_stays(text: str) -> None:
    assert mask_secrets(text) == text
    assert not holds_mask(text)
