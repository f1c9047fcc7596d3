"""Telling observers of deliveries: that one is taken to hand, and each of its verdicts.

Verdicts reach the books of the message first (its control file, its caller), then the observer. Call :func:`announce`
only where somebody listens: an unannounced ledger costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.outcome import Verdict
from zsmtp.events import DeliveryStarted, FetchDone, FetchStarted, Observer, Settled
from zsmtp.net.effects import overheard

T = TypeVar("T")
More = Callable[[], Delivery | None]


def announce(observer: Observer, delivery: Delivery, destination: str) -> None:
    """Tell ``observer`` of ``delivery`` now, and of every verdict on it from now on."""

    def heard(recipient: int, verdict: Verdict) -> None:
        observer(Settled(delivery, recipient, verdict))

    observer(DeliveryStarted(delivery, destination))
    delivery.ledger.listen(heard)


def fetches_told(observer: Observer, work: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """``work``, each fetch of a policy told on the way."""
    from zsmtp.tls.mtasts import FetchedPolicy, FetchPolicy  # loaded where there is security anyway

    def asked(effect: object) -> None:
        if isinstance(effect, FetchPolicy):
            observer(FetchStarted(effect.host))

    def answered(effect: object, answer: object) -> None:
        if isinstance(effect, FetchPolicy) and isinstance(answer, FetchedPolicy):
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
