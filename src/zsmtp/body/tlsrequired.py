"""``TLS-Required: No``: a message whose sender would rather have it arrive than have it protected (RFC 8689 5).

It is the only value there is. The field stays in the message for the hops that follow.
"""

from __future__ import annotations

import re

from zsmtp.patterns import pattern

_NO = pattern(rb"^TLS-Required[ \t]*+:[ \t]*+No[ \t]*+(?:\([^()\n]*+\)[ \t]*+)?\r?$", re.IGNORECASE | re.MULTILINE)


def tls_is_optional(header: bytes) -> bool:
    """Whether a header block (lines ended by LF) says so."""
    # Few messages pay for the search.
    return header.lower().find(b"tls-required") >= 0 and _NO.search(header) is not None
