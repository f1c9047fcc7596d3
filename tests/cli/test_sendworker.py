"""A process that sends, heard at the other end of its pipe."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zsmtp.cli.sendpipe import AllSettled, NoMore, Order, ProcessPipe, Ready, StopSending, Unable, config_values
from zsmtp.client.config import Config, DKIMKey, Relay


def talk(*said: Sequence[Any]) -> tuple[list[Any], int]:
    """What a process says to these frames until it ends, and its exit status."""
    here, there = socket.socketpair()
    command = [sys.executable, "-m", "zsmtp.cli.sendworker", str(there.fileno())]
    with tempfile.TemporaryFile() as marks:
        marks.write(b"\0")
        marks.flush()
        with subprocess.Popen(command, pass_fds=(there.fileno(), marks.fileno())) as process:
            there.close()

            async def hear() -> list[Any]:
                pipe = await ProcessPipe.over(here)
                for frame in said:
                    for one in frame:
                        pipe.say(_with_marks(one, marks.fileno()))
                    pipe.flush()
                heard: list[Any] = []
                while (values := await asyncio.wait_for(pipe.hear(), 60)) is not None:
                    heard += values
                await pipe.aclose()
                return heard

            return asyncio.run(hear()), process.wait(60)


def _with_marks(one: Any, descriptor: int) -> Any:
    return Order(config=one.config, marks=descriptor) if isinstance(one, Order) else one


def test_one_without_work_ends_at_once() -> None:
    config = Config(relay=Relay(host="127.0.0.1"), routes={"x.example": Relay(host="127.0.0.2")})
    assert Config(**config_values(config)) == config
    assert talk([Order(config=config_values(config))], [NoMore()]) == ([Ready(), AllSettled()], 0)


def test_one_that_is_stopped_before_it_has_work() -> None:
    heard, status = talk([Order(config=config_values(Config()))], [StopSending("interrupted")])
    assert (heard, status) == ([Ready(), AllSettled()], 0)


def test_a_configuration_that_cannot_be_used(tmp_path: Path) -> None:
    """A key that was there when the command began is gone."""
    key = DKIMKey(domain="example.org", selector="s", key_file=str(tmp_path / "gone.pem"))
    (told,), status = talk([Order(config=config_values(Config(dkim=(key,))))])
    assert isinstance(told, Unable)
    assert "gone.pem" in told.problem
    assert status == 0
