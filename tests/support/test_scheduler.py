"""The model of ZMailer's scheduler: what it makes of control files, and of what agents say."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.notices import Notice, entries, notify_of, tell
from tests.support.postoffice import PostOffice, Rcpt
from tests.support.scheduler import MAX_RESYNCS, Book, Kid, Scheduler

HOST = "[127.0.0.1]"
NOTARY = b"a@example.com\x01failed\x014.2.1\x01smtp; 450 (later)\x01dns; mx\x01smtp[1]"


@pytest.fixture
def office(tmp_path: Path) -> PostOffice:
    return PostOffice(tmp_path / "office")


class Told:
    """A scheduler with an agent whose words the test says; ``lines`` are what it was given."""

    def __init__(self, office: PostOffice) -> None:
        self.office = office
        self.book = Book()
        self.scheduler = Scheduler(office, [], self.book, chance=random.Random(0))
        ours, self.sock = socket.socketpair()
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.kid = Kid(self.process, ours, HOST.encode())
        self.scheduler.kids.append(self.kid)

    def say(self, *lines: bytes) -> list[bytes]:
        """The agent says this; returns the lines it is given then."""
        self.sock.sendall(b"".join(line + b"\n" for line in lines))
        self.scheduler.step(1)
        self.scheduler.step(0)
        self.sock.settimeout(0.1)
        try:
            return self.sock.recv(1 << 20).split(b"\n")[:-1]
        except TimeoutError:
            return []

    def end(self) -> None:
        self.scheduler.die()
        self.sock.close()
        self.process.communicate(timeout=100)


@pytest.fixture
def told(office: PostOffice) -> Iterator[list[Told]]:
    """Filled by the tests, ended here."""
    made: list[Told] = []
    yield made
    for one in made:
        one.end()


def report(offset: int, word: bytes, notary: bytes = b"", number: bytes = b"1001") -> bytes:
    return b"%b/%d\t%b\t%b text" % (number, offset, notary, word)


def test_one_line_first_and_then_as_many_as_it_overfeeds(office: PostOffice, told: list[Told]) -> None:
    jobs = [office.post(["a@example.com"], name=str(1000 + n)) for n in range(300)]
    there = Told(office)
    told.append(there)
    first = there.say(b"#hungry")
    assert len(first) == 1
    assert len(there.say(b"#hungry")) == 151
    assert there.say(*[b"#hungry"] * 150) == [], "not before all of them are answered"
    assert len(there.say(b"#hungry")) > 100
    assert first[0] in {job.line(HOST).rstrip(b"\n") for job in jobs}
    with pytest.raises(AssertionError, match="more #hungry"):
        there.say(*[b"#hungry"] * 200)


@pytest.mark.parametrize("word", [b"ok3", b"ok2", b"error2", b"ok", b"error"])
def test_a_file_is_removed_when_all_its_recipients_are_settled(
    office: PostOffice, told: list[Told], word: bytes
) -> None:
    job = office.post(["a@example.com", Rcpt("b@example.com", words="NOTIFY=NEVER")])
    there = Told(office)
    told.append(there)
    there.say(b"#hungry")
    there.say(report(job.offsets[0], word, NOTARY if word == b"error" else b""))
    assert (office.transport / "1001").exists()
    there.say(report(job.offsets[1], word, NOTARY if word == b"error" else b""), b"#hungry")
    assert not (office.transport / "1001").exists()
    assert not (office.queue / "1001").exists()
    # With the old word the second one gets the wishes of the first, and the scheduler wrote the records.
    assert len(there.book.notices) == (2 if word == b"error" else 0)


def test_who_is_told_when_mail_expires(office: PostOffice, told: list[Told]) -> None:
    """The last notary data make the notice; what is not deferred as failed is told to nobody."""
    jobs = [office.post(["a@example.com"], name=name) for name in ("1001", "1002", "1003")]
    there = Told(office)
    told.append(there)
    given = there.say(b"#hungry") + there.say(b"#hungry")
    assert len(given) == 3
    offset = jobs[0].offsets[0]
    there.say(report(offset, b"deferred", NOTARY), report(offset, b"deferred", number=b"1002"), b"#hungry", b"#hungry")
    there.scheduler.expire()
    assert sorted(one.file for one in there.book.notices) == ["1001", "1002"], "1003 was never tried"
    assert {one.status for one in there.book.notices} == {b"4.2.1", b"5.4.7 (timeout)"}
    assert sorted(there.scheduler.files) == ["1003"]
    with pytest.raises(AssertionError):
        there.say(report(offset, b"deferred", NOTARY.replace(b"failed", b"delayed"), b"1003"))


def test_a_file_is_forgotten_after_so_many_requests_to_read_it_again(office: PostOffice, told: list[Told]) -> None:
    office.post(["a@example.com"])
    there = Told(office)
    told.append(there)
    there.say(*[b"#resync 1001"] * MAX_RESYNCS)
    assert "1001" in there.scheduler.files
    there.say(b"#resync 1001")
    assert there.book.forgotten == {"1001"}
    assert there.scheduler.done


def test_locks_of_the_living_and_of_the_dead(office: PostOffice) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    office.post([Rcpt("a@example.com", state="~", lock=f"{gone.pid % 10**6:6}")], name="1001")
    office.post([Rcpt("a@example.com", state="~", lock=f"{os.getpid() % 10**6:6}")], name="1002")
    there = Scheduler(office, [], Book())
    assert sorted(there.files) == ["1001"]
    assert not there.done
    assert office.locked() == ["1002"]


def test_what_was_done_while_nobody_looked(office: PostOffice) -> None:
    """A new scheduler finds a file without work: it tells of the records in it, and removes it."""
    job = office.post([Rcpt("a@example.com", state="-"), Rcpt("b@example.com", state="+")])
    with (office.transport / "1001").open("ab") as control:
        control.write(b"d %d:200:-1::1\t%b\tno\n" % (job.offsets[0], NOTARY))
    book = Book()
    assert Scheduler(office, [], book).done
    assert [(one.offset, one.action) for one in book.notices] == [(job.offsets[0], b"failed")]
    assert book.ended == {("1001", job.offsets[0]): b"-", ("1001", job.offsets[1]): b"+"}
    assert list(office.transport.iterdir()) == []


def test_a_record_is_told_of_once_and_as_its_own_wishes_say(office: PostOffice) -> None:
    words = ["NOTIFY=FAILURE ORCPT=rfc822;o@example.com", "NOTIFY=SUCCESS", ""]
    job = office.post([Rcpt(f"u{n}@example.com", words=one) for n, one in enumerate(words)])
    path = office.transport / "1001"
    found = entries(path.read_bytes())
    assert [(one.offset, one.address, one.notify) for one in found] == [
        (job.offsets[0], b"u0@example.com", {b"FAILURE"}),
        (job.offsets[1], b"u1@example.com", {b"SUCCESS"}),
        (job.offsets[2], b"u2@example.com", {b"FAILURE"}),
    ]
    with path.open("ab") as control:
        for one in found:
            notary = NOTARY.replace(b"a@example.com", one.address if one is not found[2] else b"\x03")
            control.write(b"d %d:200:%d::1\t%b\tno\n" % (one.offset, one.wishes, notary))
    assert tell(path, "1001") == [
        Notice(
            "1001", job.offsets[0], b"u0@example.com", b"u0@example.com", b"failed", b"4.2.1", b"rfc822;o@example.com"
        ),
        Notice("1001", job.offsets[2], b"u2@example.com", b"u2@example.com", b"failed", b"4.2.1", None),
    ]
    assert tell(path, "1001") == []
    assert path.read_bytes().count(b"\nd+") == 3
    assert notify_of(b"N NOTIFY=NEVER") == {b"NEVER"}
