"""The agent under a model of ZMailer's scheduler: random queues, peers and deaths, and no recipient lost or told wrong.

Whatever dies at whatever moment, each recipient ends in one of three ways: delivered, its sender told that it failed,
or still there. ``ZSMTP_SEEDS`` sets how many random worlds are tried (``ZSMTP_SEEDS=200 pytest ...``), and
``ZSMTP_FIRST_SEED`` where they begin.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.postoffice import Job, PostOffice, Rcpt
from tests.support.scheduler import DESCRIPTORS, Book, Scheduler
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink, refusing_port

from zsmtp.delivery.pace import MAX_MESSAGES

SEEDS = int(os.environ.get("ZSMTP_SEEDS", "10"))
FIRST_SEED = int(os.environ.get("ZSMTP_FIRST_SEED", "0"))
CHUNKING = ("PIPELINING", "CHUNKING", "8BITMIME", "ENHANCEDSTATUSCODES")
DSN = (*CHUNKING, "DSN")


@contextmanager
def scheduler(
    office: PostOffice, book: Book, *flags: str, hard_limit: int | None = None, overfeed: int = 150
) -> Iterator[Scheduler]:
    """A scheduler whose agents are ended, in an orderly way, when the block is left."""
    there = Scheduler(office, ["-h", "me.example", *flags], book, hard_limit=hard_limit, overfeed=overfeed)
    try:
        yield there
        there.stop()
    finally:
        for process in there.die():
            process.kill()
            process.wait()


def post_many(office: PostOffice, count: int, host: str, *, body: str = "hello\n") -> list[Job]:
    return [
        office.post([Rcpt(f"u{n}@example.com", host)], name=f"{'ABC'[n % 3]}/{1000 + n}-{n}", body=body)
        for n in range(count)
    ]


# ------------------------------------------------------------ what the scheduler makes of it


@pytest.mark.parametrize("flags", [(), ("-O", "no-ta-diagnostics")], ids=["", "old words"])
@pytest.mark.parametrize(
    "replies", [{"RCPT": "450 4.2.1 later"}, {"DOT": "451 4.3.0 later"}, {"MAIL": "452 4.3.1 full"}, {}], ids=str
)
def test_senders_of_mail_that_expires_are_told(
    office: PostOffice, replies: dict[str, str], flags: tuple[str, ...]
) -> None:
    """The notary data of the last deferral are the notice; without replies the host cannot be reached at all."""
    book = Book()
    script = Script(replies={verb: (Step(text),) for verb, text in replies.items()})
    with Sink(script) as sink, refusing_port() as refusing:
        port = sink.port if replies else refusing
        for n in range(20):
            office.post([Rcpt(f"u{n}@example.com", words=f"ORCPT=rfc822;o{n}@example.com")], name=str(1000 + n))
        with scheduler(office, book, "-p", str(port), *flags) as there:
            there.run(lambda: all(v.attempts for f in there.files.values() for v in f.vertices.values()))
            there.run(lambda: not any(v.fed for f in there.files.values() for v in f.vertices.values()))
            there.expire()
            assert there.done
    assert sorted((one.address, one.final, one.action, one.original) for one in book.notices) == sorted(
        (b"u%d@example.com" % n, b"u%d@example.com" % n, b"failed", b"rfc822;o%d@example.com" % n) for n in range(20)
    )
    assert {one.status[:2] for one in book.notices} == {b"4."}


WISHES = [
    ("NOTIFY=NEVER ORCPT=rfc822;never@example.org", 0),
    ("", 1),
    ("NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;both@example.org", 1),
    ("NOTIFY=SUCCESS ORCPT=rfc822;success@example.org", 0),
    ("ORCPT=rfc822;plain@example.org", 1),
    ("NOTIFY=FAILURE,DELAY ORCPT=rfc822;delay@example.org", 1),
]


@pytest.mark.parametrize("first", range(len(WISHES)))
def test_each_recipient_of_a_host_has_its_own_wishes(office: PostOffice, first: int) -> None:
    """Whoever is the first one, whose wishes the scheduler knows."""
    book = Book()
    wishes = WISHES[first:] + WISHES[:first]
    with Sink(Script(caps=CHUNKING, replies={"RCPT": (Step("550 5.1.1 no such user"),)})) as sink:
        job = office.post([Rcpt(f"u{n}@example.com", words=words) for n, (words, _) in enumerate(wishes)])
        with scheduler(office, book, "-p", str(sink.port)) as there:
            there.run(lambda: there.done)
    expected = [
        (job.offsets[n], words.partition("ORCPT=")[2].encode() or None)
        for n, (words, told) in enumerate(wishes)
        if told
    ]
    assert [(one.offset, one.original) for one in book.notices] == expected
    assert {one.action for one in book.notices} == {b"failed"}


def test_a_success_that_was_asked_for_is_told_once(office: PostOffice) -> None:
    book = Book()
    with Sink(Script(caps=CHUNKING)) as sink:
        office.post([Rcpt(f"u{n}@example.com", words=words) for n, (words, _) in enumerate(WISHES)])
        with scheduler(office, book, "-p", str(sink.port)) as there:
            there.run(lambda: there.done)
    told = [(one.action, one.original) for one in book.notices]
    assert told == [(b"relayed", b"rfc822;both@example.org"), (b"relayed", b"rfc822;success@example.org")]


# ------------------------------------------------------------ descriptors


@pytest.mark.parametrize("hard_limit", [None, 32, 24], ids=str)
@pytest.mark.parametrize("body", ["hello\n", "a long line of text, again and again\n" * 10_000], ids=["small", "large"])
def test_few_descriptors_are_enough(office: PostOffice, hard_limit: int | None, body: str) -> None:
    """However many jobs are at hand: none is answered with #resync, and none is put off."""
    book = Book()
    count = 200 if len(body) < 1000 else 40
    with Sink(Script(caps=CHUNKING), keep_content=False) as sink:
        post_many(office, count, "[127.0.0.1]", body=body)
        flags = ("-p", str(sink.port), "-l", str(office.log))
        with scheduler(office, book, *flags, hard_limit=hard_limit) as there:
            there.run(lambda: there.done)
            assert not [line for line in there.log if line.startswith(b"#resync")]
            assert not [line for line in there.log if b"Too many" in line or b"deferred" in line]
    assert sink.deliveries() == {b"u%d@example.com" % n: 1 for n in range(count)}
    assert len(sink.connections) == 1
    if hard_limit is not None:
        assert book.most_descriptors <= hard_limit
    else:
        assert DESCRIPTORS < 200


