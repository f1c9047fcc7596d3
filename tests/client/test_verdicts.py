"""What servers say, and what a program is told of it: the verdicts of the engine, over real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from tests.support.player import at
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

import zsmtp
from zsmtp.aio import Client, Submission

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"
BIG = MESSAGE + b"a line that is one of many\n" * 300_000
TIMES = zsmtp.Timeouts(connect=10.0, write=5.0, command=5.0, data=5.0, final=5.0, short=5.0, quit=1.0)

EVERY_WAY = pytest.mark.parametrize(
    "caps", [(), ("PIPELINING",), ("CHUNKING",), ("PIPELINING", "CHUNKING")], ids="-".join
)


def config(sink: Sink) -> zsmtp.Config:
    return zsmtp.Config(
        relay=zsmtp.Relay(host="127.0.0.1", port=sink.port),
        helo_name="client.example",
        timeouts=TIMES,
        limits=zsmtp.Limits(connections=1, per_destination=1),
    )


def deliver(sink: Sink, message: bytes = MESSAGE, recipients: int = 1) -> list[zsmtp.Result]:
    """One message, without a loop."""
    return list(
        zsmtp.deliver(message, recipients=[f"r{n}@example.com" for n in range(recipients)], config=config(sink))
    )


def stream(sink: Sink, messages: Sequence[bytes]) -> list[zsmtp.Result]:
    """Many messages over one connection at a time, on a loop; in the order of the messages."""

    async def all_of_them() -> list[zsmtp.Result]:
        many = [
            Submission(message=message, recipients=[f"m{number}@example.com"], name=str(number))
            for number, message in enumerate(messages)
        ]
        async with Client(config(sink)) as client:
            return [result async for result in client.stream(many)]

    return sorted(asyncio.run(all_of_them()), key=lambda result: int(result.message or 0))


FACES: dict[str, Callable[[Sink], list[zsmtp.Result]]] = {
    "deliver": deliver,
    "stream": lambda sink: stream(sink, [MESSAGE]),
}
BOTH_FACES = pytest.mark.parametrize("face", FACES.values(), ids=FACES.keys())


@BOTH_FACES
@EVERY_WAY
@pytest.mark.parametrize("end", ["450 4.3.1 later", "550 5.7.1 no"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_a_reply_too_many_delivers_nothing_and_refuses_nothing(
    verb: str, end: str, caps: tuple[str, ...], face: Callable[[Sink], list[zsmtp.Result]]
) -> None:
    replies = at(verb, "250 ok\r\n250 again", "250 ok") | at("BDAT", end) | at("DOT", end)
    with Sink(Script(caps=caps, replies=replies)) as sink:
        (result,) = face(sink)
    assert result.fate in (zsmtp.Fate.DEFERRED, zsmtp.Fate.IN_DOUBT)


@BOTH_FACES
@EVERY_WAY
@pytest.mark.parametrize(
    ("verb", "reply", "fate"),
    [
        ("EHLO", "254 hello", zsmtp.Fate.DELIVERED),
        ("MAIL", "254 ok", zsmtp.Fate.DELIVERED),
        ("RCPT", "254 ok", zsmtp.Fate.DELIVERED),
        ("END", "254 ok", zsmtp.Fate.DELIVERED),
        ("END", "221 bye", zsmtp.Fate.IN_DOUBT),
        ("END", "200 ok", zsmtp.Fate.IN_DOUBT),
        ("MAIL", "530 5.7.0 Must issue a STARTTLS command first", zsmtp.Fate.DEFERRED),
        ("RCPT", "552 5.5.3 too many recipients", zsmtp.Fate.DEFERRED),
        ("MAIL", "550 5.7.1 no", zsmtp.Fate.FAILED),
        ("END", "550 5.7.1 no", zsmtp.Fate.FAILED),
    ],
)
def test_what_a_reply_means(
    verb: str, reply: str, fate: zsmtp.Fate, caps: tuple[str, ...], face: Callable[[Sink], list[zsmtp.Result]]
) -> None:
    replies = at("DOT", reply) | at("BDAT", reply) if verb == "END" else at(verb, reply)
    with Sink(Script(caps=caps, replies=replies)) as sink:
        (result,) = face(sink)
    assert result.fate is fate
    if fate is zsmtp.Fate.FAILED:
        assert result.status == "5.7.1"
    if "STARTTLS" in reply:
        assert result.text.endswith("in clear: STARTTLS is not offered")


@BOTH_FACES
@pytest.mark.parametrize("reply", ["503 5.5.1 bad sequence", "500 Pipelining not supported"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_a_server_that_minds_pipelining_is_served_one_by_one(
    verb: str, reply: str, face: Callable[[Sink], list[zsmtp.Result]]
) -> None:
    with Sink(Script(caps=("PIPELINING",), replies=at(verb, reply, "250 ok"))) as sink:
        (result,) = face(sink)
    assert result.fate is zsmtp.Fate.DELIVERED


@EVERY_WAY
@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
@pytest.mark.parametrize(
    ("reply", "fate"), [("552 5.3.4 too large", zsmtp.Fate.FAILED), ("452 4.3.1 no room", zsmtp.Fate.DEFERRED)]
)
def test_a_refusal_in_the_middle_of_the_content_is_the_answer_to_it(
    reply: str, fate: zsmtp.Fate, then: Then, caps: tuple[str, ...]
) -> None:
    with Sink(Script(caps=caps, in_content=(50_000, Step(reply, then)), read_pause=0.001)) as sink:
        (result,) = deliver(sink, BIG)
    assert (result.fate, result.status) == (fate, reply[4:9])
    assert result.text.endswith(reply)
    assert len(sink.connections) == 1


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_what_was_sent_behind_a_421_is_simply_sent_again(verb: str) -> None:
    """A server that takes ten messages over a connection, with whole messages under way behind the last one."""
    closing = Step("421 4.3.2 enough", Then.CLOSE)
    with Sink(Script(caps=("PIPELINING", "CHUNKING"), replies=at(verb, *["250 ok"] * 10, closing))) as sink:
        results = stream(sink, [MESSAGE] * 100)
    assert Counter(result.fate for result in results) == {zsmtp.Fate.DELIVERED: 100}
    assert set(sink.deliveries().values()) == {1}
    assert len(sink.deliveries()) == 100


@BOTH_FACES
def test_the_words_of_a_refused_greeting_are_told(face: Callable[[Sink], list[zsmtp.Result]]) -> None:
    replies = at("EHLO", "550 5.7.1 no reverse name") | at("HELO", Step(None, Then.CLOSE))
    with Sink(Script(replies=replies)) as sink:
        (result,) = face(sink)
    assert (result.fate, result.status) == (zsmtp.Fate.DEFERRED, "4.7.1")
    assert "550 5.7.1 no reverse name" in result.text
    with Sink(Script(banner=Step("220-hello\r\n521 5.3.2 you are listed", Then.CLOSE))) as sink:
        (result,) = face(sink)
    assert "521 5.3.2 you are listed" in result.text


def test_commands_in_the_content_of_a_message_for_nobody_are_not_sent_as_a_chunk() -> None:
    """A server that does not discard the chunk would execute them."""
    smuggled = MESSAGE + b"MAIL FROM:<evil@example.org>\nRCPT TO:<victim@example.com>\nDATA\n"
    replies = at("RCPT", *["250 ok"] * 3, "550 5.1.1 no", "250 ok")
    with Sink(Script(caps=("PIPELINING", "CHUNKING"), replies=replies)) as sink:
        results = stream(sink, [MESSAGE] * 3 + [smuggled] + [MESSAGE] * 3)
    assert [result.fate for result in results].count(zsmtp.Fate.DELIVERED) == 6
    lines = [line for connection in sink.connections for line in connection.lines]
    assert b"DATA" in lines
    assert not any(b"evil" in transaction.mail for transaction in sink.transactions)
