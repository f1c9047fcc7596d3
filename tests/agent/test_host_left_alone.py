"""A host that failed is left alone for what was read ahead, and no longer than the scheduler itself leaves it alone.

ZMailer's scheduler gives no more jobs of a thread once it has read ``retryat`` or ``deferall``; it sends ``#idle``, or
goes on with another host. When it comes back to the thread, its interval is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from tests.support.agent import Agent
from tests.support.postoffice import PostOffice, Rcpt
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

BUSY = Script(banner=Step("421 4.3.2 busy", Then.CLOSE))


class Scene:
    """An agent for one server that is always busy; each ``job`` tells how often it was connected to so far."""

    def __init__(self, office: PostOffice, sink: Sink, agent: Agent) -> None:
        self.office, self.sink, self.agent = office, sink, agent
        self._hungry = count(2)
        self._numbers = count(1000)

    def job(self, host: str = "one.example", number: int | None = None) -> int:
        name = str(next(self._numbers) if number is None else number)
        if not (self.office.transport / name).exists():
            self.office.post([Rcpt("a@example.com", host)], name=name)
        return self.feed(f"{name}\t{host}\n".encode())

    def feed(self, line: bytes) -> int:
        self.agent.feed(line)
        self.agent.wait_until_hungry(next(self._hungry))
        return len(self.sink.connections)


@pytest.fixture
def scene(office: PostOffice) -> Iterator[Scene]:
    with Sink(BUSY) as sink, Agent(office, "-h", "me.example", "-p", str(sink.port), "-F", "[127.0.0.1]") as agent:
        yield Scene(office, sink, agent)


def test_jobs_that_were_read_ahead_are_put_off_at_once(scene: Scene) -> None:
    assert [scene.job() for _ in range(5)] == [1] * 5
    lines = [line for line in scene.agent.lines if not line.startswith(b"#")]
    assert len(lines) == 5
    reasons = [line.partition(b"\t")[2].partition(b"\rnot tried: ")[::2] for line in lines]
    assert len({reason for reason, _ in reasons}) == 1, "all for the same reason"
    assert [bool(untried) for _, untried in reasons] == [False, True, True, True, True]


def test_a_thread_that_comes_again_is_tried(scene: Scene) -> None:
    assert [scene.job(), scene.job()] == [1, 1]
    assert scene.feed(b"#idle\n") == 1
    assert [scene.job(), scene.job()] == [2, 2]


def test_a_job_that_comes_again_is_tried(scene: Scene) -> None:
    assert [scene.job(number=7), scene.job(number=8)] == [1, 1]
    assert [scene.job(number=7), scene.job(number=8), scene.job(number=9)] == [2, 2, 2]
    assert scene.job(number=8) == 3


def test_another_thread_with_the_same_destination_is_put_off_and_comes_again_as_any(scene: Scene) -> None:
    """With -F all mail goes to one host: what it did to one thread holds for the next."""
    assert [scene.job("one.example"), scene.job("two.example"), scene.job("three.example")] == [1, 1, 1]
    assert scene.job("two.example") == 2
    assert [scene.job("one.example"), scene.job("three.example")] == [2, 2]
    assert scene.job("one.example") == 3
