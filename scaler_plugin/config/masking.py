"""Hides what looks like a secret in free text (an init script, an extra clearml.conf) before it is shown.

It knows secrets by what they are called (``password: …``, ``--token …``, ``API_TOKEN …``), by where they stand (a URL's login,
``Authorization``, ``curl -u``) and by their look (``AKIA…``, ``ghp_…``, a private key). References stay as they are:
``${NAME}``, ``$NAME``, ``$(command)``.

A courtesy, not a guarantee: secrets belong behind references, and free text is stored as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from scaler_plugin.config.secret_names import names_a_key, names_a_private_key, names_a_secret
from scaler_plugin.config.token_shapes import MARK, known_tokens

MASK = "***"

# "$( … )" with one more pair of parentheses inside, as in a shell's arithmetic or a nested command.
_COMMAND = r"\$\((?:[^()]|\([^()]*\))*\)|`[^`\n]*`"
_END = r"""(?:\\?["'](?=[\s,;:)}\]\\]|\Z)|[}\]](?=[\s,}\]]|\Z)|,(?=\s|\Z))"""
_VALUE = re.compile(
    rf"""(?xs)
      \"{{3}}(?P<triple>.*?)\"{{3}}
    | (?P<quote>\\?["'])(?P<quoted>(?:(?!(?P=quote))(?:{_COMMAND}|\\[^\n]|[^\\\n]))*)(?P=quote)
    # YAML's block: the lines below that are indented.
    | [|>][-+]?[ \t]*\n(?P<indent>[ \t]+)(?P<block>[^\n]+(?:\n(?P=indent)[^\n]+)*)
    | (?P<word>(?:{_COMMAND}|\$\{{[^}}\n]*\}}|\\[ \t]|(?!{_END})[^\s])+)
    """
)
#: The rest of a line: the value, unquoted, of YAML and HOCON.
_REST = re.compile(rf"(?:{_COMMAND}|\$\{{[^}}\n]*\}}|(?!{_END}|[ \t]+(?:\#|//))[^\n])+")

# After a colon it is a part of an ARN (`…:secret:…`), after // a URL's user, and no name.
_NAMED = re.compile(
    r"""(?<![\w.-])(?<![\w}*]:)(?<!://)(?P<name>[\w.-]+)\\?["']?[ \t]*(?:[:+]=|=>|==?|:)(?P<blanks>[ \t]*)"""
)
_OPTION = re.compile(r"""(?<![\w-])--?(?P<name>[A-Za-z][\w-]*)(?:[ \t]|\\\n)+(?!-)""")
# The same in a list of arguments, as JSON, YAML and Python write one.
_OPTION_OF_LIST = re.compile(r"""(?P<q>\\?["'])--?(?P<name>[A-Za-z][\w-]*)(?P=q),\s*(?=\\?["'](?!-))""")
_SET = re.compile(r"""\b(?:ENV|setenv|config(?:ure)?[ \t]+set)[ \t]+(?P<name>[\w.:/@-]+)[ \t]+""")
# A line that is a variable's name and one value. Lower-case names begin commands and sentences as well, and are left to _SPOKEN.
_LINE = re.compile(
    r"""(?m)^[ \t]*(?:export[ \t]+)?(?P<name>[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)[ \t]+(?=(?:[^\s"']+|"[^"\n]*"|'[^'\n]*')[ \t]*$)"""
)
# A name and a word in the midst of other words: only what no word of a sentence looks like is taken for its value.
# What may close it is bounded, so that no row of dots takes long.
_SPOKEN = re.compile(
    r"""(?<![\w./:$@{-])(?P<name>[A-Za-z]\w*)[ \t]+["']?(?P<value>\*{3}|[\w+/=.~!@#%^&*-]{6,}?)(?=["'.,;:)]{0,16}(?:\s|\Z))"""
)
_LOOKS_MADE_UP = re.compile(
    r"(?=.*[0-9])(?=.*[A-Za-z])"
    r"(?!(?:i|ami|lt|sg|vol|vpc|subnet)-[0-9a-f]+\Z|v?[0-9]+(?:[.:-][0-9A-Za-z]+)+\Z|[0-9]+[a-z]{1,4}\Z)"
    # With a slash it is mostly a path or the name of a secret.
    r"(?:[^/]{6,}|(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9+/=]{16,})\Z"
)

_URL = re.compile(r"(?i)(?<![a-z0-9+.-])(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<login>[^\s/?#\"'<>]+)@")
_AUTHORIZATION = re.compile(
    r"(?i)\b(?:authorization[\"']?[ \t]*[:=][ \t]*[\"']?(?:[a-z][\w-]*[ \t]+)?|bearer[ \t]+(?=[\w.~+/=-]{16}))"
    r"(?P<value>[^\s\"',]+)"
)
# Docker's config.json and npm's .npmrc keep logins like this.
_AUTH = re.compile(
    r"""(?i)(?<![\w.-])_?auth\\?["']?[ \t]*[:=][ \t]*\\?["']?(?P<value>[A-Za-z0-9+/]{16,}={0,2}|\*{3})"""
)
_SIGNED_URL = re.compile(r"(?i)[?&](?:sig|x-amz-signature|x-goog-signature)=(?P<value>[^\s&\"']+)")
_PAIR_OF_S3 = re.compile(r"(?=.*[0-9])[A-Za-z0-9+/=_-]{16,}\Z")

# The rest of one command, over continued lines; bounded, so that no text takes long.
_ARGUMENTS = r"""(?:\\\n|"[^"\n]*"|'[^'\n]*'|[^\n|;&"']){0,300}?"""
_WORD = r"""(?P<value>"[^"\n]*"|'[^'\n]*'|[^\s"'|;&]+)"""
_LOGIN_OF = re.compile(rf"\bcurl\b{_ARGUMENTS}[ \t](?:-[A-Za-z]*[uU][ \t]*|--(?:proxy-)?user[ \t=]+){_WORD}")
_COMMANDS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?:docker|podman|nerdctl|buildah|skopeo|helm|oras|crane|apptainer|singularity|az)\b{_ARGUMENTS}\blogin\b{_ARGUMENTS}"
        rf"[ \t]-p[ \t=]*{_WORD}",
        rf"\bsshpass[ \t]+-p[ \t]*{_WORD}",
        # With a blank after it, -p asks for the password.
        rf"\b(?:mysql|mariadb)\w*\b{_ARGUMENTS}[ \t]-p{_WORD}",
        rf"\bredis-cli\b{_ARGUMENTS}[ \t]-a[ \t]+{_WORD}",
        rf"\buser(?:add|mod)\b{_ARGUMENTS}[ \t]-p[ \t]*{_WORD}",
        rf"\b(?:wandb|vault)[ \t]+login\b(?:[ \t]+--\S+)*[ \t]+(?!-){_WORD}",
        rf"\b(?:echo|printf)[ \t]+(?:-\w+[ \t]+)*{_WORD}[ \t]*\|[^\n|;]*(?:--password-stdin|--stdin|\bsudo[ \t]+-S|\bchpasswd)",
        rf"\bmachine[ \t]+\S+\s+login[ \t]+\S+\s+password[ \t]+{_WORD}",
    )
)

