"""TLS and logins in traces: the handshake with its time and facts, and never a secret."""

from __future__ import annotations

import base64

import pytest
from tests.support.network import message
from tests.support.security import Authority, asking
from tests.support.traces import TracedWorld
from tests.tls.certificates import NOW

from zsmtp.net.script import Reaction, Script
from zsmtp.observers.codec import parse_trace, trace_text
from zsmtp.observers.document import Addresses, DecisionItem, ExchangeItem, FetchItem, HandshakeItem
from zsmtp.observers.page import page
from zsmtp.observers.waterfall import draw
from zsmtp.proto.sasl import Credentials, Secret
from zsmtp.text.lines import plain
from zsmtp.tls.chain import TrustAnchors
from zsmtp.tls.policy import Level, STSUse, TLSPolicy

SECRET = b"correct-horse-battery"


def test_a_handshake_has_its_facts_and_the_verdict_on_it() -> None:
    authority = Authority.new()
    world = TracedWorld(authority.server("mx0.example.org"), settings=asking(TLSPolicy(level=Level.ENCRYPT)))
    (trace,) = world.deliver()
    (handshake,) = [item for item in trace.items if isinstance(item, HandshakeItem)]
    assert handshake.session == "TLSv1.3 TLS_AES_256_GCM_SHA384 256 bits x25519"
    assert "names mx0.example.org" in handshake.peer
    assert handshake.end is not None
    phases = [item.phase for item in trace.items if isinstance(item, ExchangeItem)]
    assert phases[:4] == ["greeting", "EHLO", "STARTTLS", "EHLO"]
    assert [item for item in trace.items if isinstance(item, DecisionItem) and item.text.startswith("good enough: ")]
    assert trace.connections[0].tls == handshake.session
    assert parse_trace(trace_text(trace)) == trace
    lines = [plain(line) for line in draw(trace)]
    assert [line for line in lines if "TLS handshake" in line and "TLSv1.3" in line]


def test_a_candidate_that_is_not_good_enough_says_why() -> None:
    world = TracedWorld(Script(), settings=asking(TLSPolicy(level=Level.ENCRYPT)))
    (trace,) = world.deliver()
    assert trace.fates.deferred == 1
    assert "STARTTLS is not offered" in trace.connections[0].refused
    assert [item for item in trace.items if isinstance(item, DecisionItem) and "STARTTLS is not offered" in item.text]


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"])
@pytest.mark.parametrize("good", [True, False])
def test_no_secret_in_any_trace(mechanism: str, *, hashed: bool, good: bool) -> None:
    authority = Authority.new()
    replies = {
        "PLAIN": [],
        "LOGIN": [Reaction("334 VXNlcm5hbWU6"), Reaction("334 UGFzc3dvcmQ6")],
        "CRAM-MD5": [Reaction("334 " + base64.b64encode(b"<1.2@server.example>").decode())],
        "SCRAM-SHA-256": [Reaction("334 " + base64.b64encode(b"r=nonceX,s=c2FsdA==,i=4096").decode())],
    }[mechanism]
    echo = base64.b64encode(SECRET).decode()
    last = Reaction("235 2.7.0 welcome") if good else Reaction(f"535 5.7.8 {SECRET.decode()} {echo} is wrong")
    server = authority.server(
        "mx0.example.org", keywords=(f"AUTH {mechanism}",), replies={"AUTH": [*replies, last], "": [last]}
    )
    settings = asking(
        TLSPolicy(level=Level.ENCRYPT),
        credentials_for=lambda server, destination: Credentials(b"relay-user", Secret(SECRET)),
    )
    (trace,) = TracedWorld(server, settings=settings, hashed=hashed).deliver(message())
    assert trace.addresses is (Addresses.HASHED if hashed else Addresses.CLEAR)
    shown = trace_text(trace) + page(trace) + "\n".join(plain(line) for line in draw(trace, width=200))
    both = base64.b64encode(b"\0relay-user\0" + SECRET).decode()
    for secret in (SECRET.decode(), echo, both, echo.rstrip("="), SECRET.hex()):
        assert secret not in shown
    assert "AUTH" in shown


def test_a_policy_that_is_fetched_has_its_time_and_its_consequence() -> None:
    authority = Authority.new()
    dns = "\n".join(
        [
            "example.org MX 10 mx0.example.org",
            "mx0.example.org A 192.0.2.1",
            '_mta-sts.example.org TXT "v=STSv1; id=1"',
            "mta-sts.example.org A 192.0.2.80",
        ]
    )
    policy = b"version: STSv1\r\nmode: enforce\r\nmx: mx0.example.org\r\nmax_age: 86400\r\n"
    world = TracedWorld(
        authority.server("mx0.example.org"),
        settings=asking(TLSPolicy(), mta_sts=STSUse.ON),
        dns=dns,
        policies={"mta-sts.example.org": policy},
        anchors=lambda: TrustAnchors(authority.anchors),
    )
    world.network.now = NOW
    (trace,) = world.deliver()
    (fetch,) = [item for item in trace.items if isinstance(item, FetchItem)]
    assert (fetch.host, fetch.octets, fetch.problem) == ("mta-sts.example.org", len(policy), "")
    texts = [item.text for item in trace.items if isinstance(item, DecisionItem)]
    told = "mx0.example.org: level secure (mx0.example.org): MTA-STS policy, mode enforce"
    assert texts.count(told) == 1
    assert trace.fates.delivered == 1
    assert parse_trace(trace_text(trace)) == trace
    assert [line for line in map(plain, draw(trace, width=100)) if "HTTPS mta-sts.example.org" in line]


def test_a_policy_host_that_is_not_there_says_so() -> None:
    dns = 'example.org MX 10 mx0.example.org\nmx0.example.org A 192.0.2.1\n_mta-sts.example.org TXT "v=STSv1; id=1"\n'
    dns += "mta-sts.example.org A 192.0.2.80"
    world = TracedWorld(Script(), settings=asking(TLSPolicy(), mta_sts=STSUse.ON), dns=dns)
    (trace,) = world.deliver()
    (fetch,) = [item for item in trace.items if isinstance(item, FetchItem)]
    assert fetch.problem == "connection to mta-sts.example.org failed: Connection refused"
    assert trace.fates.delivered == 1
