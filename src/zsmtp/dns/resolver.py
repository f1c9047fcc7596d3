"""The resolver interfaces, a caching resolver, and the simplest driver for rules that await lookups.

A :class:`Resolver` has one method. ``zsmtp.dns.dnspython`` queries name servers, ``zsmtp.dns.static`` a table in
memory, ``zsmtp.dns.hosts`` the hosts file before another resolver, and :class:`CachingResolver` caches the answers of
another one. A failed lookup is an answer, never an exception, and it returns by its deadline.

Those of this package are :class:`AwaitingResolver` as well: their lookup is a coroutine that awaits effects, so that an
event loop can run many at once. :func:`find_answer` works with any resolver.

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
    """Answers DNS queries."""

    def lookup(self, query: Query, deadline: float) -> Answer:
        """The answer to one query, no later than ``deadline`` (on the clock of ``time.monotonic``).

        Raises nothing: if a server fails, sends false answers or does not reply, the answer has the corresponding
        status.
        """
        ...


class AwaitingResolver(Resolver, Protocol):
    """A resolver whose lookups need no thread of their own."""

    def resolve(self, query: Query, deadline: float) -> Operation[Answer]:
        """Like ``lookup``, as an operation.

        It awaits :class:`~zsmtp.dns.nameserver.AskServer`, ``ReadClock`` and :class:`CallResolver`.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallResolver(Effect[Answer]):
    """Call ``lookup`` of a resolver without ``resolve``; it may block until ``deadline``."""

    resolver: Resolver
    query: Query
    deadline: float


def find_answer(resolver: Resolver, query: Query, deadline: float) -> Operation[Answer]:
    """The operation of one lookup with any resolver; it awaits the effects listed in :class:`AwaitingResolver`."""
    if hasattr(resolver, "resolve"):
        return cast(AwaitingResolver, resolver).resolve(query, deadline)
    return _call(resolver, query, deadline)


async def _call(resolver: Resolver, query: Query, deadline: float) -> Answer:
    return await CallResolver(resolver, query, deadline)


class CachingResolver:
    """A resolver that caches the answers of another one."""

    def __init__(self, resolver: Resolver, clock: Callable[[], float], cache: AnswerCache | None = None) -> None:
        """``clock`` is ``time.monotonic`` outside of tests; resolvers with the same trust may share a ``cache``."""
        self._resolver = resolver
        self._clock = clock
        self._cache = AnswerCache() if cache is None else cache

    def lookup(self, query: Query, deadline: float) -> Answer:
        """The cached answer, or a new one, which is cached if its lifetime allows."""
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

    All lookups together end by ``deadline``: the resolver answers later ones with a timeout, so that a destination with
    a hundred dead name servers takes no longer than one with a single one. Raises LocalError for effects other than
    lookups and ``OwnAddresses``.
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
