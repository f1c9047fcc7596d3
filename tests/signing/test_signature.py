"""The field DKIM-Signature: what can be one, and what is written."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.signing.canonical import Canonicalization
from zsmtp.signing.signature import (
    Algorithm,
    Signature,
    Tags,
    front,
    parse_signature,
    unsigned_field,
    with_signature,
    without_octets,
)
from zsmtp.signing.tags import quoted

HASH = b64encode(bytes(32)).decode()
GOOD = {
    "v": "1",
    "a": "rsa-sha256",
    "c": "relaxed/simple",
    "d": "Example.ORG",
    "s": "2026a",
    "h": "From : To:\n from",
    "bh": HASH,
    "b": "AAEC",
}


def text(**changes: str | None) -> bytes:
    tags = GOOD | changes
    return "; ".join(f"{name}={value}" for name, value in tags.items() if value is not None).encode()


def test_what_a_field_says() -> None:
    found = parse_signature(text(t="1700000000", x="1700000001", l="5", i="joe=3B@News.Example.org", q="dns/txt"))
    assert found == Signature(
        algorithm=Algorithm.RSA_SHA256,
        header_form=Canonicalization.RELAXED,
        body_form=Canonicalization.SIMPLE,
        domain="example.org",
        selector="2026a",
        identity="joe;@News.Example.org",
        strict_identity=False,
        signed=(b"from", b"to", b"from"),
        body_hash=bytes(32),
        octets=b"\0\1\2",
        length=5,
        time=1_700_000_000,
        expires=1_700_000_001,
    )
    assert found.key_name == "2026a._domainkey.example.org"


def test_what_it_need_not_say() -> None:
    found = parse_signature(text(c=None))
    assert (found.header_form, found.body_form) == (Canonicalization.SIMPLE, Canonicalization.SIMPLE)
    assert (found.identity, found.strict_identity) == ("@example.org", True)
    assert (found.length, found.time, found.expires) == (None, None, None)
    assert parse_signature(text(c="relaxed")).body_form is Canonicalization.SIMPLE
    assert parse_signature(text(q="x-http: dns/txt")).domain == "example.org"
    assert parse_signature(text(unknown="x", z="From:a|To:b")).domain == "example.org"


@pytest.mark.parametrize(("d", "s"), [("bücher.example", "größe"), ("xn--bcher-kva.example", "xn--gre-6ka8i")])
def test_internationalised_names_in_both_forms(d: str, s: str) -> None:
    found = parse_signature(text(d=d, s=s, i="ä@bücher.example"))
    assert found.key_name == "xn--gre-6ka8i._domainkey.xn--bcher-kva.example"
    assert (found.identity, found.strict_identity) == ("ä@bücher.example", True)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        *(({name: None}, f"{name}= is missing") for name in ("v", "a", "b", "bh", "d", "h", "s")),
        ({"v": "2"}, "version 2 is not known"),
        ({"a": "rsa-sha1"}, "rsa-sha1 is not accepted"),
        ({"a": "RSA-SHA256"}, "algorithm RSA-SHA256 is not known"),
        ({"c": "nofws"}, "canonicalization nofws is not known"),
        ({"c": "relaxed/simple/x"}, "canonicalization relaxed/simple/x"),
        ({"q": "http : dns"}, "q= has no known method"),
        ({"d": "org"}, "d= is not a domain: org"),
        ({"d": "a..org"}, "d= is not a domain"),
        ({"d": "a b.org"}, "d= is not a domain"),
        ({"d": "192.0.2.1"}, "d= is not a domain"),
        ({"d": "a.org."}, "d= is not a domain: a.org.$"),
        ({"d": "x" * 2000 + ".org"}, "d= is not a domain"),
        ({"s": ""}, "s= is not a selector"),
        ({"s": "a b"}, "s= is not a selector"),
        ({"s": "a.", "d": "example.org"}, "s= is not a selector"),
        ({"s": ".".join(["x" * 60] * 4)}, "s= is not a selector"),
        ({"i": "joe"}, "i= is not of the domain"),
        ({"i": "joe@example.com"}, "i= is not of the domain example.org: joe@example.com"),
        ({"i": "joe@notexample.org"}, "i= is not of the domain"),
        ({"h": "to:subject"}, "From is not signed"),
        ({"h": "from::to"}, "h= has an invalid field name"),
        ({"h": "from:t o"}, "h= has an invalid field name: t o"),
        ({"bh": "AAAA"}, "bh= is not a hash"),
        ({"bh": "!"}, "bh= is not base64"),
        ({"b": "!"}, "b= is not base64"),
        ({"t": "yesterday"}, "t= is not a number"),
        ({"t": "1" * 13}, "t= is not a number"),
        ({"x": "-1"}, "x= is not a number"),
        ({"l": "1" * 77}, "l= is not a number"),
        ({"t": "10", "x": "10"}, "x= is not after t="),
    ],
)
def test_what_is_none(changes: dict[str, str | None], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_signature(text(**changes))


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "i", "l", "t", "x", "q", "z"]),
        st.text(max_size=30) | st.sampled_from(["", "from", "a.b", "ü.b", "@", "1", "=3B", "relaxed/relaxed"]),
        max_size=6,
    )
)
def test_nothing_but_value_errors(changes: dict[str, str]) -> None:
    value = "; ".join(f"{name}={value}" for name, value in (GOOD | changes).items())
    name, reason = "", ""
    try:
        name = parse_signature(value.encode("utf-8", "surrogatepass")).key_name
    except ValueError as error:
        reason = str(error)
    assert reason.isprintable()
    assert name.isascii()
    assert len(name) <= 253


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"DKIM-Signature: a=x; b=AA\n BB; bh=CC", b"DKIM-Signature: a=x; b=; bh=CC"),
        (b"DKIM-Signature: bh=CC;\n b = AA", b"DKIM-Signature: bh=CC;\n b ="),
        (b"dkim-signature:b=AA;", b"dkim-signature:b=;"),
    ],
)
def test_its_own_field_is_covered_with_an_empty_b(field: bytes, expected: bytes) -> None:
    assert without_octets(field) == expected


# ---------------------------------------------------------------------- writing

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=40)
FIELD_NAME = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=60).map(str.encode)


@given(
    domain=st.lists(LABEL, min_size=1, max_size=2).map(lambda labels: ".".join([*labels, "example"])),
    selector=LABEL,
    user=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20),
    signed=st.lists(FIELD_NAME, max_size=60),
    forms=st.tuples(st.sampled_from(Canonicalization), st.sampled_from(Canonicalization)),
    times=st.tuples(st.integers(0, 10**11), st.none() | st.integers(1, 10**9)),
    octets=st.binary(min_size=1, max_size=600),
)
def test_what_is_written_is_read_again(
    domain: str,
    selector: str,
    user: str | None,
    signed: list[bytes],
    forms: tuple[Canonicalization, Canonicalization],
    times: tuple[int, int | None],
    octets: bytes,
) -> None:
    identity = b"" if user is None else quoted(user, utf8=False) + b"@" + domain.encode()
    tags = Tags(Algorithm.ED25519_SHA256, *forms, domain.encode(), selector.encode(), identity, (b"from", *signed))
    expires = None if times[1] is None else times[0] + times[1]
    unsigned = unsigned_field(front(tags), body_hash=bytes(range(32)), time=times[0], expires=expires)
    field = with_signature(unsigned, octets)
    assert field.endswith(b"\n")
    assert without_octets(field.removesuffix(b"\n")) == unsigned
    lines = field.removesuffix(b"\n").split(b"\n")
    assert all(line.startswith(b" ") and line.strip() for line in lines[1:])
    assert all(len(line) <= 78 or b" i=" in line or b" d=" in line for line in lines)
    found = parse_signature(field.partition(b":")[2])
    assert found == Signature(
        algorithm=Algorithm.ED25519_SHA256,
        header_form=forms[0],
        body_form=forms[1],
        domain=domain,
        selector=selector,
        identity=f"@{domain}" if user is None else f"{user}@{domain}",
        strict_identity=True,
        signed=(b"from", *signed),
        body_hash=bytes(range(32)),
        octets=octets,
        time=times[0],
        expires=expires,
    )


def test_how_a_field_is_folded() -> None:
    tags = Tags(
        Algorithm.RSA_SHA256,
        Canonicalization.RELAXED,
        Canonicalization.RELAXED,
        b"example.org",
        b"2026a",
        b"",
        (
            b"from",
            b"from",
            b"to",
            b"to",
            b"subject",
            b"subject",
            b"date",
            b"message-id",
            b"mime-version",
            b"content-type",
        ),
    )
    field = with_signature(unsigned_field(front(tags), body_hash=bytes(32), time=1_700_000_000), bytes(100))
    assert field.decode() == (
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=2026a;\n"
        " h=from:from:to:to:subject:subject:date:message-id:mime-version:content-type;\n"
        " t=1700000000; bh=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=;\n"
        f" b={'A' * 75}\n"
        f" {'A' * 59}==\n"
    )