# ------------------------------------------------------------ deaths


def settled(office: PostOffice, jobs: list[Job]) -> Counter[str]:
    """The state tags of the first recipients of files that are there."""
    return Counter(office.marks(job)[0] for job in jobs if (office.transport / job.path).exists())


def read_ahead(there: Scheduler) -> bool:
    """Whether an agent was given all lines at once."""
    return any(len(kid.lines) > 1 for kid in there.kids)


def wait_for_end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.wait(100)


@pytest.mark.parametrize("caps", [(), ("PIPELINING",), CHUNKING], ids="-".join)
def test_an_orphan_ends_what_is_under_way_and_begins_nothing(office: PostOffice, caps: tuple[str, ...]) -> None:
    """Its scheduler dies with reports unread: the feed ends with ECONNRESET, and 151 lines were read ahead."""
    book = Book()
    gate = threading.Event()
    steps = (*[Step("250 ok")] * 5, Step("250 ok", gate=gate))
    replies = {"DOT": steps, "BDAT": steps}
    with Sink(Script(caps=caps, replies=replies)) as sink:
        jobs = post_many(office, 151, "[127.0.0.1]")
        there = Scheduler(office, ["-h", "me.example", "-p", str(sink.port)], book)
        there.run(lambda: read_ahead(there))  # and nothing that comes now is read
        sink.wait_for(lambda s: sum(s.deliveries().values()) >= 5)
        orphans = there.die()
        begun = len(sink.transactions)
        gate.set()
        wait_for_end(*orphans)
        sink.wait_until_finished()
        marks = settled(office, jobs)
        assert [process.returncode for process in orphans] in ([74], [75])
        assert marks["+"] + len(book.ended) == sum(sink.deliveries().values()), "taken by the server, and not marked"
        assert marks["~"] == 0
        further = len(sink.transactions) - begun
        assert further <= MAX_MESSAGES, "jobs that were only read ahead were begun"
        with scheduler(office, book, "-p", str(sink.port)) as there:
            there.run(lambda: there.done)
    assert sink.deliveries() == {b"u%d@example.com" % n: 1 for n in range(151)}


