"""Transactions with real servers: many recipients, many messages, refusals, and the extensions that are used."""

from __future__ import annotations

import re

import pytest
from tests.interop.exchange import Exchange, Message
from tests.interop.servers import LISTENERS, MAILBOXES, TLS, Listener

pytestmark = pytest.mark.interop


def at(*names: str) -> pytest.MarkDecorator:
    """Run a test at the listeners of these names, or at all."""
    chosen = [listener for listener in LISTENERS if listener.name in names or not names]
    assert len(chosen) == len(names) or not names
    return pytest.mark.parametrize("listener", chosen, ids=lambda listener: listener.name)


@at()
def test_three_hundred_recipients(exchange: Exchange) -> None:
    """They go in transactions of a hundred, over one connection; each recipient gets the message once."""
    message = exchange.post(MAILBOXES, b"To all of you.\n")
    exchange.deliver([message])
    exchange.assert_stored({mailbox: [message] for mailbox in MAILBOXES})
    assert exchange.connections() == 1
    assert list(exchange.transactions(MAILBOXES).values()) == [100, 100, 100]


@at()
def test_twenty_messages_on_one_connection(exchange: Exchange) -> None:
    messages = [exchange.post([f"user{number:03}"], b"Message %d\n" % number * number) for number in range(20)]
    exchange.deliver(messages)
    exchange.assert_stored({f"user{number:03}": [message] for number, message in enumerate(messages)})
    assert exchange.connections() == 1


@at()
def test_a_refused_recipient_fails_alone(exchange: Exchange) -> None:
    message = exchange.post(["user010", "nobody", "user011"], b"For two of you.\n")
    result = exchange.run([message])
    assert [result.fates[message.job.id, offset] for offset in message.job.offsets] == ["ok", "error", "ok"]
    assert exchange.office.marks(message.job) == "+-+"
    (refusal,) = [report for report in result.reports if report.fate == "error"]
    address, action, status, diagnostic, *_ = exchange.office.notary(refusal)
    assert (address, action, status[:2]) == (b"nobody@interop.test", b"failed", b"5.")
    assert re.match(rb"smtp; 5\d\d ", diagnostic)
    exchange.assert_stored({"user010": [message], "user011": [message]})


@at()
def test_a_message_all_of_whose_recipients_are_refused_does_not_disturb_the_next(exchange: Exchange) -> None:
    before = exchange.post(["user012"], b"before\n")
    refused = exchange.post(["nobody", "no.one"], b"MAIL FROM:<x@example.net>\n.\nnot for anybody\n")
    after = exchange.post(["user012"], b"after\n")
    exchange.run([before, refused, after])
    assert [exchange.office.marks(message.job) for message in (before, refused, after)] == ["+", "--", "+"]
    exchange.assert_stored({"user012": [before, after]})


@at()
def test_the_null_sender(exchange: Exchange) -> None:
    message = exchange.post(["user013"], b"a report\n", sender="error - - 99")
    exchange.deliver([message])
    exchange.assert_stored({"user013": [message]})
    assert any(re.match(rb"MAIL FROM:<>", command, re.IGNORECASE) for command in exchange.commands())


@at("postfix", "exim", "opensmtpd")
def test_delivery_status_notification_parameters_are_taken(exchange: Exchange) -> None:
    words = "NOTIFY=FAILURE,DELAY ORCPT=rfc822;someone+2Bother@example.org"
    message = exchange.post(["user014"], b"with DSN\n", words=words, extra="n envelope+2B1\nR HDRS\n")
    exchange.deliver([message])
    exchange.assert_stored({"user014": [message]})
    mail, rcpt = exchange.commands()[1:3]
    assert b" RET=HDRS" in mail
    assert b" ENVID=envelope+2B1" in mail
    assert b" NOTIFY=FAILURE,DELAY" in rcpt
    assert b" ORCPT=rfc822;someone+2Bother@example.org" in rcpt


