"""Who may have a message is known before it can be complete at its server; results name what they are of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.support.receiver import receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

from zsmtp.aio import Client, Submission
from zsmtp.client.client import BeforeCompletion
from zsmtp.client.report import Completing, Fate, Result

MESSAGE = b"From: a@example.org\nSubject: s\n\nbody\n"


def submission(name: str, *recipients: str) -> Submission:
    return Submission(message=MESSAGE, sender="a@example.org", recipients=recipients, name=name)


async def streamed(port: int, hook: BeforeCompletion, *submissions: Submission) -> list[Result]:
    async with Client(relay=f"smtp://127.0.0.1:{port}", before_completion=hook) as client:
        return [result async for result in client.stream(submissions)]


def test_it_is_asked_before_the_last_octet_and_once_for_each_recipient() -> None:
    seen: list[Completing] = []
    there: list[int] = []
    with receiving() as receiver:
        receiver.refuse.add("no@example.net")

        async def hook(completing: Sequence[Completing]) -> bool:
            await asyncio.sleep(0.05)
            there.append(len(receiver.messages))
            seen.extend(completing)
            return True

        first, second = submission("one", "b@example.net", "no@example.net"), submission("two", "c@example.net")
        results = asyncio.run(streamed(receiver.port, hook, first, second))
    assert sorted((one.recipient, one.fate.value) for one in results) == [
        ("b@example.net", "delivered"),
        ("c@example.net", "delivered"),
        ("no@example.net", "failed"),
    ]
    asked = sorted((one.message, recipient) for one in seen for recipient in one.recipients)
    assert [one for one in asked if one[1] != "no@example.net"] == [("one", "b@example.net"), ("two", "c@example.net")]
    assert there[0] == 0
    assert {one.recipient: one.submission for one in results}["c@example.net"] is second
    assert all(one.submission in (first, second) for one in seen)
    assert "submission" not in results[0].as_dict()


def test_a_message_that_may_not_be_complete_is_deferred_and_did_not_arrive() -> None:
    async def hook(completing: Sequence[Completing]) -> bool:
        return False

    with Sink(Script(caps=("PIPELINING",))) as sink:
        results = asyncio.run(streamed(sink.port, hook, submission("one", "b@example.net")))
    assert [one.fate for one in results] == [Fate.DEFERRED]
    assert not any(one.complete for one in sink.transactions)


def test_what_is_in_doubt_was_asked_for() -> None:
    asked: list[str] = []

    async def hook(completing: Sequence[Completing]) -> bool:
        asked.extend(recipient for one in completing for recipient in one.recipients)
        return True

    with Sink(Script(replies={"DOT": (Step(None, Then.CLOSE),)})) as sink:
        results = asyncio.run(streamed(sink.port, hook, submission("one", "b@example.net")))
    assert [one.fate for one in results] == [Fate.IN_DOUBT]
    assert asked == ["b@example.net"]


def test_a_submission_that_cannot_be_sent_is_named_by_its_result() -> None:
    async def hook(completing: Sequence[Completing]) -> bool:
        raise AssertionError("nothing is sent")

    bad = Submission(message=b"nothing of a message", sender="a@example.org", recipients=["b@example.net"])
    with receiving() as receiver:
        (result,) = asyncio.run(streamed(receiver.port, hook, bad))
    assert result.fate is Fate.FAILED
    assert result.submission is bad