def test_bounces_of_reports_that_nobody_read(office: PostOffice) -> None:
    """The agent wrote them down itself: the next scheduler finds them in the files."""
    book = Book()
    with Sink(Script(caps=CHUNKING, replies={"RCPT": (Step("550 5.1.1 no such user"),)})) as sink:
        jobs = post_many(office, 30, "[127.0.0.1]")
        there = Scheduler(office, ["-h", "me.example", "-p", str(sink.port)], book)
        there.run(lambda: read_ahead(there))
        sink.wait_for(lambda s: len(s.transactions) >= 5)
        wait_for_end(*there.die())
        assert set(settled(office, jobs)) <= {"-", " "}
        with scheduler(office, book, "-p", str(sink.port)) as there:
            there.run(lambda: there.done)
    assert sorted(one.address for one in book.notices) == sorted(b"u%d@example.com" % n for n in range(30))


@pytest.mark.parametrize("action", [b"failed", b"relayed"])
def test_a_record_without_a_mark_is_the_end_of_its_recipient(office: PostOffice, action: bytes) -> None:
    """An agent died between the two: nothing is sent again, and nobody is told twice."""
    book = Book()
    words = "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o@example.com"
    job = office.post([Rcpt("a@example.com", words=words), "b@example.com"])
    notary = b"\x01".join((b"a@example.com", action, b"5.0.0", b"smtp; 550 (no)", b"dns; mx"))
    wishes = office.control(job).index(b"\nN ") + 1
    with (office.transport / job.path).open("ab") as control:
        control.write(b"d %d:200:%d::1700000000\t%s\tgone\n" % (job.offsets[0], wishes, notary))
    with Sink(Script(caps=CHUNKING)) as sink, scheduler(office, book, "-p", str(sink.port)) as there:
        there.run(lambda: there.done)
    assert sink.deliveries() == {b"b@example.com": 1}
    assert [(one.address, one.action, one.original) for one in book.notices] == [
        (b"a@example.com", action, b"rfc822;o@example.com")
    ]
    assert book.ended[job.path, job.offsets[0]] == (b"-" if action == b"failed" else b"+")


def test_a_failed_host_is_tried_when_the_scheduler_gives_its_mail_again(office: PostOffice) -> None:
    """And not before: of the jobs that were read ahead only the first one waits for it."""
    book = Book()
    busy = Script(banner=Step("421 4.3.2 busy", Then.CLOSE))
    with Sink(busy, busy, Script(caps=CHUNKING)) as sink:
        post_many(office, 10, "[127.0.0.1]")
        with scheduler(office, book, "-p", str(sink.port)) as there:
            there.run(lambda: there.done)
            # A new agent is given one line at first, and ten when it is tried again, all that is there by then.
            assert 10 <= sum(b"\tretryat +60 " in line for line in there.log) <= 11
    assert len(sink.connections) == 3
    assert sink.deliveries() == {b"u%d@example.com" % n: 1 for n in range(10)}


# ------------------------------------------------------------ random worlds


