"""Connections in worker processes: the runner cannot tell them from its own, until one of the processes dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.effort import examples
from tests.support.patience import LIMIT
from tests.support.serving import SETTINGS, Committing, Message, Serving, serving

from zsmtp.client.config import TLS, Config, Level, Login, Relay
from zsmtp.client.destinations import Destinations
from zsmtp.errors import QueueError
from zsmtp.proto.plan import Envelope, EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_passwords import Passwords, scram_verifier
from zsmtp.proto.server_replies import make_reply
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.connections import EngineConnections
from zsmtp.queue.limits import CHUNK
from zsmtp.queue.memory.store import MemoryStore
from zsmtp.queue.runner import Runner
from zsmtp.queue.schedule import SCHEDULES, FailureClass, RetryPolicy, Schedule
from zsmtp.queue.settlement import InDoubt
from zsmtp.queue.shaping import Rate, SiteLimits
from zsmtp.queue.states import HistoryEntry, Outcome
from zsmtp.queue.store import NewMessage
from zsmtp.queue.submission import Submitter
from zsmtp.queue.workers import processes
from zsmtp.queue.workers.connections import WorkerConnections
from zsmtp.queue.workers.processes import WorkerPool, WorkerProcess
from zsmtp.server.intake import IncomingMessage, MemoryIntake, ReceivedEnvelope, SessionInfo
from zsmtp.server.tls import server_tls

LARGE = b"Subject: large\n\n" + b"".join(b"%069d\n" % number for number in range(60_000))
HEADER = b"From: a@example.org\nSubject: x\n"


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


class Node:
    """A node whose connections are in workers (with none of them: its own), and the history that it writes."""

    def __init__(self, config: Config, workers: int, queue: QueueConfig) -> None:
        self.config = config
        self.store = MemoryStore()
        self.entries: list[HistoryEntry] = []
        self.connections = WorkerConnections(config, workers) if workers else EngineConnections(config)
        self.runner = Runner(self.store, self.connections, queue, node="node", on_entry=self.entries.append)
        self.submitter = Submitter(Destinations(config), queue)

    @property
    def pool(self) -> WorkerPool:
        assert isinstance(self.connections, WorkerConnections)
        return self.connections.pool

    @property
    def busy(self) -> list[WorkerProcess]:
        """The workers that have connections."""
        return [worker for worker in self.pool.workers if worker.connections]

    async def submit(self, *recipients: str, content: bytes = b"Subject: x\n\nhello\n") -> None:
        """Queue one message."""
        await self.store.submit([self._message(recipients, content)])

    async def submit_each(self, recipients: Iterable[str]) -> None:
        """Queue a message for each of them, all at once."""
        await self.store.submit([self._message([one], b"Subject: x\n\nhello\n") for one in recipients])

    def _message(self, recipients: Sequence[str], content: bytes) -> NewMessage:
        paths = tuple(EnvelopeRecipient(one.encode()) for one in recipients)
        return self.submitter.message(Envelope(b"a@b.example", paths), HEADER, now=time.time(), content=content)

    async def until_entries(self, count: int) -> None:
        await until(lambda: len(self.entries) >= count)

    @property
    def outcomes(self) -> Counter[Outcome]:
        return Counter(entry.outcome for entry in self.entries)


@asynccontextmanager
async def node(config: Config, workers: int = 1, queue: QueueConfig | None = None) -> AsyncIterator[Node]:
    """A node that delivers until the block is left; nothing of it is left then."""
    it = Node(config, workers, queue or QueueConfig())
    if isinstance(it.connections, WorkerConnections):
        await it.pool.start()
    task = asyncio.get_running_loop().create_task(it.runner.run())
    try:
        yield it
    finally:
        it.runner.stop()
        await task
        if workers:
            assert [worker.connections for worker in it.pool.workers] == [0] * workers
            assert not any(os.path.exists(f"/proc/{worker.pid}") for worker in it.pool.workers)
        await it.store.close()


def to(server: Serving, **values: object) -> Config:
    """The configuration that has all mail go to a receiver."""
    return Config(relay=replace(Relay.from_url(f"smtp://127.0.0.1:{server.port}"), **values))  # type: ignore[arg-type]


@pytest.fixture
def receiver() -> Iterator[Serving]:
    with serving(MemoryIntake()) as server:
        yield server


def contents(server: Serving) -> list[bytes]:
    return server.call(lambda: [bytes(one.content) for one in server.intake.messages])


class Choosy(MemoryIntake):
    """Refuses recipients by name."""

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        if recipient.address.startswith(b"no"):
            return make_reply(550, "5.1.1", "nobody of this name")
        if recipient.address.startswith(b"later"):
            return make_reply(451, "4.2.2", "the mailbox is full")
        return None


@pytest.mark.parametrize("level", [Level.NONE, Level.ENCRYPT])
def test_what_is_recorded_is_the_same_as_without_workers(tmp_path: Path, web_authority: object, level: Level) -> None:
    import trustme

    assert isinstance(web_authority, trustme.CA)
    certificate = web_authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    found: list[set[tuple[object, ...]]] = []

    async def story(config: Config, workers: int) -> None:
        async with node(config, workers) as it:
            await it.submit("yes@x.example", "no@x.example", "later@x.example")
            await it.submit("yes@y.example", content=b"Subject: caf\xc3\xa9\n\n\xe4\n")
            await it.until_entries(4)
            found.append(
                {
                    (one.address, one.outcome, one.attempt, one.status, one.code, one.reason, one.server, one.tls)
                    for one in it.entries
                }
            )

    with serving(Choosy(), replace(SETTINGS, starttls=True), tls=server_tls(str(tmp_path / "cert.pem"))) as server:
        config = to(server, tls=TLS(level=level))
        for workers in (0, 2):
            asyncio.run(story(config, workers))
    assert found[0] == found[1]
    assert len(found[0]) == 4
    assert {bool(tls) for *_, tls in found[0]} == {level is Level.ENCRYPT}


def test_mail_for_one_relay_keeps_all_workers_busy_over_few_connections(receiver: Serving) -> None:
    async def story() -> None:
        queue = QueueConfig(idle=LIMIT, sites={"*": SiteLimits(start=4, most=4)})
        async with node(to(receiver), 2, queue) as it:
            await it.submit_each(f"r{number}@x{number % 7}.example" for number in range(600))
            await until(lambda: len(it.busy) == 2)
            await it.until_entries(600)
            assert it.outcomes == {Outcome.DELIVERED: 600}

    asyncio.run(story())
    sessions = receiver.call(lambda: {one.session for one in receiver.intake.messages})
    assert 2 <= len(sessions) <= 4
    assert len(contents(receiver)) == 600


def test_a_connection_is_kept_and_used_again(receiver: Serving) -> None:
    async def story() -> None:
        async with node(to(receiver), 2, QueueConfig(idle=LIMIT)) as it:
            for number in range(5):
                await it.submit(f"r{number}@x.example")
                await it.until_entries(number + 1)

    asyncio.run(story())
    assert len(receiver.call(lambda: {one.session for one in receiver.intake.messages})) == 1


def test_a_session_that_its_server_ends_at_rest_is_noticed() -> None:
    async def story(server: Serving) -> None:
        async with node(to(server), 1, QueueConfig(idle=LIMIT)) as it:
            await it.submit("a@x.example")
            await it.until_entries(1)
            await until(lambda: it.busy)
            (session,) = server.call(lambda: tuple(server.listener.connections))
            server.call(session.abort)
            await until(lambda: not it.busy)
            await it.submit("b@x.example")
            await it.until_entries(2)
            assert it.outcomes == {Outcome.DELIVERED: 2}

    with serving(MemoryIntake()) as server:
        asyncio.run(story(server))


class Stuck(MemoryIntake):
    """Takes the beginning of a content and no more, until it is ``open``."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.open = False

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        self.begun += 1
        message = super().begin(session, envelope)
        assert not isinstance(message, Reply)
        return message if self.open else Message(message, pause=asyncio.get_running_loop().create_future)


