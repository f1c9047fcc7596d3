"""The network of the queue's runner: connections by the engine, and deliveries made from queued messages.

A :class:`Connections` makes connections; each :class:`Connection` serves the mail of one queue key, one session after
the other. :class:`EngineConnections` implements it with the delivery engine and its asyncio driver, as in the library's
client: a :class:`~zsmtp.client.config.Config` sets names, security, timeouts and content. The runner decides when and
how often to connect, and settles recipients; this module never waits or tries again. Connections may be in other
processes (``zsmtp.queue.workers``), which use :class:`EngineConnections` there.

Deliveries request permission before a message may be complete at its peer (:class:`~zsmtp.effects.AllowCompletion`).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, cast

from zsmtp.body.fields import end_of_header
from zsmtp.body.lines import unified_header
from zsmtp.body.source import Source
from zsmtp.body.stored import Stored, preparation
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destination, Destinations
from zsmtp.client.drivers import Couriers, Drivers
from zsmtp.client.message import MAX_HEADER
from zsmtp.delivery.attempt import Courier, Returns
from zsmtp.delivery.content import ContentProvider, Targets
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Verdict
from zsmtp.delivery.pool import Route
from zsmtp.effects import AllowCompletion, Operation
from zsmtp.errors import ConfigError, ContentError, QueueUnavailable
from zsmtp.events import Observer
from zsmtp.net.aio import AsyncDriver, Run, Stop
from zsmtp.net.transport import SocketStream
from zsmtp.proto.plan import Envelope, EnvelopeRecipient, sender_wish
from zsmtp.queue.site import Group
from zsmtp.queue.store import QueueStore
from zsmtp.queue.submission import destination_of, restored

IN_MEMORY = 1 << 20  # octets of a loaded content that are kept in memory; more are in a temporary file

T = TypeVar("T")


class Entrusted(Protocol):
    """A delivery that a connection carries out, as its owner needs it."""

    @property
    def ledger(self) -> Ledger:
        """The ledger of its recipients, which gets each verdict."""


D = TypeVar("D", bound=Entrusted)

Allow = Callable[[Sequence[tuple[Entrusted, tuple[int, ...]]]], Awaitable[bool]]
"""Called before these recipients' messages may be complete at the peer; returns whether they may."""

OnVerdict = Callable[[int, Verdict], None]
"""Called with the index of a recipient in its group and the verdict, once for each."""


class ConnectionGone(Exception):
    """The process of a connection died with all its deliveries.

    They get no further verdicts. Those with permission to be complete at their server may be.
    """


class Connection(Protocol[D]):
    """One connection at a time to the destination of a queue key, opened when a delivery needs one."""

    @property
    def is_open(self) -> bool:
        """Whether a session is open."""

    def delivery(self, group: Group, on_verdict: OnVerdict) -> D:
        """The delivery of a group whose content is loaded."""

    async def deliver(
        self,
        first: D,
        more: Callable[[], D | None],
        returns: Callable[[D, Verdict], bool],
        put_back: Callable[[D], None],
    ) -> None:
        """Deliver ``first`` and further ones from ``more``; each has its verdicts then, or goes back.

        ``returns`` decides whether one without a server's decision goes back; ``put_back`` is called for one that was
        never begun. Those without a verdict at the end go back, too. Raises ConnectionGone.
        """

    async def idle(self, seconds: float) -> bool:
        """Keep the session open without work; False when the time is over or the peer ended it."""

    def wake(self) -> None:
        """End :meth:`idle`: there is work."""

    def leave(self) -> None:
        """End :meth:`idle`: the connection is wanted elsewhere."""

    def stop(self, reason: str, *, at_once: bool) -> None:
        """Begin no more messages; wait for those that may be complete already, unless ``at_once``."""

    async def close(self) -> None:
        """End the session with QUIT."""


class Connections(Protocol):
    """Makes connections."""

    def problem(self, key: str) -> str:
        """Why the configuration has no route for a queue key; "" if it has one."""

    def connection(self, key: str, allow: Allow, *, site: str = "", in_turn: bool = False) -> Connection[Any]:
        """A connection for the mail of a queue key without a problem; ``site`` is the site of the key.

        ``in_turn``: ``deliver`` calls ``more`` only when a message can begin, as the rates of the site require.
        """

    async def load(self, store: QueueStore, group: Group) -> None:
        """Load a content that was too large for the claim of its recipients. Raises QueueError."""

    def is_lmtp(self, key: str) -> bool:
        """Whether the mail of a key goes by LMTP, which delivers to mailboxes."""

    async def aclose(self) -> None:
        """Release all resources."""


