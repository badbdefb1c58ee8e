"""Which names, of settings, variables, options and headers, stand for a secret: the words in them decide.

A guess, and its two errors are not alike: a secret that is shown is worse than a number of tokens that is hidden. Yet names in
which such a word is usual and nothing is secret (``max_tokens``, ``TOKENIZERS_PARALLELISM``, ``--secret-id``) are known as such.
"""

from __future__ import annotations

import re
from itertools import pairwise

_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")

#: A word that ends like this is a secret: also `authtoken`, `DBPASSWORD`, `clientsecret`.
_ENDINGS = (
    "secret", "secrets", "password", "passwords", "passwd", "passphrase", "token", "pass",
    "apikey", "accesskey", "accountkey", "privatekey", "secretkey", "sharedkey",
)  # fmt: skip
_NOT_THESE = frozenset({"askpass", "bypass", "compass", "encompass"})
#: Short words that say it when they stand last.
_LAST_WORDS = frozenset({"pwd", "pw", "psk", "jwt", "bearer"})
#: What a key is when it is a secret. Others (`sort_key`, `public_key`, `host_key`, `ssh_key`: mostly a file) are not.
_SECRET_KEYS = frozenset({
    "access", "account", "aes", "api", "auth", "encryption", "hmac", "license", "master", "private", "secret", "session", "shared",
    "signing", "storage", "subscription",
})  # fmt: skip
#: Names that end with one of these tell about a secret (where it is, how long it lives), and do not hold it.
_ABOUT = frozenset({
    "algorithm", "arn", "bucket", "count", "dir", "directory", "disabled", "enabled", "endpoint", "env", "expiration", "expires",
    "expiry", "field", "file", "folder", "format", "header", "helper", "hint", "host", "hours", "id", "ids", "len", "length",
    "lifetime", "limit", "manager", "max", "min", "minutes", "name", "names", "only", "parallelism", "path", "pattern", "policy",
    "prompt", "provider", "ref", "regex", "region", "required", "scope", "scopes", "sec", "seconds", "secs", "server", "size",
    "stdin", "store", "timeout", "ttl", "type", "uri", "url", "user", "username", "var", "variable", "version",
})  # fmt: skip


def names_a_secret(name: str) -> bool:
    """True if what is called so is a secret by its name alone: ``DB_PASS``, ``aws_secret_access_key``, ``X-Auth-Token``."""
    words = _words(name)
    pairs = set(pairwise(words))
    # The id of an access key is no secret of its own, but whoever prints it mostly prints the secret beside it.
    if any((kind, "key") in pairs for kind in ("access", "account")):
        return words[-1] == "id" or words[-1] not in _ABOUT
    if not words or words[-1] in _ABOUT:
        return False
    if any((kind, "key") in pairs for kind in _SECRET_KEYS):
        return True
    if words[-1] in _LAST_WORDS:
        # PWD alone is the folder that a shell is in.
        return words != ["pwd"]
    return any(word.endswith(_ENDINGS) and word not in _NOT_THESE for word in words)


def names_a_private_key(name: str) -> bool:
    """True for names whose value is as often the path of the key's file."""
    words = _words(name)
    return words[-2:] == ["private", "key"] or words[-1:] == ["privatekey"]


def names_a_key(name: str) -> bool:
    """True for ``key`` alone and for HOCON paths to it (``sdk.aws.s3.key``): an access key, if its value looks like one."""
    return name == "key" or name.endswith(".key")


def _words(name: str) -> list[str]:
    found = [word.lower() for word in _WORDS.findall(name)]
    return [word for word in found if not word.isdigit()]
