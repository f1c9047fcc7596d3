"""DANE (RFC 7672) as it is: signed zones behind a validating Unbound, and real servers with STARTTLS.

What may be sent where is a matter of the zones (``zones.py``); the judges are Postfix's own count of the commands it
heard, what it stored, and how it says that it came.
"""

from __future__ import annotations

import re

import pytest
from tests.interop.exchange import Exchange, trace
from tests.interop.servers import LISTENERS, Listener
from tests.interop.zones import NameServers

pytestmark = pytest.mark.interop

BOX = "user070"
BY_DANE = re.compile(r"; good enough: .* \(TLSA records of ")  # how the log tells of a peer that a record speaks of


def at(*names: str) -> pytest.MarkDecorator:
    chosen = [listener for listener in LISTENERS if listener.name in names]
    assert len(chosen) == len(names)
    return pytest.mark.parametrize("listener", chosen, ids=lambda listener: listener.name)


def commands_counted(exchange: Exchange) -> list[dict[str, str]]:
    """What Postfix counted on each connection so far: commands by name."""
    exchange.server.await_rest()
    found = exchange.await_log(r": disconnect from \S+ (.*)$", count=0)
    return [dict(word.split("=", 1) for word in match[1].split()) for match in found]


class Outcome:
    """One message to ``destination`` at a level, what became of it, and what the logs say."""

    def __init__(
        self, exchange: Exchange, destination: str, resolver: str, *lines: str, mime: str = "", words: str = ""
    ) -> None:
        self.exchange = exchange
        exchange.route_to(destination, resolver)
        self.message = exchange.post([BOX], b"to whom the zone says\n", mime=mime, words=words)
        self.result = exchange.run([self.message], "-S", str(exchange.tls_file(*(lines or ("dane",)))))
        self.log = exchange.office.log.read_text() if exchange.office.log.exists() else ""

    def assert_waits(self, *, handshakes: int) -> None:
        """Put off for want of security or of a DNS answer; no connection has heard anything of the message.

        Where it is known beforehand that the peer will not do, there may be a connection, but nothing is said on it.
        """
        (report,) = self.result.reports
        assert self.exchange.office.marks(self.message.job) == " "
        assert report.notary[1] == b"failed"
        assert report.notary[2][:5] in (b"4.7.5", b"4.4.3"), report
        counted = commands_counted(self.exchange)
        assert sum(int(commands.get("starttls", "0")) for commands in counted) == handshakes
        for commands in counted:
            assert commands.keys() <= {"ehlo", "starttls", "quit", "commands"}
            assert handshakes or "ehlo" not in commands or self.exchange.listener.name == "postfix-bare"
        assert self.exchange.server.count() == 0

    def assert_delivered(self, *, tls: bool, verified: bool) -> None:
        """It arrived, over TLS or not, and the peer was verified by DANE or not."""
        assert self.exchange.office.marks(self.message.job) == "+", self.result.reports
        self.exchange.server.await_stored(1)
        (stored,) = self.exchange.server.stored(BOX)
        assert (b"SMTPS id " in trace(stored) or b"with esmtps" in trace(stored)) is tls
        assert bool(BY_DANE.search(self.log)) is verified, self.log


GOOD = (
    "ee", "ee-certificate", "ee-whole", "ee-sha512", "ta", "ta-key", "roll", "roll-usage", "agile", "malformed",
    "alias", "tlsa-alias", "domain-alias", "deep", "deep-ta",
)  # fmt: skip
"""Domains of ``signed.test`` whose TLSA records the servers satisfy."""


@pytest.mark.parametrize("label", GOOD)
@at("postfix-starttls")
def test_who_the_records_speak_of(label: str, exchange: Exchange, names: NameServers) -> None:
    outcome = Outcome(exchange, f"{label}.signed.test", names.validating)
    outcome.assert_delivered(tls=True, verified=True)


@at("exim-starttls", "exim-smtps", "postfix-smtps", "postfix-data-starttls")
@pytest.mark.parametrize("label", ["ee", "ta"])
def test_at_other_servers(label: str, exchange: Exchange, listener: Listener, names: NameServers) -> None:
    outcome = Outcome(exchange, f"{label}.signed.test", names.validating)
    outcome.assert_delivered(tls=True, verified=True)


@pytest.mark.parametrize("level", ["dane", "dane-only"])
@pytest.mark.parametrize(
    "label",
    ["wrong", "wrong-ta", "not-agile", "a.deep-ta"],
)
@at("postfix-starttls")
def test_who_the_records_do_not_speak_of(label: str, level: str, exchange: Exchange, names: NameServers) -> None:
    """A connection is made, and after the handshake nothing is said on it."""
    Outcome(exchange, f"{label}.signed.test", names.validating, level).assert_waits(handshakes=1)


@pytest.mark.parametrize(
    "destination",
    ["bogus.test", "expired.test", "bogus-tlsa.signed.test", "expired-tlsa.signed.test", "lame-tlsa.signed.test"],
)
@pytest.mark.parametrize("level", ["dane", "dane-only"])
@at("postfix-starttls")
def test_answers_that_cannot_be_believed(destination: str, level: str, exchange: Exchange, names: NameServers) -> None:
    """Whoever hides TLSA records may be anybody: nobody is called."""
    Outcome(exchange, destination, names.validating, level).assert_waits(handshakes=0)


