"""What sessions tell TLS reports: under which policy, whether it was met, and what is nobody's business."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from tests.support.network import World, message, table, world
from tests.support.security import SECURED, Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.outcome import Disposition
from zsmtp.dns.static import StaticResolver
from zsmtp.net.script import LOCAL, Reaction, Script
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.policy import Level, STSUse, TLSPolicy
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsrpt import AppliedPolicy, Failure, PolicyType, SessionResult

AUTHORITY = Authority.new()
RECORD = "v=TLSRPTv1; rua=mailto:tls@example.org"
ASKS = f'\n_smtp._tls.example.org TXT "{RECORD}"'
STS = '\n_mta-sts.example.org TXT "v=STSv1; id=1"\nmta-sts.example.org A 192.0.2.80'
GOOD = AUTHORITY.server("mx0.example.org")
BAD = AUTHORITY.server("elsewhere.example")
NONE = AppliedPolicy(PolicyType.NONE, "example.org")


def text(mode: str, mx: str = "mx0.example.org") -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400".encode()


def reported(
    *servers: Script,
    policy: TLSPolicy | None = None,
    dns: str = ASKS,
    sts: bytes | None = None,
    **more: object,
) -> tuple[list[SessionResult], World]:
    """The results after one message under ``policy``, with an MTA-STS policy if there is a text."""
    results: list[SessionResult] = []
    chosen = asking(policy or TLSPolicy(), report=results.append, mta_sts=STSUse.ON, **more)
    names = table(len(servers)) + dns + (STS if sts is not None else "")
    policies = {"mta-sts.example.org": sts} if sts else {}
    here = world(*servers, settings=chosen, now=NOW, anchors=AUTHORITY.anchors, dns=names, policies=policies)
    here.deliver(message())
    return results, here


def of(results: list[SessionResult]) -> list[tuple[PolicyType, TLSProblem | None]]:
    return [(result.policy.type, result.failure.problem if result.failure else None) for result in results]


def test_a_session_without_any_policy_is_told() -> None:
    results, _ = reported(GOOD)
    assert results == [SessionResult("example.org", RECORD, NONE)]


def test_a_certificate_that_nobody_asked_to_be_good_is_no_failure() -> None:
    for level in (Level.MAY, Level.ENCRYPT, Level.VERIFY):
        assert of(reported(BAD, policy=TLSPolicy(level=level))[0]) == [(PolicyType.NONE, None)]


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        (Script(), TLSProblem.STARTTLS_NOT_SUPPORTED),
        (
            replace(GOOD, replies={"STARTTLS": [Reaction("454 4.7.0 not now")]}),
            TLSProblem.STARTTLS_NOT_SUPPORTED,
        ),
        (replace(GOOD, tls="handshake failure"), TLSProblem.VALIDATION_FAILURE),
        (replace(GOOD, replies={"STARTTLS": [Reaction(b"220 go\r\n250 injected\r\n")]}), TLSProblem.VALIDATION_FAILURE),
    ],
)
def test_no_tls_is_a_failure_with_all_that_is_known(server: Script, problem: TLSProblem) -> None:
    results, _ = reported(server)
    assert of(results) == [(PolicyType.NONE, problem)]
    failure = results[0].failure
    assert isinstance(failure, Failure)
    assert (failure.mx_host, failure.receiving_ip) == ("mx0.example.org", "192.0.2.1")
    assert failure.sending_ip == LOCAL[0]
    assert failure.reason


@pytest.mark.parametrize("mode", ["enforce", "testing"])
def test_mta_sts(mode: str) -> None:
    """Testing mode counts as if it were enforced, but the mail goes."""
    for server, mx, problem in (
        (GOOD, "mx0.example.org", None),
        (BAD, "mx0.example.org", TLSProblem.CERTIFICATE_HOST_MISMATCH),
        (Script(), "mx0.example.org", TLSProblem.STARTTLS_NOT_SUPPORTED),
        (GOOD, "mx9.example.org", TLSProblem.VALIDATION_FAILURE),
    ):
        results, here = reported(server, sts=text(mode, mx))
        assert of(results) == [(PolicyType.STS, problem)]
        assert results[0].policy.strings[1] == f"mode: {mode}"
        assert (here.fates == [Disposition.DELIVERED]) is (mode == "testing" or problem is None)


def test_a_policy_that_cannot_be_had_is_a_failure_once() -> None:
    results, here = reported(GOOD, sts=b"")
    assert of(results) == [(PolicyType.STS, TLSProblem.STS_POLICY_FETCH_ERROR)]
    here.close()
    here.deliver(message())
    assert of(results)[1:] == [(PolicyType.NONE, None)]


@pytest.mark.parametrize(
    ("record", "server", "problem"),
    [
        ("TLSA 3 1 1 {right}", GOOD, None),
        (f"TLSA 3 1 1 {'00' * 32}", GOOD, TLSProblem.TLSA_INVALID),
        ("TLSA 3 1 1 {right}", Script(), TLSProblem.STARTTLS_NOT_SUPPORTED),
        (f"TLSA 0 0 1 {'00' * 32}", GOOD, TLSProblem.TLSA_INVALID),
        ("FAIL SERVFAIL", GOOD, TLSProblem.DNSSEC_INVALID),
    ],
)
def test_dane(record: str, server: Script, problem: TLSProblem | None) -> None:
    facts = GOOD.tls
    assert not isinstance(facts, str)
    assert facts.leaf is not None
    right = hashlib.sha256(facts.leaf.public_key).hexdigest()
    dns = f"{ASKS}\nexample.org SECURE\n_25._tcp.mx0.example.org {record.format(right=right)}"
    sts = None if "0 0 1" in record else text("enforce")  # records that cannot be used leave the other in force
    results, _ = reported(server, policy=TLSPolicy(dane=True), dns=dns, sts=sts)
    assert of(results) == [(PolicyType.TLSA, problem)]
    if problem is None:
        assert results[0].policy == AppliedPolicy(PolicyType.TLSA, "mx0.example.org", (f"3 1 1 {right}",))


def test_dane_that_this_side_insists_on() -> None:
    results, _ = reported(GOOD, policy=TLSPolicy(level=Level.DANE_ONLY))
    assert of(results) == [(PolicyType.NONE, TLSProblem.DANE_REQUIRED)]


def test_every_session_tells() -> None:
    results, _ = reported(BAD, AUTHORITY.server("mx1.example.org"), sts=text("enforce", "*.example.org"))
    assert of(results) == [(PolicyType.STS, TLSProblem.CERTIFICATE_HOST_MISMATCH), (PolicyType.STS, None)]


def test_who_does_not_ask_is_told_nothing() -> None:
    for dns in ("", '\n_smtp._tls.example.org TXT "v=TLSRPTv1"', "\n_smtp._tls.example.org FAIL SERVFAIL"):
        results, here = reported(GOOD, dns=dns)
        assert not results
        assert here.fates == [Disposition.DELIVERED]


def test_a_message_that_does_not_mind_is_no_measure() -> None:
    results: list[SessionResult] = []
    chosen = asking(TLSPolicy(), report=results.append, mta_sts=STSUse.ON)
    server = Script(keywords=("STARTTLS",), tls=SECURED)
    here = world(server, settings=chosen, now=NOW, dns=table(1) + ASKS)
    here.deliver(message(wish=TLSDemand.TLS_OPTIONAL))
    assert here.fates == [Disposition.DELIVERED]
    assert not results


def test_without_anybody_to_tell_nobody_is_asked() -> None:
    resolver = StaticResolver(table(1) + ASKS)
    here = world(GOOD, settings=asking(TLSPolicy()), now=NOW)
    here.network._resolver = resolver  # to see the questions
    here.deliver(message())
    assert not [query for query in resolver.queries if query.name.startswith("_smtp._tls")]
