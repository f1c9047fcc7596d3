"""Priorities and times of release from a program to the server (RFC 6710, RFC 4865)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.script import Script
from tests.support.sink import Sink

import zsmtp
from zsmtp.events import About, Event, Remark

MESSAGE = b"From: a@example.org\nTo: b@example.net, c@example.net\nSubject: s\n\nbody\n"
OFFERED = ("PIPELINING", "MT-PRIORITY", "FUTURERELEASE 3600 2026-12-24T12:00:00Z")


def mails(sink: Sink) -> list[bytes]:
    return [line for connection in sink.connections for line in connection.lines if line.startswith(b"MAIL")]


@pytest.mark.parametrize("lmtp", [False, True])
def test_what_is_offered_is_asked_for(lmtp: bool, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Sink(Script(lmtp=lmtp, caps=OFFERED), unix=path) if lmtp else Sink(Script(caps=OFFERED)) as sink:
        relay = f"lmtp://{path}" if lmtp else f"smtp://127.0.0.1:{sink.port}"
        assert zsmtp.deliver(MESSAGE, relay=relay, priority=-3, hold_for=3600).ok
        until = datetime(2026, 12, 24, 12, tzinfo=UTC)
        assert zsmtp.deliver(MESSAGE, relay=relay, hold_until=until).ok
        assert zsmtp.deliver(MESSAGE, relay=relay).ok
    assert mails(sink) == [
        b"MAIL FROM:<a@example.org> MT-PRIORITY=-3 HOLDFOR=3600",
        b"MAIL FROM:<a@example.org> HOLDUNTIL=2026-12-24T12:00:00Z",
        b"MAIL FROM:<a@example.org>",
    ]


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(
    ("caps", "words"),
    [
        ((), "the message is to be held back (FUTURERELEASE), which the remote system does not offer"),
        (("FUTURERELEASE 60 2026-12-24T12:00:00Z",), "the remote system holds it for 60 at most"),
        (("FUTURERELEASE nonsense",), "which the remote system does not offer"),
    ],
)
def test_a_message_that_would_arrive_too_early_is_not_sent(
    caps: tuple[str, ...], words: str, lmtp: bool, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    script = Script(lmtp=lmtp, caps=caps)
    with Sink(script, unix=path) if lmtp else Sink(script) as sink:
        relay = f"lmtp://{path}" if lmtp else f"smtp://127.0.0.1:{sink.port}"
        report = zsmtp.deliver(MESSAGE, relay=relay, hold_for=61)
    assert mails(sink) == []
    assert [(one.fate.value, one.status) for one in report] == [("failed", "5.3.3")] * 2
    assert words in report.results[0].text


def test_a_priority_that_is_left_out_is_remarked_on_once_a_message() -> None:
    events: list[Event] = []
    with Sink(Script(caps=("PIPELINING",))) as sink:
        relay = f"smtp://127.0.0.1:{sink.port}"
        assert zsmtp.deliver(MESSAGE, relay=relay, priority=9, observe=lambda _: events.append).ok
    assert mails(sink) == [b"MAIL FROM:<a@example.org>"]
    texts = [event.text for event in events if isinstance(event, Remark) and event.about is About.DELIVERY]
    assert texts == ["its priority 9 is left out: no MT-PRIORITY"]


def test_messages_of_a_stream_have_options_of_their_own() -> None:
    async def send(relay: str) -> None:
        async with zsmtp.aio.Client(relay=relay) as client:
            submissions = [
                zsmtp.Submission(message=MESSAGE, priority=1),
                zsmtp.Submission(message=MESSAGE, hold_for=5),
                zsmtp.Submission(message=MESSAGE, priority=99, name="bad"),
                zsmtp.Submission(message=MESSAGE),
            ]
            results = [one async for one in client.stream(submissions)]
            assert {(one.message, one.fate.value) for one in results} == {("", "delivered"), ("bad", "failed")}
            assert "priority 99 is not from -9 to 9" in next(one.text for one in results if not one.ok)
            assert (await client.deliver(MESSAGE, hold_for=7)).ok

    with Sink(Script(caps=OFFERED)) as sink:
        asyncio.run(send(f"smtp://127.0.0.1:{sink.port}"))
    assert sorted(mails(sink)) == [
        b"MAIL FROM:<a@example.org>",
        b"MAIL FROM:<a@example.org> HOLDFOR=5",
        b"MAIL FROM:<a@example.org> HOLDFOR=7",
        b"MAIL FROM:<a@example.org> MT-PRIORITY=1",
    ]


def test_a_client_without_an_event_loop_takes_them() -> None:
    with Sink(Script(caps=OFFERED)) as sink, zsmtp.Client(relay=f"smtp://127.0.0.1:{sink.port}") as client:
        assert client.deliver(MESSAGE, priority=2, hold_for=9).ok
        assert all(one.ok for one in client.stream([zsmtp.Submission(message=MESSAGE, hold_for=8)]))
        with pytest.raises(zsmtp.SubmissionError, match="priority 10"):
            client.deliver(MESSAGE, priority=10)
    assert mails(sink) == [
        b"MAIL FROM:<a@example.org> MT-PRIORITY=2 HOLDFOR=9",
        b"MAIL FROM:<a@example.org> HOLDFOR=8",
    ]


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(TypeError, match="tomorrow"):
        zsmtp.deliver(MESSAGE, relay="smtp://127.0.0.1:1", tomorrow=True)  # type: ignore[call-arg]
    with pytest.raises(zsmtp.SubmissionError, match="priority 10"):
        zsmtp.deliver(MESSAGE, relay="smtp://127.0.0.1:1", priority=10)
