"""Recipients that were deferred are tried again while the program runs, by the schedules of the queue."""

from __future__ import annotations

import asyncio
import email
import email.policy
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.loop import Loop, pass_time
from tests.support.retries import LONG, retry_soon
from tests.support.script import Script, Step, Then
from tests.support.serveprocess import free_port
from tests.support.sink import Sink

import zsmtp
from zsmtp.aio import Client, Submission
from zsmtp.delivery.retry import LEAST_LEFT, SCHEDULES, FailureClass, next_try

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"
LATER = Step("450 4.2.1 later")
OK = Step("250 ok")
FIRST = 5 * 60.0  # the first wait of the schedule
LONGEST_FIRST = FIRST * 1.1 + 1.0


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host is left alone: that goes by a clock which is not set forward here."""
    monkeypatch.setattr("zsmtp.delivery.outcome.HOST_REST", 0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


class Retries:
    """What is heard of recipients that are tried again."""

    def __init__(self) -> None:
        self.heard: list[tuple[zsmtp.Result, float]] = []

    def __call__(self, result: zsmtp.Result, seconds: float) -> None:
        self.heard.append((result, seconds))

    async def reach(self, count: int) -> None:
        """Wait until so many were heard."""
        while len(self.heard) < count:
            await asyncio.sleep(0.002)


def client(sink: Sink, **more: Any) -> Client:
    return Client(zsmtp.Config(helo_name="c.example", **more), relay=f"smtp://127.0.0.1:{sink.port}")


def test_whoever_was_deferred_is_tried_again_and_has_one_result() -> None:
    async def main() -> None:
        retries = Retries()
        results: list[zsmtp.Result] = []
        one = Submission(
            message=MESSAGE, recipients=["first@x.example", "second@x.example", "third@x.example"], name="m"
        )
        async with client(sink) as sending:

            async def stream() -> None:
                async for result in sending.stream([one], retry_for=3600.0, on_retry=retries):
                    results.append(result)  # noqa: PERF401 - they are looked at while they come

            task = asyncio.create_task(stream())
            await retries.reach(1)
            while len(results) < 2:
                await asyncio.sleep(0.002)
            pass_time(FIRST - 5.0)
            await asyncio.sleep(0.1)
            assert len(sink.transactions) == 1
            pass_time(LONGEST_FIRST - FIRST + 5.0)
            await task
        ((deferred, seconds),) = retries.heard
        assert (deferred.recipient, deferred.fate) == ("second@x.example", zsmtp.Fate.DEFERRED)
        assert FIRST - 1 <= seconds <= LONGEST_FIRST
        assert {result.recipient: result.fate.value for result in results} == {
            "first@x.example": "delivered",
            "second@x.example": "delivered",
            "third@x.example": "failed",
        }
        last = next(result for result in results if result.recipient == "second@x.example")
        assert last.seconds > FIRST
        assert len(last.attempts) == 2, "those of all tries"
        assert last.submission is one

    with Sink(Script(replies={"RCPT": (OK, LATER, Step("550 5.1.1 no"), OK)})) as sink:
        run(main)
    assert [one.delivered for one in sink.transactions] == [[b"first@x.example"], [b"second@x.example"]]


def test_the_last_try_is_made_when_the_time_is_over() -> None:
    """Two minutes are less than the first wait of the schedule."""

    async def main() -> None:
        async with client(sink) as sending:
            task = asyncio.create_task(sending.deliver(MESSAGE, recipients="a@x.example", retry_for=120.0))
            while not sink.connections or "RCPT" not in sink.connections[0].verbs:
                await asyncio.sleep(0.002)
            pass_time(119.0)
            await asyncio.sleep(0.1)
            assert not task.done()
            pass_time(2.0)
            report = await task
        assert [result.fate for result in report] == [zsmtp.Fate.DEFERRED]
        assert len(report.results[0].attempts) == 2

    with Sink(Script(replies={"RCPT": (LATER,)})) as sink:
        run(main)


def test_doubt_and_refusals_are_final() -> None:
    async def main() -> None:
        async with client(sink) as sending:
            report = await sending.deliver(MESSAGE, recipients="a@x.example", retry_for=3600.0)
            assert [result.fate for result in report] == [zsmtp.Fate.IN_DOUBT]
            report = await sending.deliver(MESSAGE, recipients="b@x.example", retry_for=3600.0)
            assert [result.fate for result in report] == [zsmtp.Fate.FAILED]

    doubt = Script(replies={"DOT": (Step(None, Then.CLOSE),)})
    with Sink(doubt, Script(replies={"RCPT": (Step("550 5.1.1 no"),)})) as sink:
        run(main)


def test_the_last_try_is_made_although_the_host_failed_a_moment_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that was away is not left alone for a minute by whoever has half a minute."""
    monkeypatch.setattr("zsmtp.delivery.outcome.HOST_REST", 60)

    async def main() -> None:
        with socket.socket() as bound:
            port = free_port()  # nobody else gets it when it is given back
            bound.bind(("127.0.0.1", port))
            relay = f"smtp://127.0.0.1:{port}"
            retries = Retries()
            results: list[zsmtp.Result] = []
            async with Client(zsmtp.Config(helo_name="c.example"), relay=relay) as sending:

                async def stream() -> None:
                    many = [Submission(message=MESSAGE, recipients=f"r{number}@x.example") for number in range(20)]
                    async for result in sending.stream(many, retry_for=30.0, on_retry=retries):
                        results.append(result)  # noqa: PERF401 - the list is looked at from outside

                task = asyncio.create_task(stream())
                await retries.reach(20)
                bound.close()
                with Sink(port=port):
                    pass_time(31.0)
                    await task
        assert [result.ok for result in results] == [True] * 20

    run(main)


