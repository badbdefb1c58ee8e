"""Free text shows no secret, and is otherwise what was written. ``hunter2`` stands for the secret."""

import pytest

from scaler_plugin.config.masking import holds_mask, mask_secrets

# Put together here, so that no scanner takes this file for a leak.
AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "a1B2c3D4e5" * 4
HUGGING_FACE = "hf_" + "aBcDeFgHiJ" * 3 + "aBcD"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0In0.c2lnbmF0dXJl"
BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"

MASKED = [
    # By name, in HOCON, YAML, JSON, INI and shell.
    ('api { credentials { secret_key: "hunter2" } }', 'api { credentials { secret_key: "***" } }'),
    ("api { credentials { secret_key: hunter2 } }", "api { credentials { secret_key: *** } }"),
    ("{ access_key: hunter2, secret_key: hunter2 }", "{ access_key: ***, secret_key: *** }"),
    ("export GIT_TOKEN=hunter2", "export GIT_TOKEN=***"),
    ("export DB_PASS=hunter2", "export DB_PASS=***"),
    ("DB_PASS=hunter2 ./run --now", "DB_PASS=*** ./run --now"),
    ("MYSQL_PWD=hunter2", "MYSQL_PWD=***"),
    ("agent.git_pass = 'hunter2'", "agent.git_pass = '***'"),
    ('{"password": "hunter2"}', '{"password": "***"}'),
    ('{"text": "{\\"password\\": \\"hunter2\\", \\"x\\": 1}"}', '{"text": "{\\"password\\": \\"***\\", \\"x\\": 1}"}'),
    ('azure.storage { account_key: "hunter2" }', 'azure.storage { account_key: "***" }'),
    ("Protocol=https;AccountName=x;AccountKey=hunter2==", "Protocol=https;AccountName=x;AccountKey=***"),
    (f'sdk.aws.s3.key: "{AWS_KEY}"', 'sdk.aws.s3.key: "***"'),
    ('s3 { key: "hunter2", secret: "hunter2" }', 's3 { key: "***", secret: "***" }'),
    ("passphrase: hunter2", "passphrase: ***"),
    ("private_key = hunter2", "private_key = ***"),
    ("clientSecret: hunter2", "clientSecret: ***"),
    ("//registry.npmjs.org/:_authToken=hunter2", "//registry.npmjs.org/:_authToken=***"),
    ("aws_secret_access_key=hunter2", "aws_secret_access_key=***"),
    ("WANDB_API_KEY: hunter2", "WANDB_API_KEY: ***"),
    ("PASSWORD_PROD=hunter2", "PASSWORD_PROD=***"),
    # To the end of the value, whatever is in it.
    ('password: "correct horse hunter2"', 'password: "***"'),
    ("password: correct horse hunter2", "password: ***"),
    ("password: correct horse # the old one", "password: *** # the old one"),
    ('password: "$uper"', 'password: "***"'),
    ("password=$uper", "password=***"),
    ('password: "say \\"hunter2\\" twice"', 'password: "***"'),
    ("password: it's hunter2", "password: ***"),
    ("password='hun\"ter2'", "password='***'"),
    ('password: """hunter2\nhunter2"""', 'password: """***"""'),
    ("password: |\n  hunter2\n  hunter2\nuser: me", "password: |\n  ***\nuser: me"),
    ('TOKEN="hunter2', "TOKEN=***"),
    ('TOKEN="${TOKEN:-hunter2}"', 'TOKEN="***"'),
    ("TOKEN=prefix-${REST}", "TOKEN=***"),
    # Arguments of commands.
    ("tool --password hunter2 --verbose", "tool --password *** --verbose"),
    ('tool --password "hunter2 hunter2"', 'tool --password "***"'),
    ("tool --api-key=hunter2", "tool --api-key=***"),
    ("Command ['tool', '--password', 'hunter2 x', '-v'] failed", "Command ['tool', '--password', '***', '-v'] failed"),
    ('["--api-key",\n "hunter2"]', '["--api-key",\n "***"]'),
    # A name and its value with a blank between.
    ("CLEARML_API_SECRET_KEY hunter", "CLEARML_API_SECRET_KEY ***"),
    ("A_TOKEN\thunter\nB 1", "A_TOKEN\t***\nB 1"),
    ("  export DB_PASS 'hunter hunter'", "  export DB_PASS '***'"),
    ("it read GIT_TOKEN hunter2 from the file", "it read GIT_TOKEN *** from the file"),
    ("login me\npassword hunter2", "login me\npassword ***"),
    ("aws_secret_access_key   wJalrXUtnFEMI/K7MDENG/bPxRfiCY", "aws_secret_access_key   ***"),
    ("the password hunter2 was refused.", "the password *** was refused."),
    ("The token is hunter; CLEARML_API_ACCESS_KEY A1B2C3D4E5.", "The token is hunter; CLEARML_API_ACCESS_KEY ***."),
    ("kubectl create secret generic --from-literal=password=hunter2", "kubectl create secret generic --from-literal=password=***"),
    ("docker login -u me -p hunter2 registry.example.org", "docker login -u me -p *** registry.example.org"),
    ("docker login -u me \\\n  -p hunter2 x", "docker login -u me \\\n  -p *** x"),
    ("docker run -e TOKEN=hunter2 image", "docker run -e TOKEN=*** image"),
    ("echo hunter2 | docker login -u me --password-stdin", "echo *** | docker login -u me --password-stdin"),
    ('echo "ubuntu:hunter2" | chpasswd', 'echo "***" | chpasswd'),
    ("curl -u a:hunter2 https://example.org", "curl -u *** https://example.org"),
    ("curl -fsSu 'a:hunter2' https://example.org", "curl -fsSu '***' https://example.org"),
    ('curl "https://example.org/?a=1&b=2" --user a:hunter2', 'curl "https://example.org/?a=1&b=2" --user ***'),
    ("sshpass -p hunter2 ssh me@host", "sshpass -p *** ssh me@host"),
    ("mysql -u me -phunter2 db", "mysql -u me -p*** db"),
    ("wandb login hunter2", "wandb login ***"),
    ("aws configure set aws_secret_access_key hunter2", "aws configure set aws_secret_access_key ***"),
    ("machine github.com login me password hunter2", "machine github.com login me password ***"),
    ("openssl rsa -passin pass:hunter2", "openssl rsa -passin pass:***"),
    ("vault login hunter2", "vault login ***"),
    ("useradd -m -p hunter2 me", "useradd -m -p *** me"),
    ("export SECRET=a\\ hunter2 b", "export SECRET=*** b"),
    ('docker_arguments: ["-e", "TOKEN=hunter2", "-e", "B=1"]', 'docker_arguments: ["-e", "TOKEN=***", "-e", "B=1"]'),
    # Headers and addresses.
    ("pip install --index-url https://__token__:hunter2@x/simple y", "pip install --index-url https://***@x/simple y"),
    ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
    ('curl -H "Authorization: Basic hunter2" https://x', 'curl -H "Authorization: Basic ***" https://x'),
    ('curl -H "PRIVATE-TOKEN: hunter2" https://x', 'curl -H "PRIVATE-TOKEN: ***" https://x'),
    ('{"auths": {"x": {"auth": "bWU6aHVudGVyMmh1bnRlcjI="}}}', '{"auths": {"x": {"auth": "***"}}}'),
    ("git clone https://me:hunter2@example.org/x", "git clone https://***@example.org/x"),
    ("git clone https://me:hun@ter2@example.org/x", "git clone https://***@example.org/x"),
    ("git clone https://me:hun$er2@example.org/x", "git clone https://***@example.org/x"),
    ("git clone https://hunter2@example.org/x", "git clone https://***@example.org/x"),
    ("pip install git+https://hunter2@example.org/x", "pip install git+https://***@example.org/x"),
    ("redis://:hunter2@cache:6379/0", "redis://***@cache:6379/0"),
    ("https://x.blob.core.windows.net/y?sv=2024&sig=hunter2", "https://x.blob.core.windows.net/y?sv=2024&sig=***"),
    # By their look.
    (f"echo {AWS_KEY}", "echo AKIA***"),
    (f"gh auth {GITHUB}", "gh auth ghp_***"),
    (f"login({HUGGING_FACE!r})", "login('hf_***')"),
    (f"X={JWT}", "X=eyJ***"),
    (f"cat > key <<EOF\n{PEM}\nEOF", "cat > key <<EOF\n-----BEGIN RSA PRIVATE KEY-----***\nEOF"),
    (f"-----BEGIN PRIVATE KEY-----\n{BODY}\n", "-----BEGIN PRIVATE KEY-----***"),
]  # fmt: skip

