"""The whole system in one process: listeners, the queue, delivery, housekeeping, and signals.

With ``workers`` the connections of delivery are in separate processes (``zsmtp.queue.workers``), and all else stays
here: one process owns the queue and decides.

:class:`Service` runs a :class:`~zsmtp.server.serviceconfig.ServiceConfig` until it is stopped. Accepting and delivering
share one event loop; only the threads of the store access the disk. This process becomes the deliverer before it
accepts mail, and sends ``READY`` when it does both. When it stops, it accepts no more mail, finishes messages that are
being received or delivered (``queue.shutdown``), writes all results, and closes the queue. An error that ends one part
ends the process: the service manager restarts it, and no mail is lost.

A reload can change, without interruption: rights of clients, passwords, certificates, limits, retries, limits of sites,
quotas, relays and routes, signing keys. Other changes are named in the log, and need a restart.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zsmtp.client.destinations import Destinations, load_signing
from zsmtp.errors import ConfigError, QueueError, ZsmtpError
from zsmtp.escape import described, escape
from zsmtp.proto.server_passwords import KEY_LENGTH, Passwords, parse_passwords
from zsmtp.queue.admission import Admission
from zsmtp.queue.bouncekeys import keys_of
from zsmtp.queue.bounces import BounceTaker, Taken
from zsmtp.queue.composer import Composer
from zsmtp.queue.connections import EngineConnections
from zsmtp.queue.housekeeping import Housekeeping
from zsmtp.queue.location import locate
from zsmtp.queue.returnpath import ReturnPath
from zsmtp.queue.runner import Runner
from zsmtp.queue.states import ENDS, HistoryEntry
from zsmtp.queue.store import QueueStore
from zsmtp.queue.stores import open_store
from zsmtp.queue.submission import Submitter
from zsmtp.queue.templates import load
from zsmtp.queue.workers.connections import WorkerConnections
from zsmtp.queue.workers.processes import WorkerPool
from zsmtp.server.access import Access
from zsmtp.server.health import HealthServer
from zsmtp.server.listener import ConnectionCount, Listener, ListenerSettings
from zsmtp.server.queueintake import QueueIntake, QueueIntakeSettings
from zsmtp.server.sendercheck import SenderCheck
from zsmtp.server.serviceconfig import ListenConfig, ListenTLS, LogFormat, ServiceConfig, SocketAddress
from zsmtp.server.servicelog import ServiceLog, log_entry
from zsmtp.server.systemd import Notifier
from zsmtp.server.tls import ServerTLS, server_tls
from zsmtp.signing.finalform import MessageSigning

log = logging.getLogger("zsmtp.service")

MAX_PASSWORDS = 64 << 20  # octets of a file of passwords
ACCEPTING_ENDS = 30.0  # seconds for messages that are being received when the service stops
SPARE_SECONDS = 30.0  # beyond the time that deliveries get at the end


class StartFailed(ZsmtpError):
    """The service cannot start: what failed, where, and what to do."""


def read_passwords(path: str, key: bytes) -> Passwords:
    """Read a file of passwords. Raises ConfigError naming it."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_PASSWORDS)
    except OSError as error:
        raise ConfigError(f"{escape(path)}: {error.strerror}") from error
    try:
        return parse_passwords(text, key=key)
    except ConfigError as error:
        raise ConfigError(f"{escape(path)}: {error}") from error


