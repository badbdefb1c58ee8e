"""Who may call: one key pair, and signed tokens that clients read the server's version from.

The tokens are JSON web tokens (RFC 7519, HS256) because the SDK and the agent decode them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import dataclass

from scaler_plugin.localcloud.clearml_api.answers import (
    API_VERSION,
    COMPANY_ID,
    SERVER_VERSION,
    USER_ID,
    USER_NAME,
    ApiError,
    Document,
)

#: How long a token is valid unless its request says otherwise: the server's 30 days.
TOKEN_LIFE_S = 30 * 24 * 3600


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _invalid_token(reason: str) -> ApiError:
    return ApiError(401, 30, "Invalid token (invalid jwt token)", reason=reason)


@dataclass(frozen=True)
class Credentials:
    """The key pair that is let in, and the key that signs tokens."""

    access_key: str
    secret_key: str
    token_key: str

    def new_token(self, life_s: int | None = None) -> str:
        """A signed token."""
        now = int(time.time())
        payload = {
            "exp": now + (life_s or TOKEN_LIFE_S),
            "iat": now,
            "auth_type": "Bearer",
            "identity": {
                "company": COMPANY_ID,
                "company_name": "clearml",
                "user": USER_ID,
                "user_name": USER_NAME,
                "role": "user",
            },
            "env": "<unknown>",
            "api_version": API_VERSION,
            "server_version": SERVER_VERSION,
            "server_build": "",
            "feature_set": "basic",
        }
        parts = [_encode(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "HS256"}, payload)]
        signed = ".".join(parts)
        return f"{signed}.{self._signature(signed)}"

    def _signature(self, signed: str) -> str:
        return _encode(hmac.new(self.token_key.encode(), signed.encode(), hashlib.sha256).digest())

    def check_token(self, token: str) -> None:
        """Raise unless the token is one of ours and has not expired."""
        signed, _, signature = token.rpartition(".")
        try:
            header, payload = signed.split(".")
            json.loads(_decode(header))
            claims: Document = json.loads(_decode(payload))
        except (ValueError, binascii.Error):
            raise _invalid_token("Invalid header padding") from None
        if not hmac.compare_digest(signature, self._signature(signed)):
            raise _invalid_token("Signature verification failed")
        if claims["exp"] <= time.time():
            raise _invalid_token("Signature has expired")

    def check(self, header: str | None) -> None:
        """Raise unless the Authorization header lets the caller in: key pair or token, on any call."""
        if not header:
            raise ApiError(401, 20, "Unauthorized (missing credentials)")
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            self.check_token(value.strip())
        elif scheme.lower() == "basic":
            self._check_pair(value.strip())
        else:
            raise ApiError(401, 10, "Unauthorized (bad authentication header type)")

    def _check_pair(self, value: str) -> None:
        try:
            access, _, secret = base64.b64decode(value, validate=False).decode().partition(":")
        except (ValueError, binascii.Error) as error:
            raise ApiError(401, 21, f"Unauthorized (malformed credentials) ({error})") from None
        known = hmac.compare_digest(access.encode(), self.access_key.encode())
        if not (hmac.compare_digest(secret.encode(), self.secret_key.encode()) and known):
            raise ApiError(401, 22, "Unauthorized (invalid credentials) (failed to locate provided credentials)")
