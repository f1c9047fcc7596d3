"""Effects: requests of the rules to the outside world, as values that are awaited.

A rule that needs an answer from outside (a connection, a DNS record, the time) is an ``async def`` function and awaits
an :class:`Effect`; the type of the answer is the parameter of the effect's class, so that type checkers know it::

    result = await Connect(endpoints, timeout)  # a ConnectResult

No event loop is needed. A driver resumes the coroutine with :func:`carry_out` or a similar loop, carries out each
effect that it yields and sends the answer in; it decides nothing. The drivers are ``zsmtp.net.blocking``,
``zsmtp.net.aio`` and ``zsmtp.net.scripted``. Each has a table of its effects and raises the error of
:func:`unknown_effect` for any other. :func:`observed` passes effects and answers to callbacks.

All packages may import this module: it imports the types of effects and answers for type checkers only.
``zsmtp.dns.answer.Query`` is an effect as well.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from zsmtp.errors import LocalError
from zsmtp.records import NamedTuple, dataclass

if TYPE_CHECKING:
    from typing import Generic, Protocol

    from zsmtp.dns.candidates import Endpoint
    from zsmtp.errors import ZsmtpError
    from zsmtp.tls.chain import TrustAnchors
    from zsmtp.tls.context import ContextOptions, WebContextOptions
    from zsmtp.tls.facts import TLSFacts
    from zsmtp.tls.mtasts import CachedPolicy, FetchedPolicy, RecalledPolicy
    from zsmtp.tls.resume import Resumption
else:
    FetchedPolicy = RecalledPolicy = object  # parameters of ``Effect`` matter to type checkers only

    class Generic:
        """Replaces that of ``typing``, which takes 3 ms for the classes below: a twentieth of the agent's start-up."""

        __slots__ = ()

        def __class_getitem__(cls, parameter):
            return cls

    Protocol = Generic


A = TypeVar("A", covariant=True)
E = TypeVar("E")
T = TypeVar("T")


class Effect(Generic[A]):
    """A request of a rule to its driver. Awaiting it passes it to the driver and returns the answer."""

    __slots__ = ()

    def __await__(self) -> Generator[Effect[A], A, A]:
        return (yield self)


Operation = Coroutine[Effect[Any], Any, T]  # the coroutine of an ``async def`` that awaits effects


class Stream(Protocol):
    """An open connection. Rules only pass it on; drivers know its class."""

    @property
    def local(self) -> tuple[str, int] | None:
        """This side's address and port; None for UNIX sockets."""

    @property
    def exporter(self) -> bytes:
        """The channel binding ``tls-exporter`` (RFC 9266); b"" in clear, or if unavailable."""


if TYPE_CHECKING:

    class Conversation(Protocol[A]):
        """One side of a dialogue: octets in, events out, octets out on request. It does no I/O and has no clock.

        ``zsmtp.proto.session.Session`` and ``zsmtp.tls.https.HTTPConversation`` are conversations. ``now`` is the time
        in seconds on the clock of :class:`ReadClock`.
        """

        @property
        def lost(self) -> ZsmtpError | None:
            """The error that ended the conversation early; None without one. Nothing is written after it."""

        @property
        def idle(self) -> bool:
            """Whether a stop of this side would break nothing off."""

        @property
        def final_reply_due(self) -> bool:
            """Whether a stop waits for the peer's next reply."""

        @property
        def listens(self) -> bool:
            """Whether the next octets should wait a moment for input from the peer."""

        @property
        def blind(self) -> bool:
            """Whether the next octets would be in doubt if the peer had closed the connection."""

        @property
        def last_heard(self) -> float:
            """The time of the last octets received."""

        def next_event(self) -> A | None:
            """The next event; None if there is none."""

        def data_to_send(self, now: float) -> memoryview:
            """The octets to write next, first those not yet reported as written. Raises ContentError."""

        def data_written(self, count: int, now: float) -> None:
            """Note that ``count`` of these octets were written."""

        def receive_data(self, data: bytes, now: float) -> None:
            """Process octets from the peer."""

        def receive_eof(self, now: float) -> None:
            """Note that the peer closed its side."""

        def deadline(self) -> float | None:
            """The time to call ``handle_timer`` at the latest; None without a wait."""

        def handle_timer(self, now: float) -> None:
            """Check the time against the deadline."""

        def stop(self) -> None:
            """Begin nothing new: a stop was requested."""

        def fail(self, error: ZsmtpError) -> None:
            """End the conversation: the connection failed."""


