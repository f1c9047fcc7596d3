"""``zsmtp queue`` on a queue under test: a verb and its words in, what was written and the exit status out."""

from __future__ import annotations

import asyncio
import shlex
import syslog
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from tests.queue import harness
from tests.queue.harness import Harness, Make, deferred, failed, new

from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.queue import execute, verb_parser
from zsmtp.cli.queueshards import Shard, Shards
from zsmtp.client.config import Config
from zsmtp.queue.ids import to_text
from zsmtp.queue.location import usual_location
from zsmtp.server.serviceconfig import ServiceConfig

HOUR = 3600.0


class Ran(NamedTuple):
    """What a verb did."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()


class Console:
    """A terminal of 80 columns at a queue, whose clock stands at noon."""

    def __init__(self, queue: Harness, capsys: pytest.CaptureFixture[str]) -> None:
        self.queue = queue
        self.capsys = capsys
        self.delivery: Config | None = None
        self.service: ServiceConfig | None = None
        self.ids: list[str] = []
        """Of the messages of :meth:`fill`, in their order."""

    async def run(self, text: str) -> Ran:
        """Run ``zsmtp queue TEXT``."""
        verb, *words = shlex.split(text)
        self.capsys.readouterr()
        try:
            options = verb_parser(verb).parse_intermixed_args(words)
            shards = Shards.single(Shard(usual_location().full_name, self.queue.store))
            service = self.service
            status = int(await execute(shards, options, self.queue.now, delivery=self.delivery, service=service))
            error = ""
        except CommandFailed as failure:
            status, error = int(failure.status), f"zsmtp queue: {failure}\n"
        except SystemExit as end:
            status, error = int(end.code or 0), ""
        out, err = map(_text, self.capsys.readouterr())
        return Ran(status, out, err + error)

    async def fill(self) -> None:
        """Three messages: one tried at noon of which a recipient failed, one for later, one that is held."""
        store = self.queue.store
        for message in (
            new(
                "bob@example.net",
                "carol@example.org",
                tenant="acme",
                name="<1@shop.example>",
                origin="smtp 192.0.2.1",
            ),
            new("dave@example.com", sender=b"", due=harness.NOON + HOUR),
            new("erin@example.com", priority=3),
        ):
            (accepted,) = await store.submit([message])
            self.ids.append(to_text(accepted.id, store.shard))
            self.queue.clock.now += 0.001
        await store.join("node-1")
        for key in ("example.net", "example.org"):
            lease = await harness.lease_of(store, key)
            (one,) = await harness.claim(store, lease, self.queue.now())
            late = deferred(one.recipient, self.queue.now(), harness.NOON + 330)
            result = late if key == "example.net" else failed(one.recipient, self.queue.now())
            assert not await store.settle(lease, [result], ())
            await store.give_back([lease])
        assert (await self.run("hold erin@example.com --yes")).status == 0
        self.queue.clock.now = harness.NOON + 60


def _text(written: str | bytes) -> str:
    """What was written, of octets one character each."""
    return written if isinstance(written, str) else written.decode("latin-1")


def on(
    make: Make,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    scenario: Callable[[Console], Awaitable[None]],
    *,
    fill: bool = True,
) -> None:
    """Run a scenario at a queue of its own, which is found to be in order in the end."""

    async def main() -> None:
        queue = make(folder)
        await queue.start()
        try:
            console = Console(queue, capsys)
            if fill:
                await console.fill()
            await scenario(console)
            assert await harness.findings(queue.store) == []
        finally:
            await queue.stop()

    asyncio.run(main())


def environment(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Set terminal, time zone and who is there; returns the lines that go to the system's log."""
    logged: list[str] = []
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    somebody = SimpleNamespace(getlogin=lambda: "ann", getuid=lambda: 1000)
    monkeypatch.setattr("zsmtp.cli.queuechanging.os", somebody)
    monkeypatch.setattr(syslog, "openlog", lambda *arguments: None)
    monkeypatch.setattr(syslog, "syslog", lambda priority, text: logged.append(text))
    return logged
