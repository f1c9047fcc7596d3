"""What this side breaks off says nothing of the peer: in no phase does anything remember it, whoever comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.support.network import World, address, message, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.backoff import HostBackoff
from zsmtp.delivery.outcome import Disposition, Scope
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.answer import Query
from zsmtp.events import LookupDone
from zsmtp.net.script import NEVER, Reaction, Script, Then
from zsmtp.net.scripted import Host, Unreachable
from zsmtp.proto.phase import Timeouts
from zsmtp.proto.sasl import Credentials, Secret
from zsmtp.tls.policy import Level as TLSLevel
from zsmtp.tls.policy import STSUse, TLSPolicy
from zsmtp.tls.tlsrpt import SessionResult

SILENT = Reaction(b"", Then.HANG)
YES = Reaction("235 2.7.0 welcome")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


def good(authority: Authority, **replies: Sequence[Reaction]) -> Script:
    return authority.server("mx0.example.org", keywords=("AUTH LOGIN",), replies={"AUTH": LOGIN, **replies})


LOGIN = [Reaction("334 VXNlcm5hbWU6")]
ANSWERS = {"DXNLCG==": [Reaction("334 UGFzc3dvcmQ6")], "CGVUY2LS": [YES]}  # as scripts know commands: in upper case


def phases(authority: Authority) -> dict[str, Host]:
    """A server that keeps silent in each phase."""

    def silent(verb: str, *before: Reaction) -> Script:
        return good(authority, **ANSWERS, **{verb: [*before, SILENT]})

    usual = good(authority, **ANSWERS)
    return {
        "lookup": usual,
        "connecting": Unreachable(after=NEVER),
        "greeting": replace(usual, greeting=SILENT),
        "EHLO": silent("EHLO"),
        "STARTTLS": silent("STARTTLS"),
        "handshake": replace(usual, tls_time=NEVER),
        "EHLO under TLS": silent("EHLO", Reaction("250-x\r\n250-AUTH LOGIN\r\n250 STARTTLS")),
        "AUTH": good(authority, AUTH=[SILENT]),
        "the user's name": good(authority, **{**ANSWERS, "DXNLCG==": [SILENT]}),
        "the password": good(authority, **{**ANSWERS, "CGVUY2LS": [SILENT]}),
        "MAIL": silent("MAIL"),
        "RCPT": silent("RCPT"),
        "DATA": silent("DATA"),
    }


def settings() -> SessionSettings:
    chosen = asking(
        TLSPolicy(level=TLSLevel.VERIFY),
        credentials_for=lambda server, destination: Credentials(b"user", Secret(b"pencil")),
        session_lifetime=1e6,
    )
    return replace(chosen, helo_name=None, timeouts=Timeouts(command=600.0, connect=600.0, data=600.0))


PHASES = list(phases(Authority.new()))


def state(there: World) -> tuple[object, ...]:
    """What is remembered of the peer."""
    opener = there.courier._opener
    paces = {place: (pace.strict, pace._window, pace._ceiling) for place, pace in there.courier._paces.items()}
    fresh = {place: kept for place, kept in paces.items() if kept != (False, 1, 32)}
    security = opener._settings.security
    assert security is not None
    return opener._unreached._failures, fresh, security.accepted._names, there.network.policy_cache


@pytest.mark.parametrize("phase", PHASES)
def test_nothing_is_remembered_of_what_a_stop_ended(phase: str, authority: Authority) -> None:
    there = world(
        [phases(authority)[phase], good(authority, **ANSWERS)],
        settings=settings(),
        now=NOW,
        anchors=authority.anchors,
        stop_at=NOW if phase == "lookup" else NOW + 5.0,
    )
    there.deliver(message())
    (verdict,) = there.verdicts[0]
    assert (verdict.fate, verdict.in_doubt, verdict.retry_after) == (Disposition.DEFERRED, False, 0)
    assert verdict.level is not Scope.HOST
    assert "interrupted" in verdict.text
    assert there.route.failure is None
    failures, paces, accepted, policies = state(there)
    late = phase in ("MAIL", "RCPT", "DATA")
    assert (failures, paces, bool(accepted), policies) == ({}, {}, late, {})
    resting = HostBackoff()
    resting.remember("example.org", there.route.failure, there.network.now)
    assert resting.get("example.org", there.network.now) is None

    there.network.stop_at = NEVER
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    assert there.network.attempts[-1][1].address == address(0)


def test_what_the_peer_did_before_the_stop_is_remembered() -> None:
    """The first of two refused, the second was being connected to."""
    there = world(Unreachable(), Unreachable(after=NEVER), stop_at=1005.0)
    there.deliver(message())
    assert there.route.failure is None
    assert [place for place, _ in there.courier._opener._unreached._failures] == [address(0)]


@pytest.mark.parametrize("phase", ["QUIT", "RSET", "NOOP"])
def test_a_stop_while_a_session_is_ended_or_asked_whether_it_lives(phase: str) -> None:
    there = world([Script(replies={phase: [SILENT]}), Script()], settings=SessionSettings(helo_name="client.example"))
    there.deliver(message())
    there.network.stop_at = there.network.now + 1.0
    if phase == "QUIT":
        there.close()
    elif phase == "NOOP":
        there.network.run(there.courier.keep_alive(there.route))
    else:
        there.deliver(message(), idle=100.0)
        assert there.verdicts[-1][0].retry_after == 0
    assert there.courier._opener._unreached._failures == {}
    there.network.stop_at = NEVER
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]


def test_a_name_to_greet_with_that_a_stop_kept_from_being_found_is_looked_for_again() -> None:
    table = """
        example.org MX 10 mx0.example.org
        mx0.example.org A 192.0.2.1
        200.2.0.192.in-addr.arpa PTR client.example.net
        client.example.net A 192.0.2.200
    """
    # connecting takes until the stop: what is looked up behind it is cut short
    there = world(
        [Script(connect_time=5.0), Script()], dns=table, stop_at=1005.0, settings=SessionSettings(helo_name=None)
    )
    there.deliver(message())
    there.network.stop_at = NEVER
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    assert there.lines(len(there.network.connections) - 1)[0] == "EHLO client.example.net"


# ------------------------------------------------------- security, looked up and fetched


def stopping_at(name: str, there: World) -> None:
    """Tell the program to stop when this name is asked for."""
    look_up = there.network._ask

    def stop(query: Query):  # type: ignore[no-untyped-def]
        if query.name == name:
            there.network.stop_at = there.network.now
        return look_up(query)

    there.network._ask = stop  # type: ignore[method-assign]


POLICY = b"version: STSv1\nmode: enforce\nmx: mx0.example.org\nmax_age: 86400\n"
STS = """
    example.org MX 10 mx0.example.org
    mx0.example.org A 192.0.2.1
    _mta-sts.example.org TXT "v=STSv1; id=1;"
    mta-sts.example.org A 192.0.2.77
    _smtp._tls.example.org TXT "v=TLSRPTv1; rua=mailto:tls@example.org"
