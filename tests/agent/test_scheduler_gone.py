"""A scheduler that dies, seen over each kind of feed: what is under way ends as it ends, and nothing further is begun.

The end of a feed that can still be reported to is no death: lines that were read ahead are dealt with.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.agent import usual_environment
from tests.support.postoffice import Job, PostOffice, Report
from tests.support.script import Script, Step
from tests.support.sink import Sink

HOST = "[127.0.0.1]"
CHUNKING = ("PIPELINING", "CHUNKING")
LINES = 40


@dataclass
class Feed:
    """An agent, this side's ends of its descriptors, and how its scheduler dies."""

    process: subprocess.Popen[bytes]
    write: Callable[[bytes], object]
    die: Callable[[], None]
    output: int = -1


def _start(office: PostOffice, flags: list[str], stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "zsmtp.zmailer.agent", "-h", "me.example", *flags],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        cwd=office.transport,
        env=usual_environment(office),
    )


def by_socket_pair(office: PostOffice, flags: list[str]) -> Feed:
    """As ZMailer's scheduler does it; reports are unread, so that the feed ends with ECONNRESET."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = _start(office, flags, theirs.fileno(), theirs.fileno())
    return Feed(process, ours.sendall, ours.close)


def by_pipes(office: PostOffice, flags: list[str]) -> Feed:
    """Two pipes: the feed comes to its end, and the reports have no reader."""
    (feed, write), (read, reports) = os.pipe(), os.pipe()
    process = _start(office, flags, feed, reports)
    os.close(feed)
    os.close(reports)

    def die() -> None:
        os.close(write)
        os.close(read)

    return Feed(process, lambda data: os.write(write, data), die)


def by_a_feed_that_breaks(office: PostOffice, flags: list[str]) -> Feed:
    """The feed alone breaks, with ECONNRESET; whoever reads the reports is still there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    read, reports = os.pipe()
    with theirs:
        process = _start(office, flags, theirs.fileno(), reports)
    os.close(reports)

    def die() -> None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.close()

    return Feed(process, ours.sendall, die, read)


def post(office: PostOffice) -> list[Job]:
    return [office.post([f"u{n}@example.com"], name=str(1000 + n)) for n in range(LINES)]


@pytest.mark.parametrize("caps", [(), ("PIPELINING",), CHUNKING], ids="-".join)
@pytest.mark.parametrize(("reply", "mark"), [("250 ok", "+"), ("554 no", "-"), ("451 later", " ")])
@pytest.mark.parametrize("start", [by_socket_pair, by_pipes, by_a_feed_that_breaks])
def test_what_is_under_way_ends_as_it_ends(
    office: PostOffice,
    start: Callable[[PostOffice, list[str]], Feed],
    reply: str,
    mark: str,
    caps: tuple[str, ...],
) -> None:
    jobs = post(office)
    gate = threading.Event()
    steps = (*(Step("250 ok") for _ in range(6)), Step(reply, gate=gate))
    with Sink(Script(caps=caps, replies={"DOT": steps, "BDAT": steps})) as sink:
        feed = start(office, ["-p", str(sink.port)])
        try:
            feed.write(b"".join(job.line(HOST) for job in jobs))
            sink.wait_for(lambda s: sum(t.complete for t in s.transactions) >= 7)
            feed.die()
            gate.set()
            status = feed.process.wait(100)
        finally:
            feed.process.kill()
            feed.process.wait()
        sink.wait_until_finished()
    if feed.output >= 0:
        with os.fdopen(feed.output, "rb") as output:
            lines = [line for line in output.read().split(b"\n") if line and not line.startswith(b"#")]
        fates = {"+": "ok", "-": "error", " ": "deferred"}
        assert {Report.parse(line).fate for line in lines} == {"ok", fates[mark]}
    marks = [office.marks(job) for job in jobs]
    complete = sum(t.complete for t in sink.transactions)
    assert status in (74, 75)
    assert 7 <= complete < LINES, "jobs that were only read ahead were begun"
    assert marks == ["+"] * 6 + [mark] * (complete - 6) + [" "] * (LINES - complete)
    assert [len(office.diagnostics(job)) for job in jobs] == [int(mark == "-") for mark in marks]
    assert office.locked() == []


@pytest.mark.parametrize("caps", [(), CHUNKING], ids="-".join)
def test_the_end_of_the_feed_is_no_death(office: PostOffice, caps: tuple[str, ...], tmp_path: Path) -> None:
    """A file of job lines, and another one for the reports: all of it is done."""
    jobs = post(office)
    (tmp_path / "jobs").write_bytes(b"".join(job.line(HOST) for job in jobs))
    with Sink(Script(caps=caps)) as sink, (tmp_path / "jobs").open() as lines, (tmp_path / "out").open("wb") as out:
        process = _start(office, ["-p", str(sink.port)], lines.fileno(), out.fileno())
        assert process.wait(100) == 0
    assert [office.marks(job) for job in jobs] == ["+"] * LINES


def test_an_agent_at_rest_ends(office: PostOffice) -> None:
    with Sink(Script()) as sink:
        feed = by_socket_pair(office, ["-p", str(sink.port)])
        feed.write(office.post(["a@example.com"]).line(HOST) + b"#idle\n")
        sink.wait_for(lambda s: sum(s.deliveries().values()) == 1)
        feed.die()
        assert feed.process.wait(100) in (0, 74, 75)
        sink.wait_until_finished()
    assert sink.connections[0].verbs[-1] == "QUIT"
