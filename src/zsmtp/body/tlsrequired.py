"""Reads ``TLS-Required: No``: the sender puts delivery of the message before its protection by TLS (RFC 8689 5).

It is the only value there is. The field stays in the message for the hops that follow.
"""

from __future__ import annotations

import re

from zsmtp.patterns import pattern

_NO = pattern(rb"\s*+no\s*+(?:\([^()]*+\)\s*+)?", re.IGNORECASE)


def tls_is_optional(header: bytes) -> bool:
    """Whether a header block (lines ended by LF) has ``TLS-Required: No``."""
    if header.lower().find(b"tls-required") < 0:  # most messages are not parsed
        return False
    from zsmtp.body.fields import field_values

    return any(name.lower() == b"tls-required" and _NO.fullmatch(value) for name, value in field_values(header))
