"""Messages of a program on their way into a queue: what takes long does not hold up its event loop."""

from __future__ import annotations

import asyncio
import email
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from zsmtp.client.config import Config
from zsmtp.proto.plan import Envelope
from zsmtp.queue import ingest
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.ingest import Ingest, QueueSubmission
from zsmtp.queue.limits import PART_OCTETS
from zsmtp.queue.submission import digest

HEADER = b"From: a@example.org\nTo: b@example.net\n\n"
SMALL = HEADER + b"text\n"
LARGE = HEADER + b"A line of text, one of many.\n" * (PART_OCTETS // 25)


@pytest.fixture
def hashed_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that hashed contents read in blocks."""
    threads: list[int] = []

    def noted(envelope: Envelope, content: bytes | Iterable[bytes]) -> bytes:
        threads.append(threading.get_ident())
        return digest(envelope, content)

    monkeypatch.setattr(ingest, "digest", noted)
    return threads


def reads(message: Any, key: str) -> ingest.Ingested:
    async def main() -> ingest.Ingested:
        return await Ingest(Config(), QueueConfig()).read_aside(QueueSubmission(message=message, idempotency_key=key))

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["octets", "path", "object"])
def test_large_contents_are_hashed_in_a_thread(kind: str, tmp_path: Path, hashed_by: list[int]) -> None:
    path = tmp_path / "message"
    path.write_bytes(LARGE)
    message = {"octets": LARGE, "path": path, "object": email.message_from_bytes(LARGE)}[kind]
    with (
        reads(message, "order 1") as one,
        Ingest(Config(), QueueConfig()).read(QueueSubmission(message=LARGE, idempotency_key="order 1")) as at_once,
    ):
        assert one.new.digest == at_once.new.digest != b""
        assert b"".join(one.blocks()) == LARGE
    assert hashed_by[0] != threading.get_ident()


def test_without_a_key_there_is_no_thread(monkeypatch: pytest.MonkeyPatch, hashed_by: list[int]) -> None:
    monkeypatch.setattr(asyncio, "to_thread", None)
    for message, key in ((LARGE, ""), (SMALL, ""), (SMALL, "order 1")):
        with reads(message, key) as one:
            assert (one.new.digest != b"") == bool(key)
    assert hashed_by == []


def test_large_messages_for_one_commit_are_put_together_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    whole = ingest.Ingested.whole

    def noted(one: ingest.Ingested) -> Any:
        threads.append(threading.get_ident())
        return whole(one)

    monkeypatch.setattr(ingest.Ingested, "whole", noted)
    new = asyncio.run(Ingest(Config(), QueueConfig()).read_many([LARGE, SMALL]))
    assert [one.content for one in new] == [LARGE, SMALL]
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
