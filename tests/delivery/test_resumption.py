"""Sessions taken up again in deliveries: by whom, under which judgement, and what follows when that fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.network import World, message, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW, issue

from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.settings import SessionSettings
from zsmtp.events import Remark, Secured
from zsmtp.net.script import Script
from zsmtp.tls.policy import Level, TLSPolicy

DAY = 86400.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


def settings(level: Level = Level.VERIFY) -> SessionSettings:
    return asking(TLSPolicy(level=level), session_lifetime=100 * DAY)


def resumed(there: World) -> list[bool]:
    return [event.facts.resumed for event in there.heard if isinstance(event, Secured)]


def deliver_twice(there: World) -> None:
    for _ in range(2):
        there.deliver(message())
        there.close()


def here(authority: Authority, *servers: Script, chosen: SessionSettings) -> World:
    return world(list(servers), settings=chosen, now=NOW, anchors=authority.anchors, observed=True)


def test_a_session_that_was_judged_good_is_resumed(authority: Authority) -> None:
    there = here(authority, authority.server("mx0.example.org"), chosen=settings())
    deliver_twice(there)
    assert there.fates == [Disposition.DELIVERED]
    assert resumed(there) == [False, True]


def test_without_a_lifetime_nothing_is_resumed(authority: Authority) -> None:
    there = here(authority, authority.server("mx0.example.org"), chosen=asking(TLSPolicy(level=Level.VERIFY)))
    deliver_twice(there)
    assert resumed(there) == [False, False]
    assert there.network.handshakes[0].resumption is None


def test_one_that_was_not_good_is_not(authority: Authority) -> None:
    there = here(authority, authority.server("other.example"), chosen=settings())
    deliver_twice(there)
    assert there.fates == [Disposition.DEFERRED]
    assert resumed(there) == [False, False]


def test_a_certificate_that_expired_meanwhile_is_found_out(authority: Authority) -> None:
    short = issue("mx", by=authority.root, names=["mx0.example.org"], valid=(-1, 2), now=NOW)
    server = Script(keywords=("STARTTLS",), tls=replace(authority.facts(), chain=short.chain))
    there = here(authority, server, chosen=settings())
    there.deliver(message())
    there.close()
    there.network.now += 3 * DAY
    there.deliver(message())
    assert there.fates == [Disposition.DEFERRED]
    assert resumed(there) == [False, True]


def test_a_session_of_a_looser_requirement_is_not_taken_up(authority: Authority) -> None:
    """What was good enough for anybody may be anybody's."""
    policies = [TLSPolicy(level=Level.ENCRYPT), TLSPolicy(level=Level.VERIFY)]
    chosen = settings()
    assert chosen.security is not None
    chosen = replace(chosen, security=replace(chosen.security, policy_for=lambda destination: policies.pop(0)))
    there = here(authority, authority.server("mx0.example.org"), chosen=chosen)
    deliver_twice(there)
    assert resumed(there) == [False, False]


@pytest.mark.parametrize("level", [Level.MAY, Level.VERIFY])
def test_a_server_that_fails_a_resumed_session_gets_a_full_handshake(level: Level, authority: Authority) -> None:
    """Even where TLS is only wished for: the mail does not go in clear because a ticket was too old."""
    there = here(authority, authority.server("mx0.example.org", resumes=False), chosen=settings(level))
    deliver_twice(there)
    assert there.fates == [Disposition.DELIVERED]
    assert resumed(there) == [False, False]
    assert len(there.network.connections) == 3
    assert [c.clear_octets is not None for c in there.network.connections] == [True, False, True]
    assert any("full handshake" in event.text for event in there.heard if isinstance(event, Remark))
