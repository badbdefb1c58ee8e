"""Where the ClearML host and keys come from, in words that may be shown; the keys themselves are never shown."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit


@dataclass(frozen=True)
class Credentials:
    """What the cluster's configuration names; whatever is ``None`` is taken from the environment or ``clearml.conf``.

    ``source`` says in a few words where the explicit keys were read, for error messages.
    """

    api_host: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    source: str = "the cluster's configuration"

    def __post_init__(self) -> None:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("An access key needs its secret key, and the other way round.")


def source_of(credentials: Credentials, config_file: str | None) -> str:
    """Where the keys in use come from, in the order in which the SDK looks."""
    if credentials.access_key:
        return credentials.source
    if os.environ.get("CLEARML_AUTH_TOKEN"):
        return "CLEARML_AUTH_TOKEN in the environment"
    for prefix in ("CLEARML", "TRAINS"):
        if os.environ.get(f"{prefix}_API_ACCESS_KEY"):
            return f"{prefix}_API_ACCESS_KEY and {prefix}_API_SECRET_KEY in the environment"
    return f"{config_file} (api.credentials)" if config_file else "nowhere"


def shown_host(api_host: str) -> str:
    """The host without a user name and password that may stand in the URL."""
    try:
        parts = urlsplit(api_host)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    except ValueError:
        return "an address that is not a URL"
