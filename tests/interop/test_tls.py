"""Levels of TLS at real servers: what was asked for is what the server has seen, or it has seen no mail.

That mail arrives over TLS octet for octet is in the other modules, whose listeners stand there with STARTTLS and with
implicit TLS too; here it is the ways in which TLS is not good enough, and what a server can tell of a session. The
judge of "no mail" is Postfix's own count of commands at the end of a connection.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import trustme
from tests.interop.exchange import Exchange
from tests.interop.servers import BROKEN, LISTENERS, Listener

pytestmark = pytest.mark.interop

BOX = "user050"


def at(*names: str) -> pytest.MarkDecorator:
    chosen = [listener for listener in (*LISTENERS, *BROKEN) if listener.name in names]
    assert len(chosen) == len(names)
    return pytest.mark.parametrize("listener", chosen, ids=lambda listener: listener.name)


def commands_counted(exchange: Exchange) -> list[dict[str, int]]:
    """What Postfix counted on each connection: commands by name."""
    found = exchange.await_log(r": disconnect from \S+ (.*)$")
    counts = [dict(word.split("=") for word in match[1].split()) for match in found]
    return [{name: int(count.split("/")[-1]) for name, count in one.items()} for one in counts]


def assert_waits(exchange: Exchange, *more: str) -> None:
    """One message, with these lines for -S: put off for want of security, and Postfix has heard none of it."""
    message = exchange.post([BOX], b"not for everybody\n")
    result = exchange.run([message], "-S", str(exchange.tls_file(*more)))
    (report,) = result.reports
    assert exchange.office.marks(message.job) == " "
    assert report.notary[2].startswith(b"4.7.5")
    for counted in commands_counted(exchange):
        assert not counted.keys() & {"mail", "rcpt", "data", "bdat"}
    assert exchange.server.count() == 0


# ------------------------------------------------------- a server whose TLS does not work


@at("opensmtpd-starttls")
def test_opportunistic_tls_falls_back_to_clear_text_on_the_same_address(exchange: Exchange) -> None:
    messages = [exchange.post([BOX], b"Message %d\n" % number) for number in range(3)]
    exchange.deliver(messages, "-S", str(exchange.tls_file("may")))
    exchange.server.await_stored(3)
    failed, used = exchange.await_log(r" smtp connected address=127\.0\.0\.1 ", count=2)
    assert failed.start() < used.start()
    assert exchange.connections() == 2, "one connection for the handshake that failed, one for all the mail"
    assert exchange.commands()[:3] == [b"EHLO client.interop.test", b"STARTTLS", b"EHLO client.interop.test"]


@at("opensmtpd-starttls", "opensmtpd-smtps")
@pytest.mark.parametrize("level", ["encrypt", "verify"])
def test_demanded_tls_that_does_not_work_waits(level: str, exchange: Exchange) -> None:
    message = exchange.post([BOX], b"not in clear\n")
    result = exchange.run([message], "-S", str(exchange.tls_file(level)))
    (report,) = result.reports
    assert exchange.office.marks(message.job) == " "
    assert report.notary[2].startswith(b"4.7.5")
    assert not {command[:4] for command in exchange.commands()} & {b"MAIL", b"RCPT", b"DATA"}
    assert exchange.server.count() == 0
    assert exchange.connections() == 1


# -------------------------------------------------------------------------- verification


@at("postfix-starttls", "postfix-smtps")
def test_an_authority_that_is_not_ours(exchange: Exchange, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    assert_waits(exchange, "verify", f"tls-CAfile {other}")


@at("postfix-starttls", "postfix-smtps")
def test_a_name_that_is_another(exchange: Exchange) -> None:
    assert_waits(exchange, "verify", "tls-match mail.example.net")


@at("postfix-starttls", "postfix-smtps")
def test_a_fingerprint_that_is_another(exchange: Exchange) -> None:
    assert_waits(exchange, "fingerprint", f"tls-fingerprint {'0' * 64}")


@at("postfix-bare")
def test_a_server_that_is_to_offer_tls_and_does_not_waits(exchange: Exchange) -> None:
    assert_waits(exchange, "encrypt")
    assert [counted.get("starttls", 0) for counted in commands_counted(exchange)] == [0]


@at("postfix-starttls", "postfix-smtps", "exim-starttls", "exim-smtps", "dovecot-starttls", "dovecot-lmtps")
@pytest.mark.parametrize("level", ["encrypt", "name", "fingerprint"])
def test_what_is_good_enough(level: str, exchange: Exchange, listener: Listener) -> None:
    program = listener.program
    lines = {
        "encrypt": ("encrypt",),
        "name": ("secure", f"tls-match {program}.interop.test", f"tls-sni {program}.interop.test"),
        "fingerprint": (
            "fingerprint",
            f"tls-fingerprint {hashlib.sha256(exchange.server.authority.leaf(program)).hexdigest()}",
        ),
    }[level]
    message = exchange.post([BOX], b"for whom it may concern\n")
    exchange.deliver([message], "-S", str(exchange.tls_file(*lines)))
    exchange.assert_stored({BOX: [message]})


# -------------------------------------------------------------- what the server can tell


@at("postfix-starttls", "postfix-smtps")
@pytest.mark.parametrize(("own", "said"), [(True, "Trusted"), (False, "Untrusted")], ids=["ours", "another's"])
def test_a_client_certificate(own: bool, said: str, exchange: Exchange, tmp_path: Path) -> None:
    """Postfix asks for one, and says whether it could verify it."""
    if own:
        path = exchange.server.authority.issue("client")
    else:
        path = tmp_path / "client.pem"
        trustme.CA().issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(str(path))
    message = exchange.post([BOX], b"signed for\n")
    exchange.deliver([message], "-S", str(exchange.tls_file("verify", f"tls-cert-file {path}")))
    exchange.assert_stored({BOX: [message]})
    exchange.await_log(rf": {said} TLS connection established from ")


@at("postfix-starttls", "exim-starttls", "dovecot-starttls")
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("tls-min-protocol TLSv1.3",), rb"TLSv?1\.3"),
        (("tls-cipher-list ECDHE-ECDSA-CHACHA20-POLY1305", "tls-min-protocol TLSv1.2"), rb"TLSv?1\.[23]"),
    ],
    ids=["TLS 1.3", "a cipher list"],
)
def test_protocol_and_ciphers(lines: tuple[str, ...], said: bytes, exchange: Exchange) -> None:
    message = exchange.post([BOX], b"as agreed\n")
    exchange.deliver([message], "-S", str(exchange.tls_file("verify", *lines)))
    exchange.assert_stored({BOX: [message]})
    (stored,) = exchange.server.stored(BOX)
    assert re.search(said, stored)


@at("postfix-starttls", "postfix-smtps", "exim-starttls", "dovecot-starttls", "dovecot-lmtps")
def test_sessions_are_taken_up_again(exchange: Exchange, listener: Listener) -> None:
    """One message a connection: the first handshake is a full one, and each other takes up the session before it.

    Only Postfix is sure to allow that: each of Dovecot's processes has a secret of its own, and Exim keeps nothing.
    """
    messages = [exchange.post([BOX], b"Message %d\n" % number) for number in range(5)]
    exchange.deliver(messages, "-1", "-S", str(exchange.tls_file("verify", "tls-use-scache on")))
    exchange.assert_stored({BOX: messages})
    assert exchange.connections() == 5
    handshakes = re.findall(rb"\tTLS (\S+ .*); peer ", exchange.office.log.read_bytes())
    assert len(handshakes) == 5
    assert not handshakes[0].endswith(b" resumed")
    assert listener.program != "postfix" or all(line.endswith(b" resumed") for line in handshakes[1:])
