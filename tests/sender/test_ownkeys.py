"""Which keys of a configuration sign mail of a domain: as the signer chooses, and as receivers look for them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from zsmtp.errors import ConfigError
from zsmtp.sender.ownkeys import own_keys
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.keys import generate_key, read_key, write_key
from zsmtp.signing.signature import Algorithm

NOW = 1_772_719_391.0
NEXT = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = str(tmp_path / "key.pem")
    write_key(path, generate_key(Algorithm.ED25519_SHA256))
    return path


def test_the_keys_of_a_domain_now_and_later(key_file: str) -> None:
    keys = (
        DKIMKey(domain="Example.org", selector="a", key_file=key_file, subdomains=True, identity="@News.example.org"),
        DKIMKey(domain="example.org", selector="b", key_file=key_file, activate=NEXT),
        DKIMKey(domain="example.net", selector="c", key_file=key_file),
    )
    found = own_keys(keys, "example.org", NOW)
    (one,), (later,) = found.keys, found.next_keys
    assert (one.name, one.identity, one.active_from) == ("a._domainkey.example.org", "news.example.org", 0.0)
    assert one.public_key == read_key(key_file, print).public_key
    assert (later.name, later.active_from) == ("b._domainkey.example.org", NEXT.timestamp())
    after = own_keys(keys, "example.org", NEXT.timestamp())
    assert ([key.selector for key in after.keys], after.next_keys) == (["b"], ())
    below = own_keys(keys, "news.example.org", NOW)
    assert ([key.selector for key in below.keys], below.next_keys) == (["a"], ()), "b is for its own domain only"


def test_why_mail_is_not_signed(key_file: str) -> None:
    keys = (DKIMKey(domain="example.org", selector="b", key_file=key_file, activate=NEXT),)
    found = own_keys(keys, "example.org", NOW)
    assert (found.keys, found.unsigned) == ((), "no key of example.org is active yet")
    assert [key.selector for key in found.next_keys] == ["b"]
    assert own_keys(keys, "news.example.org", NOW).unsigned == "there is no key for news.example.org"
    assert own_keys((), "example.org", NOW).unsigned == ""


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    lost = DKIMKey(domain="example.org", selector="a", key_file=str(tmp_path / "lost.pem"))
    with pytest.raises(ConfigError, match=r"^dkim\[0\]\.key_file: .*lost\.pem cannot be read"):
        own_keys((lost,), "example.org", NOW)
