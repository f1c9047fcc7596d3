"""A delivery's plan: who is decided on when, and that delivery does what was explained."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from tests.support.network import World, message, table, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.deliveryplan import DeliveryPlan, plan_delivery, require_all
from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.security import Security
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.answer import RecordType
from zsmtp.dns.static import StaticResolver
from zsmtp.errors import ConfigError
from zsmtp.events import Event, Secured
from zsmtp.net.script import Reaction, Script, Then
from zsmtp.net.scripted import Unreachable
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.judgement import Verified
from zsmtp.tls.policy import Barred, Level, Requirement, TLSPolicy
from zsmtp.tls.problem import TLSProblem

SIGNED = "\nexample.org SECURE"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


def explained(there: World, security: Security | None, wish: TLSDemand = TLSDemand.NONE) -> DeliveryPlan:
    """The plan as explain makes it."""
    plan = there.network.run(plan_delivery(there.route.request, security, wish))
    there.network.run(require_all(plan, security))
    return plan


def test_without_security_there_is_a_route_and_nothing_else() -> None:
    plan = explained(world(Script(), Script()), None)
    assert [c.endpoint.host for c in plan.route.candidates] == ["mx0.example.org", "mx1.example.org"]
    assert (plan.policy, plan.sts, plan.problem, plan.requirements) == (None, None, "", {})


def test_without_security_nothing_of_tls_is_loaded() -> None:
    program = (
        "import sys, zsmtp.delivery.attempt; print([n for n in sys.modules if n.startswith(('zsmtp.tls', 'ssl'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_tlsa_records_are_looked_up_when_a_candidates_turn_has_come() -> None:
    resolver = StaticResolver(table(2) + SIGNED)
    settings = asking(TLSPolicy(level=Level.DANE))
    there = world(Script(), Script(), settings=settings)
    there.network._resolver = resolver  # to see the questions
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    assert [q.name for q in resolver.queries if q.type is RecordType.TLSA] == ["_25._tcp.mx0.example.org"]
    assert there.route.plan is not None
    assert [e.host for e in there.route.plan.requirements] == ["mx0.example.org"]


def test_every_candidate_is_decided_on_for_who_explains(authority: Authority) -> None:
    settings = asking(TLSPolicy(level=Level.DANE))
    dns = table(2) + SIGNED + "\n_25._tcp.mx1.example.org FAIL SERVFAIL"
    plan = explained(world(dns=dns), settings.security)
    first, second = plan.requirements.values()
    assert isinstance(first, Requirement)
    assert first.level is Level.MAY
    assert isinstance(second, Barred)
    assert second.problem is TLSProblem.DNSSEC_INVALID


def test_delivery_makes_the_plan_that_was_explained(authority: Authority) -> None:
    """Both use the same generators, so what delivery has decided is what the explanation says."""
    settings = asking(TLSPolicy(level=Level.SECURE))
    servers = [authority.server("other.example"), authority.server("example.org")]
    there = world(*servers, settings=settings, now=NOW, anchors=authority.anchors)
    plan = explained(there, settings.security)
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    assert there.route.plan == plan


def test_a_plan_that_is_given_is_executed_as_it_is(authority: Authority) -> None:
    """Nothing is looked up again, and the decisions in the plan stand even if the configuration says less."""
    loose = asking(TLSPolicy(level=Level.MAY))
    there = world(authority.server("mx0.example.org"), Script(), settings=loose, now=NOW, anchors=authority.anchors)
    plan = explained(there, asking(TLSPolicy(level=Level.VERIFY, match=("elsewhere.example",))).security)
    there.route.given = plan
    there.network._resolver = StaticResolver("")
    [verdict] = there.deliver(message())
    assert verdict.fate is Disposition.DEFERRED
    assert "elsewhere.example" in verdict.text
    assert not there.network.connections[0].acceptances
    assert "STARTTLS" not in there.lines(1), "the second one has no TLS at all"
    assert not there.network.connections[1].acceptances


def test_a_given_plan_that_asks_for_tls_is_not_executed_without_it() -> None:
    there = world(Script())
    plan = explained(there, asking(TLSPolicy(level=Level.ENCRYPT)).security)
    there.route.given = plan
    [verdict] = there.deliver(message())
    assert verdict.fate is Disposition.DEFERRED
    assert not there.network.connections[0].acceptances


def test_a_given_plan_that_asks_for_nothing_is_executed_without_security() -> None:
    there = world(Script())
    there.route.given = explained(there, asking(TLSPolicy(level=Level.MAY)).security)
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]


def test_a_plan_made_without_security_is_not_executed_with_less_than_is_configured_now(authority: Authority) -> None:
    settings = asking(TLSPolicy(level=Level.SECURE))
    here = world(authority.server("elsewhere.example"), settings=settings, now=NOW, anchors=authority.anchors)
    here.route.given = explained(here, None)
    [verdict] = here.deliver(message())
    assert verdict.fate is Disposition.DEFERRED
    assert not here.network.connections[0].acceptances
    assert here.route.plan is not None
    assert here.route.plan.policy == TLSPolicy(level=Level.SECURE)


def test_a_given_plan_whose_candidates_are_used_up_ends() -> None:
    there = world(Script(replies={"MAIL": [Reaction(b"", Then.RESET)]}), Unreachable())
    there.route.given = explained(there, None)
    [verdict] = there.deliver(message())
    assert verdict.fate is Disposition.DEFERRED


def test_a_configuration_that_cannot_be_used_bars_every_candidate() -> None:
    def broken(destination: str) -> TLSPolicy:
        raise ConfigError("policy table:3: no level")

    settings = asking(TLSPolicy())
    assert settings.security is not None
    settings = replace(settings, security=replace(settings.security, policy_for=broken))
    there = world(Script(), settings=settings)
    assert explained(there, settings.security).problem == "policy table:3: no level"
    [verdict] = there.deliver(message())
    assert verdict.fate is Disposition.DEFERRED
    assert "no level" in verdict.text


def test_another_wish_has_decisions_of_its_own() -> None:
    plan = explained(world(Script()), asking(TLSPolicy(level=Level.MAY)).security)
    other = plan.for_wish(TLSDemand.REQUIRETLS)
    assert not other.requirements
    assert plan.requirements
    assert plan.for_wish(TLSDemand.NONE) is plan
    assert other.needs_protection(plan.route.candidates[0].endpoint)


def test_a_handshake_is_told_with_its_facts_and_the_verdict(authority: Authority) -> None:
    server = authority.server("mx0.example.org")
    settings: SessionSettings = asking(TLSPolicy(level=Level.VERIFY))
    there = world(server, settings=settings, now=NOW, anchors=authority.anchors, observed=True)
    [verdict] = there.deliver(message())
    told: list[Event] = [event for event in there.heard if isinstance(event, Secured)]
    assert len(told) == 1
    assert isinstance(told[0], Secured)
    assert told[0].judgement.verified is Verified.CHAIN
    assert told[0].facts.server_name == "mx0.example.org"
    assert there.network.connections[0].lines_in_clear == ["EHLO client.example", "STARTTLS"]
    assert verdict.peer is not None
    assert verdict.peer.protection is not None
    assert verdict.peer.protection.judgement is told[0].judgement