@dataclass
class World:
    """One random world: what is posted, who answers how, and what has been killed."""

    seed: int
    office: PostOffice
    sinks: list[Sink]
    chance: random.Random = field(init=False)
    book: Book = field(default_factory=Book)
    posted: dict[tuple[str, int], Rcpt] = field(default_factory=dict)
    orphans: list[subprocess.Popen[bytes]] = field(default_factory=list)
    killed: bool = False

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def post(self, number: int) -> None:
        chance = self.chance
        recipients = []
        for n in range(chance.choice([1, 1, 1, 2, 3, 7])):
            sink = chance.choice(self.sinks)
            words = chance.choice(
                ["", "NOTIFY=NEVER", "NOTIFY=FAILURE", "NOTIFY=SUCCESS", "NOTIFY=SUCCESS,FAILURE,DELAY"]
            )
            if chance.random() < 0.5:
                words = f"{words} ORCPT=rfc822;o{number}.{n}@example.org".strip()
            recipients.append(Rcpt(f"u{number}.{n}@example.com", f"[{sink.host}]:{sink.port}", words=words))
        body = "hello\n" * chance.choice([1, 1, 1, 1, 60_000])
        job = self.office.post(recipients, name=f"{chance.choice('ABC')}/{1000 + number}-1", body=body)
        self.posted |= {(job.path, offset): one for offset, one in zip(job.offsets, recipients, strict=True)}

    @contextmanager
    def at_work(self) -> Iterator[Scheduler]:
        """A scheduler that dies, with reports unread, when the block is left."""
        hard_limit = 32 if self.seed % 3 == 0 else None
        flags = ["-h", "me.example", *(["-O", "no-ta-diagnostics"] if self.old_words else [])]
        there = Scheduler(self.office, flags, self.book, hard_limit=hard_limit, chance=self.chance)
        try:
            yield there
        finally:
            self.orphans += there.die()

    @property
    def old_words(self) -> bool:
        return False

    def disturb(self, there: Scheduler) -> None:
        """Something happens, or nothing."""
        what = self.chance.random()
        if what < 0.15 and there.kids:
            self.killed = True
            there.kill(self.chance.choice(there.kids), signal.SIGKILL)
        elif what < 0.25 and there.kids:
            there.kill(self.chance.choice(there.kids), signal.SIGTERM)
        elif what < 0.3:
            there.report_interim()
        elif what < 0.35:
            there.expire(lambda vertex: self.chance.random() < 0.1)

    def finish(self) -> None:
        """Whatever still runs comes to its end, or is killed for good."""
        for process in self.orphans:
            try:
                process.wait(100)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise

    def check(self) -> None:
        """Each recipient was delivered, its sender told, or it is still there."""
        delivered: Counter[bytes] = Counter()
        doubtful: Counter[bytes] = Counter()
        for sink in self.sinks:
            for connection in sink.connections:
                for transaction in connection.transactions:
                    delivered.update(transaction.delivered)
                    if self.killed and "QUIT" not in connection.verbs:
                        doubtful.update(transaction.delivered)
        told = Counter((one.file, one.offset, one.action) for one in self.book.notices)
        for (path, offset), rcpt in self.posted.items():
            self._check_one(path, offset, rcpt, delivered, doubtful, told)

    def _check_one(
        self,
        path: str,
        offset: int,
        rcpt: Rcpt,
        delivered: Counter[bytes],
        doubtful: Counter[bytes],
        told: Counter[tuple[str, int, bytes]],
    ) -> None:
        address = rcpt.address.encode()
        where = f"seed {self.seed}: {path}/{offset} {rcpt.address} {rcpt.words!r}"
        failures = told[path, offset, b"failed"]
        successes = told[path, offset, b"relayed"] + told[path, offset, b"delivered"]
        expired = (path, offset) in self.book.expired
        tag = self.book.ended.get((path, offset))
        notify = (
            rcpt.words.partition("NOTIFY=")[2].partition(" ")[0].split(",") if "NOTIFY" in rcpt.words else ["FAILURE"]
        )
        assert delivered[address] <= 1 + doubtful[address], f"{where}: delivered twice"
        assert failures <= 1, f"{where}: told twice of a failure"
        assert successes <= 1, f"{where}: told twice of a success"
        assert path not in self.book.forgotten, f"{where}: forgotten by the scheduler"
        if tag is None:
            assert (self.office.transport / path).exists(), f"{where}: lost"
            return
        if tag == b"+":
            assert delivered[address], f"{where}: marked, and never delivered"
            assert not failures or doubtful[address], f"{where}: delivered, and told of a failure"
            assert successes <= ("SUCCESS" in notify), f"{where}: told of a success that nobody asked for"
        elif not expired:
            assert tag == b"-", f"{where}: gone with tag {tag!r}"
            assert not delivered[address] or doubtful[address], f"{where}: failed, and delivered"
            assert failures == ("FAILURE" in notify), f"{where}: {failures} notices"
        for notice in self.book.notices:
            if (notice.file, notice.offset) == (path, offset) and not expired:
                original = rcpt.words.partition("ORCPT=")[2].encode() or None
                assert (notice.final, notice.original) == (address, original), where


