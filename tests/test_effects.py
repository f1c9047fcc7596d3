"""Effects and their drivers: answers, listeners, ends before the end, and effects that a driver does not know."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.resolver import carry_out as carry_out_lookups
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import Effect, Operation, OwnAddresses, ReadClock, ReadStop, Sleep, carry_out, observed
from zsmtp.errors import LocalError
from zsmtp.net import aio, blocking, operations
from zsmtp.net.scripted import ScriptedNetwork
from zsmtp.records import dataclass

QUESTION = Query("example.org", RecordType.MX)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Roll(Effect[int]):
    """An effect of which no driver of the house knows."""

    sides: int


class Log:
    """What operations did, in order."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    async def inner(self) -> int:
        try:
            return await Roll(6) + await Roll(20)
        finally:
            self.seen.append("inner ended")

    async def outer(self) -> int:
        try:
            return await self.inner() + await Roll(1)
        finally:
            self.seen.append("outer ended")


def roll_highest(effect: Effect[Any]) -> int:
    assert isinstance(effect, Roll)
    return effect.sides


def break_at(sides: int) -> Callable[[Effect[Any]], object]:
    def perform(effect: Effect[Any]) -> object:
        if effect == Roll(sides):
            raise ValueError(f"no die of {sides}")
        return roll_highest(effect)

    return perform


def test_answers_come_back_where_they_are_awaited() -> None:
    log = Log()
    assert carry_out(log.outer(), roll_highest) == 27
    assert log.seen == ["inner ended", "outer ended"]


def test_an_effect_stays_a_value() -> None:
    assert Roll(6) == Roll(6)
    assert hash(Roll(6)) == hash(Roll(6))
    assert repr(QUESTION) == "Query(name='example.org', type=<RecordType.MX: 'MX'>, validated=True)"
    with pytest.raises(AttributeError):
        Roll(6).sides = 7  # type: ignore[misc]


def test_an_operation_ends_when_its_driver_breaks() -> None:
    log = Log()
    with pytest.raises(ValueError, match="no die of 20"):
        carry_out(log.outer(), break_at(20))
    assert log.seen == ["inner ended", "outer ended"]


def test_an_operation_that_is_closed_half_way_cleans_up() -> None:
    log = Log()
    operation = log.outer()
    assert operation.send(None) == Roll(6)
    operation.close()
    assert log.seen == ["inner ended", "outer ended"]


def test_a_listener_sees_each_effect_before_and_after() -> None:
    seen: list[object] = []

    def answered(effect: Effect[Any], answer: Any) -> None:
        seen.append((effect, answer))

    assert carry_out(observed(Log().inner(), answered, seen.append), roll_highest) == 26
    assert seen == [Roll(6), (Roll(6), 6), Roll(20), (Roll(20), 20)]


@pytest.mark.parametrize("breaks", ["closed", "driver", "listener"])
def test_what_is_observed_is_closed_with_its_listener(breaks: str) -> None:
    log = Log()

    def answered(effect: Effect[Any], answer: Any) -> None:
        if breaks == "listener":
            raise ValueError("enough")

    operation = observed(log.outer(), answered)
    if breaks == "closed":
        operation.send(None)
        operation.close()
    else:
        with pytest.raises(ValueError):
            carry_out(operation, break_at(6) if breaks == "driver" else roll_highest)
    assert log.seen == ["inner ended", "outer ended"]


async def on_a_loop(operation: Operation[T]) -> T:
    driver = aio.AsyncDriver(lambda: StaticResolver(""))
    try:
        return await driver.run(operation)
    finally:
        await driver.aclose()