@dataclass(frozen=True, slots=True)
class ConnectResult:
    """The answer to :class:`Connect`: the connection made, or ``stream`` and ``endpoint`` None."""

    stream: Stream | None
    endpoint: Endpoint | None
    failures: tuple[tuple[Endpoint, str], ...] = ()
    """Attempts that failed, each with the reason."""
    interrupted: bool = False
    """There is no connection because a stop was requested."""
    overtaken: tuple[tuple[Endpoint, float], ...] = ()
    """Attempts started before the successful one and without an answer by then, each with its duration in seconds."""
    own: tuple[Endpoint, ...] = ()
    """Endpoints of failures on this side (no socket, no local address): they do not count for the address."""


@dataclass(frozen=True, slots=True)
class Connect(Effect[ConnectResult]):
    """Connect to the first of ``endpoints`` that accepts; later ones are started early while earlier ones hang."""

    endpoints: tuple[Endpoint, ...]
    timeout: float
    """Seconds for each attempt."""
    deadline: float | None = None
    """When all attempts are over, on the clock of :class:`ReadClock`; None: when the last one is."""


@dataclass(frozen=True, slots=True)
class Exchange(Effect[A | None]):
    """Move octets between ``session`` and its peer until there is an event; None if nothing is left to do."""

    stream: Stream
    session: Conversation[A]


@dataclass(frozen=True, slots=True)
class ReadClock(Effect[float]):
    """The time in seconds, on a monotonic clock."""


@dataclass(frozen=True, slots=True)
class Sleep(Effect[None]):
    """Wait until the clock of :class:`ReadClock` shows ``until``, or a stop is requested.

    The run holds nothing that others wait for, so a driver may give its place to another run meanwhile.
    """

    until: float


class FileBlock(NamedTuple):
    """``size`` octets at ``offset`` of an open file."""

    file: object
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class GiveWay(Effect[None]):
    """A pause between two blocks of long work on this side: the driver may run other operations before it resumes.

    :func:`at_once` runs work that awaits nothing else without a driver; several operations share it as
    :class:`SharedWork`.
    """

    reads: FileBlock | None = None
    """What the work reads when it goes on: the driver may have it in memory by then, so that others need not wait for
    a disk."""


@dataclass(frozen=True, slots=True)
class ReadStop(Effect[str]):
    """The reason of the requested stop, "" if none is requested.

    Failures after a stop do not concern servers or names: do not remember them.
    """


@dataclass(frozen=True, slots=True)
class OwnAddresses(Effect[frozenset[str]]):
    """The present IP addresses of this machine, in canonical text."""


@dataclass(frozen=True, slots=True)
class Close(Effect[None]):
    """Close the stream at once."""

    stream: Stream


def _keep_nothing() -> None:
    """Default of ``approved``: no session is kept."""


@dataclass(frozen=True, slots=True)
class TLSResult:
    """The answer to :class:`StartTLS`: the stream over TLS and the facts of its handshake, or both None.

    Without a new stream the old one must not be used any more.
    """

    stream: Stream | None
    facts: TLSFacts | None
    now: float
    """Seconds since 1970, for the judgement on the facts."""
    anchors: Callable[[], TrustAnchors]
    """Loads the trust anchors for the judgement."""
    error: str = ""
    """Why there is no stream."""
    interrupted: bool = False
    """The handshake was broken off because a stop was requested."""
    timed_out: bool = False
    """The peer did not answer in time."""
    untrusted: bool = False
    """The handshake verified the peer's certificate (:class:`StartTLS`) and rejected it."""
    own: bool = False
    """This side's files are invalid (CA certificates, keys): no failure of the peer."""
    resuming: bool = False
    """An earlier session was offered, with or without success (a failed one is removed)."""
    approved: Callable[[], None] = _keep_nothing
    """Call it after a positive judgement; only then is the session kept for resumption."""


@dataclass(frozen=True, slots=True)
class StartTLS(Effect[TLSResult]):
    """Do a TLS handshake on ``stream`` within ``timeout`` seconds."""

    stream: Stream
    options: ContextOptions | WebContextOptions
    """With ``ContextOptions`` the handshake verifies nothing, and its facts are judged by the rules; with
    ``WebContextOptions`` it verifies the peer itself."""
    server_name: str
    """The name sent in the handshake (SNI)."""
    timeout: float
    ca_file: str = ""
    ca_path: str = ""
    """File and folder of the trust anchors for the judgement; the system's if both are ""."""
    resumption: Resumption | None = None
    """The cache entry for an earlier session, and for this one once it is approved."""


