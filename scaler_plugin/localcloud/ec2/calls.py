"""One call of an AWS API as it came over the wire, and its answer.

``Call`` keeps what an answer depends on and nothing secret: signatures and session tokens are dropped, so that a call can
be written down, shown and repeated.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape

_CREDENTIAL = re.compile(r"Credential=([^,\s]+)")
_INSTANCE_ID = re.compile(r"<instanceId>(i-[0-9a-f]+)</instanceId>")
_ERROR_CODE = re.compile(r"<Code>([^<]+)</Code>")
_READS = ("Describe", "Get", "List", "Head", "Search")


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def from_environ(cls, environ: dict[str, Any]) -> Call:
        headers = [("Host", environ.get("HTTP_HOST", "localhost"))]
        if environ.get("CONTENT_TYPE"):
            headers.append(("Content-Type", environ["CONTENT_TYPE"]))
        if credential := _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", "")):
            # moto reads service and region from the scope; the signature itself is nobody's business.
            scope = f"AWS4-HMAC-SHA256 Credential={credential[1]}, SignedHeaders=host, Signature=dropped"
            headers.append(("Authorization", scope))
        for name, value in sorted(environ.items()):
            if name.startswith("HTTP_X_AMZ_") and name != "HTTP_X_AMZ_SECURITY_TOKEN":
                headers.append((name.removeprefix("HTTP_").replace("_", "-").title(), value))
        return cls(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", "/"),
            query=environ.get("QUERY_STRING", ""),
            headers=tuple(headers),
            body=environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)),
        )

    @cached_property
    def params(self) -> dict[str, str]:
        """The parameters of a call of the query protocol (EC2, IAM, STS); empty for the JSON protocols."""
        form = self.body.decode() if "form" in self.header("Content-Type") else self.query
        return dict(parse_qsl(form, keep_blank_values=True))

    @property
    def action(self) -> str:
        target = self.header("X-Amz-Target")
        return self.params.get("Action") or target.rpartition(".")[2] or f"{self.method} {self.path}"

    @property
    def region(self) -> str:
        scope = _CREDENTIAL.search(self.header("Authorization"))
        parts = scope[1].split("/") if scope else []
        return parts[2] if len(parts) == 5 else "us-east-1"

    @property
    def reads_only(self) -> bool:
        return self.action.startswith((*_READS, "GET ", "HEAD "))

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    def listed(self, prefix: str) -> list[str]:
        """The values of a list parameter: ``InstanceId.1``, ``InstanceId.2``, …"""
        numbered = [(key.removeprefix(prefix + "."), value) for key, value in self.params.items()]
        return [value for key, value in numbered if key.isdigit()]

    def with_params(self, **changes: str) -> Call:
        """The same call with some parameters set otherwise (query protocol only)."""
        return replace(self, body=urlencode({**self.params, **changes}).encode())

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": [list(header) for header in self.headers],
            "body": base64.b64encode(self.body).decode(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Call:
        headers = tuple((name, content) for name, content in value["headers"])
        return cls(value["method"], value["path"], value["query"], headers, base64.b64decode(value["body"]))


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/xml;charset=UTF-8"),)

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def error_code(self) -> str | None:
        """The API's error code, or the bare status where the answer has none."""
        if self.ok:
            return None
        found = _ERROR_CODE.search(self.body.decode(errors="replace"))
        return found[1] if found else str(self.status)

    @property
    def instance_ids(self) -> list[str]:
        return list(dict.fromkeys(_INSTANCE_ID.findall(self.body.decode(errors="replace"))))


def error(code: str, message: str, status: int = 400) -> Answer:
    """An error the way EC2 writes it."""
    text = f"<Errors><Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error></Errors>"
    return Answer(status, _xml(f"<Response>{text}<RequestID>double</RequestID></Response>"))


def result(action: str, fields: Iterable[tuple[str, str]]) -> Answer:
    """A flat answer of an EC2 action."""
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields)
    namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return Answer(200, _xml(f'<{action}Response xmlns="{namespace}">{inner}</{action}Response>'))


def _xml(text: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
