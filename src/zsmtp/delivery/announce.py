"""Makes the events of deliveries for observers: the start, policy fetches, and each verdict.

Verdicts go to the owner of the ledger first (a control file, the caller), then to the observer. Call :func:`announce`
only with an active observer: other ledgers cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.outcome import Verdict
from zsmtp.effects import Effect, FetchPolicy, Operation, observed
from zsmtp.events import DeliveryStarted, FetchDone, FetchStarted, Observer, Settled

T = TypeVar("T")
More = Callable[[], Delivery | None]


def announce(observer: Observer, delivery: Delivery, destination: str) -> None:
    """Send ``observer`` the start of ``delivery`` now, and every further verdict on it."""

    def on_verdict(recipient: int, verdict: Verdict) -> None:
        observer(Settled(delivery, recipient, verdict))

    observer(DeliveryStarted(delivery, destination))
    delivery.ledger.listen(on_verdict)


def with_fetch_events(observer: Observer, work: Operation[T]) -> Operation[T]:
    """``work``, with events for each fetch of a policy."""

    def asked(effect: Effect[Any]) -> None:
        if isinstance(effect, FetchPolicy):
            observer(FetchStarted(effect.host))

    def answered(effect: Effect[Any], answer: Any) -> None:
        if isinstance(effect, FetchPolicy):
            observer(FetchDone(len(answer.body), answer.problem))

    return observed(work, answered, asked)


def announcing(observer: Observer, more: More, destination: str) -> More:
    """``more``, with :func:`announce` for each delivery that it returns."""

    def announced() -> Delivery | None:
        delivery = more()
        if delivery is not None:
            announce(observer, delivery, destination)
        return delivery

    return announced
