"""Of a script with secrets the lines without one are kept."""

from scaler_plugin.importing.plain import without_secrets

SCRIPT = """\
set -e
docker login -u me \\
  -p hunter2 registry
cat > /root/key <<EOF
-----BEGIN PRIVATE KEY-----
aHVudGVyMg==
-----END PRIVATE KEY-----
EOF
TOKEN=$(cat /run/token)
"""
GONE = "# A line with a secret stood here."


def test_each_line_that_a_secret_touches_is_left_out_and_named() -> None:
    kept, dropped = without_secrets(SCRIPT)
    assert dropped == [3, 5, 6, 7]
    assert kept.splitlines() == [
        "set -e", "docker login -u me \\", GONE, "cat > /root/key <<EOF", GONE, GONE, GONE, "EOF", "TOKEN=$(cat /run/token)",
    ]  # fmt: skip


def test_a_text_without_secrets_is_kept_as_it_is() -> None:
    text = "set -e\nmkdir -p /data\n\n"
    assert without_secrets(text) == (text, [])