def test_a_large_message_goes_in_a_file_and_again_after_its_worker_died(quick_restarts: None) -> None:
    assert len(LARGE) > 3 * CHUNK
    stuck = Stuck()

    async def story(server: Serving) -> None:
        async with node(to(server), 1) as it:
            await it.submit("a@x.example", content=LARGE)
            await until(lambda: stuck.begun)
            stuck.open = True
            os.kill(it.pool.workers[0].pid, signal.SIGKILL)
            await it.until_entries(1)
            assert it.outcomes == {Outcome.DELIVERED: 1}
            assert it.entries[0].attempt == 1

    with serving(stuck) as server:
        asyncio.run(story(server))
        (got,) = contents(server)
        assert got.endswith(LARGE.replace(b"\n", b"\r\n"))


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RESTART_DELAYS", (0.0,))


def test_what_a_killed_worker_had_in_hand_is_in_doubt_if_it_was_complete_and_else_sent_again(
    quick_restarts: None,
) -> None:
    intake = Committing()

    async def story(server: Serving) -> None:
        async with node(to(server), 1, QueueConfig(in_doubt=InDoubt.HOLD)) as it:
            await it.submit_each(f"r{number}@x.example" for number in range(40))
            await until(lambda: intake.waiting)
            os.kill(it.pool.workers[0].pid, signal.SIGKILL)
            await it.until_entries(1)
            await until(lambda: it.pool.restarts)

            def answered() -> bool:
                intake.answer()
                return len(it.entries) == 40

            await until(lambda: server.call(answered))
            doubtful = {entry.address for entry in it.entries if entry.outcome is Outcome.IN_DOUBT}
            delivered = {entry.address for entry in it.entries if entry.outcome is Outcome.DELIVERED}
            assert doubtful
            assert delivered
            assert len(doubtful | delivered) == 40
            assert {entry.attempt for entry in it.entries} == {1}
            copies = Counter(one.envelope.recipients[0].address for one in intake.messages)
            assert set(copies) >= delivered
            assert set(copies.values()) == {1}

    with serving(intake) as server:
        asyncio.run(story(server))


