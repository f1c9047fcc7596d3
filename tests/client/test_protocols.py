"""The client over LMTP, with a login, and under TLS: the ways of a relay."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.receiver import receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

import zsmtp
from zsmtp.dns.ip import is_link_local
from zsmtp.dns.static import StaticResolver
from zsmtp.errors import ConfigError
from zsmtp.net.identity import interface_addresses
from zsmtp.tls import certificate, facts
from zsmtp.tls.resume import SessionCache

MESSAGE = b"From: a@example.org\nTo: b@example.net, c@example.net\n\nbody\n"


@pytest.fixture(scope="module")
def server(server_context: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext:
    return server_context("localhost")


STARTTLS = {"STARTTLS": (Step("220 go", Then.TLS),)}


def test_lmtp_over_a_socket_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    script = Script(
        lmtp=True,
        caps=("PIPELINING", "ENHANCEDSTATUSCODES"),
        replies={"DOT": (Step("250 2.0.0 ok"), Step("550 5.2.2 full"))},
    )
    with Sink(script, unix=path) as sink:
        report = zsmtp.deliver(MESSAGE, relay=f"lmtp://{path}")
    assert [(one.recipient, one.fate.value, one.status) for one in report] == [
        ("b@example.net", "delivered", "2.0.0"),
        ("c@example.net", "failed", "5.2.2"),
    ]
    assert sink.connections[0].verbs[0] == "LHLO"
    assert report.results[0].server is not None
    assert str(report.results[0].server) == str(path)


def test_starttls_and_login_at_a_relay_that_is_verified(
    server: ssl.SSLContext, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSMTP_TEST_SECRET", "geheim")
    script = Script(caps=("STARTTLS", "AUTH PLAIN"), replies={**STARTTLS, "AUTH": (Step("235 2.7.0 welcome"),)})
    with Sink(script, tls=server) as sink:
        relay = zsmtp.Relay(
            host="localhost",
            port=sink.port,
            login=zsmtp.Login(user="ann", password_env="ZSMTP_TEST_SECRET"),
            tls=zsmtp.TLS(level=zsmtp.Level.VERIFY, ca_file=ca_file),
        )
        report = zsmtp.deliver(MESSAGE, relay=relay)
    assert report.ok
    secret = base64.b64encode(b"\0ann\0geheim")
    assert sink.connections[0].verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
    assert sink.connections[0].lines[3] == b"AUTH PLAIN " + secret
    protection = report.results[0].tls
    assert protection is not None
    assert protection.protocol == "TLSv1.3"
    assert protection.required == "verify"
    assert "localhost" in protection.certificate
    assert "geheim" not in str(report.as_dict())


def test_a_certificate_is_read_once_for_all_messages_and_a_session_kept_once(
    server: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a certificate costs as much as a message, and Python's copy of a session as much as a handshake."""
    read, kept = [], []
    monkeypatch.setattr(facts, "read_certificate", lambda der: read.append(der) or certificate.read_certificate(der))
    put = SessionCache.put
    monkeypatch.setattr(SessionCache, "put", lambda *all: kept.append(all) or put(*all))

    async def main(port: int) -> list[zsmtp.Result]:
        results = []
        relay = zsmtp.Relay(host="127.0.0.1", port=port)
        async with zsmtp.aio.Client(relay=relay) as client:
            for _ in range(9):
                results += await client.deliver(MESSAGE)
        return results

    three_each = {"DOT": (Step("250 ok"), Step("250 ok"), Step("250 ok\r\n421 enough", Then.CLOSE))}
    with Sink(Script(caps=("STARTTLS",), replies={**STARTTLS, **three_each}), tls=server) as sink:
        results = asyncio.run(main(sink.port))
    connections = len(sink.connections)
    assert {one.tls.certificate.partition(";")[0] for one in results if one.tls is not None} != {""}
    assert len(results) == 18
    assert connections >= 3
    assert len(read) == connections
    assert len(kept) == 1


def test_a_relay_that_cannot_prove_who_it_is_gets_nothing(server: ssl.SSLContext) -> None:
    with Sink(Script(caps=("STARTTLS",), replies=STARTTLS), tls=server) as sink:
        relay = zsmtp.Relay(host="localhost", port=sink.port, tls=zsmtp.TLS(level=zsmtp.Level.VERIFY))
        report = zsmtp.deliver(MESSAGE, relay=relay)
    assert {(one.fate, one.status) for one in report} == {(zsmtp.Fate.DEFERRED, "4.7.5")}
    assert "MAIL" not in sink.connections[0].verbs


def test_a_password_does_not_leave_in_clear() -> None:
    with Sink(Script(caps=("AUTH PLAIN",))) as sink:
        relay = zsmtp.Relay(
            host="localhost",
            port=sink.port,
            login=zsmtp.Login(user="ann", password="geheim"),
            tls=zsmtp.TLS(level=zsmtp.Level.ENCRYPT),
        )
        report = zsmtp.deliver(MESSAGE, relay=relay)
    assert {one.fate for one in report} == {zsmtp.Fate.DEFERRED}
    assert b"AUTH" not in b" ".join(sink.connections[0].lines)


