"""User-data in two parts, for stock images: one for cloud-init, which such images run, and one for the sidecar.

Guarantees: the same parts always give the same text, without any encoding, so a person can read it; cloud-init does not look at the
sidecar's part and says nothing of it.
"""

from __future__ import annotations

from scaler_plugin.errors import ConfigError

#: "User data" in the EC2 guide: 16 kB before the encoding in base64 that the call does.
LIMIT_BYTES = 16 * 1024

NODE_TYPE = "text/x-scaler-node"
_BOUNDARY = "=-scaler-sidecar-="

#: Instances of one call are numbered from 0, and cloud-init passes over a part for a number that is not its own. Of a type that it
#: does not know it would warn.
_TEXT = f"""\
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="{_BOUNDARY}"

--{_BOUNDARY}
Content-Type: text/cloud-config; charset="us-ascii"

%s
--{_BOUNDARY}
Content-Type: {NODE_TYPE}; charset="us-ascii"
Launch-Index: -1

%s
--{_BOUNDARY}--
"""


def join_parts(cloud_config: str, node: str) -> str:
    """The two as one text. Raises ``ConfigError`` above EC2's limit."""
    text = _TEXT % (cloud_config, node)
    if (size := len(text.encode("ascii"))) > LIMIT_BYTES:
        raise ConfigError(
            f"The user-data of a stock image would have {size} bytes and EC2 takes {LIMIT_BYTES}. Shorten first_boot.bundle_url."
        )
    return text


def node_part(text: str) -> str:
    """The sidecar's part of such a text, and any other text as it is. Raises ``ConfigError`` when there is no such part."""
    if not text.startswith(("MIME-Version:", "Content-Type: multipart/")):
        return text
    from email import message_from_string  # noqa: PLC0415  (nodes of a baked image have no use for it)

    for part in message_from_string(text).walk():
        payload = part.get_payload(decode=True)
        if part.get_content_type() == NODE_TYPE and isinstance(payload, bytes):
            return payload.decode(errors="replace")
    raise ConfigError(
        f"This instance's user-data has no part of the type {NODE_TYPE}, so it does not say what the instance is. "
        "`scaler-sidecar bootstrap user-data` prints the whole."
    )