@pytest.mark.seeds
@pytest.mark.parametrize("seed", range(examples(2)))
def test_workers_that_are_killed_at_any_time_lose_nothing(quick_restarts: None, seed: int) -> None:
    """What a receiver has twice was in doubt, and everybody has it at least once."""
    chance = random.Random(seed)
    count = 300

    async def story(server: Serving) -> None:
        retry = RetryPolicy(schedules={**SCHEDULES, FailureClass.IN_DOUBT: Schedule.parse("1s")})
        async with node(to(server), 2, QueueConfig(retry=retry)) as it:
            await it.submit_each(f"r{number}@x{number % 3}.example" for number in range(count))
            for _ in range(6):
                done = len(it.entries) + chance.randrange(40)
                await until(lambda: len(it.entries) > done or it.outcomes[Outcome.DELIVERED] == count)  # noqa: B023
                victim, restarts = chance.choice(it.pool.workers), it.pool.restarts
                if victim.ready:
                    os.kill(victim.pid, signal.SIGKILL)
                    await until(lambda: it.pool.restarts > restarts)  # noqa: B023
            await until(lambda: it.outcomes[Outcome.DELIVERED] == count)
            doubts = Counter(entry.address for entry in it.entries if entry.outcome is Outcome.IN_DOUBT)
            copies = server.call(lambda: Counter(one.envelope.recipients[0].address for one in server.intake.messages))
            assert len(copies) == count
            assert all(copies[one] <= 1 + doubts[one] for one in copies)
            assert set(it.outcomes) <= {Outcome.DELIVERED, Outcome.IN_DOUBT}

    with serving(MemoryIntake()) as server:
        asyncio.run(story(server))


