"""Whatever servers do, every recipient has exactly one result, and it is true to what the servers took."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

import zsmtp
from zsmtp.aio import Client, Submission

MESSAGE = b"From: a@example.org\nSubject: s\n\n" + b"body\n" * 20

TIMES = zsmtp.Timeouts(connect=5.0, write=0.3, command=0.15, data=0.15, final=0.15, short=0.15, quit=0.15)

TWICE = Step("250 ok\r\n250 and another")
ODD = st.sampled_from(
    [
        Step("450 4.2.1 later"),
        Step("550 5.1.1 no"),
        Step("452 4.5.3 too many"),
        Step("421 4.3.2 bye", Then.CLOSE),
        Step("250 ok", Then.CLOSE),
        Step("250 ok", Then.RESET),
        Step(None, Then.CLOSE),
        Step(None, Then.RESET),
        Step(None, Then.HANG),
        Step(b"250-half"),
        Step(b"999 nonsense\r\n"),
        TWICE,
        Step("354 go"),
    ]
)


@st.composite
def replies(draw: st.DrawFn) -> dict[str, tuple[Step, ...]]:
    """What a connection answers: now and then something odd, at any command."""
    found: dict[str, tuple[Step, ...]] = {}
    for verb in draw(st.lists(st.sampled_from(["EHLO", "MAIL", "RCPT", "DATA", "BDAT", "DOT", "RSET"]), max_size=2)):
        good = Step("354 go") if verb == "DATA" else Step("250 ok")
        before = draw(st.integers(0, 3))
        found[verb] = (*[good] * before, draw(ODD), *([good] if draw(st.booleans()) else []))
    return found


def shows(found: dict[str, tuple[Step, ...]], caps: tuple[str, ...]) -> bool:
    """Whether it shows on the wire which reply belongs to which command.

    With a reply too many and whole messages under way it does not if anything else is odd on that connection: the
    documentation says so (``topics/replies``), and the examples below are what is seen all the same.
    """
    return caps != CHUNKING or len(found) < 2 or not any(TWICE in steps for steps in found.values())


PIPELINING, CHUNKING = ("PIPELINING",), ("PIPELINING", "CHUNKING")


@st.composite
def scripts(draw: st.DrawFn) -> tuple[Script, ...]:
    """The connections of one server; the last one is friendly and repeats."""
    caps = draw(st.sampled_from([(), PIPELINING, CHUNKING, ("CHUNKING", "ENHANCEDSTATUSCODES")]))
    odd = [
        Script(caps=caps, replies=draw(replies().filter(lambda found: shows(found, caps))))
        for _ in range(draw(st.integers(0, 3)))
    ]
    if draw(st.booleans()):
        odd.append(Script(banner=draw(st.sampled_from([Step("554 no"), Step("421 later"), Step(None, Then.CLOSE)]))))
    return (*odd, Script(caps=caps))


async def deliver(ports: list[int], messages: int, relays: zsmtp.Limits, timeout: float) -> list[zsmtp.Result]:
    config = zsmtp.Config(
        routes={f"d{n}.example.com": zsmtp.Relay(host="127.0.0.1", port=port) for n, port in enumerate(ports)},
        helo_name="client.example",
        timeouts=TIMES,
        limits=relays,
        message_timeout=timeout,
    )
    many = (
        Submission(
            message=MESSAGE,
            recipients=[f"{name}{number}@d{where}.example.com" for name in "ab" for where in range(len(ports))],
            name=str(number),
        )
        for number in range(messages)
    )
    async with Client(config) as client:
        return [result async for result in client.stream(many)]


def doubled(verb: str, *ends: Step, caps: tuple[str, ...] = CHUNKING, before: int = 0) -> tuple[Script, ...]:
    """A server that answers a command twice, after so many good answers to it, and then ends the content like this."""
    good = [Step("250 ok")] * before
    odd = {verb: (*good, TWICE, Step("250 ok")), "BDAT": (*good, *ends), "DOT": (*good, *ends)}
    return Script(caps=caps, replies=odd), Script(caps=caps)


ONE_BY_ONE = zsmtp.Limits(connections=1, per_destination=1)


@example([doubled("MAIL", Step("450 4.2.1 later"))], 1, ONE_BY_ONE, 5.0)
@example([doubled("MAIL", Step("550 5.1.1 no"))], 3, ONE_BY_ONE, 5.0)
@example([doubled("RCPT", Step("450 4.2.1 later"))], 1, ONE_BY_ONE, 5.0)
@example([doubled("MAIL", Step("450 4.2.1 later"), before=1)], 4, ONE_BY_ONE, 5.0)
@example([doubled("MAIL", Step("450 4.2.1 later"), caps=PIPELINING)], 3, ONE_BY_ONE, 5.0)
@example([doubled("RCPT", Step("450 4.2.1 later"), caps=("CHUNKING",))], 2, ONE_BY_ONE, 5.0)
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.lists(scripts(), min_size=1, max_size=2),
    st.integers(1, 6),
    st.builds(zsmtp.Limits, connections=st.integers(1, 3), per_destination=st.integers(1, 2)),
    st.sampled_from([0.1, 5.0, 5.0]),
)
def test_one_true_result_for_each_recipient(
    servers: list[tuple[Script, ...]], messages: int, limits: zsmtp.Limits, timeout: float
) -> None:
    with ExitStack() as stack:
        sinks = [stack.enter_context(Sink(*server)) for server in servers]
        results = asyncio.run(deliver([sink.port for sink in sinks], messages, limits, timeout))
    taken: Counter[bytes] = sum((sink.deliveries() for sink in sinks), Counter())
    wanted = Counter(
        (str(number), f"{name}{number}@d{where}.example.com")
        for number in range(messages)
        for name in "ab"
        for where in range(len(servers))
    )
    assert Counter((one.message, one.recipient) for one in results) == wanted
    for one in results:
        copies = taken[one.recipient.encode()]
        if one.fate is zsmtp.Fate.DELIVERED:
            assert copies == 1, one
        elif one.fate is not zsmtp.Fate.IN_DOUBT:
            assert copies == 0, one
        else:
            assert copies <= 1, one
