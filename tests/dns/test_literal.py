"""Destinations as people and schedulers write them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.candidates import Family, NoRoute
from zsmtp.dns.literal import Literal, Name, domain_problem, parse_destination, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[192.0.2.1]", Literal("192.0.2.1", Family.INET)),
        ("[192.0.2.1]:2525", Literal("192.0.2.1", Family.INET, 2525)),
        ('"[192.0.2.1]"', Literal("192.0.2.1", Family.INET)),
        ('"[192.0.2.1]:24"', Literal("192.0.2.1", Family.INET, 24)),
        ("[IPv6:2001:DB8::1]", Literal("2001:db8::1", Family.INET6)),
        ("[IPv6:2001:db8::1]:587", Literal("2001:db8::1", Family.INET6, 587)),
        ("[ipv6.::1]", Literal("::1", Family.INET6)),
        ("[IPv6 ::1]", Literal("::1", Family.INET6)),
        ('"[IPv6 ::1]"', Literal("::1", Family.INET6)),
        ("[::1]", Literal("::1", Family.INET6)),
        ("[IPv6:::ffff:192.0.2.1]", Literal("::ffff:192.0.2.1", Family.INET6)),
        ("mail.example.org", Name("mail.example.org")),
        ("Mail.Example.ORG.", Name("mail.example.org")),
        (" mailhub ", Name("mailhub")),
        ('"mail.example.org"', Name("mail.example.org")),
        ("_mail.3com.example", Name("_mail.3com.example")),
        ("bücher.example", Name("xn--bcher-kva.example")),
        ("BÜCHER.example.", Name("xn--bcher-kva.example")),
        ("例え。テスト", Name("xn--r8jz45g.xn--zckzah")),
        ("ＭＸ。Bücher．example", Name("mx.xn--bcher-kva.example")),
        ("_mx.bücher.example", Name("_mx.xn--bcher-kva.example")),
        ("xn--n3h.example", Name("xn--n3h.example")),
    ],
)
def test_forms(text: str, expected: Literal | Name) -> None:
    assert parse_destination(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        '""',
        "[",
        "[]",
        "[192.0.2.1",
        "[192.0.2.1]x",
        "[192.0.2.1]:",
        "[192.0.2.1]:0",
        "[192.0.2.1]:65536",
        "[192.0.2.1]:999999",
        "[192.0.2.256]",
        "[192.0.2.01]",
        "[IPv6:192.0.2.1]",
        "[IPv6:2001:db8::1::]",
        "[IPv6:fe80::1%eth0]",
        "[mail.example.org]",
        "192.0.2.1",
        "4711",
        "mail.example.25",
        "mail.example:25",
        "mail..example",
        ".example",
        "-mail.example",
        "mail-.example",
        "mail example",
        "mail\r\nexample",
        "mail\0.example",
        "a" * 64 + ".example",
        ".".join(["a" * 49] * 6),
        "x" * 5000,
        "ü" * 70 + ".example",
        "\udcff.example",
        "☃.example",
        "a\u00a0b.bücher.example",
        "UNIX:/run/lmtp.sock",
        "K\N{KELVIN SIGN}.exa\N{LATIN SMALL LETTER LONG S}mple..x",
    ],
)
def test_what_is_no_destination(text: str) -> None:
    refused = parse_destination(text)
    assert isinstance(refused, NoRoute)
    assert (refused.permanent, refused.status) == (True, "5.1.2")
    assert refused.text.isascii()
    assert refused.text.isprintable()
    assert len(refused.text) < 700


def test_the_bare_address_is_told_about_brackets() -> None:
    refused = parse_destination("192.0.2.1")
    assert isinstance(refused, NoRoute)
    assert "brackets" in refused.text


def test_unix_socket_only_where_allowed() -> None:
    assert parse_destination("UNIX:/run/lmtp.sock", allow_unix=True) == Literal("/run/lmtp.sock", Family.UNIX)
    assert parse_destination('"unix:/run/lmtp.sock"', allow_unix=True) == Literal("/run/lmtp.sock", Family.UNIX)
    assert parse_destination("unix.example", allow_unix=True) == Name("unix.example")


@pytest.mark.parametrize("text", ["[fe80::1%eth0]", "[IPv6:FE80:0::1%eth0]", "[ipv6.fe80::1%eth0]:2525"])
def test_a_zone_only_where_allowed(text: str) -> None:
    """The address of a recipient must not choose an interface of this machine."""
    port = 2525 if text.endswith(":2525") else None
    assert parse_destination(text, allow_unix=True) == Literal("fe80::1%eth0", Family.INET6, port)
    refused = parse_destination(text)
    assert isinstance(refused, NoRoute)
    assert "not a valid address literal" in refused.text


@pytest.mark.parametrize(
    "text", ["[2001:db8::1%eth0]", "[169.254.1.1%eth0]", "[fe80::1%]", "[fe80::1%a/b]", "[::1%lo]"]
)
def test_what_has_no_zone(text: str) -> None:
    assert isinstance(parse_destination(text, allow_unix=True), NoRoute)


@pytest.mark.parametrize("path", ["", "lmtp.sock", "/a\0b", "/" + "x" * 107, "/\ud800"])
def test_paths_that_cannot_be_sockets(path: str) -> None:
    refused = parse_destination("UNIX:" + path, allow_unix=True)
    assert isinstance(refused, NoRoute)
    assert refused.permanent


def test_a_path_in_the_file_systems_own_octets() -> None:
    assert parse_destination("UNIX:/\udcff", allow_unix=True) == Literal("/\udcff", Family.UNIX)


@given(st.text(max_size=300), st.booleans())
def test_any_text_is_read_or_refused(text: str, allow_unix: bool) -> None:
    parsed = parse_destination(text, allow_unix=allow_unix)
    if isinstance(parsed, Name):
        assert domain_problem(parsed.domain) is None
        assert parsed.domain == parsed.domain.lower()
        assert parse_destination(parsed.domain) == parsed
    elif isinstance(parsed, NoRoute):
        assert parsed.text.isascii()


@given(st.ip_addresses(), st.none() | st.integers(1, 65535))
def test_every_address_can_be_written_as_a_literal(address: Any, port: int | None) -> None:
    tag = "IPv6:" if address.version == 6 else ""
    parsed = parse_destination(f"[{tag}{address}]" + ("" if port is None else f":{port}"))
    assert isinstance(parsed, Literal)
    assert parsed.port == port
    assert (parsed.family is Family.INET6) == (address.version == 6)


def test_a_foreign_text_is_shown_escaped_and_cut() -> None:
    assert shown("a\r\n\x1b[1mü") == r"'a\r\n\x1b[1m\xfc'"
    assert len(shown("x" * 5000)) < 130