@at("postfix", "exim", "opensmtpd")
def test_an_internationalised_original_recipient_costs_nobody_the_message(exchange: Exchange) -> None:
    """OpenSMTPD refuses a recipient whose ORCPT is not of the type rfc822; it does not offer SMTPUTF8 either."""
    words = r"NOTIFY=FAILURE ORCPT=utf-8;jos\x{E9}@b\x{FC}cher.example"
    message = exchange.post(["user015"], b"forwarded\n", words=words)
    exchange.deliver([message])
    exchange.assert_stored({"user015": [message]})


@at()
def test_without_pipelining(exchange: Exchange) -> None:
    """``-P``: the same mail arrives, also over servers that offer PIPELINING."""
    messages = [exchange.post(["user020", "nobody", "user021"], b"Message %d\n.\n" % number) for number in range(5)]
    exchange.run(messages, "-P")
    assert [exchange.office.marks(message.job) for message in messages] == ["+-+"] * 5
    exchange.assert_stored({"user020": messages, "user021": messages})
    assert exchange.connections() == 1


def _two_messages(exchange: Exchange) -> list[Message]:
    return [exchange.post(["user030", "user031"], b"Message %d\n" % number) for number in range(2)]


@pytest.mark.parametrize(("flags", "used"), [((), "L"), (("-P",), "L-")], ids=["default", "-P"])
@at("exim", "exim-data", "exim-starttls", "exim-smtps")
def test_exim_saw_pipelining(exchange: Exchange, flags: tuple[str, ...], used: str) -> None:
    """Exim logs for each message whether PIPELINING was used (``L``) or offered in vain (``L-``)."""
    messages = _two_messages(exchange)
    exchange.deliver(messages, *flags)
    exchange.assert_stored({"user030": messages, "user031": messages})
    assert [match[1] for match in exchange.await_log(r" <= .* P=esmtps? (?:X=\S+ CV=no )?(?:K )?(L\S*)", count=2)] == [
        used,
        used,
    ]


@at("exim", "exim-data", "exim-starttls", "exim-data-starttls")
def test_exim_saw_chunking(exchange: Exchange, listener: Listener) -> None:
    """Exim logs ``K`` for each message that came by BDAT."""
    messages = _two_messages(exchange)
    exchange.deliver(messages)
    exchange.assert_stored({"user030": messages, "user031": messages})
    taken = [match[0].split() for match in exchange.await_log(r" <= .*$", count=2)]
    assert ["K" in fields for fields in taken] == [listener.chunking] * 2


@at("postfix", "postfix-data", "postfix-bare", "postfix-starttls", "postfix-smtps")
def test_postfix_counted_the_commands(exchange: Exchange, listener: Listener) -> None:
    """Postfix logs how many commands of each kind it got: RSET behind each chunk and nowhere else, nothing refused."""
    messages = _two_messages(exchange)
    exchange.deliver(messages)
    exchange.assert_stored({"user030": messages, "user031": messages})
    (disconnect,) = exchange.await_log(r": disconnect from \S+ (.*)$")
    content = ["bdat=2", "rset=2"] if listener.chunking else ["data=2"]
    starttls = listener.tls is TLS.STARTTLS
    hello = ["ehlo=2", "starttls=1"] if starttls else ["ehlo=1"]
    total = 10 + 2 * starttls + 2 * listener.chunking
    assert disconnect[1].split() == [*hello, "mail=2", "rcpt=4", *content, "quit=1", f"commands={total}"]


@at("dovecot", "dovecot-unix", "dovecot-starttls", "dovecot-lmtps")
def test_dovecot_is_sent_chunks(exchange: Exchange) -> None:
    messages = _two_messages(exchange)
    exchange.deliver(messages)
    exchange.assert_stored({"user030": messages, "user031": messages})
    sent = exchange.commands()
    assert len([command for command in sent if command.startswith(b"BDAT ")]) == 2
    assert b"DATA" not in sent