@dataclass(frozen=True, slots=True)
class AllowCompletion(Effect[bool]):
    """Whether these ``transactions`` may become complete at their peer from now on.

    It is awaited only for deliveries with ``asks`` (``zsmtp.delivery.pipeline``): a queue first records that the
    messages may have arrived, for the process that takes them over. Each transaction is a pair of a delivery and the
    indexes of its recipients.
    """

    transactions: tuple[tuple[Any, tuple[int, ...]], ...]


# The effects of MTA-STS (``zsmtp.tls.mtasts``).


@dataclass(frozen=True, slots=True)
class RecallPolicy(Effect[RecalledPolicy]):
    """Read the cached MTA-STS policy of ``domain`` (RFC 8461 3.3)."""

    domain: str


@dataclass(frozen=True, slots=True)
class FetchPolicy(Effect[FetchedPolicy]):
    """One GET of ``https://host/path`` from the first of ``addresses`` that answers; no redirect is followed.

    Drivers carry it out with ``zsmtp.tls.https.fetch_policy``. Those that run many operations fetch once for all that
    ask for the same at the same time.
    """

    host: str
    addresses: tuple[str, ...]
    policy_id: str = ""
    """The id that the domain's record has: what is fetched for one id is no answer for another."""
    path: str = "/.well-known/mta-sts.txt"


@dataclass(frozen=True, slots=True)
class KeepPolicy(Effect[None]):
    """Store ``entry`` in the cache, replacing the entry of its domain."""

    entry: CachedPolicy


def carry_out(operation: Coroutine[E, Any, T], perform: Callable[[E], object]) -> T:
    """Run ``operation`` to its end, each effect carried out by ``perform``, and return its result.

    If ``perform`` raises, the operation is closed: its ``finally`` blocks run, and it does not go on.
    """
    answer: object = None
    try:
        while True:
            answer = perform(operation.send(answer))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        operation.close()


def at_once(work: Operation[T]) -> T:
    """Run work that awaits only :class:`GiveWay` to its end, and return its result."""
    return carry_out(work, _go_on)


def _go_on(effect: Effect[Any]) -> None:
    checked_pause(effect)


def checked_pause(effect: Effect[Any]) -> GiveWay:
    """The effect of work that awaits only :class:`GiveWay`. Raises LocalError for any other."""
    if type(effect) is not GiveWay:
        raise unknown_effect(effect)
    return effect


class SharedWork(Generic[T]):
    """Long work whose result several operations need: each of them that runs does the next piece.

    ``work`` awaits only :class:`GiveWay`. ``over`` is true once it has ended, with a result or an error.
    """

    __slots__ = ("_error", "_pause", "_result", "_work", "over")

    def __init__(self, work: Operation[T]) -> None:
        self._work = work
        self._pause: GiveWay | None = None  # all wait in it, so that none goes on before its block is read
        self._result: T | None = None
        self._error: Exception | None = None
        self.over = False

    async def result(self) -> T:
        """Return the result of the work, or raise its error, in every operation that needs it."""
        while not self.over:
            if (pause := self._pause) is None:
                try:
                    pause = checked_pause(self._work.send(None))
                except StopIteration as end:
                    self._result = end.value
                    self.over = True
                    break
                except Exception as error:
                    self._error = error
                    self.over = True
                    raise
                if pause.reads is not None:
                    self._pause = pause
            await pause
            if self._pause is pause:
                self._pause = None
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    def close(self, error: Exception) -> None:
        """Stop the work and close its resources; :meth:`result` raises ``error`` from now on."""
        if not self.over:
            self.over, self._error = True, error
            self._work.close()


def unknown_effect(effect: object) -> LocalError:
    """The error for an effect that a driver does not support."""
    return LocalError(f"not an effect this driver knows: {effect!r}")


def _ignore(effect: Effect[Any]) -> None:
    """Default of ``asked``."""


async def observed(
    operation: Operation[T],
    answered: Callable[[Effect[Any], Any], None],
    asked: Callable[[Effect[Any]], None] = _ignore,
) -> T:
    """Pass on the effects of ``operation``; call ``asked`` with each, and ``answered`` with each and its answer."""
    answer: object = None
    try:
        while True:
            effect = operation.send(answer)
            asked(effect)
            answer = await effect
            answered(effect, answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        operation.close()
