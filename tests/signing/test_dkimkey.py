"""A key in the configuration: what it may say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from zsmtp.errors import ConfigError
from zsmtp.signing.canonical import Canonicalization
from zsmtp.signing.dkimkey import DKIMKey

GOOD: dict[str, Any] = {"domain": "Example.org", "selector": "2026a", "key_file": "/etc/zsmtp/2026a.pem"}


def test_what_is_said_and_what_need_not_be() -> None:
    key = DKIMKey(**GOOD)
    assert key.key_name == "2026a._domainkey.example.org"
    assert key.forms == (Canonicalization.RELAXED, Canonicalization.RELAXED)
    assert (key.activate, key.subdomains, key.lifetime, key.identity, key.also_sign) == (None, False, None, "", ())
    assert DKIMKey(**GOOD, canonicalization="simple/relaxed").forms[0] is Canonicalization.SIMPLE


def test_internationalised_names_are_published_in_a_labels() -> None:
    key = DKIMKey(domain="bücher.example", selector="größe", key_file="x", identity="@news.bücher.example")
    assert key.key_name == "xn--gre-6ka8i._domainkey.xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"domain": ""}, "domain:  is empty"),
        ({"domain": "org"}, "domain: org is a single label"),
        ({"domain": "exa mple.org"}, "domain: exa mple.org is not a valid host name"),
        ({"domain": "192.0.2.1"}, "domain: 192.0.2.1 is a number"),
        ({"domain": b"example.org"}, "domain: str is expected, not bytes"),
        ({"selector": ""}, "selector:  is empty"),
        ({"selector": "a;b"}, "selector: a;b is not a valid host name"),
        ({"selector": "x" * 64}, "selector: x+ is not a valid host name"),
        ({"key_file": ""}, "key_file: no file is named"),
        ({"activate": datetime(2027, 1, 1)}, "activate: a time zone is expected"),
        ({"activate": "2027-01-01"}, "activate: datetime is expected, not str"),
        ({"subdomains": 1}, "subdomains: bool is expected"),
        ({"canonicalization": "relaxed"}, "canonicalization: relaxed or simple expected, twice"),
        ({"canonicalization": "relaxed/nofws"}, "canonicalization: relaxed or simple"),
        ({"lifetime": 0}, "lifetime: 1 to 31622400 seconds"),
        ({"lifetime": 1.5}, "lifetime: int is expected"),
        ({"identity": "joe"}, "identity: joe is not user@ or @ with example.org or a domain below it"),
        ({"identity": "joe@example.net"}, "identity: joe@example.net is not"),
        ({"identity": "joe@badexample.org"}, "identity: joe@badexample.org is not"),
        ({"identity": "joe\n@example.org"}, r"identity: joe\\n@example.org is not"),
        ({"also_sign": ("X-Thing", "no name")}, r"also_sign\[1\]: not the name of a field: no name"),
        ({"also_sign": ("a;b",)}, r"also_sign\[0\]: not the name"),
        ({"also_sign": ("Received",)}, r"also_sign\[0\]: Received must not be signed"),
        ({"also_sign": ["X-Thing"]}, "also_sign: tuple is expected"),
        ({"also_sign": (1,)}, r"also_sign\[0\]: the name of a field"),
    ],
)
def test_what_cannot_be_used(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        DKIMKey(**(GOOD | changes))


def test_keys_are_values() -> None:
    when = datetime(2027, 1, 1, tzinfo=UTC)
    assert DKIMKey(**GOOD, activate=when) == DKIMKey(**GOOD, activate=when)
    assert len({DKIMKey(**GOOD), DKIMKey(**GOOD), DKIMKey(**GOOD, activate=when)}) == 2