_REFERENCE = re.compile(rf"{_COMMAND}|\$\{{\??[A-Za-z_][\w.]*\}}|\$(?:[A-Z_][A-Z0-9_]*|[0-9@*])(?![\w])", re.DOTALL)
# Where a secret is kept, as scaler.yaml and `docker build --secret` say it.
_KEPT_ELSEWHERE = re.compile(r"(?:ssm:/|secretsmanager:|file:/|env:|id=|type=)[\w/.:@+=,-]*\Z")
_NO_SECRET = re.compile(r"(?i)(?:true|false|yes|no|on|off|null|none|nil|[\[{(]+|<[\w -]+>)\Z")


def mask_secrets(text: str) -> str:
    """The text with ``***`` for each secret: the values of secret-like names, logins in URLs and commands, known tokens."""
    parts, end = [], 0
    for start, stop in secret_spans(text):
        parts += [text[end:start], MASK]
        end = stop
    return "".join([*parts, text[end:]])


def holds_mask(text: str) -> bool:
    """True if the text was printed by :func:`mask_secrets`: pushing it back would replace the secret by asterisks."""
    if any(text.startswith(MASK, start) for start, _ in _candidates(text)):
        return True
    return any(MARK.search(text, 0, found.start()) for found in re.finditer(re.escape(MASK), text))