def test_each_try_has_the_time_of_a_message() -> None:
    """The first one ends because its time is over, the second is answered."""

    async def main() -> None:
        async with client(sink) as sending:
            work = sending.deliver(MESSAGE, recipients="a@x.example", timeout=30.0, retry_for=3600.0)
            task = asyncio.create_task(work)
            while not sink.connections:
                await asyncio.sleep(0.002)
            pass_time(31.0)
            while len(sending._pools) or sending.slots:
                await asyncio.sleep(0.002)
            pass_time(LONGEST_FIRST)
            assert (await task).ok

    with Sink(Script(replies={"MAIL": (Step(None, Then.HANG),)}), Script()) as sink:
        run(main)


def test_what_waits_is_told_of_at_the_end() -> None:
    async def main() -> None:
        retries = Retries()
        sending = client(sink)
        many = [Submission(message=MESSAGE, recipients=f"r{number}@x.example") for number in range(3)]
        results = sending.stream(many, retry_for=3600.0, on_retry=retries)
        first = asyncio.ensure_future(anext(results))
        await retries.reach(3)
        await sending.aclose(reason="interrupted")
        told = [await first, *[result async for result in results]]
        assert {result.recipient for result in told} == {"r0@x.example", "r1@x.example", "r2@x.example"}
        assert {(result.fate, result.reply) for result in told} == {(zsmtp.Fate.DEFERRED, "450 4.2.1 later")}

    with Sink(Script(replies={"RCPT": (LATER,)})) as sink:
        run(main)


def test_whoever_is_not_waited_for_is_not_tried_again() -> None:
    async def main() -> None:
        retries = Retries()
        async with client(sink) as sending:
            results = sending.stream(
                [Submission(message=MESSAGE, recipients="r@x.example")], retry_for=3600.0, on_retry=retries
            )
            first = asyncio.ensure_future(anext(results))
            await retries.reach(1)
            first.cancel()
            await asyncio.wait([first])
            await results.aclose()
            pass_time(LONGEST_FIRST)
            await asyncio.sleep(0.1)
            assert not sending._trackers
        assert len(sink.connections) == 1

    with Sink(Script(replies={"RCPT": (LATER,)})) as sink:
        run(main)


def test_those_that_fail_together_are_tried_together() -> None:
    async def main() -> None:
        retries = Retries()
        async with client(sink) as sending:
            one = Submission(message=MESSAGE, recipients=[f"r{number}@x.example" for number in range(4)])

            async def stream() -> list[zsmtp.Result]:
                return [result async for result in sending.stream([one], retry_for=3600.0, on_retry=retries)]

            task = asyncio.create_task(stream())
            await retries.reach(4)
            pass_time(LONGEST_FIRST)
            assert all(result.ok for result in await task)

    with Sink(Script(replies={"RCPT": (LATER,)}), Script()) as sink:
        run(main)
    assert [len(one.delivered) for one in sink.transactions if one.complete] == [4]