def test_a_worker_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, quick_restarts: None) -> None:
    stuck = Stuck()

    async def story(server: Serving) -> None:
        async with node(to(server), 1) as it:
            await it.submit("a@x.example", content=LARGE)
            await until(lambda: stuck.begun)
            hung = it.pool.workers[0].pid
            os.kill(hung, signal.SIGSTOP)
            stuck.open = True
            monkeypatch.setattr(processes, "CHECK_INTERVAL", 0.01)
            monkeypatch.setattr(processes, "MISSED_CHECKS", it.pool.workers[0].missed + 3)
            await until(lambda: not it.pool.workers[0].ready)
            monkeypatch.setattr(processes, "MISSED_CHECKS", 1_000_000)
            await it.until_entries(1)
            assert it.outcomes == {Outcome.DELIVERED: 1}
            assert it.pool.workers[0].pid != hung

    with serving(stuck) as server:
        asyncio.run(story(server))


def test_a_server_that_hardly_moves_holds_up_none_of_what_could_go_over_another_connection() -> None:
    """The first message is answered late: what waited behind it at the worker goes back, and over others."""
    intake = Committing()

    async def story(server: Serving) -> None:
        async with node(to(server), 1) as it:
            await it.submit_each(f"r{number}@x.example" for number in range(12))
            await until(lambda: server.call(lambda: len(intake.waiting) > 1))
            await until(lambda: it.runner.state["connections"] > 1)

            def answered() -> bool:
                intake.answer()
                return len(it.entries) == 12

            await until(lambda: server.call(answered))
            assert it.outcomes == {Outcome.DELIVERED: 12}

    with serving(intake, replace(SETTINGS, pipelining=False)) as server:
        asyncio.run(story(server))


def test_rates_hold_as_without_workers(receiver: Serving) -> None:
    """Nothing is handed over before it may begin, so it cannot wait at the worker and begin all at once."""

    async def story() -> None:
        limits = {"*": SiteLimits(messages=(Rate(2, 3600.0),))}
        async with node(to(receiver), 1, QueueConfig(sites=limits)) as it:
            for number in range(5):
                await it.submit(f"r{number}@x.example")
            await it.until_entries(2)
            await until(lambda: not it.busy or it.runner.state["ready"] == 3)
            assert it.runner.state["ready"] == 3
            assert len(it.entries) == 2

    asyncio.run(story())


def test_what_is_past_its_last_octet_is_waited_for_at_the_end() -> None:
    intake = Committing()

    async def story(server: Serving) -> None:
        async with node(to(server), 2, QueueConfig(shutdown=LIMIT)) as it:
            await it.submit("a@x.example")
            await until(lambda: intake.waiting)
            await it.submit_each(f"r{number}@x.example" for number in range(40))
            it.runner.stop()
            server.call(intake.answer)
            await until(lambda: it.entries)
        assert it.outcomes == {Outcome.DELIVERED: len(intake.messages)}

    with serving(intake) as server:
        asyncio.run(story(server))


@pytest.mark.parametrize("seconds", [0.0, LIMIT])
def test_a_connection_that_nobody_waits_for_any_more_is_closed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The node ends at once: the message was complete, and its result is not waited for, or only for a moment."""
    monkeypatch.setattr("zsmtp.queue.runner.STOPPED_AT_ONCE", seconds)
    intake = Committing()

    async def story(server: Serving) -> None:
        async with node(to(server), 1, QueueConfig(shutdown=0.0)) as it:
            await it.submit("a@x.example")
            await until(lambda: intake.waiting)
        assert set(it.outcomes) <= {Outcome.IN_DOUBT}, "or the mark says so to the next owner"

    with serving(intake) as server:
        asyncio.run(story(server))


def test_lines_of_workers_are_in_the_log_of_the_service(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A secret that everybody can read is warned of by the process that reads it."""
    caplog.set_level(logging.INFO, "zsmtp")
    secret = tmp_path / "secret"
    secret.write_text("geheim\n")
    secret.chmod(0o644)

    async def story(config: Config) -> None:
        async with node(config, 1) as it:
            await it.submit("a@x.example")
            await it.until_entries(1)
            assert it.outcomes == {Outcome.DELIVERED: 1}
            await until(lambda: "every user of this machine can read this secret" in caplog.text)
            (record,) = [one for one in caplog.records if "can read this secret" in one.getMessage()]
            assert (record.name, record.levelname) == ("zsmtp", "WARNING")

    settings = replace(SETTINGS, mechanisms=("PLAIN",), cleartext_logins=True)
    verifier = scram_verifier(b"geheim", salt=b"0123456789abcdef")
    with serving(MemoryIntake(), settings, passwords=Passwords({b"ann": verifier}, {}, key=b"k" * 32)) as server:
        asyncio.run(story(to(server, login=Login(user="ann", password_file=str(secret)))))