def test_a_relay_that_offers_no_login_gets_no_mail_without_one() -> None:
    with Sink(Script(caps=("PIPELINING",))) as sink:
        login = zsmtp.Login(user="ann", password="geheim")
        report = zsmtp.deliver(MESSAGE, relay=zsmtp.Relay(host="127.0.0.1", port=sink.port, login=login))
    assert {(one.fate, one.status) for one in report} == {(zsmtp.Fate.DEFERRED, "4.7.8")}
    assert "AUTH is not offered" in report.results[0].text
    assert sink.connections[0].verbs == ["EHLO", "QUIT"]


def test_a_relay_that_does_not_exist_is_a_mistake_here_and_bounces_nothing() -> None:
    config = zsmtp.Config(relay=zsmtp.Relay(host="nosuch.example"), direct=zsmtp.Direct(resolver=StaticResolver("")))
    report = zsmtp.deliver(MESSAGE, config=config)
    assert {(one.fate, one.status) for one in report} == {(zsmtp.Fate.DEFERRED, "4.3.5")}
    assert report.results[0].text == "the relay cannot be used: no such domain: nosuch.example"


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ({"password_file": "/nowhere/secret"}, "No such file"),
        ({"password_env": "ZSMTP_TEST_NOT_THERE"}, "ZSMTP_TEST_NOT_THERE is empty"),
    ],
)
def test_a_secret_that_is_not_there_is_told_before_anything_is_sent(secret: dict[str, str], words: str) -> None:
    relay = zsmtp.Relay(host="127.0.0.1", login=zsmtp.Login(user="ann", **secret))  # type: ignore[arg-type]
    for config in (zsmtp.Config(relay=relay), zsmtp.Config(routes={"example.net": relay})):
        with pytest.raises(ConfigError, match=words):
            zsmtp.deliver(MESSAGE, config=config)
        with pytest.raises(ConfigError, match=words):
            zsmtp.Client(config)


def test_a_secret_that_is_gone_later_makes_mail_wait(tmp_path: Path) -> None:
    """It is read for each login: whoever changes it need not start the program anew."""
    file = tmp_path / "secret"
    file.write_text("geheim")
    file.chmod(0o600)
    with Sink(Script(caps=("AUTH PLAIN",))) as sink:
        login = zsmtp.Login(user="ann", password_file=str(file))
        relay = zsmtp.Relay(host="127.0.0.1", port=sink.port, login=login)
        with zsmtp.Client(relay=relay) as client:
            file.unlink()
            report = client.deliver(MESSAGE)
    assert {one.fate for one in report} == {zsmtp.Fate.DEFERRED}
    assert "No such file" in report.results[0].text


def test_tls_from_the_first_octet(server: ssl.SSLContext, ca_file: str) -> None:
    with receiving(implicit_tls=server) as receiver:
        relay = zsmtp.Relay(host="localhost", port=receiver.port, implicit=True, tls=zsmtp.TLS(ca_file=ca_file))
        report = zsmtp.deliver(MESSAGE, relay=relay)
    assert report.ok
    assert report.results[0].tls is not None
    assert receiver.messages[0].rcpt_tos == ["b@example.net", "c@example.net"]


# ---------------------------------------------------------- addresses with a zone


@pytest.fixture(scope="module")
def link_local() -> str:
    """A link-local address of this machine with its zone."""
    for found in interface_addresses():
        if found.usable and ":" in found.address and is_link_local(found.address):
            return f"{found.address}%{found.interface}"
    pytest.skip("no interface of this machine has a link-local IPv6 address")


@pytest.mark.parametrize("mark", ["%", "%25"])
def test_a_relay_on_the_link(mark: str, link_local: str) -> None:
    """RFC 4007 11: without its zone the address leads nowhere."""
    with Sink(host=link_local) as sink:
        report = zsmtp.deliver(MESSAGE, relay=f"smtp://[{link_local.replace('%', mark)}]:{sink.port}")
    assert report.ok
    server = report.results[0].server
    assert server is not None
    assert (server.host, server.address, server.port) == (link_local, link_local, sink.port)
    hello = sink.connections[0].lines[0].decode()
    assert "%" not in hello, "the zone is this machine's affair"


def test_a_connection_from_an_address_with_a_zone(link_local: str) -> None:
    with Sink(host=link_local) as sink:
        config = zsmtp.Config(local_address=f"[{link_local}]")
        report = zsmtp.deliver(MESSAGE, relay=zsmtp.Relay(host=link_local, port=sink.port), config=config)
    assert report.ok
    assert report.results[0].server is not None
    assert report.results[0].server.local[0] == link_local.partition("%")[0]


def test_a_zone_that_is_no_interface_here() -> None:
    report = zsmtp.deliver(MESSAGE, relay="smtp://[fe80::1%25nowhere0]:2525")
    assert {result.fate.value for result in report} == {"deferred"}
    assert [one.problem for one in report.results[0].attempts] == ["No such device"]