def secret_spans(text: str) -> list[tuple[int, int]]:
    """Where the secrets stand, in order, none touching another."""
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(_candidates(text)):
        if text[start:stop] == MASK:
            continue
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans


def _candidates(text: str) -> Iterator[tuple[int, int]]:
    yield from _named(text)
    for match in _URL.finditer(text):
        if match["login"] == MASK or _is_login(match["login"], is_web="http" in match["scheme"].lower()):
            yield match.span("login")
    for match in _LOGIN_OF.finditer(text):
        start, stop = _inside_quotes(text, *match.span("value"))
        if text[start:stop] == MASK or _is_login(text[start:stop], is_web=False):
            yield start, stop
    for pattern in (_AUTHORIZATION, _AUTH, _SIGNED_URL, *_COMMANDS):
        for match in pattern.finditer(text):
            start, stop = _inside_quotes(text, *match.span("value"))
            if not _is_harmless(text[start:stop]):
                yield start, stop
    yield from _spoken(text)
    yield from known_tokens(text)


def _named(text: str) -> Iterator[tuple[int, int]]:
    """The values of what is called like a secret. A harmless value is searched, too: it may hold names of its own."""
    for pattern in (_NAMED, _OPTION, _OPTION_OF_LIST, _SET, _LINE):
        end = 0
        for match in pattern.finditer(text):
            name = match["name"]
            if match.start() < end:
                continue
            if not names_a_secret(name) and not names_a_key(name):
                continue
            found = _VALUE.match(text, match.end())
            if found is None:
                continue
            kind = found.lastgroup if found.lastgroup != "quote" else "quoted"
            start, stop = found.span(kind or 0)
            if kind == "word" and pattern is _NAMED and match["blanks"]:
                rest = _REST.match(text, start)
                stop = start + len(rest[0].rstrip()) if rest else stop
            if _is_secret(name, text[start:stop], is_quoted=kind != "word"):
                end = stop
                yield start, stop


def _spoken(text: str) -> Iterator[tuple[int, int]]:
    """The values of ``NAME VALUE`` anywhere in a text."""
    start = 0
    while match := _SPOKEN.search(text, start):
        start = match.start("value")  # which may be a name itself
        value = match["value"]
        if names_a_secret(match["name"]) and (_LOOKS_MADE_UP.match(value) or value.startswith(MASK)):
            yield match.span("value")


def _is_secret(name: str, value: str, *, is_quoted: bool) -> bool:
    if _is_harmless(value):
        return False
    if names_a_secret(name):
        return not (names_a_private_key(name) and re.match(r"(?:~|\.{1,2})?/", value))
    return value.startswith(MASK) or "." in name or is_quoted or bool(_PAIR_OF_S3.match(value))


def _is_harmless(value: str) -> bool:
    """Nothing, a truth value, a placeholder, or references and no text of its own beside them."""
    value = value.strip()
    if not value or _NO_SECRET.match(value) or _KEPT_ELSEWHERE.match(value):
        return True
    left, references = _REFERENCE.subn("", value)
    return bool(references) and not re.search(r"\w", re.sub(r"(?i)\b(?:bearer|basic|token)\b", "", left))


def _is_login(login: str, *, is_web: bool) -> bool:
    """With a password; in a web address also a name alone, as it may be a token (``ssh://git@…`` holds none)."""
    user, colon, password = login.partition(":")
    secret = password or (user if is_web or colon else "")
    return bool(secret) and login != "git" and not _is_harmless(secret)


def _inside_quotes(text: str, start: int, stop: int) -> tuple[int, int]:
    if stop - start >= 2 and text[start] in "\"'" and text[stop - 1] == text[start]:
        return start + 1, stop - 1
    return start, stop
