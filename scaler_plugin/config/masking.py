"""Hides what looks like a secret in free text (an init script, an extra clearml.conf) before it is shown.

A courtesy, not a guarantee: secrets belong behind references, and free text is stored as it is written.
"""

from __future__ import annotations

import re

MASK = "***"
_ASSIGNMENT = re.compile(
    r"""(?ix)
    (?P<name>[\w.-]*(?:secret|passw(?:or)?d|git_pass|token|api_?key|access_key)[\w.-]*["']?\s*[:=]\s*)
    (?P<quote>["']?)
    (?P<value>[^\s"'${\[][^\s"']*)
    (?P=quote)"""
)
_URL_LOGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<login>[^\s/@:]*:[^\s/@$]+)@", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """The text with the values of secret-like names, and logins in URLs, as ``***``. ``${NAME}`` stays: it is a reference."""
    text = _ASSIGNMENT.sub(rf"\g<name>\g<quote>{MASK}\g<quote>", text)
    return _URL_LOGIN.sub(rf"\g<scheme>{MASK}@", text)


def holds_mask(text: str) -> bool:
    """True if the text was printed by :func:`mask_secrets`: pushing it back would replace the secret by asterisks."""
    assigned = any(match["value"].startswith(MASK) for match in _ASSIGNMENT.finditer(text))
    return assigned or f"://{MASK}@" in text