def test_a_worker_goes_by_relays_that_are_configured_later(receiver: Serving) -> None:
    async def story() -> None:
        nowhere = Config(relay=Relay.from_url("smtp://127.0.0.1:1"))
        async with node(nowhere, 2) as it:
            it.submitter = Submitter(Destinations(to(receiver)), QueueConfig())
            await it.submit("a@x.example")
            await until(lambda: it.runner.problems)
            it.connections.reroute(to(receiver))
            it.runner.reroute()
            await it.until_entries(1)
            assert it.outcomes == {Outcome.DELIVERED: 1}

    asyncio.run(story())


def test_while_no_worker_runs_mail_waits_and_is_not_tried(
    receiver: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zsmtp.queue.workers.connections.WORKER_WAIT", 0.05)

    async def story() -> None:
        async with node(to(receiver), 1) as it:
            with monkeypatch.context() as patch:
                patch.setattr(processes, "RESTART_DELAYS", (0.0,))
                patch.setattr(sys, "executable", "/nowhere/python")
                os.kill(it.pool.workers[0].pid, signal.SIGKILL)
                await until(lambda: "it cannot be started: No such file" in str(it.pool.problems))
                await it.submit("a@x.example")
                await until(lambda: it.runner.state["connections"])
                assert it.entries == []
            await it.until_entries(1)
            assert (it.outcomes, it.entries[0].attempt) == ({Outcome.DELIVERED: 1}, 1)
            assert it.pool.problems == []
            assert it.pool.restarts > 0

    asyncio.run(story())
    assert "worker 1 does not run: it was killed by SIGKILL" in caplog.text


def test_workers_that_do_not_start_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        connections = WorkerConnections(Config(), 2)
        try:
            with pytest.raises(QueueError, match=r"worker [12] does not run: it cannot be started: No such file"):
                await connections.pool.start()
        finally:
            await connections.aclose()

    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    asyncio.run(story())


def test_the_worker_for_a_connection() -> None:
    """As few connections to the site as any; else the one that had it last, unless it has far more to do."""

    async def story() -> None:
        pool = WorkerPool(Config(), 3)
        one, two, three = pool.workers
        assert pool.choose("s") is None
        for worker in pool.workers:
            worker.ready = True
        numbers = itertools.count()

        def connect(site: str) -> WorkerProcess:
            chosen = pool.choose(site)
            assert chosen is not None
            chosen.add(next(numbers), Connected(site))
            return chosen

        assert [connect("relay") for _ in range(6)].count(one) == 2
        assert [connect("s") for _ in range(3)] == [one, two, three]
        last = connect("t")
        last.forget(next(numbers) - 1)
        assert connect("t") is last, "it may resume its session"
        for number in range(processes.STAYS + 1):
            last.add(1000 + number, Connected(f"s{number}"))
        last.forget(10)
        assert pool.choose("t") is not last

    asyncio.run(story())


class Connected:
    """A connection of a worker."""

    def __init__(self, site: str) -> None:
        self.site = site

    def on_message(self, message: object) -> None:
        raise AssertionError(message)

    def on_worker_end(self, reason: str) -> None:
        raise AssertionError(reason)
