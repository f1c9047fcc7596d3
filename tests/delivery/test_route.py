"""Deliveries over a route: the backoff of its destination, in virtual time, and deliveries taken back undecided."""

from __future__ import annotations

from tests.support.network import World, message, numbered, world

from zsmtp.delivery.backoff import HostBackoff
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Scope, Verdict
from zsmtp.delivery.route import RouteDeliverer
from zsmtp.events import Decision, DeliveryReturned, DeliveryStarted, Settled
from zsmtp.net.script import NEVER, Reaction, Script, Then
from zsmtp.net.scripted import Unreachable
from zsmtp.proto.plan import TLSDemand


def settle(there: World, deliverer: RouteDeliverer) -> Verdict:
    found: list[Verdict] = []
    ledger = Ledger(1, lambda index, verdict: found.append(verdict))
    there.network.run(deliverer.deliver(there.route, Delivery(message(), ledger)))
    (verdict,) = found
    return verdict


def test_the_time_left_goes_down_and_then_it_is_tried() -> None:
    there = world(Unreachable(), observed=True)
    deliverer = RouteDeliverer(there.courier, HostBackoff(), there.heard.append)
    told = []
    for seconds in (0.0, 10.0, 49.5, 0.4, 0.2):
        there.network.now += seconds
        verdict = settle(there, deliverer)
        told.append((verdict.attempted, verdict.retry_after, len(there.network.attempts)))
    assert told == [(True, 60, 1), (False, 50, 1), (False, 1, 1), (False, 1, 1), (True, 60, 2)]


def test_an_open_session_is_used_although_the_host_failed_for_others() -> None:
    there = world(Script())
    resting = HostBackoff()
    deliverer = RouteDeliverer(there.courier, resting)
    assert settle(there, deliverer).fate is Disposition.DELIVERED
    failed = world(Unreachable())
    resting.remember("example.org", settle(failed, RouteDeliverer(failed.courier, HostBackoff())), there.network.now)
    assert settle(there, deliverer).fate is Disposition.DELIVERED
    there.close()
    assert settle(there, deliverer).attempted is False


def test_what_is_put_off_is_announced_with_the_reason() -> None:
    there = world(Unreachable(), observed=True)
    deliverer = RouteDeliverer(there.courier, HostBackoff(), there.heard.append)
    settle(there, deliverer)
    there.heard.clear()
    settle(there, deliverer)
    started, decision, settled = there.heard
    assert isinstance(started, DeliveryStarted)
    assert isinstance(decision, Decision)
    assert isinstance(settled, Settled)
    assert decision.delivery is started.delivery is settled.delivery
    assert decision.text == "example.org failed recently: not tried for another 60 s"


def test_mail_that_may_do_without_protection_is_tried_where_protection_was_missing() -> None:
    there = world(Script())
    resting = HostBackoff()
    failure = Verdict(*settle(there, RouteDeliverer(there.courier, resting))[:4], level=Scope.HOST, retry_after=60)
    there.close()
    resting.remember("example.org", failure._replace(fate=Disposition.DEFERRED, tls_decided=True), there.network.now)
    deliverer = RouteDeliverer(there.courier, resting)
    found: list[Verdict] = []
    ledger = Ledger(1, lambda index, verdict: found.append(verdict))
    one = message(wish=TLSDemand.TLS_OPTIONAL)
    there.network.run(deliverer.deliver(there.route, Delivery(one, ledger)))
    assert [verdict.fate for verdict in found] == [Disposition.DELIVERED]
    assert settle(world(Script()), RouteDeliverer(there.courier, resting)).attempted is False


# ------------------------------------------------------------- taken back undecided


def returning(there: World, *, recipients: int = 1) -> tuple[list[Verdict], dict[int, Verdict]]:
    """Deliver to whoever takes everything back: the verdicts it was asked about, and those that stand."""
    asked: list[Verdict] = []
    found: dict[int, Verdict] = {}

    def returns(delivery: Delivery, verdict: Verdict) -> bool:
        asked.append(verdict)
        return True

    deliverer = RouteDeliverer(there.courier, HostBackoff(), there.heard.append)
    delivery = Delivery(message(*numbered(recipients)), Ledger(recipients, found.__setitem__))
    there.network.run(deliverer.deliver(there.route, delivery, returns=returns))
    assert (len(found) == recipients) is delivery.ledger.settled
    return asked, found


def test_whoever_has_another_way_takes_back_what_no_session_could_be_opened_for() -> None:
    there = world(Script(greeting=Reaction("421 4.7.0 too many", Then.CLOSE)), observed=True)
    asked, found = returning(there)
    assert [(verdict.level, verdict.fate) for verdict in asked] == [(Scope.HOST, Disposition.DEFERRED)]
    assert found == {}
    assert there.route.failure is None, "nothing to back off for"
    (returned,) = [event for event in there.heard if isinstance(event, DeliveryReturned)]
    assert "too many" in returned.reason
    assert not any(isinstance(event, Settled) for event in there.heard)


def test_what_is_taken_back_comes_with_the_verdict_that_it_would_have_got() -> None:
    """The first exchanger broke off, the second refuses everybody for good: the mail is not refused for good."""
    there = world(
        Script(replies={"MAIL": [Reaction("421 4.3.0 closing", Then.CLOSE)]}), Script(greeting=Reaction("554 no"))
    )
    asked, found = returning(there)
    assert [(verdict.level, verdict.fate) for verdict in asked] == [(Scope.HOST, Disposition.DEFERRED)]
    assert "closing" in asked[0].text
    assert found == {}


def test_what_was_decided_before_stays() -> None:
    """The first recipient is refused, then this side is told to stop."""
    replies = {"RCPT": [Reaction("550 5.1.1 no"), Reaction("250 ok")], "DATA": [Reaction(b"", Then.HANG)]}
    there = world(Script(replies=replies), observed=True, stop_at=1005.0)
    asked, found = returning(there, recipients=2)
    assert [verdict.level for verdict in asked] == [Scope.SESSION]
    assert {index: verdict.fate for index, verdict in found.items()} == {0: Disposition.FAILED}


def test_what_is_in_doubt_is_not_taken_back() -> None:
    there = world(Script(replies={"DOT": [Reaction(b"", Then.RESET)]}))
    asked, found = returning(there)
    assert asked == []
    assert found[0].in_doubt


def test_without_a_wish_to_have_it_back_everything_is_settled() -> None:
    there = world(Script(), stop_at=1000.0)
    assert settle(there, RouteDeliverer(there.courier, HostBackoff())).fate is Disposition.DEFERRED
    there.network.stop_at = NEVER
    assert settle(there, RouteDeliverer(there.courier, HostBackoff())).fate is Disposition.DELIVERED
