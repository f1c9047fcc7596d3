"""What a mail administrator who debugs meets in ``zsmtp explain``; each test is named after its point."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator

import pytest
from tests.support.nameserver import Failure, NameServer, Zone
from tests.support.newcomer import Newcomer
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink, refusing_port

ZONE: Zone = {
    "one.example": {"MX": ("10 mx.one.example.",)},
    "mx.one.example": {"A": ("127.0.0.1",)},
    "dead.example": {"MX": tuple(f"10 mx{n}.dead.example." for n in range(20))},
    **{f"mx{n}.dead.example": {"A": (f"127.0.1.{n + 1}",)} for n in range(20)},
    "bogus.example": Failure.BOGUS,
    "lame.example": Failure.SERVFAIL,
}


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


def test_h5_a_greylisting_server_is_not_called_deliverable(newcomer: Newcomer, dns: NameServer) -> None:
    script = Script(replies={"RCPT": (Step("451 4.7.1 greylisted, come again"),)})
    with Sink(script) as sink:
        where = ("--resolver", dns.address, "--port", str(sink.port))
        asked = newcomer.zsmtp("explain", "--rcpt", "bob@one.example", *where)
        assert (asked.status, asked.out.splitlines()[0]) == (
            75,
            "bob@one.example: deferred: 451 4.7.1 greylisted, come again",
        )
        untried = newcomer.zsmtp("explain", "--connect", "bob@one.example", *where)
    assert untried.status == 0
    assert "MAIL and RCPT were not tried (--rcpt)" in " ".join(untried.out.split())
    assert not sink.deliveries()


def test_h5_a_server_that_demands_tls_is_not_called_deliverable(newcomer: Newcomer, dns: NameServer) -> None:
    script = Script(replies={"MAIL": (Step("530 5.7.0 Must issue a STARTTLS command first"),)})
    with Sink(script) as sink:
        asked = newcomer.zsmtp(
            "explain", "--rcpt=bob@one.example", "--tls=none", f"--resolver={dns.address}", f"--port={sink.port}"
        )
    assert asked.status == 75
    assert "530 5.7.0 Must issue a STARTTLS command first" in asked.out.splitlines()[0]


def test_m6_a_dane_mismatch_shows_the_record_that_mends_it(
    newcomer: Newcomer, server_context: Callable[[str], ssl.SSLContext]
) -> None:
    context = server_context("mx.signed.example")
    with Sink(Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)}), tls=context) as sink:
        zone: Zone = {
            "signed.example": {"MX": ("10 mx.signed.example.",)},
            "mx.signed.example": {"A": ("127.0.0.1",)},
            f"_{sink.port}._tcp.mx.signed.example": {"TLSA": (f"3 1 1 {'00' * 32}",)},
        }
        with NameServer(zone, validated=True) as dns:
            command = ("explain", "--connect", "signed.example", f"--resolver={dns.address}", f"--port={sink.port}")
            shown = newcomer.zsmtp(*command)
            document = json.loads(newcomer.zsmtp(*command, "--json").out)
    (candidate,) = document["explanations"][0]["candidates"]
    certificate = candidate["probe"]["tls"]["certificate"]
    assert shown.status == 75
    assert "1 address of 1 host: no TLSA record matches the certificate" in " ".join(shown.out.split())
    assert f"TLSA {certificate['tlsa']}" in " ".join(shown.out.split())
    assert certificate["not_after"][:4].isdigit()
    assert {"subject", "issuer", "names", "not_before", "sha256"} <= certificate.keys()


def test_m7_twenty_dead_addresses_are_one_reason(newcomer: Newcomer, dns: NameServer) -> None:
    with refusing_port() as port:
        command = ("explain", "--connect", "dead.example", f"--resolver={dns.address}", f"--port={port}")
        shown = newcomer.zsmtp(*command)
        (found,) = json.loads(newcomer.zsmtp(*command, "--json").out)["explanations"]
    assert shown.status == 75
    assert shown.out.splitlines()[0] == "dead.example: deferred, 20 addresses of 20 hosts: 20 of 20: Connection refused"
    assert shown.out.count("Connection refused") == 2
    assert shown.out.count("if offered, with any certificate") == 1
    assert "has to wait" not in shown.out
    assert found["reason"] == "20 of 20: Connection refused"


def test_m8_nothing_of_the_inside_is_shown(newcomer: Newcomer, dns: NameServer) -> None:
    scripts = {
        "busy": Script(banner=Step("421 4.3.2 too many connections")),
        "junk": Script(banner=Step(b"\x00\x01binary junk\xff\r\n")),
        "listed": Script(banner=Step("554 5.7.1 on a block list")),
    }
    said = {}
    for name, script in scripts.items():
        with Sink(script) as sink:
            command = ("explain", "--connect", "one.example", f"--resolver={dns.address}", f"--port={sink.port}")
            said[name] = newcomer.zsmtp(*command).out + newcomer.zsmtp(*command, "--json").out
    assert "421 4.3.2 too many connections" in said["busy"].splitlines()[0]
    assert "\\x00\\x01binary junk\\xff" in said["junk"].splitlines()[0]
    for text in said.values():
        assert not [part for part in ("<<-", "->>", "(connecting)", "\\r", "\\\\\\\\x") if part in text]


@pytest.mark.parametrize(
    ("domain", "words"),
    [("bogus.example", "the zone is bogus"), ("lame.example", "the servers of the zone fail")],
)
def test_m15_bogus_is_told_from_lame(newcomer: Newcomer, dns: NameServer, domain: str, words: str) -> None:
    shown = newcomer.zsmtp("explain", domain, f"--resolver={dns.address}")
    assert shown.status == 75
    assert words in " ".join(shown.out.split())


def test_low_a_configuration_with_a_relay_is_something_to_explain(newcomer: Newcomer) -> None:
    (newcomer.folder / "prod.toml").write_text('relay = "smtp://127.0.0.1:2525"\n')
    shown = newcomer.zsmtp("explain", "--config", "prod.toml")
    assert shown.status == 0
    assert "127.0.0.1 port 2525" in shown.out


def test_low_the_agent_s_name_server_is_named_elsewhere(newcomer: Newcomer) -> None:
    refused = newcomer.zsmtp("explain", "--agent", "smtp", "--resolver", "127.0.0.1", "one.example")
    assert refused.status == 64
    assert "RESOLVER" in refused.err


def test_low_an_exchanger_at_a_private_address_is_noted(newcomer: Newcomer) -> None:
    zone: Zone = {
        "private.example": {"MX": ("10 mx.private.example.",)},
        "mx.private.example": {"A": ("10.0.0.1",)},
    }
    with NameServer(zone) as dns:
        shown = newcomer.zsmtp("explain", "private.example", f"--resolver={dns.address}")
    assert "10.0.0.1 is a private address" in shown.out