@pytest.mark.parametrize("label", ["pkix", "unusable", "all-malformed"])
@at("postfix-starttls")
def test_records_that_cannot_be_used_ask_for_tls(label: str, exchange: Exchange, names: NameServers) -> None:
    Outcome(exchange, f"{label}.signed.test", names.validating).assert_delivered(tls=True, verified=False)


@pytest.mark.parametrize("label", ["ee", "wrong", "pkix", "unusable", "all-malformed"])
@at("postfix-bare")
def test_no_tls_where_there_are_records(label: str, exchange: Exchange, names: NameServers) -> None:
    """STARTTLS that is not offered may have been struck from the list."""
    Outcome(exchange, f"{label}.signed.test", names.validating).assert_waits(handshakes=0)


@pytest.mark.parametrize(("listener_name", "tls"), [("postfix-starttls", True), ("postfix-bare", False)])
@pytest.mark.parametrize(
    "destination",
    [
        "none.signed.test",
        "insecure.test",
        "insecure-tlsa.signed.test",
        "at-insecure.signed.test",
        "at-signed.insecure.test",
    ],
)
@at("postfix-starttls")
def test_no_records_or_insecure_ones_ask_for_nothing(
    destination: str, listener_name: str, tls: bool, exchange: Exchange, names: NameServers
) -> None:
    exchange.listener = next(listener for listener in LISTENERS if listener.name == listener_name)
    Outcome(exchange, destination, names.validating).assert_delivered(tls=tls, verified=False)


@pytest.mark.parametrize(
    "destination", ["none.signed.test", "insecure.test", "unusable.signed.test", "pkix.signed.test"]
)
@at("postfix-starttls")
def test_dane_or_nothing(destination: str, exchange: Exchange, names: NameServers) -> None:
    Outcome(exchange, destination, names.validating, "dane-only").assert_waits(handshakes=0)


@at("postfix-starttls")
def test_an_exchanger_that_fails_hands_over_to_the_next(exchange: Exchange, names: NameServers) -> None:
    Outcome(exchange, "second.signed.test", names.validating).assert_delivered(tls=True, verified=True)
    assert [("mail" in commands) for commands in commands_counted(exchange)] == [False, True]


@at("postfix-starttls")
def test_no_exchanger_is_left(exchange: Exchange, names: NameServers) -> None:
    Outcome(exchange, "none-good.signed.test", names.validating).assert_waits(handshakes=1)


@at("postfix-starttls")
def test_without_mx_the_records_of_the_domain_count(exchange: Exchange, names: NameServers) -> None:
    Outcome(exchange, "no-mx.signed.test", names.validating).assert_waits(handshakes=1)


@at("postfix-starttls")
def test_dane_beside_a_level(exchange: Exchange, names: NameServers) -> None:
    """``tls-dane on``: the records count where there are any, the level where there are none."""
    Outcome(exchange, "ee.signed.test", names.validating, "encrypt", "tls-dane on").assert_delivered(
        tls=True, verified=True
    )


@pytest.mark.parametrize("label", ["wrong", "bogus-tlsa", "ee"])
@at("postfix-starttls")
def test_who_says_that_delivery_matters_more(label: str, exchange: Exchange, names: NameServers) -> None:
    """``TLS-Required: No`` (RFC 8689 5): what the destination asks for does not keep this message back."""
    outcome = Outcome(exchange, f"{label}.signed.test", names.validating, mime="TLS-Required: No\n")
    outcome.assert_delivered(tls=True, verified=False)


@at("postfix-starttls")
def test_requiretls_at_a_server_that_does_not_know_it(exchange: Exchange, names: NameServers) -> None:
    """The peer is the right one and verified, but would pass the message on as it likes (RFC 8689 4.2.1)."""
    outcome = Outcome(exchange, "ee.signed.test", names.validating, words="REQUIRETLS")
    (report,) = outcome.result.reports
    assert exchange.office.marks(outcome.message.job) == "-"
    assert exchange.office.notary(report)[2].startswith(b"5.7.30")
    assert [commands.keys() & {"mail", "rcpt"} for commands in commands_counted(exchange)] == [set()]


# ------------------------------------------------------- a resolver that does not validate


@pytest.mark.parametrize("label", ["ee", "wrong", "bogus-tlsa", "none"])
@at("postfix-starttls")
def test_a_resolver_that_does_not_validate_switches_dane_off(
    label: str, exchange: Exchange, names: NameServers
) -> None:
    """Mail flows as at level may, and one remark says that DANE is not to be had here."""
    outcome = Outcome(exchange, f"{label}.signed.test", names.careless)
    outcome.assert_delivered(tls=True, verified=False)
    remarks = [line for line in outcome.result.stderr if b"DANE" in line]
    assert len(remarks) == 1, outcome.result.stderr


@pytest.mark.parametrize("trusted", [False, True])
@at("postfix-starttls")
def test_a_resolver_that_is_not_trusted(trusted: bool, exchange: Exchange, names: NameServers) -> None:
    """Only where the way to it is safe does its word on security count (RFC 7672 2.1.1)."""
    exchange.route_to("wrong.signed.test", names.validating)
    exchange.office.write_zenv(RESOLVER=names.validating, RESOLVER_TRUSTED="yes" if trusted else "no")
    message = exchange.post([BOX], b"hello\n")
    exchange.run([message], "-S", str(exchange.tls_file("dane")))
    assert exchange.office.marks(message.job) == (" " if trusted else "+")