DRIVERS: dict[str, Callable[[Operation[Any]], object]] = {
    "blocking": lambda operation: blocking.BlockingDriver(lambda: StaticResolver(""), blocking.Stop()).run(operation),
    "aio": lambda operation: asyncio.run(on_a_loop(operation)),
    "scripted": lambda operation: ScriptedNetwork({}).run(operation),
    "lookups": lambda operation: carry_out_lookups(
        operation, StaticResolver(""), deadline=1.0, own_addresses=frozenset
    ),
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_names_an_effect_that_it_does_not_know(driver: str) -> None:
    log = Log()
    with pytest.raises(LocalError, match=r"not an effect this driver knows: Roll\(sides=6\)"):
        DRIVERS[driver](log.outer())
    assert log.seen == ["inner ended", "outer ended"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_awaiting_what_is_no_effect_is_a_clear_error(driver: str) -> None:
    """As where a rule awaits something of an event loop."""

    async def wrong() -> None:
        loop = asyncio.new_event_loop()
        try:
            await loop.create_future()
        finally:
            loop.close()

    with pytest.raises(LocalError, match=r"not an effect this driver knows: <Future pending"):
        DRIVERS[driver](wrong())


@pytest.mark.parametrize("driver", ["blocking", "aio", "scripted"])
def test_every_driver_answers_what_costs_no_wait(driver: str) -> None:
    async def ask() -> tuple[object, ...]:
        first, second = await ReadClock(), await ReadClock()
        return first <= second, await ReadStop(), type(await OwnAddresses()), await QUESTION

    nothing = Answer(QUESTION, Status.NXDOMAIN, canonical="example.org", source="table")
    in_order, stop, addresses, answer = DRIVERS[driver](ask())  # type: ignore[misc]
    assert (in_order, stop, addresses) == (True, "", frozenset)
    assert (answer.query, answer.status) == (nothing.query, nothing.status)


@pytest.mark.parametrize("driver", ["blocking", "aio", "scripted"])
def test_every_driver_sleeps_until_its_clock_shows_the_time(driver: str) -> None:
    async def sleep() -> tuple[float, float]:
        until = await ReadClock() + 0.01
        await Sleep(until)
        await Sleep(until - 1000.0)
        return until, await ReadClock()

    until, now = DRIVERS[driver](sleep())  # type: ignore[misc]
    assert now >= until


async def sleep_long() -> str:
    await Sleep(await ReadClock() + 3600.0)
    return await ReadStop()


def test_a_stop_ends_the_sleep_of_the_blocking_driver() -> None:
    stop = blocking.Stop()
    timer = threading.Timer(0.01, stop.request)
    timer.start()
    assert blocking.BlockingDriver(lambda: StaticResolver(""), stop).run(sleep_long()) == "interrupted"
    timer.join()


def test_a_stop_ends_the_sleep_of_the_asyncio_driver() -> None:
    async def main() -> str:
        stop = aio.Stop()
        driver = aio.AsyncDriver(lambda: StaticResolver(""))
        task = asyncio.ensure_future(driver.run(sleep_long(), stop=stop))
        await asyncio.sleep(0.01)
        stop.request("enough")
        return await task

    assert asyncio.run(main()) == "enough"


def test_a_stop_ends_the_sleep_of_the_scripted_driver() -> None:
    network = ScriptedNetwork({}, stop_at=1030.0)
    assert (network.run(sleep_long()), network.now) == ("interrupted", 1030.0)


@pytest.mark.parametrize("driver", ["blocking", "aio"])
def test_sleep_takes_nothing_of_the_time_for_lookups(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of both drivers set the clock forward instead."""
    monotonic, ahead = time.monotonic, 0.0

    def clock() -> float:
        return monotonic() + ahead

    def ready(self: blocking.BlockingDriver, deadline: float) -> None:
        nonlocal ahead
        ahead += max(deadline - clock(), 0.0)

    async def wait_for_wake(self: aio.Run[object], seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    async def sleep() -> Answer:
        await Sleep(await ReadClock() + 2 * operations.LOOKUPS_TIME)
        return await QUESTION

    if driver == "blocking":
        monkeypatch.setattr(blocking.BlockingDriver, "_ready", ready)
        answer = blocking.BlockingDriver(lambda: StaticResolver(""), blocking.Stop(), clock=clock).run(sleep())
    else:
        monkeypatch.setattr(time, "monotonic", clock)
        monkeypatch.setattr(aio.Run, "_wait_for_wake", wait_for_wake)
        answer = asyncio.run(on_a_loop(sleep()))
    assert ahead > operations.LOOKUPS_TIME
    assert answer.status is Status.NXDOMAIN


def test_a_run_that_is_cancelled_cleans_its_operation_up() -> None:
    log = Log()

    class Hanging:
        """A name server that answers when the test is over."""

        def lookup(self, query: Query, deadline: float) -> Answer:
            return Answer(query, Status.TIMEOUT)

    async def ask() -> None:
        try:
            await QUESTION
            await asked
        finally:
            log.seen.append("cleaned up")

    asked = Query("never.example", RecordType.A)

    async def main() -> None:
        driver = aio.AsyncDriver(Hanging)
        task = asyncio.ensure_future(driver.run(ask()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await driver.aclose()

    asyncio.run(main())
    assert log.seen == ["cleaned up"]
