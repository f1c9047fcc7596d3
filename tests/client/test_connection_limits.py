"""Servers that take so many connections and refuse further ones: no message pays for one connection too many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.support.receiver import receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.support.wire import Connection

import zsmtp
from zsmtp import events
from zsmtp.aio import Client, Submission
from zsmtp.client import pool

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"
GOOD = Script(replies={"MAIL": (Step("250 ok", delay=0.004),)})
"""Slow enough, and without pipelining, for more than one connection to be wanted."""

REFUSALS = {
    "421 at the greeting": Script(banner=Step("421 4.7.0 too many connections", Then.CLOSE)),
    "421, and left open": Script(banner=Step("421 4.7.0 too many connections")),
    "450 at the greeting": Script(banner=Step("450 4.7.1 try again later")),
    "554 at the greeting": Script(banner=Step("554 5.7.1 too many connections", Then.CLOSE)),
    "closed before the greeting": Script(banner=Step(None, Then.CLOSE)),
    "reset before the greeting": Script(banner=Step(None, Then.RESET)),
    "closed inside the greeting": Script(banner=Step(b"220-wait", Then.CLOSE)),
    "421 to EHLO": Script(replies={"EHLO": (Step("421 4.3.2 too many connections", Then.CLOSE),)}),
    "450 to EHLO": Script(replies={"EHLO": (Step("450 4.7.1 too many connections"),), "HELO": (Step("450 4.7.1 no"),)}),
    "550 to EHLO": Script(replies={"EHLO": (Step("550 5.7.1 no"),), "HELO": (Step("550 5.7.1 no"),)}),
    "closed at EHLO": Script(replies={"EHLO": (Step(None, Then.CLOSE),), "HELO": (Step(None, Then.CLOSE),)}),
    "421 to MAIL": Script(replies={"MAIL": (Step("421 4.7.0 too many connections", Then.CLOSE),)}),
}


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "PATIENCE", 0.02)


def limited(refusal: Script, most: int, *, caps: tuple[str, ...] = (), **replies: Step) -> Callable[[Sink], Script]:
    """A server that takes so many connections at a time, and the first mail when there was one more."""
    asked = threading.Event()
    sender = Step("250 ok", delay=0.004, gate=asked)
    good = Script(caps=caps, replies={"MAIL": (sender,), **{verb: (step,) for verb, step in replies.items()}})
    taking = taken(good, refusal, lambda: most)

    def choose(sink: Sink) -> Script:
        if len(sink.connections) > most:
            asked.set()
        return taking(sink)

    return choose


def taken(good: Script, refusal: Script, room: Callable[[], int]) -> Callable[[Sink], Script]:
    """A server that takes a connection as long as fewer than ``room`` of those that it took are open."""
    standing: list[Connection] = []

    def choose(sink: Sink) -> Script:
        if sum(not one.finished for one in standing) >= room():
            return refusal
        standing.append(sink.connections[-1])
        return good

    return choose


def submissions(count: int) -> Iterator[Submission]:
    for number in range(count):
        yield Submission(message=MESSAGE, recipients=f"r{number}@d0.example.com", name=str(number))


async def send(
    sink: Sink, count: int, heard: list[events.Event] | None = None, **limits: int
) -> tuple[list[zsmtp.Result], Client]:
    config = zsmtp.Config(helo_name="client.example", limits=zsmtp.Limits(**limits))
    observe = None if heard is None else lambda destination: heard.append
    async with Client(config, relay=f"smtp://127.0.0.1:{sink.port}", observe=observe) as client:
        return [result async for result in client.stream(submissions(count))], client


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_server_that_takes_two_connections_gets_all_mail_over_them(
    refusal: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsmtp.client.slots.PAUSE", 900.0)  # it is not over before all mail is sent
    with Sink(choose=limited(refusal, 2)) as sink:
        results, client = asyncio.run(send(sink, 120))
    assert [result for result in results if not result.ok] == []
    assert len(results) == 120
    assert sum(sink.deliveries().values()) == 120
    assert client.resting._until == {}
    refused = [one for one in sink.connections if not one.transactions or one.verbs[-1] == "MAIL"]
    assert 1 <= len(refused) <= 4, "after the first refusal it is not asked again and again"
    # What the refused connection met is none of the message's attempts.
    assert all(len(result.attempts) == 1 and not result.attempts[0].problem for result in results)


def test_a_login_that_is_refused_beside_two_that_were_not_is_such_a_refusal() -> None:
    busy = Script(caps=("AUTH PLAIN",), replies={"AUTH": (Step("454 4.7.0 too many sessions of this user"),)})

    async def main(port: int) -> list[zsmtp.Result]:
        relay = zsmtp.Relay(host="127.0.0.1", port=port, login=zsmtp.Login(user="me", password="secret"))
        async with Client(relay=relay) as client:
            return [result async for result in client.stream(submissions(120))]

    with Sink(choose=limited(busy, 2, caps=("AUTH PLAIN",), AUTH=Step("235 welcome"))) as sink:
        results = asyncio.run(main(sink.port))
    assert [result for result in results if not result.ok] == []
    assert any("MAIL" not in one.verbs for one in sink.connections)


def test_500_messages_to_a_server_of_two_connections() -> None:
    refusal = Script(banner=Step("421 4.7.0 too many connections", Then.CLOSE))
    with Sink(choose=limited(refusal, 2), keep_content=False) as sink:
        results, _ = asyncio.run(send(sink, 500))
    assert sum(result.ok for result in results) == 500


@pytest.mark.parametrize(
    ("refusal", "fate"),
    [
        ("421 at the greeting", "deferred"),
        ("554 at the greeting", "failed"),
        ("closed before the greeting", "deferred"),
        ("421 to EHLO", "deferred"),
    ],
)
def test_where_no_connection_stands_a_refusal_decides(refusal: str, fate: str) -> None:
    with Sink(REFUSALS[refusal]) as sink:
        results, _ = asyncio.run(send(sink, 20, per_destination=3))
    assert {result.fate.value for result in results} == {fate}


def test_what_a_server_refuses_after_it_has_taken_two_is_told_to_nobody_as_a_deferral() -> None:
    heard: list[events.Event] = []
    with Sink(choose=limited(REFUSALS["421 at the greeting"], 2)) as sink:
        results, _ = asyncio.run(send(sink, 150, heard))
    assert all(result.ok for result in results)
    verdicts = [event.verdict.fate.value for event in heard if isinstance(event, events.Settled)]
    assert verdicts == ["delivered"] * 150
    started = [event.delivery for event in heard if isinstance(event, events.DeliveryStarted)]
    returned = [event for event in heard if isinstance(event, events.DeliveryReturned)]
    assert len(started) == 150 + len(returned)
    assert returned
    assert all("too many connections" in event.reason for event in returned)


def test_a_connection_is_tried_again_when_the_server_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes one at first and four later on: the destination grows again, one connection after the other."""
    monkeypatch.setattr("zsmtp.client.slots.PAUSE", 0.1)
    monkeypatch.setattr("zsmtp.client.slots.LONGEST_PAUSE", 0.1)
    room = 1

    async def main(sink: Sink) -> tuple[int, int]:
        nonlocal room
        most = {1: 0, 4: 0}
        async with Client(relay=f"smtp://127.0.0.1:{sink.port}") as client:
            done = 0
            stream = client.stream(submissions(10_000))
            async for result in stream:
                assert result.ok
                done += 1
                most[room] = max(most[room], sum(one.standing() for one in client._pools.values()))
                if done == 60:
                    room = 4
                if done >= 300 and most[4] >= 4:
                    break
            await stream.aclose()
        return most[1], most[4]

    choose = taken(GOOD, REFUSALS["421 at the greeting"], lambda: room)
    with Sink(choose=choose, keep_content=False) as sink:
        assert asyncio.run(main(sink)) == (1, 4)


def test_a_message_that_breaks_connections_is_not_sent_for_ever() -> None:
    """The server closes at MAIL whenever this sender comes, however many connections stand."""

    def choose(sink: Sink) -> Script:
        return Script(replies={"MAIL": (Step("250 ok", delay=0.01), Step("421 4.3.2 not you", Then.CLOSE))})

    with Sink(choose=choose) as sink:
        results, _ = asyncio.run(send(sink, 30, per_destination=3))
    assert len(results) == 30
    assert {result.fate.value for result in results} <= {"delivered", "deferred"}


def test_a_server_by_other_people_that_takes_two() -> None:
    """aiosmtpd with a limit on connections: further ones are closed before the greeting."""

    async def main(port: int) -> list[zsmtp.Result]:
        async with Client(relay=f"smtp://127.0.0.1:{port}") as client:
            return [result async for result in client.stream(submissions(200))]

    with receiving(most=2, delay=0.005) as receiver:
        results = asyncio.run(main(receiver.port))
    assert sum(result.ok for result in results) == 200
    assert len(receiver.messages) == 200
