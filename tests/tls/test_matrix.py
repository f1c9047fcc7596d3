"""The matrix: every kind of certificate, at every level, with every mishap, over real sockets and real handshakes.

The judge is the record of the server. Below the level that was asked for, or with another key than the right one, it
shows no octet of an envelope, let alone of content; and the verdict is the one that the specification names. The
exchanger is ``mx.example.org`` for ``example.org``; nothing here leaves the loopback.
"""

from __future__ import annotations

import hashlib
import ssl
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
from tests.support.network import message
from tests.support.script import Script, Step, Then
from tests.support.security import asking
from tests.support.sink import Sink
from tests.support.wire import Connection, Way
from tests.tls.certificates import Issued, issue, weak_key

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.delivery.pool import Route
from zsmtp.dns.destination import DestinationRequest
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import FetchPolicy, KeepPolicy, RecallPolicy
from zsmtp.events import Connecting
from zsmtp.net import blocking
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.net.stspolicies import PolicyKeeper
from zsmtp.proto.phase import Timeouts
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.mtasts import FetchedPolicy, RecalledPolicy
from zsmtp.tls.policy import Level, STSUse, TLSPolicy

HOST, DOMAIN = "mx.example.org", "example.org"
ENVELOPE = {"MAIL", "RCPT", "DATA", "BDAT"}
TIMES = Timeouts(connect=60, write=60, command=60, data=60, final=60, short=60, quit=60)

CERTIFICATES = (
    "good", "expired", "not yet valid", "self-signed", "wrong name", "unknown CA", "wildcard", "IP SAN", "no name",
    "CN only", "RSA-1024 CA",
)  # fmt: skip
ANY = frozenset(CERTIFICATES)
NAMED = frozenset({"good", "wildcard"})
"""Certificates with a good chain and the exchanger's name."""


@dataclass(frozen=True)
class Asked:
    """What is asked of the session: the policy, what else of ``Security``, DNS records, an MTA-STS policy, a wish.

    ``passes`` are the certificates that are good enough for it, ``opportunistic`` tells that clear text is, too.
    """

    passes: frozenset[str]
    policy: TLSPolicy
    opportunistic: bool = False
    dns: str = ""
    sts: str = ""
    wish: TLSDemand = TLSDemand.NONE


@dataclass(frozen=True)
class World:
    """The authority, a server's context for each certificate, and what is asked at each level."""

    anchors: Path
    contexts: dict[str, ssl.SSLContext]
    old_contexts: dict[str, ssl.SSLContext]
    levels: dict[str, Asked]