class _Entrance:
    """One listener with its intake, from one table of the configuration."""

    def __init__(self, name: str, config: ServiceConfig, key: bytes) -> None:
        self.name = name
        self._key = key
        self.count = ConnectionCount()
        self.listener: Listener
        self.intake: QueueIntake
        self._config: ListenConfig
        self._read(config)

    def _read(self, config: ServiceConfig) -> None:
        """Read the files and make the values of a configuration; a failure changes nothing."""
        one = config.listen[self.name]
        try:
            passwords = read_passwords(one.passwords_file, self._key) if one.passwords_file else None
            tls = server_tls(one.certificate_file, one.key_file) if one.tls is not ListenTLS.NONE else None
        except ConfigError as error:
            raise ConfigError(f"listen.{self.name}: {error}") from error
        self._config = one
        self.passwords: Passwords | None = passwords
        self.tls: ServerTLS | None = tls
        self.settings = ListenerSettings(one.protocol_settings(config.name), login_delay=one.login_delay)
        self.access = Access(networks=one.trusted_networks, clients=config.clients, others=one.senders)
        self.intake_settings = QueueIntakeSettings(
            name=config.name,
            default_domain=one.default_domain,
            add_missing=one.add_missing,
            logins=bool(one.passwords_file),
            rates_by_user=one.rates_by_user,
            rates_by_address=one.rates_by_address,
            failed_logins=one.failed_logins,
        )
        self.count.total = one.connections
        self.count.per_address = one.connections_per_address

    def make(
        self,
        store: QueueStore,
        submitter: Submitter,
        admission: Admission,
        signing: MessageSigning | None,
        bounces: BounceTaker | None,
    ) -> None:
        """Make the listener, on the running loop."""
        self.intake = QueueIntake(
            store,
            submitter,
            self.intake_settings,
            self.access,
            admission=admission,
            signing=signing,
            bounces=bounces if self._config.bounces else None,
        )
        self.listener = Listener(
            self.intake,
            self.settings,
            passwords=self.passwords,
            tls=self.tls,
            implicit_tls=self._config.tls is ListenTLS.IMPLICIT,
            count=self.count,
        )

    async def listen(self, sockets: list[socket.socket]) -> None:
        """Listen on passed sockets, else on the addresses. Raises StartFailed."""
        for sock in sockets:
            await self.listener.listen_socket(sock)
        for where in () if sockets else self._config.sockets:
            try:
                if where.path:
                    await self.listener.listen_unix(where.path, mode=int(self._config.mode, 8))
                else:
                    await self.listener.listen_tcp(where.host, where.port)
            except ConfigError as error:
                raise StartFailed(f"listen.{self.name}.addresses: {error}; is this service running already?") from error
            except OSError as error:
                raise StartFailed(f"listen.{self.name}.addresses: {cannot_listen(where, error)}") from error

    def reload(self, config: ServiceConfig, submitter: Submitter, signing: MessageSigning | None) -> None:
        """Use another configuration. Raises ConfigError before any change."""
        self._read(config)
        self.intake.reconfigure(self.intake_settings, self.access, submitter, signing)
        self.listener.passwords = self.passwords
        self.listener.tls = self.tls or self.listener.tls  # sessions with STARTTLS in their EHLO reply may still use it
        self.listener.implicit_tls = self._config.tls is ListenTLS.IMPLICIT
        self.listener.settings = self.settings


def read_entrances(config: ServiceConfig) -> MessageSigning | None:
    """Read all files for the listeners of a configuration; returns the signing of their mail. Raises ConfigError."""
    key = os.urandom(KEY_LENGTH)
    for name in config.listen:
        _Entrance(name, config, key)
    read_return_keys(config)
    return read_signing(config)


def read_return_keys(config: ServiceConfig) -> tuple[bytes, ...]:
    """The keys of return paths, none if there are none. Raises ConfigError."""
    try:
        return keys_of(config.queue.bounces)
    except ConfigError as error:
        raise ConfigError(f"queue.bounces.{error}") from error


def read_signing(config: ServiceConfig) -> MessageSigning | None:
    """The signing of a service's mail, None without keys; reads their files. Raises ConfigError."""
    try:
        return load_signing(config.delivery, Destinations(config.delivery).target(), time.time)
    except ConfigError as error:
        raise ConfigError(f"delivery.{error}") from error


