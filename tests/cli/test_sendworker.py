"""A sending process, from the other end of its channel."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.patience import LIMIT

from zsmtp.cli.sendmessages import AllSettled, ConfigRejected, EndOfWork, Order, Ready, SendChannel, StopSending
from zsmtp.client.config import Config, DKIMKey, Relay
from zsmtp.net.processes import ChildProcess


def exchange(*messages: Any) -> tuple[list[Any], int | None]:
    """Send messages to a sending process. Return the messages that it sends until it ends, and its exit status."""
    with tempfile.TemporaryFile() as marks:
        marks.write(b"\0")
        marks.flush()

        async def story() -> tuple[list[Any], int | None]:
            process = ChildProcess("zsmtp.cli.sendworker", descriptors=(marks.fileno(),))
            channel = SendChannel(process.socket)
            for message in messages:
                channel.send(_with_marks(message, marks.fileno()))
            received: list[Any] = []
            while (message := await channel.receive()) is not None:
                received.append(message)
            assert await channel.receive() is None
            assert channel.problem == ""
            await process.wait(LIMIT)
            return received, process.exit_status

        return asyncio.run(asyncio.wait_for(story(), LIMIT))


def _with_marks(message: Any, descriptor: int) -> Any:
    return replace(message, marks=descriptor) if isinstance(message, Order) else message


def test_one_without_work_ends_at_once() -> None:
    config = Config(relay=Relay(host="127.0.0.1"), routes={"x.example": Relay(host="127.0.0.2")})
    assert exchange(Order(config=config), EndOfWork()) == ([Ready(), AllSettled()], 0)


def test_one_that_is_stopped_before_it_has_work() -> None:
    assert exchange(Order(), StopSending("interrupted")) == ([Ready(), AllSettled()], 0)


def test_a_configuration_that_cannot_be_used(tmp_path: Path) -> None:
    """A key that was there when the command began is gone."""
    key = DKIMKey(domain="example.org", selector="s", key_file=str(tmp_path / "gone.pem"))
    (rejected,), status = exchange(Order(config=Config(dkim=(key,))))
    assert isinstance(rejected, ConfigRejected)
    assert "gone.pem" in rejected.problem
    assert status == 0