"""


def test_a_policy_that_was_not_fetched_for_a_stop_is_fetched_the_next_time(authority: Authority) -> None:
    reported: list[SessionResult] = []
    chosen = asking(TLSPolicy(level=TLSLevel.MAY), mta_sts=STSUse.ON, report=reported.append)
    there = world(
        [good(authority, **ANSWERS)],
        settings=chosen,
        dns=STS,
        now=NOW,
        anchors=authority.anchors,
        policies={"mta-sts.example.org": POLICY},
        observed=True,
    )
    stopping_at("mta-sts.example.org", there)
    there.deliver(message())
    assert there.fates == [Disposition.DEFERRED]
    assert there.network.policy_cache == {}
    assert reported == []
    assert any(isinstance(event, LookupDone) and event.answer.problem == "interrupted" for event in there.heard)
    there.network._ask = type(there.network)._ask.__get__(there.network)  # type: ignore[method-assign]
    there.network.stop_at = NEVER
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    assert there.network.policy_cache["example.org"].failed == 0.0
    assert len(there.network.fetches) == 1


DANE = """
    example.org SECURE
    example.org MX 10 mx0.example.org
    mx0.example.org A 192.0.2.1
    _smtp._tls.example.org TXT "v=TLSRPTv1; rua=mailto:tls@example.org"
"""


def test_an_exchanger_whose_tlsa_records_a_stop_kept_away_is_not_barred(authority: Authority) -> None:
    reported: list[SessionResult] = []
    chosen = asking(TLSPolicy(level=TLSLevel.DANE_ONLY), report=reported.append)
    there = world([Script()], settings=chosen, dns=DANE, now=NOW)
    stopping_at("_25._tcp.mx0.example.org", there)
    there.deliver(message())
    (verdict,) = there.verdicts[0]
    assert (verdict.level, verdict.retry_after) == (Scope.SESSION, 0)
    assert there.route.failure is None
    assert reported == []
    assert there.route.plan is not None
    assert there.route.plan.requirements == {}
