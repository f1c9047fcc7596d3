"""RFC 8689 in deliveries: mail that requires TLS, mail that would rather arrive, and both on one route."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.network import World, content_form, message, table, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.backoff import HostBackoff
from zsmtp.delivery.deliveryplan import may_share
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import (
    ConnectFailure,
    Disposition,
    Scope,
    Verdict,
    combine_host_failures,
    from_security,
)
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.net.script import Reaction, Script, Then
from zsmtp.net.scripted import Host, Unreachable
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.policy import Level as TLSLevel
from zsmtp.tls.policy import STSUse, TLSPolicy

REQUIRED, OPTIONAL, PLAIN = TLSDemand.REQUIRETLS, TLSDemand.TLS_OPTIONAL, TLSDemand.NONE
AUTHORITY = Authority.new()
NAMES = ("example.org", "mx0.example.org", "mx1.example.org")
RIDING = ("PIPELINING", "CHUNKING")
STRICT = AUTHORITY.server(*NAMES, keywords=("REQUIRETLS", *RIDING))
GOOD = AUTHORITY.server(*NAMES, keywords=RIDING)
BAD = AUTHORITY.server("elsewhere.example", keywords=("REQUIRETLS", *RIDING))
CLEAR = Script(keywords=("REQUIRETLS", *RIDING))
RECORDS = '\n_mta-sts.example.org TXT "v=STSv1; id=1"\nmta-sts.example.org A 192.0.2.80'
ENFORCE = b"version: STSv1\nmode: enforce\nmx: *.example.org\nmax_age: 604800\n"


def there(*servers: Script, chosen: SessionSettings | None = None, sts: bool = False) -> World:
    dns = table(len(servers)) + (RECORDS if sts else "")
    settings = chosen or asking(TLSPolicy(), mta_sts=STSUse.ON)
    policies = {"mta-sts.example.org": ENFORCE}
    return world(*servers, settings=settings, now=NOW, anchors=AUTHORITY.anchors, dns=dns, policies=policies)


def sent_to(here: World) -> list[int]:
    """Which of the exchangers got a message, in order of connections."""
    return [int(c.endpoint.host[2]) for c in here.network.connections if c.acceptances]


def test_the_parameter_is_sent_to_who_offers_it() -> None:
    here = there(STRICT)
    here.deliver(message(wish=REQUIRED))
    assert here.fates == [Disposition.DELIVERED]
    assert "MAIL FROM:<a@example.net> REQUIRETLS" in here.lines()
    assert here.network.connections[0].lines_in_clear == ["EHLO client.example", "STARTTLS"]


def test_what_is_offered_before_the_handshake_does_not_count() -> None:
    ehlo = "250-server.example\r\n250-STARTTLS\r\n250 REQUIRETLS"
    liar = replace(GOOD, replies={"EHLO": [Reaction(ehlo), Reaction("250 server.example")]})
    here = there(liar)
    [verdict] = here.deliver(message(wish=REQUIRED))
    assert (verdict.fate, str(verdict.status)) == (Disposition.FAILED, "5.7.30")
    assert not sent_to(here)


def test_who_does_not_offer_it_is_left_with_quit_and_the_next_one_tried() -> None:
    here = there(GOOD, STRICT)
    here.deliver(message(wish=REQUIRED))
    assert here.fates == [Disposition.DELIVERED]
    assert sent_to(here) == [1]
    assert here.lines(0)[-1] == "QUIT"


def test_if_nobody_offers_it_the_message_comes_back() -> None:
    here = there(GOOD, GOOD)
    [verdict] = here.deliver(message(wish=REQUIRED))
    assert (verdict.fate, str(verdict.status), verdict.level) == (Disposition.FAILED, "5.7.30", Scope.MESSAGE)
    assert here.route.failure is None, "the host is not to blame: others may go there"


@pytest.mark.parametrize("servers", [(CLEAR,), (BAD,), (CLEAR, BAD), (GOOD, CLEAR)])
def test_what_an_attacker_can_bring_about_makes_it_wait(servers: tuple[Script, ...]) -> None:
    here = there(*servers)
    [verdict] = here.deliver(message(wish=REQUIRED))
    assert verdict.fate is Disposition.DEFERRED
    assert str(verdict.status) == "4.7.10"
    assert not sent_to(here)


def test_a_demand_that_fails_can_be_made_an_error() -> None:
    here = there(CLEAR, chosen=asking(TLSPolicy(), failure_is_final=True))
    [verdict] = here.deliver(message(wish=REQUIRED))
    assert (verdict.fate, str(verdict.status)) == (Disposition.FAILED, "5.7.10")


def test_without_any_tls_it_waits_and_nobody_is_bothered() -> None:
    here = world(CLEAR)
    [verdict] = here.deliver(message(wish=REQUIRED))
    assert (verdict.fate, str(verdict.status)) == (Disposition.DEFERRED, "4.7.10")
    assert not here.network.connections


def test_an_open_session_that_is_not_fit_is_ended_first() -> None:
    here = there(GOOD, STRICT)
    here.deliver(message())
    here.deliver(message(wish=REQUIRED))
    assert here.fates == [Disposition.DELIVERED]
    here.deliver(message())
    assert sent_to(here) == [0, 1]
    assert len(here.network.connections) == 3, "a session that is more than asked for serves everybody"


def test_a_session_opened_for_a_message_that_does_not_mind_serves_no_other() -> None:
    here = there(BAD, sts=True)
    here.deliver(message(wish=OPTIONAL))
    assert here.fates == [Disposition.DELIVERED]
    here.deliver(message())
    assert here.fates == [Disposition.DEFERRED]
    assert len(here.network.connections[0].acceptances) == 1


def test_without_security_a_message_that_does_not_mind_shares_its_session() -> None:
    here = world(CLEAR)
    for wish in (OPTIONAL, PLAIN, OPTIONAL):
        here.deliver(message(wish=wish))
        assert here.fates == [Disposition.DELIVERED]
    assert len(here.network.connections) == 1


def test_only_this_message_is_settled_when_its_session_cannot_be_had() -> None:
    assert fates(there(GOOD), [PLAIN, REQUIRED, PLAIN]) == [
        Disposition.DELIVERED,
        Disposition.FAILED,
        Disposition.DELIVERED,
    ]
    assert fates(there(GOOD), [REQUIRED, PLAIN, REQUIRED]) == [
        Disposition.FAILED,
        Disposition.DELIVERED,
        Disposition.FAILED,
    ]


def deliver_all(here: World, wishes: list[TLSDemand]) -> list[Verdict]:
    """Deliver a message for each wish, all at hand to ride; the verdicts. The contents are their numbers."""
    verdicts: dict[int, Verdict] = {}

    def delivery(number: int) -> Delivery:
        def settle(index: int, verdict: Verdict) -> None:
            assert number not in verdicts
            verdicts[number] = verdict

        content = content_form(b"Subject: %d\r\n\r\nbody\r\n" % number)
        return Delivery(message(content=content, wish=wishes[number]), Ledger(1, settle))

    waiting = [delivery(number) for number in range(len(wishes))]

    def more() -> Delivery | None:
        return waiting.pop(0) if waiting else None

    while waiting:
        here.network.run(here.courier.deliver(here.route, waiting.pop(0), more))
    here.close()
    return [verdicts[number] for number in range(len(wishes))]


def fates(here: World, wishes: list[TLSDemand]) -> list[Disposition]:
    return [verdict.fate for verdict in deliver_all(here, wishes)]


@given(
    servers=st.lists(st.sampled_from([STRICT, GOOD, BAD, CLEAR]), min_size=1, max_size=3),
    wishes=st.lists(st.sampled_from(list(TLSDemand)), min_size=1, max_size=6),
    policy=st.sampled_from([TLSPolicy(), TLSPolicy(level=TLSLevel.ENCRYPT), TLSPolicy(level=TLSLevel.SECURE)]),
    sts=st.booleans(),
    lifetime=st.sampled_from([0.0, 3600.0]),
)
def test_no_message_goes_over_less_than_it_asks_for(
    servers: list[Script], wishes: list[TLSDemand], policy: TLSPolicy, sts: bool, lifetime: float
) -> None:
    names = ("example.org", *(f"mx{i}.example.org" for i in range(3)))
    facts = AUTHORITY.facts(*names)
    chosen = asking(policy, mta_sts=STSUse.ON, session_lifetime=lifetime)
    renamed = [replace(s, tls=facts) if s in (STRICT, GOOD) else s for s in servers]
    here = there(*renamed, chosen=chosen, sts=sts)
    verdicts = deliver_all(here, wishes)
    for connection in here.network.connections:
        server = servers[int(connection.endpoint.host[2])]
        secured, authentic = connection.clear_octets is not None, server in (STRICT, GOOD)
        for acceptance in connection.acceptances:
            wish = wishes[int(acceptance.content.split()[1])]
            if wish is REQUIRED:
                assert secured
                assert server is STRICT
            if policy.level is not TLSLevel.MAY:
                assert secured
            if policy.level is TLSLevel.SECURE or (sts and wish is PLAIN):
                assert secured
                assert authentic
    accepted = sorted(int(a.content.split()[1]) for c in here.network.connections for a in c.acceptances)
    delivered = [number for number, verdict in enumerate(verdicts) if verdict.fate is Disposition.DELIVERED]
    assert accepted == delivered
    reachable = {PLAIN: servers, OPTIONAL: servers, REQUIRED: [s for s in servers if s is STRICT]}
    if policy.level is TLSLevel.MAY and not sts:
        assert [bool(reachable[wish]) for wish in wishes] == [v.fate is Disposition.DELIVERED for v in verdicts]


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (TLSPolicy(), True),
        (TLSPolicy(level=TLSLevel.NONE), True),
        (TLSPolicy(level=TLSLevel.ENCRYPT), False),
        (TLSPolicy(level=TLSLevel.VERIFY), True),
        (TLSPolicy(level=TLSLevel.VERIFY, match=("mx.other.example",)), False),
        (TLSPolicy(level=TLSLevel.SECURE), False),
        (TLSPolicy(level=TLSLevel.DANE_ONLY), False),
    ],
)
def test_a_session_is_shared_with_another_destination_only_if_it_is_as_safe(other: TLSPolicy, shared: bool) -> None:
    here = there(GOOD, chosen=asking(TLSPolicy(level=TLSLevel.VERIFY)))
    here.deliver(message())
    assert here.route.link is not None
    security = asking(other).security
    assert security is not None
    peer = here.route.link.peer
    assert here.network.run(may_share(here.route.request, security, peer)) is shared
    in_clear = replace(peer, protection=None)
    wanted = other.level in (TLSLevel.NONE, TLSLevel.MAY)
    assert here.network.run(may_share(here.route.request, security, in_clear)) is wanted
    elsewhere = replace(peer, endpoint=replace(peer.endpoint, address="192.0.2.99"))
    assert not here.network.run(may_share(here.route.request, security, elsewhere))


# ------------------------------------------------------------------- mail that would rather arrive (RFC 8689 5)

REFUSED = ConnectFailure(Endpoint("mx0.example.org", "192.0.2.1", 25, Family.INET), "Connection refused")
POLICY = from_security("no", None, final=False)
CONNECTION = combine_host_failures([REFUSED], [])
MIXED = combine_host_failures([REFUSED], [POLICY])


@pytest.mark.parametrize(
    ("verdict", "held"), [(POLICY, False), (CONNECTION, True), (MIXED, False)], ids=["policy", "connection", "both"]
)
def test_whose_rest_holds_for_mail_with_tls_required_no(verdict: Verdict, *, held: bool) -> None:
    resting = HostBackoff()
    resting.remember("example.org", verdict, 0.0)
    assert resting.get("example.org", 1.0) == (verdict.retry_after - 1.0, verdict)
    found = resting.get("example.org", 1.0, OPTIONAL)
    assert (found is not None) is held
    assert resting.get("example.org", 1.0) is not None, "asking does not end it"


@pytest.mark.parametrize(
    ("hosts", "decided"),
    [
        ([Unreachable()], False),
        ([Script(greeting=Reaction("450 later"))], False),
        ([Script(greeting=Reaction(b"", Then.HANG))], False),
        ([Script(replies={"EHLO": [Reaction("421 busy", Then.CLOSE)]})], False),
        ([Script()], True),
        ([Script(keywords=("STARTTLS",), tls="no shared cipher")], True),
        ([Unreachable(), Script()], True),
        ([Script(), Script(greeting=Reaction("450 later"))], True),
        ([Script(greeting=Reaction("554 no")), Script()], True),
    ],
)
def test_the_verdict_knows_whether_protection_was_among_the_reasons(hosts: list[Host], *, decided: bool) -> None:
    here = world(*hosts, settings=asking(TLSPolicy(level=TLSLevel.ENCRYPT)))
    (verdict,) = here.deliver(message())
    assert verdict.fate is Disposition.DEFERRED
    assert verdict.tls_decided is decided
    assert here.route.failure == verdict


@pytest.mark.parametrize("policy", [ENFORCE, ENFORCE.replace(b"*.example.org", b"mx.elsewhere.example")])
def test_a_policy_of_the_destination_is_such_a_reason(policy: bytes) -> None:
    """The certificate is another's; or the exchanger is not listed, and is not even connected to."""
    here = there(BAD, sts=True)
    here.network.policies["mta-sts.example.org"] = policy
    (verdict,) = here.deliver(message())
    assert verdict.tls_decided
    assert here.deliver(message(wish=OPTIONAL))[0].fate is Disposition.DELIVERED