ORDINARY = [
    "agent.git_pass: ${GIT_PASS}",
    'agent.git_pass: "${GIT_PASS}"',
    "secret: ${?SECRET}",
    'TOKEN="$OTHER_TOKEN"',
    "TOKEN=$(aws ssm get-parameter --with-decryption --name /x --query Parameter.Value --output text)",
    'TOKEN="$(cat "/run/secrets/token")"',
    "TOKEN=`cat /run/secrets/token`",
    'TOKEN=$(curl -X PUT "http://169.254.169.254/latest/api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 60")',
    'curl -H "X-aws-ec2-metadata-token: $TOKEN" http://169.254.169.254/latest/meta-data/instance-id',
    'curl -H "Authorization: Bearer $TOKEN" https://example.org',
    'curl -u "me:$PASS" https://example.org',
    'curl -u "$USER_NAME:${PASS}" https://example.org',
    "git clone https://oauth2:${TOKEN}@example.org/x",
    "git clone https://$TOKEN@example.org/x",
    "git clone ssh://git@example.org/x",
    "git clone git@example.org:me/x.git",
    "docker login -u me --password-stdin registry.example.org < /run/secrets/registry",
    "docker run -p 8080:80 -u 1000:1000 image",
    "docker build --secret id=npm,src=/run/npmrc .",
    "tool --token $T",
    "The password is wrong, and the secret was not found.",
    "CLEARML_API_SECRET_KEY is not set",
    "Set CLEARML_API_SECRET_KEY before the agent starts.",
    "the token expires in 3600 s",
    "The secret ssm:/scaler-sidecar/research/etcd-key cannot be read: AccessDenied.",
    "The secret scaler-sidecar/research/git-2 does not exist.",
    "A_TOKEN $TOKEN",
    "password 2026-11-24 password 1.2.3 token i-0a1b2c3d4e5f67890",
    "unset GIT_TOKEN\nmake_token prod",
    "the access key of user2 and the token of /etc/x1",
    "mkdir -p /data",
    "echo '***'",
    "curl https://example.org:80/x",
    "npm view react@17 https://unpkg.com/react@17/index.js",
    "aws secretsmanager get-secret-value --secret-id scaler-sidecar/research/git",
    "arn:aws:secretsmanager:eu-central-1:111111111111:secret:research-AbCdEf",
    "arn:${Partition}:secretsmanager:${Region}:${Account}:secret:research-*",
    "secret_key: ssm:/scaler-sidecar/research/clearml-secret-key",
    "aws ec2 create-tags --resources i-1 --tags Key=Name,Value=worker",
    "export TOKENIZERS_PARALLELISM=false",
    "max_tokens: 512",
    "tokenizer: gpt2",
    "agent.token_expiration_sec: 3600",
    "AWS_WEB_IDENTITY_TOKEN_FILE=/run/token",
    "GIT_ASKPASS=/bin/echo",
    "PWD=/tmp OLDPWD=/home",
    "key=$1",
    "sort --key=2 file",
    "- key: nvidia.com/gpu",
    "ssh-keygen -t ed25519 -f key",
    "private_key: /etc/ssl/private/key.pem",
    "public_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
    "password: <your password>",
    'password: ""',
    "use_token: true",
    "credentials: [",
    "secrets:\n  - name: x",
    'if [ -z "$TOKEN" ]; then exit 1; fi',
    "cat file # The token is fetched at boot.",
    "sk-learn hf_hub_download(repo_id) AKIA ghp_",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
]


