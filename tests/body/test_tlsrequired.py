"""Which header blocks say that protection matters less than delivery (RFC 8689 5)."""

from __future__ import annotations

import pytest

from zsmtp.body.tlsrequired import tls_is_optional


@pytest.mark.parametrize(
    "header",
    [
        b"TLS-Required: No\n",
        b"Subject: x\nTLS-Required:No\nTo: y\n",
        b"tls-required:\tnO  \n",
        b"From: a\r\nTLS-Required: no (please)\r\n",
        b"TLS-Required:\n No\n",
        b"no field\nTLS-Required : No\n",
    ],
)
def test_said(header: bytes) -> None:
    assert tls_is_optional(header)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"TLS-Required: Yes\n",
        b"TLS-Required: No way\n",
        b"X-TLS-Required: No\n",
        b"Subject: TLS-Required: No\n",
        b"Subject: x\n TLS-Required: No\n",
        b"TLS-Required:\n",
    ],
)
def test_not_said(header: bytes) -> None:
    assert not tls_is_optional(header)


def test_a_hostile_block_costs_no_more_than_its_length() -> None:
    assert not tls_is_optional(b"TLS-Required: No" + b" " * 1_000_000 + b"x\n")
    assert not tls_is_optional(b"TLS-Required:No(" * 100_000)
