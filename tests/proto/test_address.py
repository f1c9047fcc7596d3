import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples

from zsmtp.proto import command
from zsmtp.proto.address import (
    decode_xtext,
    domain_of,
    downgrade,
    encode_xtext,
    is_xtext,
    mapped,
    original_recipient,
    path_problem,
    typed_address,
)


@pytest.mark.parametrize(
    "address",
    [
        b"",
        b"postmaster",
        b"a@example.org",
        b'"a b"@example.org',
        b'"a\\"b<c>"@example.org',
        b"a\\ b@example.org",
        b"@relay.example:a@example.org",
        b"a+b=c/d@[192.0.2.1]",
        "jürgen@example.org".encode(),
        b"a" * 242 + b"@example.org",
    ],
)
def test_what_may_stand_in_a_path(address: bytes) -> None:
    assert path_problem(address) is None


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (b"a@b\r\nRCPT TO:<c@d", "control"),
        (b"a@b\n", "control"),
        (b"a\0@b", "control"),
        (b"a\x7f@b", "control"),
        (b'"a\r\nb"@c', "control"),
        (b"a b@c", "blank"),
        (b"a@b> SIZE=1", "blank"),
        (b"a@b>", "blank"),
        (b"<a@b", "blank"),
        (b'"a@b', "blank"),
        (b'a"b c@d', "blank"),
        (b"a@b\\", "blank"),
        (b"a\\\xc3\xbc@b", "blank"),
        (b"a" * 243 + b"@example.org", "octets"),
        (b"\xff@example.org", "UTF-8"),
        (b"a\x80@example.org", "UTF-8"),
    ],
)
def test_what_may_not(address: bytes, problem: str) -> None:
    found = path_problem(address)
    assert found is not None
    assert problem in found


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_a_path_never_ends_its_brackets_or_its_line(address: bytes) -> None:
    if path_problem(address) is not None:
        return
    assert not re.search(rb"[\x00-\x1f\x7f]", address)
    assert len(address) <= 254
    # outside of quotes: nothing that ends the path or the word
    bare = re.sub(rb"\\.|\"(?:[^\"\\]|\\.)*\"", b"", address)
    assert not re.search(rb"[ <>\"]", bare)


def test_an_endless_address_is_judged_in_no_time() -> None:
    assert path_problem(b'"' * 5001) is not None
    assert path_problem(b'"\\' * 5001) is not None
    assert path_problem(b"a" * 100_000) is not None


@pytest.mark.parametrize(
    ("address", "domain"),
    [(b"a@b", b"b"), (b"postmaster", b""), (b'"x@y"@z', b"z"), (b"a@", b""), (b"", b"")],
)
def test_the_domain_of_a_path(address: bytes, domain: bytes) -> None:
    assert domain_of(address) == domain


@pytest.mark.parametrize(
    ("address", "ascii_form"),
    [
        ("a@example.org", b"a@example.org"),
        ("a@bücher.example", b"a@xn--bcher-kva.example"),
        ("a@BÜCHER.example", b"a@xn--bcher-kva.example"),
        ("ä@example.org", None),
        ("ä@bücher.example", None),
        ("a@ＢÜＣＨＥＲ。example", b"a@xn--bcher-kva.example"),
        ("a@ｅｘａｍｐｌｅ．org", b"a@example.org"),
        ("a@☃.example", None),
        ("a@\u2028.example", None),
        ("a@" + "ü" * 70 + ".example", None),
    ],
)
def test_an_address_in_ascii(address: str, ascii_form: bytes | None) -> None:
    assert downgrade(address.encode()) == ascii_form


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("A@Example.org", "A@Example.org"),
        ("jörg@BÜCHER。example", "jörg@bücher.example"),
        ("a@ｅｘａｍｐｌｅ．org", "a@example.org"),
        ("jörg", "jörg"),
    ],
)
def test_an_address_as_it_is_sent_with_smtputf8(address: str, sent: str) -> None:
    assert path_problem(address.encode()) is None
    assert mapped(address.encode()) == sent.encode()


@pytest.mark.parametrize("domain", ["☃.example", "x＞.example", "a\u200db.example"])
def test_a_domain_that_no_rule_allows_is_refused_before_anything_is_sent(domain: str) -> None:
    assert path_problem(f"a@{domain}".encode()) == "domain is not valid under IDNA 2008"


@settings(deadline=None, max_examples=examples(150))
@given(st.text(max_size=30))
def test_downgrading_gives_ascii_or_nothing(domain: str) -> None:
    form = downgrade(b"a@" + domain.encode("utf-8", "replace"))
    assert form is None or form.isascii()


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_xtext_holds_any_octets_and_gives_them_back(octets: bytes) -> None:
    encoded = encode_xtext(octets)
    assert is_xtext(encoded)
    assert decode_xtext(encoded) == octets


@pytest.mark.parametrize("octets", [b"+", b"+2", b"+2b", b"a b", b"a=b", b"\xff", b"+ZZ", b"a\n"])
def test_what_is_not_xtext(octets: bytes) -> None:
    assert not is_xtext(octets)
    assert decode_xtext(octets) == octets


@pytest.mark.parametrize(
    ("given_value", "value"),
    [
        (None, b"rfc822;a+2Bb@example.org"),
        (b"rfc822;old@example.org", b"rfc822;old@example.org"),
        (b"x400;C+3Dde", b"x400;C+3Dde"),
        (b"rfc822;old name@example.org", b"rfc822;old+20name@example.org"),
        (b"rfc822;", b"rfc822;a+2Bb@example.org"),
        (b"x400;a b", b"rfc822;a+2Bb@example.org"),
        (b"no type", b"rfc822;a+2Bb@example.org"),
        (b"bad type;x", b"rfc822;a+2Bb@example.org"),
    ],
)
def test_the_original_recipient(given_value: bytes | None, value: bytes) -> None:
    assert original_recipient(given_value, b"a+b@example.org") == value


def test_the_original_recipient_of_an_internationalised_address() -> None:
    address = "j\u00f6 1+\\@b\u00fccher.example".encode()
    assert typed_address(address) == rb"utf-8;j\x{F6}\x{20}1\x{2B}\x{5C}@b\x{FC}cher.example"
    assert original_recipient(None, address) is None
    assert original_recipient(b"no type", address) is None
    assert original_recipient(b"rfc822;old@example.org", address) == b"rfc822;old@example.org"


@settings(deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_any_address_can_be_an_original_one(address: str) -> None:
    assert command.rcpt(b"a@b", orcpt=typed_address(address.encode("utf-8", "replace")))
