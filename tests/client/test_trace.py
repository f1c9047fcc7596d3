"""``trace=`` of the library: a file or a directory, one document for each delivery."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.support.receiver import receiving

import zsmtp
from zsmtp.events import Event
from zsmtp.observers.codec import load_trace
from zsmtp.observers.document import ExchangeItem

MESSAGE = b"From: a@example.org\nSubject: x\n\nhello\n"


def test_one_delivery_one_file_to_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with receiving() as receiver:
        heard: list[Event] = []
        report = zsmtp.deliver(
            MESSAGE,
            sender="a@example.org",
            recipients=["b@example.net"],
            relay=f"smtp://127.0.0.1:{receiver.port}",
            observe=lambda destination: heard.append,
            trace=path,
        )
    assert report.ok
    trace = load_trace(path)
    assert [recipient.fate for recipient in trace.recipients] == ["delivered"]
    assert [item.phase for item in trace.items if isinstance(item, ExchangeItem)][-1] == "QUIT"
    assert trace.connections[0].port == receiver.port
    assert heard


def test_messages_side_by_side_have_a_document_each(tmp_path: Path) -> None:
    async def send(ports: list[int]) -> None:
        for port in ports:
            async with zsmtp.aio.Client(relay=f"smtp://127.0.0.1:{port}", trace=tmp_path) as client:
                submissions = [
                    zsmtp.Submission(message=MESSAGE, sender="a@example.org", recipients=[f"r{n}@example.net"])
                    for n in range(20)
                ]
                assert [result async for result in client.stream(submissions)]

    with receiving() as receiver:
        asyncio.run(send(receiver.ports))
    traces = [load_trace(path) for path in tmp_path.iterdir()]
    assert sorted(trace.recipients[0].address for trace in traces) == sorted(f"r{n}@example.net" for n in range(20))
    assert all(trace.fates.delivered == 1 for trace in traces)


def test_a_trace_that_cannot_be_written_costs_nothing_but_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving() as receiver, caplog.at_level(logging.WARNING):
        report = zsmtp.deliver(
            MESSAGE,
            sender="a@example.org",
            recipients=["b@example.net"],
            relay=f"smtp://127.0.0.1:{receiver.port}",
            trace=tmp_path / "missing" / "trace.json",
        )
    assert report.ok
    assert [record.getMessage() for record in caplog.records if record.name == "zsmtp.observers"] == [
        f"no trace in {tmp_path}/missing/trace.json: No such file or directory"
    ]
