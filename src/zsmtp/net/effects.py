"""What the rules ask the outside world for, as values.

Wherever a decision needs an answer from outside it is a generator: it yields one of these effects, or a
:class:`~zsmtp.dns.answer.Query`, or :class:`~zsmtp.dns.destination.OwnAddresses`, and is sent the answer. The drivers
(``zsmtp.net.blocking``, ``zsmtp.net.scripted``) carry effects out and decide nothing. :class:`ConnectResult` and the
session events are the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from zsmtp.dns.plan import Endpoint
from zsmtp.proto.session import Session
from zsmtp.records import dataclass

if TYPE_CHECKING:
    from zsmtp.tls.chain import TrustAnchors
    from zsmtp.tls.context import ContextOptions
    from zsmtp.tls.facts import TLSFacts
    from zsmtp.tls.resume import Resumption


class Stream(Protocol):
    """A connection that stands. Who yields effects only passes it on; drivers know what is behind it."""

    @property
    def local(self) -> tuple[str, int] | None:
        """This side's address and port; None for UNIX sockets."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect to the first of ``endpoints`` that takes a connection; later ones start early while earlier ones hang.

    ``timeout`` in seconds bounds each attempt. The answer is a :class:`ConnectResult`.
    """

    endpoints: tuple[Endpoint, ...]
    timeout: float


@dataclass(frozen=True, slots=True)
class ConnectResult:
    """The connection made (``stream`` and ``endpoint``), or both None; ``failures`` are the attempts that failed.

    ``interrupted`` tells that there is no connection because this program was told to stop. ``overtaken`` are attempts
    that were started before the one that made the connection and still hung then, each with how many seconds it had.
    ``own`` are those of the failures that were this side's (no socket to be had, no local address): they say nothing of
    the address.
    """

    stream: Stream | None
    endpoint: Endpoint | None
    failures: tuple[tuple[Endpoint, str], ...] = ()
    interrupted: bool = False
    overtaken: tuple[tuple[Endpoint, float], ...] = ()
    own: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Let ``session`` and its peer talk until there is an event; the answer is that event, or None if all is done."""

    stream: Stream
    session: Session


@dataclass(frozen=True, slots=True)
class ReadClock:
    """What time it is; the answer is in seconds, on a clock that does not go back."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the stream at once; the answer is None."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Do a TLS handshake on ``stream`` within ``timeout`` seconds; the answer is a :class:`TLSResult`.

    ``server_name`` is asked for in the handshake. ``ca_file`` and ``ca_path`` name the trust anchors for the judgement.
    ``resumption`` is where a session to take up again may be found, and this one is kept once it is ``approved``.
    """

    stream: Stream
    options: ContextOptions
    server_name: str
    timeout: float
    ca_file: str = ""
    ca_path: str = ""
    resumption: Resumption | None = None


def _keep_nothing() -> None:
    """What a judgement leads to where no session is kept."""


@dataclass(frozen=True, slots=True)
class TLSResult:
    """The stream over the TLS connection with the facts of its handshake, or both None and ``error`` in words.

    ``now`` (seconds since 1970) and ``anchors`` are what a judgement on the facts needs. Without a new stream the old
    one is of no use any more.
    ``timed_out`` tells that the peer did not do its part in time.
    ``resuming`` tells that an earlier session was offered, whatever came of it (a failed one is forgotten). To call
    ``approved`` says that this one was judged good: only then is it kept.
    """

    stream: Stream | None
    facts: TLSFacts | None
    now: float
    anchors: Callable[[], TrustAnchors]
    error: str = ""
    interrupted: bool = False
    timed_out: bool = False
    resuming: bool = False
    approved: Callable[[], None] = _keep_nothing


Effect = Connect | Exchange | Close | StartTLS | ReadClock

T = TypeVar("T")


def carry_out(work: Generator[Any, Any, T], perform: Callable[[Any], object]) -> T:
    """Run ``work`` to its end, each effect carried out by ``perform``, and return its result."""
    answer: object = None
    try:
        while True:
            answer = perform(work.send(answer))
    except StopIteration as end:
        result: T = end.value
        return result


def _nothing(effect: object) -> None:
    """What most who listen want to know of an effect before it is carried out."""


def overheard(
    work: Generator[Any, Any, T],
    answered: Callable[[object, object], None],
    asked: Callable[[object], None] = _nothing,
) -> Generator[Any, Any, T]:
    """``work``, its effects passed on: ``asked`` hears of each, and ``answered`` of each with its answer."""
    answer: object = None
    try:
        while True:
            effect = work.send(answer)
            asked(effect)
            answer = yield effect
            answered(effect, answer)
    except StopIteration as end:
        result: T = end.value
        return result
