"""Secrets that are known by their look, wherever they stand: the well-known providers' tokens, and private keys.

Each begins with a mark of its provider; the mark stays visible, so that a reader knows which token stood there.
"""

from __future__ import annotations

import re

#: The mark, and what follows it. Lengths are the providers' own, or a little below where they vary.
_TOKENS = (
    # AWS access keys: long-lived and temporary ones, and the bearer kinds.
    r"(?P<aws>AKIA|ASIA|ABIA|ACCA)(?:[A-Z2-7]{16}|[A-Z0-9]{16})(?![A-Za-z0-9])",
    # GitHub: personal, OAuth, user, server, refresh; and the fine-grained ones.
    r"(?P<github>gh[pousr]_)[A-Za-z0-9]{30,}",
    r"(?P<github_fine>github_pat_)\w{20,}",
    r"(?P<gitlab>gl(?:pat|dt|rt|cbt|ptt|oas|soat)-)[\w-]{16,}",
    r"(?P<hugging_face>(?:hf|api_org)_)[A-Za-z0-9]{30,}",
    r"(?P<slack>xox[abeoprs]-)[\w-]{10,}",
    r"(?P<slack_hook>hooks\.slack\.com/services/)[\w/]{20,}",
    r"(?P<openai>sk-)[\w-]{20,}",
    r"(?P<stripe>[rs]k_(?:live|test)_)[A-Za-z0-9]{16,}",
    r"(?P<google>AIza)[\w-]{35}",
    r"(?P<google_oauth>ya29\.)[\w-]{20,}",
    r"(?P<pypi>pypi-)[\w-]{50,}",
    r"(?P<npm>npm_)[A-Za-z0-9]{30,}",
    r"(?P<docker_hub>dckr_pat_)[\w-]{20,}",
    # JSON web tokens: three base64url parts, the first two of them JSON objects.
    r"(?P<jwt>eyJ)[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+",
)
_TOKEN = re.compile(r"(?<![A-Za-z0-9_])(?:" + "|".join(_TOKENS) + ")")

#: To its end, or as far as lines of base64 go where the end is missing.
_PRIVATE_KEY = re.compile(
    r"(?P<mark>-----BEGIN[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)"
    r"(?:(?:(?!-----BEGIN).)+?-----END[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]+)",
    re.DOTALL,
)

#: What :func:`known_tokens` leaves of one once it is masked.
MARK = re.compile(
    r"(?:AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|gl[a-z]{2,4}-|hf_|api_org_|xox[abeoprs]-|hooks\.slack\.com/services/|sk-"
    r"|[rs]k_(?:live|test)_|AIza|ya29\.|pypi-|npm_|dckr_pat_|eyJ|PRIVATE KEY(?: BLOCK)?-----)\Z"
)


def known_tokens(text: str) -> list[tuple[int, int]]:
    """Where in the text they stand, each without its mark."""
    found = []
    for match in _TOKEN.finditer(text):
        mark = match[match.lastgroup or 0]
        found.append((match.start() + len(mark), match.end()))
    found += [(match.end("mark"), match.end()) for match in _PRIVATE_KEY.finditer(text)]
    return found
