"""Whatever one message or one address is: it has its result, and those behind it in a stream are delivered."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.sink import Sink

import zsmtp
from zsmtp.aio import Client, Submission

GOOD = b"From: a@example.org\nTo: b@example.net\n\nbody\n"
TO = "b@example.net"


class Raising:
    """Raises whatever it is asked, in words that raise as well."""

    class Error(Exception):
        def __str__(self) -> str:
            raise RecursionError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.Error

    def __iter__(self) -> Iterator[Any]:
        raise self.Error

    def __fspath__(self) -> str:
        raise self.Error

    def __str__(self) -> str:
        raise self.Error


class OddFile(io.BytesIO):
    """A file whose methods give way from the call of that number on."""

    def __init__(self, calls: int, answer: Any) -> None:
        super().__init__(GOOD + b"x" * 300_000)
        self._left = calls
        self._answer = answer

    def read(self, size: int | None = -1, /) -> Any:
        self._left -= 1
        if self._left >= 0:
            return super().read(size)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class OddMessage(EmailMessage):
    """A message that breaks where it is looked at."""

    def raw_items(self) -> Any:
        raise MemoryError


def released() -> memoryview:
    view = memoryview(GOOD)
    view.release()
    return view


def with_field(kind: type[Message], name: str, value: Any) -> Message:
    message = kind()
    message["From"], message["To"] = "a@example.org", TO
    message[name] = value
    message.set_payload("x\n")
    return message


def in_itself() -> Message:
    message = MIMEMultipart()
    message["From"], message["To"] = "a@example.org", TO
    message.attach(message)
    return message


def deep(levels: int) -> Message:
    message = with_field(Message, "Subject", "x")
    for _ in range(levels):
        outer = with_field(Message, "Content-Type", "message/rfc822")
        outer.set_payload([message])
        message = outer
    return message


def addresses() -> Iterator[str]:
    yield TO
    raise ZeroDivisionError("x\r\n")


def sub(**words: Any) -> Submission:
    return Submission(**({"message": GOOD} | words))


ODD: list[Callable[[], Any]] = [
    lambda: None,
    lambda: 5,
    lambda: object(),
    lambda: [GOOD],
    lambda: b"",
    lambda: b"\0" * 100,
    lambda: b"X" * (2 << 20),
    lambda: b"From: a@example.org\nTo: " + b"(" * 100_000 + b"\n\n",
    lambda: b"From: a@example.org\nno field\nTo: b@example.net\n\n",
    lambda: b"From: a@example.org\nTo: b@example.net; c@example.net\n\n",
    lambda: "",
    lambda: "a\0b",
    lambda: "/nowhere/at/all",
    lambda: "x" * 5000,
    lambda: "\udcff\ud800",
    lambda: Path("/"),
    released,
    Raising,
    lambda: OddFile(0, ZeroDivisionError()),
    lambda: OddFile(0, None),
    lambda: OddFile(0, "text"),
    lambda: OddFile(1, EOFError()),
    lambda: OddFile(1, KeyError("x")),
    lambda: OddFile(1, b""),
    lambda: io.StringIO(GOOD.decode()),
    OddMessage,
    EmailMessage,
    in_itself,
    lambda: deep(400),
    lambda: with_field(Message, "X", "a\n\nb"),
    lambda: with_field(Message, "X\nY", "a"),
    lambda: with_field(Message, "X", Raising()),
    lambda: with_field(EmailMessage, "Subject", "=?utf-8?q?a=0Ab?="),
    lambda: with_field(EmailMessage, "Content-Type", "multipart/mixed"),
    lambda: sub(sender=5),
    lambda: sub(sender=Raising()),
    lambda: sub(sender="\ud800@x"),
    lambda: sub(recipients=5),
    lambda: sub(recipients=Raising()),
    lambda: sub(recipients=addresses()),
    lambda: sub(recipients=[Raising(), [], {}, None]),
    lambda: sub(recipients=["b@\u2603.example", "b@x.", "b" * 20_000, "b@x; c@x"]),
    lambda: sub(name=Raising()),
    lambda: sub(name=5),
    lambda: sub(dsn="success"),
    lambda: sub(require_tls="yes"),
    lambda: Submission(message=sub()),  # type: ignore[arg-type]
]


def delivered_in_a_stream(many: list[Any]) -> list[zsmtp.Result]:
    """All results of a stream of these, through a relay that takes everything."""
    with Sink() as sink:

        async def main() -> list[zsmtp.Result]:
            async with Client(relay=f"smtp://127.0.0.1:{sink.port}") as client:
                return [result async for result in client.stream(many)]

        return asyncio.run(asyncio.wait_for(main(), 60))


def test_nothing_odd_ends_a_stream() -> None:
    odd = [make() for make in ODD]
    many = [one for number, each in enumerate(odd) for one in (each, sub(name=f"good {number}", recipients=TO))]
    results = delivered_in_a_stream(many)
    good = [one.message for one in results if one.message.startswith("good") and one.ok]
    assert sorted(good) == sorted(f"good {number}" for number in range(len(odd)))
    others = [one for one in results if not one.message.startswith("good")]
    assert len(others) >= len(odd)
    assert all(one.text.isprintable() for one in others if one.fate is zsmtp.Fate.FAILED)


@given(
    st.lists(
        st.text(max_size=20) | st.text(st.sampled_from('a@.<>,;: ()"\\x\u3002\u2603')) | st.binary(max_size=20),
        max_size=8,
    ),
    st.lists(st.binary(max_size=60), max_size=5),
)
@settings(max_examples=30, deadline=None)
def test_any_addresses_and_any_octets(addresses: list[str | bytes], messages: list[bytes]) -> None:
    many: list[Any] = [sub(recipients=[one]) for one in addresses]
    many += [sub(recipients=TO, sender=one) for one in addresses]
    many += [sub(message=one, recipients=TO) for one in messages]
    many += [GOOD[:-6] + one for one in messages]
    results = delivered_in_a_stream([*many, sub(name="last", recipients=TO)])
    assert len(results) == len(many) + 1
    assert [one.ok for one in results if one.message == "last"] == [True]


@pytest.mark.parametrize("make", ODD)
def test_deliver_raises_what_it_says(make: Callable[[], Any]) -> None:
    """SubmissionError or OSError, or there is a report."""
    one = make()
    given_words = (
        {"sender": one.sender, "recipients": one.recipients, "dsn": one.dsn} if isinstance(one, Submission) else {}
    )
    with Sink() as sink:
        try:
            report = zsmtp.deliver(
                one.message if isinstance(one, Submission) else one,
                relay=f"smtp://127.0.0.1:{sink.port}",
                **given_words,
            )
        except (zsmtp.SubmissionError, OSError):
            return
    assert report.results
