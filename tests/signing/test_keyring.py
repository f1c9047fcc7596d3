"""Which keys sign: by From, by what is granted, by time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.signing.samples import signing_key

from zsmtp.errors import ConfigError
from zsmtp.signing.keyring import ChosenKeys, Keyring, from_domains
from zsmtp.signing.sign import read_header
from zsmtp.signing.signature import Algorithm

RSA, ED25519 = Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
OLD, NEW = NEW_YEAR.timestamp() - 1, NEW_YEAR.timestamp()


def choose(
    keyring: Keyring,
    sender: str,
    *,
    granted: set[str] | None = None,
    now: float = OLD,
    again: bool = False,
    more: str = "",
) -> ChosenKeys:
    fields = read_header(f"From: {sender}\nSubject: x\n{more}".encode())
    return keyring.choose(fields, granted=granted, now=now, again=again)


def names(choice: ChosenKeys) -> list[str]:
    assert bool(choice.keys) != bool(choice.reason)
    return [f"{key.config.selector}.{key.domain}" for key in choice.keys]


def test_by_the_very_domain() -> None:
    keyring = Keyring([signing_key(selector="a"), signing_key(domain="example.net", selector="b")])
    assert names(choose(keyring, "ann@Example.ORG")) == ["a.example.org"]
    assert names(choose(keyring, "ann@example.net")) == ["b.example.net"]
    assert choose(keyring, "ann@news.example.org") == ChosenKeys((), "there is no key for news.example.org")
    assert choose(keyring, "ann") == ChosenKeys((), "From has no domain")
    assert not Keyring([])


def test_a_parent_signs_if_it_is_to_and_there_is_no_nearer_one() -> None:
    keyring = Keyring(
        [
            signing_key(selector="a", subdomains=True),
            signing_key(domain="news.example.org", selector="n"),
            signing_key(domain="shop.example.org", selector="s", activate=NEW_YEAR),
        ]
    )
    assert names(choose(keyring, "ann@x.y.example.org")) == ["a.example.org"]
    assert names(choose(keyring, "ann@news.example.org")) == ["n.example.org".replace("n.", "n.news.", 1)]
    assert names(choose(keyring, "ann@x.news.example.org")) == ["a.example.org"]  # news does not sign for others
    assert names(choose(keyring, "ann@shop.example.org")) == ["a.example.org"]
    assert names(choose(keyring, "ann@shop.example.org", now=NEW)) == ["s.shop.example.org"]
    assert choose(keyring, "ann@notexample.org").reason == "there is no key for notexample.org"


def test_a_key_of_each_kind_signs() -> None:
    keyring = Keyring([signing_key(RSA), signing_key(ED25519)])
    assert names(choose(keyring, "ann@example.org")) == ["rsa.example.org", "ed25519.example.org"]


def test_of_one_kind_the_newest_that_is_active() -> None:
    keyring = Keyring(
        [
            signing_key(RSA, selector="next", activate=NEW_YEAR),
            signing_key(RSA, selector="first"),
            signing_key(RSA, selector="now", activate=datetime(2026, 1, 1, tzinfo=UTC)),
            signing_key(ED25519, selector="other", activate=NEW_YEAR),
        ]
    )
    assert names(choose(keyring, "ann@example.org", now=0)) == ["first.example.org"]
    assert names(choose(keyring, "ann@example.org", now=OLD)) == ["now.example.org"]
    assert sorted(names(choose(keyring, "ann@example.org", now=NEW))) == ["next.example.org", "other.example.org"]
    late = Keyring([signing_key(activate=NEW_YEAR)])
    assert choose(late, "ann@example.org").reason == "no key of example.org is active yet"


def test_only_keys_of_domains_that_are_granted() -> None:
    keyring = Keyring(
        [signing_key(selector="a", subdomains=True), signing_key(domain="news.example.org", selector="n")]
    )
    assert names(choose(keyring, "ann@example.org", granted={"example.org"})) == ["a.example.org"]
    refused = choose(keyring, "ann@example.org", granted={"example.net"})
    assert refused == ChosenKeys((), "the sender may not sign for example.org")
    assert choose(keyring, "ann@example.org", granted=set()).reason == "the sender may not sign for example.org"
    assert choose(keyring, "ann@example.net", granted=set()).reason == "there is no key for example.net"
    assert names(choose(keyring, "ann@news.example.org", granted={"example.org"})) == ["a.example.org"]


def test_what_is_signed_is_signed_again_only_if_that_is_asked_for() -> None:
    keyring = Keyring([signing_key()])
    more = "DKIM-Signature: whatever\n"
    assert choose(keyring, "ann@example.org", more=more) == ChosenKeys((), "the message is signed already")
    assert names(choose(keyring, "ann@example.org", more=more, again=True)) == ["ed25519.example.org"]


def test_mail_from_several_domains_is_signed_for_each() -> None:
    keyring = Keyring([signing_key(selector="a"), signing_key(domain="example.net", selector="b")])
    found = choose(keyring, "ann@example.net, bob@example.org, eve@example.net, x@example.com")
    assert names(found) == ["b.example.net", "a.example.org"]


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        ("ann@example.org", ["example.org"]),
        ("Ann <ann@example.org>", ["example.org"]),
        ('"a@b.example, c@d.example" <ann@example.org>', ["example.org"]),
        ("(a@b.example) ann@example.org (c@d.example)", ["example.org"]),
        ('"ann@home.example"@example.org', ["example.org"]),
        ("a@b.example <ann@example.org>", ["example.org"]),
        ("Friends: ann@example.org, Bob <b@example.net>;", ["example.org", "example.net"]),
        ("\n\tAnn\n\t<ann@example.org>", ["example.org"]),
        ("<@relay.example:ann@example.org>", ["example.org"]),
        ("ann@bücher.example", ["xn--bcher-kva.example"]),
        ("ann@[192.0.2.1]", []),
        ("ann@", []),
        ("@", []),
        ("<>", []),
        ("ann@-.org", []),
        ('"unfinished <ann@example.org>', []),
        ("x" * 20_000 + "@example.org", []),
    ],
)
def test_the_domains_of_from(value: str, domains: list[str]) -> None:
    assert list(from_domains(read_header(f"From: {value}\n".encode()))) == domains


def test_no_from_and_several() -> None:
    assert from_domains(read_header(b"Subject: x\n")) == ()
    assert from_domains(read_header(b"From: a@b.example\nFrom: c@d.example\n")) == ("b.example", "d.example")


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (signing_key(RSA), "dkim: two rsa keys for example.org, first and rsa, become active at the same time"),
        (signing_key(ED25519, selector="FIRST"), "dkim: two keys at first._domainkey.example.org"),
    ],
)
def test_keys_that_contradict_each_other(other: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Keyring([signing_key(RSA, selector="first"), other])  # type: ignore[list-item]
