"""Telling observers of deliveries: that one is taken to hand, and each of its verdicts.

Verdicts reach the books of the message first (its control file, its caller), then the observer. Call :func:`announce`
only where somebody listens: an unannounced ledger costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.outcome import Verdict
from zsmtp.effects import Effect, FetchPolicy, Operation, overheard
from zsmtp.events import DeliveryStarted, FetchDone, FetchStarted, Observer, Settled

T = TypeVar("T")
More = Callable[[], Delivery | None]


def announce(observer: Observer, delivery: Delivery, destination: str) -> None:
    """Tell ``observer`` of ``delivery`` now, and of every verdict on it from now on."""

    def heard(recipient: int, verdict: Verdict) -> None:
        observer(Settled(delivery, recipient, verdict))

    observer(DeliveryStarted(delivery, destination))
    delivery.ledger.listen(heard)


def fetches_told(observer: Observer, work: Operation[T]) -> Operation[T]:
    """``work``, with events for each fetch of a policy."""

    def asked(effect: Effect[Any]) -> None:
        if isinstance(effect, FetchPolicy):
            observer(FetchStarted(effect.host))

    def answered(effect: Effect[Any], answer: Any) -> None:
        if isinstance(effect, FetchPolicy):
            observer(FetchDone(len(answer.body), answer.problem))

    return overheard(work, answered, asked)


def announcing(observer: Observer, more: More, destination: str) -> More:
    """``more``, each delivery it gives announced."""

    def announced() -> Delivery | None:
        delivery = more()
        if delivery is not None:
            announce(observer, delivery, destination)
        return delivery

    return announced
