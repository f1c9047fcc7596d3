"""No address in a hashed trace, however it got there; no secret in any."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.network import message
from tests.support.traces import TracedWorld

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.net.script import Reaction, Script
from zsmtp.observers.codec import trace_text
from zsmtp.observers.document import Addresses
from zsmtp.observers.privacy import Veil
from zsmtp.proto.plan import EnvelopeRecipient

KEY = bytes(16)
ENVELOPE = [b"carol@example.net", b"joe.doe@example.org", b'"joe doe"@example.org', b"jo@example.org", b"postmaster"]


def veil() -> Veil:
    made = Veil(KEY)
    made.know(ENVELOPE)
    return made


def test_equal_addresses_stay_equal_and_domains_readable() -> None:
    one = veil()
    assert re.fullmatch(r"~[0-9a-f]{10}@example\.org", one.address(b"joe.doe@example.org"))
    assert one.address(b"Joe.Doe@EXAMPLE.org").casefold() == one.address(b"joe.doe@example.org")
    assert one.address(b"jo@example.org") != one.address(b"joe.doe@example.org")
    assert Veil(b"x" * 16).address(b"jo@example.org") != one.address(b"jo@example.org")
    assert one.address(b"") == ""
    assert "postmaster" not in one.address(b"postmaster")


def test_what_a_server_says_of_an_address_is_the_same_as_the_address() -> None:
    one = veil()
    shown = one.address(b"joe.doe@example.org")
    assert one.text("550 5.1.1 <joe.doe@example.org>: no such user") == f"550 5.1.1 <{shown}>: no such user"
    assert one.text("RCPT TO:<joe.doe@example.org> NOTIFY=NEVER") == f"RCPT TO:<{shown}> NOTIFY=NEVER"


@pytest.mark.parametrize(
    "text",
    [
        "550 joe.doe? no such user",
        "550 User joe doe (Joe Doe) is away",
        "251 not local; will forward to <joe.doe@elsewhere.example>",
        '550 <"joe doe"@example.org>',
        "see http://example.org/?who=joe.doe%40example.org",
        "ORCPT=rfc822;joe.doe+40example.org",
        "bounce-joe.doe=example.org@lists.example",
        "550 jo: unknown",
        "JOE.DOE@EXAMPLE.ORG",
        "postmaster is full",
        "mailbox of carol",
        "550 <joe.do...",
        "smtp; 550 (5.1.1 joe.do...)",
    ],
)
def test_no_name_is_left_however_it_is_written(text: str) -> None:
    shown = veil().text(text)
    assert not re.search(r"\bjoe?\b|\bdoe?\b|carol|postmaster", shown, re.IGNORECASE), shown


def test_what_is_hardly_about_the_envelope_keeps_its_words() -> None:
    assert veil().facts("names joe.example.org, carol.example") == "names joe.example.org, carol.example"
    assert "admin" not in veil().facts("subject emailAddress=admin@example.org")
    assert veil().facts("rua=mailto:tls@example.org").endswith("@example.org")


def test_a_name_that_tells_an_address_is_hidden_too() -> None:
    world = TracedWorld(Script(keywords=("CONTACT admin@example.org",)), hashed=True)
    delivery = Delivery(
        message(b"walter@example.org"), Ledger(1, lambda number, verdict: None), "<walter.1@example.org>"
    )
    world.network.run(world.courier.deliver(world.route, delivery))
    (handle, trace) = world.handed[-1]
    assert "walter" not in handle.name + trace_text(trace)
    assert "admin" not in trace_text(trace)


def test_neighbours_on_a_connection_are_hidden_too() -> None:
    replies = {"RCPT": [Reaction("250 ok"), Reaction("421 wilhelmina is too much for us")]}
    world = TracedWorld(Script(keywords=("PIPELINING",), replies=replies), Script(), hashed=True)
    traces = world.deliver(message(b"ottokar@example.org"), message(b"wilhelmina@example.org"))
    assert len(traces) == 2
    assert "421 " in "".join(map(trace_text, traces))
    for trace in traces:
        assert not re.search("ottokar|wilhelmina", trace_text(trace))


def test_words_that_are_no_names_stay() -> None:
    text = "250 2.1.5 recipient ok, message of 1200 octets for example.org"
    assert veil().text(text) == text


def test_without_a_key_everything_is_clear() -> None:
    clear = Veil(None)
    clear.know(ENVELOPE)
    assert clear.addresses is Addresses.CLEAR
    assert clear.text("<joe@example.org>") == "<joe@example.org>"
    assert clear.address(b"joe@example.org") == "joe@example.org"


@given(st.from_regex(r"[a-z][a-z.+_-]{3,12}[a-z]@[a-z]{4,8}\.example", fullmatch=True), st.text(max_size=20))
def test_an_address_anywhere_in_a_text_is_hidden(address: str, around: str) -> None:
    one = Veil(KEY)
    one.know([address.encode()])
    assert address not in one.text(f"{around} <{address}> {around}").replace(around, " ")
    assert address not in one.text(f"{around} {address}.").replace(around, " ")


@given(st.text(max_size=200))
def test_any_text_can_be_shown(text: str) -> None:
    veil().text(text)


def test_long_texts_take_no_longer_than_they_should() -> None:
    for text in ("a" * 200_000, '"' * 200_000, "a@" * 100_000, '"a"@' * 50_000, "+40" * 70_000):
        assert len(veil().text(text)) > 0


def test_an_original_recipient_is_hidden_in_whatever_form_it_has() -> None:
    world = TracedWorld(Script(keywords=("DSN", "SMTPUTF8")), hashed=True)
    (trace,) = world.deliver(
        message(EnvelopeRecipient(b"joe@example.org", orcpt=rb"utf-8;ann\x{E9}tte.roe@example.net"))
    )
    text = trace_text(trace)
    assert "ORCPT=utf-8;" in text
    assert not re.search(r"(?<![a-z~])(ann|tte|roe)(?![a-z])", text)


def test_no_address_in_a_hashed_trace() -> None:
    replies = {
        "MAIL": [Reaction("250 2.1.0 <carol.smith@example.net> is welcome, Carol")],
        "RCPT": [
            Reaction("250 2.1.5 joe.bloggs@example.org ok"),
            Reaction("550 5.1.1 no mailbox here by the name of jane_roe"),
            Reaction("452 4.2.2 <zz@example.org> over quota; try zz.other@backup.example"),
        ],
        "DOT": [Reaction("250 queued for joe.bloggs=example.org@rewritten.example")],
    }
    recipients = [
        EnvelopeRecipient(b"joe.bloggs@example.org", orcpt=b"rfc822;old.name+40example.org", notify=b"NEVER"),
        b"jane_roe@example.org",
        b"zz@example.org",
    ]
    world = TracedWorld(Script(keywords=("DSN",), replies=replies), hashed=True)
    (trace,) = world.deliver(message(*recipients, sender=b"carol.smith@example.net"))
    text = trace_text(trace)
    for name in ("carol", "smith", "joe", "bloggs", "jane", "roe", "zz", "old.name", "other"):
        assert not re.search(rf"(?<![a-z~]){name}(?![a-z])", text, re.IGNORECASE), name
    assert trace.addresses is Addresses.HASHED
    assert "example.org" in text
    hidden = trace.recipients[1].address
    assert sum(hidden in line for line in text.splitlines()) >= 2
    assert hidden.startswith("~")