@pytest.mark.parametrize("kind", ["path", "file", "octets", "object"])
def test_a_message_that_waits_keeps_no_file_open_and_is_whole_when_it_is_sent(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "letter.eml"
    path.write_bytes(MESSAGE)
    opened = path.open("rb")
    message: Any = {
        "path": path,
        "file": opened,
        "octets": MESSAGE,
        "object": email.message_from_bytes(MESSAGE, policy=email.policy.SMTP),
    }[kind]

    def descriptors() -> int:
        return sum(os.path.realpath(one) == str(path) for one in Path("/proc/self/fd").iterdir())

    async def main() -> None:
        retries = Retries()
        async with client(sink) as sending:

            async def stream() -> list[zsmtp.Result]:
                one = Submission(message=message, recipients="r@x.example")
                return [result async for result in sending.stream([one], retry_for=3600.0, on_retry=retries)]

            task = asyncio.create_task(stream())
            await retries.reach(1)
            while sending.slots._at_work and not sending.slots.idle:
                await asyncio.sleep(0.002)
            assert descriptors() == 1, "the one that this test has open"
            pass_time(LONGEST_FIRST)
            assert [result.ok for result in await task] == [True]

    with opened, Sink(Script(replies={"RCPT": (LATER,)}), Script()) as sink:
        run(main)
    assert sink.transactions[-1].content.replace(b"\r\n", b"\n") == MESSAGE


def test_an_observer_that_fails_when_it_is_tried_again_costs_no_result() -> None:
    problems: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        asked = 0

        def observe(destination: str) -> Any:
            nonlocal asked
            asked += 1
            if asked > 1:
                raise ValueError("not again")
            return lambda event: None

        retries = Retries()
        config = zsmtp.Config(helo_name="c.example", limits=zsmtp.Limits(idle=0.0))
        async with Client(config, relay=f"smtp://127.0.0.1:{sink.port}", observe=observe) as sending:

            async def stream() -> list[zsmtp.Result]:
                many = [Submission(message=MESSAGE, recipients="r@x.example")]
                return [result async for result in sending.stream(many, retry_for=3600.0, on_retry=retries)]

            task = asyncio.create_task(stream())
            await retries.reach(1)
            while len(sending.slots):
                await asyncio.sleep(0.002)
            pass_time(LONGEST_FIRST)
            (result,) = await task
        assert result.fate is zsmtp.Fate.DEFERRED

    with Sink(Script(replies={"RCPT": (LATER,)})) as sink:
        run(main)
    assert [str(problem["exception"]) for problem in problems] == ["not again"]


def test_without_a_loop_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the client's own loop is real: it is the wait that is short."""
    retry_soon(monkeypatch)
    heard: list[tuple[str, bool]] = []

    def on_retry(result: zsmtp.Result, seconds: float) -> None:
        heard.append((result.recipient, threading.current_thread() is threading.main_thread()))

    several = Script(replies={"RCPT": (LATER, OK, LATER, OK)})
    with Sink(several) as sink, zsmtp.Client(relay=f"smtp://127.0.0.1:{sink.port}") as sending:
        many = [Submission(message=MESSAGE, recipients="r@x.example")]
        (result,) = sending.stream(many, retry_for=LONG, on_retry=on_retry)
        assert result.ok
        assert heard == [("r@x.example", False)]
        assert sending.deliver(MESSAGE, recipients="r@x.example", retry_for=LONG).ok
    with Sink(Script(replies={"RCPT": (LATER, OK)})) as sink:
        assert zsmtp.deliver(
            MESSAGE, recipients="r@x.example", relay=f"smtp://127.0.0.1:{sink.port}", retry_for=LONG
        ).ok


@pytest.mark.parametrize("seconds", [-1, 1e9, "5m", float("nan")])
def test_what_is_no_time_is_refused(seconds: Any) -> None:
    with zsmtp.Client(relay="smtp://127.0.0.1:1") as sending:
        with pytest.raises(zsmtp.ConfigError, match=r"^retry_for: "):
            sending.deliver(MESSAGE, recipients="r@x.example", retry_for=seconds)
        with pytest.raises(zsmtp.ConfigError, match=r"^retry_for: "):
            list(sending.stream([], retry_for=seconds))


@given(
    st.sampled_from(FailureClass),
    st.integers(0, 20),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 4000),
)
def test_the_next_try_is_by_the_schedule_and_never_beyond_the_time(
    failure: FailureClass, attempts: int, now: float, left: float, chance: float, rest: float
) -> None:
    until = now + left
    due = next_try(failure, attempts, now, until, chance, rest)
    if due is None:
        assert until - now < LEAST_LEFT
        return
    assert now < due <= until
    assert due == until or due >= now + max(SCHEDULES[failure].wait(attempts, 0.0), rest) - 1e-6