def cannot_listen(where: SocketAddress, error: OSError) -> str:
    """Why listening on an address failed, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"{where}: another process listens there; stop it, or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        if where.port and where.port < 1024:
            return (
                f"{where}: ports below 1024 need a privilege: have systemd hand the socket in, or give the service "
                "CAP_NET_BIND_SERVICE"
            )
        return f"{where}: no permission to make the socket there; the folder must be writable for this user"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this machine does not have the address"
    if error.errno == errno.ENOENT:
        return f"{where}: the folder does not exist; create it, or choose another path"
    return f"{where}: {error.strerror or error}"


class Service:
    """Runs one configuration. ``reread`` reads it again on reload; ``sockets`` are the passed ones, by name."""

    def __init__(
        self,
        config: ServiceConfig,
        *,
        reread: Callable[[], ServiceConfig],
        service_log: ServiceLog,
        notifier: Notifier | None = None,
        sockets: Mapping[str, list[socket.socket]] | None = None,
        journal: bool = False,
        node: str = "",
    ) -> None:
        self.config = config
        self._node = node or os.uname().nodename
        self._reread = reread
        self._log = service_log
        self._journal = journal
        self._notifier = notifier or Notifier()
        self._stop = asyncio.Event()
        key = os.urandom(KEY_LENGTH)
        self._handed = assigned(sockets or {}, config)
        self.entrances = {name: _Entrance(name, config, key) for name in config.listen}
        self._signing = read_signing(config)
        self._return_keys = read_return_keys(config)
        self.bounces: BounceTaker | None = None
        """What takes in mail that comes back, if there are return paths."""
        self._phrases = load(Path(config.templates) if config.templates else None)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ends: list[Callable[[], None]] = []
        self.store: QueueStore
        self.runner: Runner
        self._connections: EngineConnections | WorkerConnections
        self.pool: WorkerPool | None = None
        """The workers, if there are any."""
        self.housekeeping: Housekeeping
        self.admission: Admission
        self.health: HealthServer | None = None
        self._stopped_by = ""
        self._sender_check = SenderCheck()

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        """Serve until :meth:`stop` or a signal. Raises StartFailed, QueueBusy, QueueUnavailable, ConfigError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        self.store = await open_store(locate(self.config.path), history_kept=self.config.queue.retention)
        try:
            await self._start()
            await self._serve()
        finally:
            await self._end()
            await self.store.close()
            self._notifier.close()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    @property
    def queue_name(self) -> str:
        """The queue for display."""
        return locate(self.config.path).name

    def stop(self, why: str = "asked to") -> None:
        """Stop gracefully; the second time at once."""
        if self._stop.is_set():
            log.warning("stopping at once (%s)", why)
            for task in self._running.values():
                task.cancel()
            for entrance in self._made():
                for connection in tuple(entrance.listener.connections):
                    connection.abort()
            return
        self._stopped_by = why
        self._stop.set()

    async def _start(self) -> None:
        config, store = self.config, self.store
        destinations = Destinations(config.delivery)
        submitter = Submitter(destinations, config.queue)
        if config.workers:
            self._connections = WorkerConnections(config.delivery, config.workers)
            self.pool = self._connections.pool
        else:
            self._connections = EngineConnections(config.delivery)
        self.runner = Runner(
            store,
            self._connections,
            config.queue,
            node=self._node,
            on_entry=self._log_entry,
            return_path=self._return_path(),
        )
        if (return_path := self.runner.return_path) is not None:
            self.bounces = BounceTaker(store, return_path)
        await self._become_deliverer()
        if self.pool is not None:
            await self.pool.start()
        self._keep_house(destinations)
        self.admission = Admission(store, config.queue.tenants)
        for entrance in self.entrances.values():
            entrance.make(store, submitter, self.admission, self._signing, self.bounces)
            await entrance.listen(self._handed.get(entrance.name, []))
        if config.health.address:
            await self._open_health(SocketAddress.parse(config.health.address))

    def _return_path(self) -> ReturnPath | None:
        if not self._return_keys:
            return None
        return ReturnPath(self.config.queue.bounces, self._return_keys, self.store.shard)

    async def _become_deliverer(self) -> None:
        """Start delivery; raises the error that prevents it."""
        delivering = self._begin("delivery", self.runner.run(), self.runner.stop)
        joined = asyncio.ensure_future(self.runner.joined.wait())
        await asyncio.wait([delivering, joined], return_when=asyncio.FIRST_COMPLETED)
        joined.cancel()
        if delivering.done():
            await self._running.pop("delivery")

    def _keep_house(self, destinations: Destinations) -> None:
        composer = Composer(self.config.notices, self._phrases, shard=self.store.shard)
        self.housekeeping = Housekeeping(self.store, composer, destinations, self.config.queue, signing=self._signing)
        self._begin("housekeeping", self.housekeeping.run(), self.housekeeping.stop)

    async def _open_health(self, where: SocketAddress) -> None:
        self.health = HealthServer(self.problems, self.metrics)
        try:
            await self.health.listen(where)
        except OSError as error:
            raise StartFailed(f"health.address: {cannot_listen(where, error)}") from error

    def _begin(self, name: str, work: Any, end: Callable[[], None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=f"zsmtp {name}")
        self._running[name] = task
        self._ends.append(end)
        return task

    async def _serve(self) -> None:
        places = [
            f"{entrance.name} on {', '.join(map(_shown, entrance.listener.sockets))}"
            for entrance in self.entrances.values()
        ]
        log.info("the queue %s is served: %s", self.queue_name, "; ".join(places))
        self._notifier.send("READY=1", f"STATUS=serving {escape(self.queue_name)}")
        self._sender_check.start(self.config)
        stopping = asyncio.ensure_future(self._stop.wait())
        pause = self._notifier.watchdog / 2 or None
        try:
            while not stopping.done():
                self._notifier.alive()
                await asyncio.wait(
                    [stopping, *self._running.values()], timeout=pause, return_when=asyncio.FIRST_COMPLETED
                )
                self._look_for_the_end_of_parts()
        finally:
            stopping.cancel()

    def _look_for_the_end_of_parts(self) -> None:
        if self._stop.is_set():
            return
        for name, task in self._running.items():
            if task.done() and self.runner.drained and not task.cancelled() and task.exception() is None:
                self.stop("this node was asked to leave")
                return
            if task.done():
                error = None if task.cancelled() else task.exception()
                words = described(error) if isinstance(error, Exception) else "it ended"
                log.critical("%s does not go on, so the service ends: %s", name, words)
                if error is not None:
                    raise error
                raise StartFailed(f"{name} ended by itself")

    async def _end(self) -> None:
        """Stop accepting, finish current messages, and write all results."""
        if self._stopped_by:
            log.info("stopping (%s): deliveries under way are completed", self._stopped_by)
        seconds = max(self.config.queue.shutdown, ACCEPTING_ENDS) + SPARE_SECONDS
        self._notifier.send(
            "STOPPING=1", "STATUS=completing deliveries under way", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"
        )
        for end in self._ends:
            end()
        await self._sender_check.aclose()
        entrances = self._made()
        await asyncio.gather(
            *[entrance.listener.close(grace=ACCEPTING_ENDS) for entrance in entrances], return_exceptions=True
        )
        await asyncio.gather(*[entrance.intake.settled() for entrance in entrances], return_exceptions=True)
        if self.health is not None:
            await self.health.close()
        if self._running:
            _, late = await asyncio.wait(self._running.values(), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
        if self._stopped_by:
            log.info("stopped")

    def _made(self) -> list[_Entrance]:
        """The listeners made so far: all, unless the service ends while it starts."""
        return [entrance for entrance in self.entrances.values() if hasattr(entrance, "listener")]

    def _log_entry(self, entry: HistoryEntry) -> None:
        log_entry(entry, self.store.shard)

    # ------------------------------------------------------------------- reload

    def reload(self) -> None:
        """Read the configuration again; an error in it is logged, and changes nothing."""
        if self._stop.is_set():
            return
        self._notifier.reloading()
        try:
            config = self._reread()
            unchanged = self._apply(config)
        except (ZsmtpError, OSError) as error:
            log.error("not reloaded, everything stays as it was: %s", error)
        else:
            for problem in unchanged:
                log.warning("reload: %s", problem)
            log.info("reloaded")
            self._sender_check.start(self.config)
        finally:
            self._notifier.send("READY=1")

    def _apply(self, config: ServiceConfig) -> list[str]:
        """Apply changes; returns those that need a restart. Raises ConfigError before any change."""
        left = needs_restart(self.config, config)
        listen = {
            name: replace(config.listen.get(name, before), **{key: getattr(before, key) for key in _FIXED})
            for name, before in self.config.listen.items()
        }
        reloaded = {key: getattr(config.delivery, key) for key in _RELOADED_OF_DELIVERY}
        delivery = replace(self.config.delivery, **reloaded)
        fixed = {name: getattr(self.config, name) for name in _FIXED_PARTS}
        queue = replace(config.queue, bounces=self.config.queue.bounces)
        config = replace(config, listen=listen, queue=queue, **{**fixed, "delivery": delivery})
        signing = read_entrances(config)  # all files, before the first thing is changed
        destinations = Destinations(config.delivery)
        submitter = Submitter(destinations, config.queue)
        for entrance in self.entrances.values():
            entrance.reload(config, submitter, signing)
        self.admission.reconfigure(config.queue.tenants)
        self.runner.reconfigure(config.queue)
        self.housekeeping.reconfigure(config.queue, signing, destinations)
        configure_log(self._log, config, journal=self._journal)
        self._connections.reroute(config.delivery)
        self.runner.reroute()
        self.config = config
        return left

    # ------------------------------------------------------------------- health

    async def problems(self) -> list[str]:
        """The current problems."""
        found = []
        try:
            health = await self.store.health()
        except QueueError as error:
            found.append(str(error))
        else:
            if health.problem:
                found.append(health.problem)
        found += self.runner.problems
        if self.pool is not None:
            found += self.pool.problems
        if self.runner.results.problem:
            found.append(f"results cannot be written: {self.runner.results.problem}")
        for name, task in self._running.items():
            if task.done():
                found.append(f"{name} does not run")
        return found

    async def metrics(self) -> dict[str, float]:
        """Totals of the queue (:meth:`~zsmtp.queue.store.QueueStore.counters`), and what goes on in this process.

        ``zsmtp_queue_messages_total``: messages that were accepted.
        ``zsmtp_queue_accepted_total``: recipients of these messages.
        ``zsmtp_queue_delivered_total``: recipients whose server took the message.
        ``zsmtp_queue_failed_total``: recipients that were refused, or given up by an operator with a notice.
        ``zsmtp_queue_suppressed_total``: recipients among these that were submitted to suppressed addresses.
        ``zsmtp_queue_expired_total``: recipients that were given up after the time for tries.
        ``zsmtp_queue_dropped_total``: recipients that an operator, a rule or the sender took back, without a notice.
        ``zsmtp_queue_attempts_total``: attempts with a result.
        ``zsmtp_queue_moved_total``: recipients that were moved to another queue, which delivers them.
        ``zsmtp_queue_deferred_total``: attempts that are made again.
        ``zsmtp_queue_doubtful_total``: attempts after which the server may or may not have the message.
        ``zsmtp_queue_repeated_total``: deliveries after an attempt in doubt; the recipient may have the message twice.
        ``zsmtp_queue_late_total``: results that came after another process had the recipient; they changed nothing.
        ``zsmtp_queue_bounced_total``: recipients of whom another system reported later that it could not deliver.
        ``zsmtp_queue_complained_total``: recipients that complained.
        ``zsmtp_queue_notices_total``: notices that were queued for senders.
        ``zsmtp_queue_recipients``: recipients that are in the queue now.
        ``zsmtp_queue_free_octets``: octets that are free for mail, where there are fewest; -1 if that is not known.
        ``zsmtp_intake_messages_total``: messages that listeners took since the process began.
        ``zsmtp_intake_refused_total``: messages that they refused, or could not keep, since then.
        ``zsmtp_intake_bounces_recorded_total``: messages that came back and are in the history of their recipients.
        ``zsmtp_intake_bounces_ignored_total``: messages that came back and report no failure and no complaint.
        ``zsmtp_intake_bounces_unproven_total``: messages to return paths that are forged or too old.
        ``zsmtp_intake_bounces_unknown_total``: messages that came back about mail that is not known any more.
        ``zsmtp_intake_bounces_early_total``: messages that came back before the end of their recipient: put off.
        ``zsmtp_intake_connections``: connections that clients have open now.
        ``zsmtp_workers``: worker processes that run now.
        ``zsmtp_worker_connections``: connections to servers that they have.
        ``zsmtp_worker_restarts_total``: how often one that ended was started again.

        Raises QueueError.
        """
        counters = await self.store.counters()
        found: dict[str, float] = {f"zsmtp_queue_{name}_total": value for name, value in sorted(counters.items())}
        ended = sum(counters.get(name, 0) for name in ENDS)
        found["zsmtp_queue_recipients"] = counters.get("accepted", 0) - ended
        found["zsmtp_queue_free_octets"] = (await self.store.health()).free_octets
        found["zsmtp_intake_messages_total"] = sum(entrance.intake.accepted for entrance in self.entrances.values())
        found["zsmtp_intake_refused_total"] = sum(entrance.intake.refused for entrance in self.entrances.values())
        taken = self.bounces.taken if self.bounces is not None else Counter[Taken]()
        found |= {f"zsmtp_intake_bounces_{one.value}_total": taken[one] for one in Taken}
        found["zsmtp_intake_connections"] = sum(entrance.count.open for entrance in self.entrances.values())
        workers = self.pool.workers if self.pool is not None else []
        found["zsmtp_workers"] = sum(worker.ready for worker in workers)
        found["zsmtp_worker_connections"] = sum(worker.connections for worker in workers)
        found["zsmtp_worker_restarts_total"] = self.pool.restarts if self.pool is not None else 0
        return found


_FIXED = ("addresses", "protocol", "mode", "bounces")
_FIXED_PARTS = ("path", "workers", "delivery", "notices", "templates", "health")
_RELOADED_OF_DELIVERY = ("dkim", "relay", "routes", "sender_routes")
_FIXED_OF_QUEUE = ("connections", "leases", "retention", "bounces")


def needs_restart(before: ServiceConfig, after: ServiceConfig) -> list[str]:
    """The differences between two configurations that need a restart."""
    same = {key: getattr(before.delivery, key) for key in _RELOADED_OF_DELIVERY}
    after = replace(after, delivery=replace(after.delivery, **same))
    keys = [name for name in _FIXED_PARTS if getattr(before, name) != getattr(after, name)]
    keys += [f"queue.{name}" for name in _FIXED_OF_QUEUE if getattr(before.queue, name) != getattr(after.queue, name)]
    for name in sorted({*before.listen, *after.listen}):
        one, other = before.listen.get(name), after.listen.get(name)
        if one is None or other is None:
            keys.append(f"listen.{name}")
        else:
            keys += [f"listen.{name}.{key}" for key in _FIXED if getattr(one, key) != getattr(other, key)]
    return [f"{key} changed, which takes a restart" for key in keys]


def configure_log(service_log: ServiceLog, config: ServiceConfig, *, journal: bool) -> None:
    """Apply the log settings of a configuration."""
    service_log.configure(as_json=config.log.format is LogFormat.JSON, level=config.log.level.value, journal=journal)


def assigned(handed: Mapping[str, list[socket.socket]], config: ServiceConfig) -> dict[str, list[socket.socket]]:
    """The passed sockets, by listener. Raises ConfigError.

    A name is that of a listener; a single listener gets all sockets, with any names.
    """
    names = tuple(config.listen)
    if handed and len(names) == 1:
        return {names[0]: [sock for sockets in handed.values() for sock in sockets]}
    for name in handed:
        if name not in names:
            raise ConfigError(
                f"a socket of the name {escape(name)} was passed in, and there is no listen.{escape(name)}; "
                f"FileDescriptorName= of a socket unit is one of: {', '.join(names)}"
            )
    return {name: list(sockets) for name, sockets in handed.items()}


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    return str(SocketAddress(host=name[0], port=name[1])) if isinstance(name, tuple) else str(name)
