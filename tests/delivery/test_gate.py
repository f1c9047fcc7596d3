"""The gate that every connection passes: what a rate allows, and that no connection goes round it."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.network import World, message, world
from tests.support.security import asking

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.gate import MAX_PLACES, PERIOD, ConnectionRate, MessageRate, Rate
from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.settings import SessionSettings
from zsmtp.events import Remark
from zsmtp.net.script import NEVER, Reaction, Script, Then
from zsmtp.net.scripted import Host, Unreachable
from zsmtp.tls.policy import Level, TLSPolicy

PLACE = ("example.org", 25)
CLOSES_ON_EHLO = Script(replies={"EHLO": [Reaction(b"", Then.CLOSE)]})
NO_TLS = Script(keywords=("STARTTLS",), replies={"STARTTLS": [Reaction("220 go")]}, tls="no certificate")
BUSY = Script(greeting=Reaction("421 later", Then.CLOSE))
ONE_MESSAGE = Script(replies={"DOT": [Reaction("250 ok", Then.CLOSE)]})


def gated(most: int, *hosts: Host | list[Host], settings: SessionSettings | None = None, **more: float) -> World:
    """A world whose connections pass a gate of so many a minute."""
    there = world(*hosts, settings=settings, observed=True, **more)  # type: ignore[arg-type]
    chosen = settings or SessionSettings(helo_name="client.example")
    there.courier = Courier(chosen, there.heard.append, gate=ConnectionRate(most))
    return there


def times(there: World) -> list[float]:
    """When connections were begun, in seconds since the first one."""
    began = [when for when, _ in there.network.attempts]
    return [when - began[0] for when in began]


# -------------------------------------------------------------------- the rate

_steps = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.floats(0, 70)), max_size=60)


@given(st.integers(1, 5), _steps)
def test_no_period_has_more_than_are_allowed_whatever_comes_back(
    most: int, steps: list[tuple[int, int, float]]
) -> None:
    gate, now = ConnectionRate(most), 0.0
    begun: list[float] = []
    taken: list[tuple[int, float]] = []
    for wanted, unused, passes in steps:
        now += passes
        allowed = gate.take(PLACE, wanted, now)
        assert 0 <= allowed <= wanted
        if allowed:
            back = min(unused, allowed)
            taken.append((back, now))
            begun += [now] * (allowed - back)
        else:
            opens_at = gate.opens_at(PLACE, now)
            assert now < opens_at <= now + PERIOD
            assert gate.take(PLACE, 1, opens_at) == 1, "it is open when it says so"
            begun.append(now := opens_at)
        if len(taken) > 1:  # a connection takes its time: what it did not need comes back later
            gate.give_back(PLACE, *taken.pop(0))
    for start in begun:
        assert sum(start <= one < start + PERIOD for one in begun) <= most


def test_what_comes_back_is_allowed_again() -> None:
    gate = ConnectionRate(3)
    assert gate.take(PLACE, 5, 0.0) == 3
    gate.give_back(PLACE, 2, 0.0)
    assert gate.take(PLACE, 5, 1.0) == 2
    assert gate.opens_at(PLACE, 1.0) == 60.0
    assert gate.take(("example.org", 587), 5, 1.0) == 3, "another port is another place"


def test_places_are_forgotten_once_their_period_is_over() -> None:
    gate = ConnectionRate(1)
    for number in range(3 * MAX_PLACES):
        gate.take((f"d{number}.example", 25), 1, number / 100)
    assert len(gate._begun) <= 2 * MAX_PLACES


# --------------------------------------------- every connection, of every kind


def test_another_connection_to_the_same_place_waits() -> None:
    there = gated(1, ONE_MESSAGE)
    for _ in range(3):
        there.deliver(message())
        assert there.fates == [Disposition.DELIVERED]
    assert times(there) == [0.0, 60.0, 120.0]
    texts = [event.text for event in there.heard if isinstance(event, Remark)]
    assert texts == ["waits 60 s: connections to example.org are limited to 1 a minute"] * 2


@pytest.mark.parametrize(
    ("hosts", "settings", "connections"),
    [
        pytest.param([BUSY, Script()], None, 2, id="next candidate"),
        pytest.param([Unreachable(), Unreachable(), Script()], None, 3, id="next address of a race"),
        pytest.param([Unreachable(after=NEVER), Script()], None, 2, id="an address that hangs"),
        pytest.param([[CLOSES_ON_EHLO, Script()]], None, 2, id="HELO"),
        pytest.param([[NO_TLS, Script()]], asking(TLSPolicy(level=Level.MAY)), 2, id="in clear"),
    ],
)
def test_a_second_connection_waits_as_the_first_one_would(
    hosts: list[Host | list[Host]], settings: SessionSettings | None, connections: int
) -> None:
    there = gated(1, *hosts, settings=settings)
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    began = times(there)
    assert len(began) == connections
    assert all(later - earlier >= PERIOD for earlier, later in pairwise(began))


def test_one_in_place_of_a_connection_that_was_lost_waits() -> None:
    stale = Script(replies={"RSET": [Reaction(b"", Then.CLOSE)]})
    there = gated(1, [stale, Script()])
    there.deliver(message())
    there.deliver(message(), idle=1000.0)
    assert there.fates == [Disposition.DELIVERED]
    assert times(there) == [0.0, 60.0]


def test_within_the_rate_addresses_race_as_without_one() -> None:
    there, free = gated(2, Unreachable(after=NEVER), Script()), world(Unreachable(after=NEVER), Script())
    for one in (there, free):
        one.deliver(message())
        assert one.fates == [Disposition.DELIVERED]
    assert times(there) == times(free)


def test_what_a_race_did_not_need_is_not_counted() -> None:
    there = gated(2, *[ONE_MESSAGE] * 4)
    there.deliver(message())
    there.deliver(message())
    assert times(there) == [0.0, 0.0]


def test_a_stop_ends_the_wait_and_decides_nothing_about_the_host() -> None:
    there = gated(1, ONE_MESSAGE, stop_at=1030.0)
    there.deliver(message())
    there.deliver(message())
    (verdict,) = there.verdicts[-1]
    assert (verdict.fate, verdict.retry_after) == (Disposition.DEFERRED, 0)
    assert "interrupted" in verdict.text
    assert (len(there.network.attempts), there.network.now) == (1, 1030.0)


def test_delivery_connects_in_one_place() -> None:
    """Which asks the gate first."""
    delivery = Path(__file__).parent.parent.parent / "src/zsmtp/delivery"
    found = [
        (path.name, function.name)
        for path in delivery.glob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Connect"
    ]
    assert set(found) == {("sessionopener.py", "_begin")}


@given(
    st.lists(st.builds(Rate, st.integers(1, 5), st.sampled_from([1.0, 10.0, 60.0])), min_size=1, max_size=3),
    st.lists(st.floats(0, 20), max_size=60),
)
def test_no_stretch_of_time_has_more_messages_than_a_rate_says(rates: list[Rate], gaps: list[float]) -> None:
    gate = MessageRate(rates)
    now, begun = 1000.0, []
    for gap in gaps:
        now += gap
        room, opens = gate.room(now), gate.opens_at(now)
        assert (room > 0) == (opens == now)
        if gate.take(now):
            assert room > 0
            begun.append(now)
        else:
            assert room == 0
            assert gate.room(opens + 1e-6) > 0, "it is as good as its word"
    for rate in rates:
        for first, beyond in zip(begun, begun[rate.allowed :], strict=False):
            assert first <= beyond - rate.seconds


def test_a_rate_that_was_not_used_up_holds_nobody_up() -> None:
    gate = MessageRate([Rate(2, 1.0), Rate(3, 60.0)])
    assert [gate.take(now) for now in (0.0, 0.0, 0.0, 1.0, 1.0, 59.9, 60.0)] == [
        True,
        True,
        False,
        True,
        False,
        False,
        True,
    ]
    assert gate.slowest == 3 / 60
