"""Resolvers: whoever answers DNS questions, and the plain way to let rules ask them.

A :class:`Resolver` has one method. ``zsmtp.dns.dnspython`` asks name servers, ``zsmtp.dns.static`` a table in memory,
``zsmtp.dns.hosts`` the hosts file before another resolver, and :class:`CachingResolver` remembers what another one
answered. A lookup that fails is an answer, never an exception, and it comes back by its deadline.

Those of this package are :class:`AwaitingResolver` as well: how they find an answer is a coroutine that awaits effects,
so that an event loop can wait for many of them. :func:`find_answer` asks any resolver.

:func:`carry_out` runs rules that only ask for lookups (destination rules, the choice of a HELO name) to their end::

    plan = carry_out(plan_destination(request), resolver, deadline=now + 60, own_addresses=own_addresses)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from zsmtp import effects
from zsmtp.dns.answer import Answer, AskAhead, Query
from zsmtp.dns.cache import AnswerCache
from zsmtp.effects import Effect, Operation, OwnAddresses, unknown_effect
from zsmtp.records import dataclass

T = TypeVar("T")


class Resolver(Protocol):
    """Answers DNS questions."""

    def lookup(self, query: Query, deadline: float) -> Answer:
        """The answer to one question, no later than ``deadline`` (on the clock of ``time.monotonic``).

        Raises nothing: a server that fails, lies or keeps silent gives an answer with the status that says so.
        """
        ...


class AwaitingResolver(Resolver, Protocol):
    """A resolver that can be waited for without a thread of its own."""

    def resolve(self, query: Query, deadline: float) -> Operation[Answer]:
        """The same as ``lookup``, as an operation.

        It awaits :class:`~zsmtp.dns.nameserver.AskServer`, ``ReadClock`` and :class:`CallResolver`.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallResolver(Effect[Answer]):
    """Call ``lookup`` of a resolver that has nothing else; it may take until ``deadline``."""

    resolver: Resolver
    query: Query
    deadline: float


def find_answer(resolver: Resolver, query: Query, deadline: float) -> Operation[Answer]:
    """The operation that has a resolver answer one question; see :class:`AwaitingResolver` for what it awaits."""
    if hasattr(resolver, "resolve"):
        return cast(AwaitingResolver, resolver).resolve(query, deadline)
    return _call(resolver, query, deadline)


async def _call(resolver: Resolver, query: Query, deadline: float) -> Answer:
    return await CallResolver(resolver, query, deadline)


class CachingResolver:
    """A resolver that asks another one only what it does not know already."""

    def __init__(self, resolver: Resolver, clock: Callable[[], float], cache: AnswerCache | None = None) -> None:
        """``clock`` is ``time.monotonic`` outside of tests; ``cache`` may be shared between resolvers of one trust."""
        self._resolver = resolver
        self._clock = clock
        self._cache = AnswerCache() if cache is None else cache

    def lookup(self, query: Query, deadline: float) -> Answer:
        """The answer kept from before, or a new one, kept if it may be."""
        known = self._cache.get(query, self._clock())
        if known is not None:
            return known
        answer = self._resolver.lookup(query, deadline)
        self._cache.put(answer, self._clock())
        return answer


def carry_out(
    operation: Operation[T],
    resolver: Resolver,
    *,
    deadline: float,
    own_addresses: Callable[[], frozenset[str]],
) -> T:
    """Run an operation to its end, answering its effects, and return its result.

    All lookups together end by ``deadline``: what could not be asked in time is answered with a timeout by the
    resolver, so that a destination of a hundred dead name servers costs no more than one. Raises LocalError for effects
    other than lookups and ``OwnAddresses``.
    """

    def perform(effect: Effect[Any]) -> object:
        if isinstance(effect, Query):
            return resolver.lookup(effect, deadline)
        if isinstance(effect, OwnAddresses):
            return own_addresses()
        if isinstance(effect, AskAhead):
            return None
        raise unknown_effect(effect)

    return effects.carry_out(operation, perform)
