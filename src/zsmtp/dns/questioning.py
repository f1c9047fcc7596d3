"""How a question is put to name servers: whom, in which order, how often (RFC 1035 7, RFC 5452, RFC 6891 7).

Questions go out by UDP with EDNS and the DO bit. A server that says it does not know EDNS is asked without; after a
truncated answer, or under a flood of wrong ones, it is asked by TCP. A server that keeps silent is asked again, each
round more patiently; one that fails is left for the next. The deadline of a lookup bounds all of it.

These are rules: they await :class:`~zsmtp.dns.nameserver.AskServer` and the clock, whoever carries that out. dnspython,
which reads and writes the messages, is imported with the first lookup and not before::

    found = await put_question(query, servers, deadline=now + 15, rounds=ROUNDS, trusts=trusts)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zsmtp.dns.answer import Answer, Query, Status
from zsmtp.dns.nameserver import AskServer, Heard, NameServer
from zsmtp.effects import ReadClock
from zsmtp.records import NamedTuple, replace

ROUNDS = (3.0, 5.0, 8.0)
"""Seconds to wait for each server, round by round."""

_TRUNCATED = 0x02  # TC, in the third octet of the header
_NO_EDNS = frozenset({1, 4})  # FORMERR, NOTIMP: what a server that never heard of EDNS says (RFC 6891 7)
_FINAL = frozenset({Status.OK, Status.NODATA, Status.NXDOMAIN, Status.BOGUS})


class Resolution(NamedTuple):
    """What name servers said to one question."""

    answer: Answer
    server: NameServer | None = None
    """The server whose answer is final; None if there is no such answer."""


class _Patience(NamedTuple):
    """How long a server is waited for; the last fields of ``AskServer``."""

    seconds: float
    deadline: float
    again: bool


def _never() -> bool:
    """Default of ``over``."""
    return False


async def put_question(
    query: Query,
    servers: Sequence[NameServer],
    *,
    deadline: float,
    rounds: Sequence[float],
    trusts: Callable[[NameServer], bool],
    over: Callable[[], bool] = _never,
) -> Resolution:
    """Ask ``servers`` in turn until one has a final answer, no later than ``deadline``.

    ``rounds`` are the seconds to wait for each server, round by round. The AD bit of a server counts if it ``trusts``
    it. No more is asked once it is ``over``. Awaits ``AskServer`` and ``ReadClock``.
    """
    failure = Answer(query, Status.TIMEOUT, canonical=query.name, problem="no time was left to ask")
    for number, seconds in enumerate(rounds):
        silent: list[NameServer] = []
        for server in servers:
            if over() or await ReadClock() >= deadline:
                return Resolution(failure)
            patience = _Patience(seconds, deadline, again=number > 0)
            answer, kept_silent = await _ask(server, query, patience, trusts)
            if answer.status in _FINAL:
                return Resolution(answer, server)
            if kept_silent:
                silent.append(server)
            if failure.status is Status.TIMEOUT:  # what a server said tells more than that another said nothing
                failure = answer
        servers = silent
    return Resolution(failure)


async def _ask(
    server: NameServer, query: Query, patience: _Patience, trusts: Callable[[NameServer], bool]
) -> tuple[Answer, bool]:
    """One server's answer, and whether it kept silent."""
    try:
        from zsmtp.dns.wire import Question

        question = Question(query)
        heard = await AskServer(server, question.wire, False, *patience)
        if heard.reply and heard.reply[3] & 0x0F in _NO_EDNS:
            question = Question(query, edns=False)
            heard = await AskServer(server, question.wire, False, *patience)
        if heard.flooded or (heard.reply and heard.reply[2] & _TRUNCATED):
            heard = await AskServer(server, question.wire, True, *patience)
    except ImportError as error:
        return _failure(query, f"the DNS library cannot be loaded: {error}"), False
    except ValueError as error:
        return _failure(query, str(error), Status.SERVFAIL), False
    if not heard.reply:
        return _failure(query, _why_nothing_came(server, heard)), heard.silent
    return replace(question.read(heard.reply, trusted=trusts(server)), source=f"name server {server}"), False


def _failure(query: Query, problem: str, status: Status = Status.TIMEOUT) -> Answer:
    return Answer(query, status, canonical=query.name, problem=problem)


def _why_nothing_came(server: NameServer, heard: Heard) -> str:
    return f"name server {server}: {heard.problem}" if heard.problem else f"name server {server} does not answer"
