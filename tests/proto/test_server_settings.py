"""What a server offers: the answer to EHLO, read by the client's own parser."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import ConfigError
from zsmtp.proto.capabilities import Capabilities, parse_ehlo
from zsmtp.proto.server_settings import ServerBounds, ServerSettings, date_time, ehlo_reply, offer

PLAIN = ServerSettings(name=b"mx.example.org")
MECHANISMS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")
LOGINS = replace(PLAIN, mechanisms=MECHANISMS, starttls=True)


def told(settings: ServerSettings, *, secure: bool = False, bound: bool = False) -> Capabilities:
    """What a client learns."""
    offered = offer(settings, secure=secure, mechanisms=MECHANISMS, bound=bound)
    capabilities = parse_ehlo(ehlo_reply(settings, offered, utc=1_700_000_000.0).lines)
    assert not capabilities.problems
    return capabilities


@given(
    st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in (
                "pipelining",
                "eight_bit_mime",
                "dsn",
                "chunking",
                "starttls",
                "require_tls",
                "announce_limits",
            )
        }
    ),
    st.integers(1 << 16, 1 << 40),
    st.booleans(),
    st.booleans(),
)
def test_a_client_learns_what_is_set(flags: dict[str, bool], size: int, secure: bool, more: bool) -> None:
    settings = ServerSettings(
        name=b"[192.0.2.1]",
        max_size=size,
        smtputf8=flags["eight_bit_mime"] and more,
        binary_mime=flags["eight_bit_mime"] and flags["chunking"] and more,
        **flags,
    )
    capabilities = told(settings, secure=secure)
    assert capabilities.size == size
    assert capabilities.enhanced_status_codes
    for name in ("pipelining", "eight_bit_mime", "dsn", "chunking"):
        assert getattr(capabilities, name) is flags[name]
    assert capabilities.smtputf8 is settings.smtputf8
    assert capabilities.binary_mime is settings.binary_mime
    assert capabilities.starttls is (flags["starttls"] and not secure)
    assert capabilities.require_tls is (flags["require_tls"] and secure), "RFC 8689 2: under TLS only"
    assert capabilities.rcpt_max == (1000 if flags["announce_limits"] else None)


def test_limits() -> None:
    capabilities = told(replace(PLAIN, bounds=ServerBounds(recipients=200, messages=30)))
    assert (capabilities.rcpt_max, capabilities.mail_max) == (200, 30)


@pytest.mark.parametrize(
    ("settings", "secure", "bound", "mechanisms"),
    [
        (LOGINS, False, False, ("SCRAM-SHA-256",)),
        (LOGINS, True, False, ("SCRAM-SHA-256", "PLAIN", "LOGIN")),
        (LOGINS, True, True, MECHANISMS),
        (replace(LOGINS, cleartext_logins=True), False, False, ("SCRAM-SHA-256", "PLAIN", "LOGIN")),
        (replace(LOGINS, tls_required=True), False, False, ()),
        (replace(LOGINS, mechanisms=("PLAIN",)), True, True, ("PLAIN",)),
        (PLAIN, True, True, ()),
    ],
)
def test_mechanisms(settings: ServerSettings, secure: bool, bound: bool, mechanisms: tuple[str, ...]) -> None:
    assert told(settings, secure=secure, bound=bound).auth == mechanisms


def test_mechanisms_that_nobody_can_be_served_are_not_offered() -> None:
    offered = offer(LOGINS, secure=True, mechanisms=("PLAIN", "LOGIN"), bound=True)
    assert offered.mechanisms == ("PLAIN", "LOGIN")
    assert not offer(LOGINS, secure=True).mechanisms
    assert b"AUTH" not in offer(LOGINS, secure=True).mail


def test_priority_and_future_release() -> None:
    settings = replace(PLAIN, priority=True, priority_profile=b"MIXER", max_hold=86400)
    keywords = ehlo_reply(settings, offer(settings, secure=False), utc=1_700_000_000.0).lines
    assert b"MT-PRIORITY MIXER" in keywords
    assert b"FUTURERELEASE 86400 2023-11-15T22:13:20Z" in keywords
    assert b"MT-PRIORITY" in told(replace(PLAIN, priority=True)).keywords
    assert date_time(0.0) == b"1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "settings",
    [
        {"name": b""},
        {"name": b"mx.example.org\r\n250 ok"},
        {"binary_mime": True, "chunking": False},
        {"binary_mime": True, "eight_bit_mime": False, "smtputf8": False},
        {"smtputf8": True, "eight_bit_mime": False},
        {"max_hold": 0},
        {"max_hold": 1 << 30},
        {"max_size": 1000},
        {"bounds": ServerBounds(recipients=99)},
        {"bounds": ServerBounds(line=998)},
        {"banner": "hello\r\n250 ok"},
        {"priority_profile": b"A\nB"},
    ],
)
def test_what_cannot_be_offered(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ServerSettings(**{"name": b"mx.example.org", **settings})  # type: ignore[arg-type]