ObserverFor = Callable[[str], Observer]
"""Returns the observer of a connection to the destination of this name."""


class EngineConnections:
    """Connections by the engine with ``config``; ``observe`` returns the observer of each of them."""

    def __init__(self, config: Config, observe: ObserverFor | None = None) -> None:
        self._destinations = Destinations(config)
        self._observe = observe
        self._drivers = Drivers(self._destinations, config.local_address)
        self._couriers = Couriers(self._destinations, observe)
        self._known: dict[str, Destination] = {}  # by queue key
        self._wanted = self._destinations.target()

    @property
    def destinations(self) -> Destinations:
        """The destinations of the configuration."""
        return self._destinations

    def reroute(self, config: Config) -> None:
        """Use the relays and routes of another configuration from now on; its other values are ignored."""
        self._destinations = Destinations(config)
        self._couriers = Couriers(self._destinations, self._observe)
        self._known.clear()

    def problem(self, key: str) -> str:
        """Why there is no route for the mail of a key: its relay is not configured, or cannot be used."""
        try:
            destination = self._destination(key)
            self._couriers.of(destination)
            self._drivers.of(destination)
        except ConfigError as error:
            return str(error)
        return ""

    def connection(self, key: str, allow: Allow, *, site: str = "", in_turn: bool = False) -> EngineConnection:
        """A connection for the mail of a queue key. Raises ConfigError for one with a problem."""
        destination = self._destination(key)
        courier, observer = self._couriers.of(destination)
        route = Route(destination.request, destination.given)
        driver = self._drivers.of(destination)
        return EngineConnection(driver, courier, observer, route, Targets(self._wanted), allow)

    def is_lmtp(self, key: str) -> bool:
        """Whether the mail of a key goes by LMTP."""
        try:
            relay = self._destination(key).relay
        except ConfigError:
            return False
        return relay is not None and relay.lmtp

    async def load(self, store: QueueStore, group: Group) -> None:
        """Load a large content into a temporary file."""
        loaded = cast(BinaryIO, tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115 - closed with the group
        try:
            async for chunk in store.content(group.message.id, group.message.size):
                loaded.write(chunk)
            loaded.flush()
        except OSError as error:
            loaded.close()
            where = f"in {tempfile.gettempdir()}" if tempfile.tempdir else "in the folder for temporary files"
            raise QueueUnavailable(
                f"a message of {group.message.size} octets cannot be kept {where} while it is sent: {error.strerror}"
            ) from error
        except BaseException:
            loaded.close()
            raise
        group.content = loaded

    async def aclose(self) -> None:
        """End lookups and threads."""
        await self._drivers.aclose()

    def _destination(self, key: str) -> Destination:
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= 10_000:
                self._known.clear()
            known = self._known[key] = destination_of(self._destinations, key)
        return known


class OutgoingMessage(NamedTuple):
    """An outgoing message: the values of a :class:`~zsmtp.queue.site.Group` for a connection.

    The fields are those of :class:`~zsmtp.proto.plan.Envelope`; ``options`` are the plain values that were queued,
    ``priority`` is 0 if there is none, ``name`` the Message-ID. ``content``: octets, or an open file.
    """

    sender: bytes
    recipients: tuple[EnvelopeRecipient, ...]
    ret: bytes | None
    envid: bytes | None
    options: Mapping[str, object] | None
    priority: int
    name: str
    content: bytes | BinaryIO


def outgoing(group: Group) -> OutgoingMessage:
    """The message of a group whose content is loaded, to the recipients of the group."""
    message, content = group.message, group.content
    assert content is not None
    return OutgoingMessage(
        message.sender if group.sender is None else group.sender,
        tuple([EnvelopeRecipient(one.address, one.notify, one.orcpt) for one in group.recipients]),
        message.ret,
        message.envid,
        message.options,
        message.priority,
        message.name,
        content,
    )


class IdlingConnection:
    """A part of connections: the wait without work, which :meth:`wake` and :meth:`leave` end."""

    _idle_end: asyncio.Future[bool] | None = None

    async def _stay_idle(self, seconds: float) -> bool:
        """Wait for work; False when the time is over or :meth:`leave` was called."""
        loop = asyncio.get_running_loop()
        idle_end: asyncio.Future[bool] = loop.create_future()
        self._idle_end = idle_end
        timer = loop.call_later(seconds, self.leave)
        try:
            return await idle_end
        finally:
            timer.cancel()
            self._idle_end = None

    def wake(self) -> None:
        """End the wait, because there is work."""
        self._end_idle(again=True)

    def leave(self) -> None:
        """End the wait, because the connection is needed elsewhere, or of no use any more."""
        self._end_idle(again=False)

    def _end_idle(self, *, again: bool) -> None:
        if self._idle_end is not None and not self._idle_end.done():
            self._idle_end.set_result(again)


class EngineConnection(IdlingConnection):
    """A connection by the engine."""

    def __init__(
        self,
        driver: AsyncDriver,
        courier: Courier,
        observer: Observer,
        route: Route,
        targets: Targets,
        allow: Allow,
    ) -> None:
        self._driver = driver
        self._courier = courier
        self._observer = observer
        self._route = route
        self._targets = targets
        self._allow = allow
        self._stop = Stop()

    @property
    def is_open(self) -> bool:
        return self._route.link is not None

    def delivery(self, group: Group, on_verdict: OnVerdict) -> Delivery:
        return self.delivery_of(outgoing(group), on_verdict)

    def delivery_of(self, message: OutgoingMessage, on_verdict: OnVerdict) -> Delivery:
        """The delivery of a message."""
        content = message.content
        options = restored(message)
        optional = bool(message.options and message.options.get("tls_optional"))
        envelope = Envelope(
            message.sender,
            message.recipients,
            message.ret,
            message.envid,
            sender_wish(options, tls_optional=optional),
            options,
        )
        provider = ContentProvider(lambda: _prepared(content), self._targets, envelope, self._observer)
        return Delivery(Message(envelope, provider), Ledger(len(message.recipients), on_verdict), message.name)

    async def deliver(
        self,
        first: Delivery,
        more: Callable[[], Delivery | None],
        returns: Returns,
        put_back: Callable[[Delivery], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        idle = loop.time() - self._route.last_use if self._route.link is not None else 0.0
        await self._run(self._courier.deliver(self._route, first, more, idle=idle, returns=returns, asks=True))
        self._route.last_use = loop.time()

    def when_opened(self, opened: Callable[[], None]) -> None:
        """Call ``opened`` after every session is opened, before any message is sent over it."""
        self._route.opened = opened

    async def _run(self, work: Operation[T]) -> T:
        run = Run(self._driver, work, self._stop, self._observer, allow=self._leave_for)
        try:
            return await run.to_its_end()
        except BaseException:
            self._route.link = None  # the session of an interrupted run is closed
            raise

    async def _leave_for(self, asked: AllowCompletion) -> bool:
        return await self._allow(asked.transactions)

    async def idle(self, seconds: float) -> bool:
        link = self._route.link
        if link is None or seconds <= 0 or self._stop.requested:
            return False
        self.when_it_stirs(self.leave)
        return await self._stay_idle(seconds)

    def when_it_stirs(self, stirred: Callable[[], None]) -> None:
        """Call ``stirred`` when the peer sends data, or closes the session, before the next delivery."""
        if self._route.link is not None:
            self._driver.notify(cast(SocketStream, self._route.link.stream), stirred)

    def stop(self, reason: str, *, at_once: bool) -> None:
        self._stop.request(reason, at_once=at_once)
        self.leave()

    async def close(self) -> None:
        if self._stop.requested:
            self._stop = Stop()  # QUIT is still sent
        try:
            await self._run(self._courier.close(self._route, "no more to send"))
        finally:
            link, self._route.link = self._route.link, None
            if link is not None:
                self._driver.close_stream(cast(SocketStream, link.stream))


def _prepared(content: bytes | BinaryIO) -> Stored | Operation[Stored]:
    """An examined queued content, or the operation that examines it. Raises ContentError."""
    if isinstance(content, bytes):
        beginning, file, size = content[:MAX_HEADER], cast(BinaryIO, BytesIO(content)), len(content)
    else:
        size = content.seek(0, 2)
        content.seek(0)
        beginning, file = content.read(MAX_HEADER), content
    found = end_of_header(beginning)
    if found is None and size > len(beginning):
        raise ContentError(f"a header block of more than {MAX_HEADER} octets")
    header = beginning if found is None else beginning[: found[0]] + b"\n"
    start = size if found is None else found[1]
    return preparation(unified_header(header)[0], Source(file, start, size))