def _context(shown: Issued, root: Issued, folder: Path, *, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    pem = folder / "server.pem"
    certificate, _, key = shown.pem.partition(b"-----BEGIN PRIVATE")
    pem.write_bytes(certificate + root.pem.partition(b"-----BEGIN PRIVATE")[0] + b"-----BEGIN PRIVATE" + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if newest is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
    return context


def _issued(now: float) -> dict[str, Issued]:
    root, other = issue("Root", ca=True, now=now), issue("Unknown", ca=True, now=now)
    weak = issue("Weak", ca=True, key=weak_key(), now=now)
    return {
        "root": root,
        "weak root": weak,
        "good": issue("mx", by=root, names=[HOST], now=now),
        "expired": issue("mx", by=root, names=[HOST], valid=(-30, -1), now=now),
        "not yet valid": issue("mx", by=root, names=[HOST], valid=(1, 30), now=now),
        "self-signed": issue("mx", names=[HOST], now=now),
        "wrong name": issue("mx", by=root, names=["mx.example.net"], now=now),
        "unknown CA": issue("mx", by=other, names=[HOST], now=now),
        "wildcard": issue("mx", by=root, names=["*.example.org"], now=now),
        "IP SAN": issue("mx", by=root, names=["127.5.0.1"], now=now),
        "no name": issue("mx", by=root, now=now),
        "CN only": issue(HOST, by=root, now=now),
        "RSA-1024 CA": issue("mx", by=weak, names=[HOST], now=now),
    }


def _levels(made: dict[str, Issued]) -> dict[str, Asked]:
    def tlsa(*records: str) -> str:
        return "example.org SECURE\n" + "".join(f"_PORT._tcp.{HOST} TLSA {record}\n" for record in records)

    def sts(mode: str, pattern: str = HOST) -> str:
        return f"version: STSv1\nmode: {mode}\nmx: {pattern}\nmax_age: 604800\n"

    key = hashlib.sha256(made["good"].public_key).hexdigest()
    every_key = [hashlib.sha256(made[name].public_key).hexdigest() for name in CERTIFICATES]
    fingerprint = hashlib.sha256(made["good"].der).digest()
    root, root_key = hashlib.sha256(made["root"].der).hexdigest(), hashlib.sha256(made["root"].public_key).hexdigest()
    dane = TLSPolicy(level=Level.DANE, dane=True)
    return {
        "may": Asked(ANY, TLSPolicy(level=Level.MAY), opportunistic=True),
        "encrypt": Asked(ANY, TLSPolicy(level=Level.ENCRYPT)),
        "verify": Asked(NAMED, TLSPolicy(level=Level.VERIFY)),
        "secure": Asked(NAMED, TLSPolicy(level=Level.SECURE)),
        "fingerprint": Asked(frozenset({"good"}), TLSPolicy(level=Level.FINGERPRINT, fingerprints=(fingerprint,))),
        "DANE-EE": Asked(frozenset({"good"}), dane, dns=tlsa(f"3 1 1 {key}")),
        "DANE-EE, whoever has the key": Asked(ANY, dane, dns=tlsa(*(f"3 1 1 {one}" for one in every_key))),
        "DANE-TA": Asked(NAMED | {"CN only"}, dane, dns=tlsa(f"2 0 1 {root}", f"2 1 1 {root_key}")),
        "DANE, unusable": Asked(ANY, dane, dns=tlsa(f"1 1 1 {key}")),
        "MTA-STS enforce": Asked(NAMED, TLSPolicy(level=Level.MAY), sts=sts("enforce")),
        "MTA-STS enforce, not listed": Asked(
            frozenset(), TLSPolicy(level=Level.MAY), sts=sts("enforce", "*.example.net")
        ),
        "MTA-STS testing": Asked(ANY, TLSPolicy(level=Level.MAY), opportunistic=True, sts=sts("testing")),
        "REQUIRETLS": Asked(NAMED, TLSPolicy(level=Level.MAY), wish=TLSDemand.REQUIRETLS),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("matrix")
    made = _issued(time.time())
    anchors = folder / "roots.pem"
    anchors.write_bytes(made["root"].pem.partition(b"-----BEGIN PRIVATE")[0] + made["weak root"].pem)
    return World(
        anchors,
        {name: _context(made[name], made["root"], folder) for name in CERTIFICATES},
        {name: _context(made[name], made["root"], folder, newest=ssl.TLSVersion.TLSv1_1) for name in CERTIFICATES},
        _levels(made),
    )


class Policies(PolicyKeeper):
    """The policy host of example.org, if it has one."""

    def __init__(self, text: str) -> None:
        super().__init__("", lambda text: None)
        self._text = text

    async def fetch(self, effect: FetchPolicy) -> FetchedPolicy:
        return FetchedPolicy(self._text.encode())

    def recall(self, effect: RecallPolicy) -> RecalledPolicy:
        assert self._text
        return RecalledPolicy(None, time.time())

    def keep(self, effects: Sequence[KeepPolicy]) -> None:
        """Keep nothing."""


@pytest.fixture(scope="module")
def stop() -> Stop:
    return Stop()


class Clock:
    """The driver's: while the server of its latest connection is silent, ten seconds pass with each look."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._begun = 0
        self._ahead = 0.0

    def observe(self, event: object) -> None:
        self._begun += isinstance(event, Connecting)

    def __call__(self) -> float:
        accepted = self._sink.connections
        if accepted and len(accepted) == self._begun and accepted[-1].silent:
            self._ahead += 10.0
        return time.monotonic() + self._ahead


@pytest.fixture(autouse=True)
def _no_wait_without_a_look_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_LONGEST_POLL", 20)  # milliseconds


_addresses = count(1)


@pytest.fixture
def address() -> str:
    number = next(_addresses)
    return f"127.5.{number // 250}.{number % 250 + 1}"


def deliver(world: World, asked: Asked, sink: Sink, stop: Stop, *, implicit: bool = False) -> Verdict:
    """One message to r0@example.org; the verdict on it."""
    use = STSUse.ON if asked.sts else STSUse.OFF
    settings = asking(asked.policy, ca_file=str(world.anchors), mta_sts=use, implicit=implicit)
    table = f"example.org MX 10 {HOST}\n{HOST} A {sink.host}\n{asked.dns.replace('PORT', str(sink.port))}"
    if asked.sts:
        table += '_mta-sts.example.org TXT "v=STSv1; id=1"\nmta-sts.example.org A 127.0.0.1\n'
    clock = Clock(sink)
    driver = BlockingDriver(lambda: StaticResolver(table), stop, clock=clock, observer=clock.observe)
    driver.policies = Policies(asked.sts)
    courier = Courier(replace(settings, timeouts=TIMES))
    route = Route(DestinationRequest(destination=DOMAIN, shuffle=lambda items: None, port=sink.port))
    verdicts: list[Verdict] = []
    ledger = Ledger(1, lambda index, verdict: verdicts.append(verdict))
    driver.run(courier.deliver(route, Delivery(message(wish=asked.wish), ledger), idle=0.0))
    driver.run(courier.close(route, "done"))
    (verdict,) = verdicts
    return verdict


def verbs(connection: Connection, *, under_tls: bool) -> set[str]:
    """The verbs a server heard, before the handshake or after it."""
    found: set[str] = set()
    secured = False
    for segment in connection.wire:
        secured = secured or segment.way is Way.TLS
        if segment.way is Way.CLIENT and secured is under_tls:
            found |= {line.split(b" ")[0].decode("latin-1").upper() for line in segment.data.split(b"\r\n")}
    return found


def assert_never_weaker(sink: Sink, asked: Asked, certificate: str) -> None:
    """What the server's record must not show, whatever happened."""
    for connection in sink.connections:
        if not asked.opportunistic:
            assert not verbs(connection, under_tls=False) & ENVELOPE
        if certificate not in asked.passes:
            assert not verbs(connection, under_tls=True) & ENVELOPE
    if not asked.opportunistic and certificate not in asked.passes:
        assert not sink.transactions


def served(starttls: Step, **more: Step) -> Script:
    """A server that answers STARTTLS like this, and is friendly but for ``more``."""
    replies = {"STARTTLS": (starttls,), **{verb: (step,) for verb, step in more.items()}}
    return Script(caps=("STARTTLS", "REQUIRETLS"), replies=replies)


GO = Step("220 go", Then.TLS)
EHLO = "250-sink\r\n250-STARTTLS\r\n250 REQUIRETLS\r\n"


class Expect:
    """What may become of the message if the certificate is good enough for the level; if it is not, it waits."""

    DELIVERED = frozenset({Disposition.DELIVERED})
    WAITS = frozenset({Disposition.DEFERRED})
    EITHER = DELIVERED | WAITS


# Mishaps: what the server does, and what becomes of the message (fit: good enough; clear: where clear text is allowed).
MISHAPS = {
    "normal": (served(GO), Expect.DELIVERED, Expect.DELIVERED),
    "stripped": (Script(caps=("REQUIRETLS",)), Expect.WAITS, Expect.DELIVERED),
    "refused": (served(Step("454 4.7.0 not now")), Expect.WAITS, Expect.DELIVERED),
    "refused for good": (served(Step("554 5.7.0 never")), Expect.WAITS, Expect.DELIVERED),
    "injected before the 220": (
        Script(replies={"EHLO": (Step(f"{EHLO}220 go\r\n".encode()),), "STARTTLS": (GO,)}), Expect.WAITS, Expect.WAITS,
    ),
    "injected with the 220": (served(Step(b"220 go\r\n250 sink\r\n", Then.TLS)), Expect.WAITS, Expect.WAITS),
    "half a line injected": (served(Step(b"220 go\r\n250 si", Then.TLS)), Expect.WAITS, Expect.WAITS),
    # too late to be told from a handshake that fails
    "injected after the 220": (served(Step("220 go", Then.TLS, late=b"250 sink\r\n")), Expect.WAITS, Expect.EITHER),
    "garbage": (served(Step("220 go", Then.NO_TLS)), Expect.WAITS, Expect.DELIVERED),
    "closed": (served(Step("220 go", Then.CLOSE)), Expect.WAITS, Expect.DELIVERED),
    "closed on STARTTLS": (served(Step(None, Then.CLOSE)), Expect.WAITS, Expect.DELIVERED),
    "reset": (served(Step("220 go", Then.RESET)), Expect.WAITS, Expect.DELIVERED),
    "cut off after the dot": (served(GO, DOT=Step(None, Then.CLOSE)), Expect.WAITS, Expect.WAITS),
    "cut off in the final reply": (served(GO, DOT=Step(b"250 2.0.0 o", Then.CLOSE)), Expect.WAITS, Expect.WAITS),
    "cut off before the envelope": (served(GO, MAIL=Step(None, Then.CLOSE)), Expect.WAITS, Expect.WAITS),
}  # fmt: skip
HANGS = {
    "hangs before the handshake": served(Step("220 go", Then.HANG)),
    "hangs on STARTTLS": served(Step(None, Then.HANG)),
    "drips in the handshake": served(Step("220 go", Then.DRIP)),
}
LEVELS = (
    "may", "encrypt", "verify", "secure", "fingerprint", "DANE-EE", "DANE-EE, whoever has the key", "DANE-TA",
    "DANE, unusable", "MTA-STS enforce", "MTA-STS enforce, not listed", "MTA-STS testing", "REQUIRETLS",
)  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mishap", MISHAPS)
@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_the_matrix(certificate: str, mishap: str, level: str, world: World, stop: Stop, address: str) -> None:
    asked = world.levels[level]
    script, fit, clear = MISHAPS[mishap]
    with Sink(script, tls=world.contexts[certificate], host=address) as sink:
        verdict = deliver(world, asked, sink, stop)
    assert_never_weaker(sink, asked, certificate)
    expected = clear if asked.opportunistic else fit if certificate in asked.passes else Expect.WAITS
    assert verdict.fate in expected, verdict
    if verdict.fate is Disposition.DELIVERED:
        assert [one.complete for one in sink.transactions] == [True]
    elif mishap.startswith("cut off"):
        assert str(verdict.status).startswith("4.")
    else:
        assert str(verdict.status) in {"4.7.5", "4.7.10", "4.4.2", "4.5.0"}, verdict


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_old_protocols_are_no_protection(certificate: str, level: str, world: World, stop: Stop, address: str) -> None:
    asked = world.levels[level]
    with Sink(served(GO), tls=world.old_contexts[certificate], host=address) as sink:
        verdict = deliver(world, asked, sink, stop)
    assert_never_weaker(sink, replace(asked, passes=frozenset()), certificate)
    assert verdict.fate is (Disposition.DELIVERED if asked.opportunistic else Disposition.DEFERRED)


@pytest.mark.parametrize(
    ("mishap", "level"),
    [
        *(("hangs before the handshake", level) for level in LEVELS),
        *((mishap, level) for mishap in ("hangs on STARTTLS", "drips in the handshake") for level in ("may", "verify")),
    ],
)
def test_silence_has_an_end(mishap: str, level: str, world: World, stop: Stop, address: str) -> None:
    """No certificate is seen here, so one will do."""
    asked = world.levels[level]
    with Sink(HANGS[mishap], tls=world.contexts["good"], host=address) as sink:
        verdict = deliver(world, asked, sink, stop)
    assert_never_weaker(sink, asked, "good")
    assert verdict.fate is (Disposition.DELIVERED if asked.opportunistic else Disposition.DEFERRED)


# ------------------------------------------------------------------------------ implicit TLS


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_tls_from_the_first_octet(certificate: str, level: str, world: World, stop: Stop, address: str) -> None:
    """As on port 465: not even the opportunistic levels ever say a word in clear, and the peer must fit as before."""
    asked = world.levels[level]
    script = Script(implicit_tls=True, caps=("REQUIRETLS",))
    with Sink(script, tls=world.contexts[certificate], host=address) as sink:
        verdict = deliver(world, asked, sink, stop, implicit=True)
    assert_never_weaker(sink, asked, certificate)
    assert verdict.fate is (Disposition.DELIVERED if certificate in asked.passes else Disposition.DEFERRED)
    assert not any(verbs(connection, under_tls=False) for connection in sink.connections)


NOT_TLS = {
    "speaks in clear": Script(),
    "offers STARTTLS": served(GO),
    "says nothing sensible": Script(banner=Step(b"\x16\x03\x01\x00\x05hello", Then.CLOSE)),
    "closes": Script(banner=Step(None, Then.CLOSE)),
    "resets": Script(banner=Step(None, Then.RESET)),
    "hangs": Script(banner=Step(None, Then.HANG)),
}


@pytest.mark.parametrize("level", ["may", "encrypt", "verify", "DANE-EE", "MTA-STS testing"])
@pytest.mark.parametrize("mishap", NOT_TLS)
def test_what_is_not_tls_from_the_first_octet(mishap: str, level: str, world: World, stop: Stop, address: str) -> None:
    """There is no way back to clear text, or to STARTTLS."""
    with Sink(NOT_TLS[mishap], tls=world.contexts["good"], host=address) as sink:
        verdict = deliver(world, world.levels[level], sink, stop, implicit=True)
    assert verdict.fate is Disposition.DEFERRED
    assert not sink.transactions
    assert len(sink.connections) == 1
    assert not any({"EHLO", "HELO", *ENVELOPE} & verbs(one, under_tls=False) for one in sink.connections)