@pytest.mark.parametrize(("text", "shown"), MASKED)
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    assert mask_secrets(text) == shown
    assert mask_secrets(shown) == shown
    assert holds_mask(shown)
    assert not holds_mask(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_everything_else_stays(text: str) -> None:
    assert mask_secrets(text) == text
    assert not holds_mask(text)


def test_each_secret_of_a_whole_script_is_masked_where_it_stands() -> None:
    script = (
        f"set -e\nexport A_TOKEN=hunter2\nmkdir -p /data\n{PEM}\ncurl -u a:hunter2 https://b:hunter2@c/\nexport B=1\n"
    )
    assert mask_secrets(script) == (
        "set -e\nexport A_TOKEN=***\nmkdir -p /data\n-----BEGIN RSA PRIVATE KEY-----***\ncurl -u *** https://***@c/\nexport B=1\n"
    )


@pytest.mark.parametrize("row", [".", "a.", '."'])
def test_a_long_row_of_what_may_end_a_value_is_gone_through_in_few_steps(row: str) -> None:
    # With steps by the square of its length this would take minutes.
    text = f"x {row * 200_000}\0"
    assert mask_secrets(text) == text


def test_a_spoken_value_is_found_before_all_that_closes_it() -> None:
    assert mask_secrets('f(g(h("token hunter2x9"))));') == 'f(g(h("token ***"))));'