WHIMS = {
    "MAIL": ["250 ok"] * 9 + ["451 4.3.0 later", "550 5.7.1 no"],
    "RCPT": ["250 ok"] * 7 + ["450 4.2.1 later", "550 5.1.1 no"],
    "DOT": ["250 ok"] * 8 + ["451 4.3.0 later", "554 5.6.0 no"],
    "BDAT": ["250 ok"] * 8 + ["451 4.3.0 later", "554 5.6.0 no"],
}


def random_scripts(chance: random.Random) -> list[Script]:
    """The first connections to a server go as chance has it, all later ones well."""
    caps = chance.choice([(), ("PIPELINING",), CHUNKING, CHUNKING, DSN])
    scripts = []
    for _ in range(chance.choice([0, 1, 2, 3])):
        replies = {
            verb: (
                *(Step(chance.choice(texts), delay=chance.choice([0, 0, 0, 0.02])) for _ in range(12)),
                Step(texts[0]),
            )
            for verb, texts in WHIMS.items()
        }
        if chance.random() < 0.3:
            verb = chance.choice(["MAIL", "RCPT", "DATA"])
            at = chance.randrange(6)
            end = Step(chance.choice(["421 4.3.2 closing", None]), chance.choice([Then.CLOSE, Then.RESET]))
            replies[verb] = (*replies.get(verb, (Step("354 go"),) * 6)[:at], end)
        banner = Step("421 4.3.2 busy", Then.CLOSE) if chance.random() < 0.15 else Script().banner
        scripts.append(Script(caps=caps, replies=replies, banner=banner, in_order=True))
    return [*scripts, Script(caps=caps)]


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_every_recipient_is_delivered_or_its_sender_told_or_it_is_still_there(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed + 1_000_000)
    with ExitStack() as stack:
        sinks = [
            stack.enter_context(Sink(*random_scripts(chance), host=f"127.9.{seed % 250}.{n + 1}", keep_content=False))
            for n in range(chance.choice([1, 2, 3]))
        ]
        world = World(seed, PostOffice(tmp_path / "office"), sinks)
        total = chance.choice([3, 20, 60])
        for number in range(total):
            world.post(number)
        try:
            for life in range(chance.choice([1, 2, 3])):
                with world.at_work() as there:
                    end = time.monotonic() + chance.random() * 0.8
                    while time.monotonic() < end:
                        there.step()
                        world.disturb(there)
                    if chance.random() < 0.5:
                        time.sleep(chance.random() * 0.1)  # reports pile up
                world.post(total + life)
            with world.at_work() as there:
                there.run(lambda: there.done)
                there.stop()
        finally:
            world.finish()
        for sink in sinks:
            sink.wait_until_finished(0)
        world.check()
        assert world.book.ended.keys() == world.posted.keys()
