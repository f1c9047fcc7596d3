"""What is read of files in threads: what the system has not in memory, and nothing that belongs to a program."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from tests.net.test_aio import new_driver
from tests.support.loop import Run
from tests.support.patience import LIMIT

from zsmtp.body.encode import examine_in_pieces
from zsmtp.body.source import READ_AHEAD, Source
from zsmtp.effects import FileBlock, GiveWay, Operation, SharedWork, carry_out, checked_pause
from zsmtp.errors import ContentError
from zsmtp.net import filecache
from zsmtp.net.aio import Stop
from zsmtp.net.filecache import needs_loading

OCTETS = b"0123456789" * 100_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "message").write_bytes(OCTETS)
    return tmp_path / "message"


class Disk:
    """Reads of ``os.preadv``; those without waiting find only octets of ``cached``, or raise ``error``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cached: range, error: Exception | None = None) -> None:
        self.read: list[int] = []
        preadv = os.preadv

        def read(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
            if flags != os.RWF_NOWAIT:
                count = preadv(fd, buffers, offset)
                self.read += range(offset, offset + count)
                return count
            if offset not in cached:
                raise error or BlockingIOError
            return preadv(fd, buffers, offset)

        monkeypatch.setattr(filecache.os, "preadv", read)


def test_what_is_in_memory_needs_no_loading(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, range(100, 1000))
    with open(path, "rb", buffering=0) as file:
        assert needs_loading(FileBlock(file, 100, 900)) is None
        assert needs_loading(FileBlock(file, 999, 1)) is None
    assert disk.read == []


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("cached", [range(0), range(800_000), range(100, len(OCTETS))])
@pytest.mark.parametrize("error", [BlockingIOError(), OSError(95, "not supported"), NotImplementedError()])
def test_what_is_not_is_read_to_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, buffering: int, cached: range, error: Exception
) -> None:
    disk = Disk(monkeypatch, cached, error)
    with open(path, "rb", buffering=buffering) as file:
        load = needs_loading(FileBlock(file, 10, len(OCTETS) - 17))
        assert load is not None
        load()
        assert file.tell() == 0
    assert disk.read == list(range(10, len(OCTETS) - 7))


def test_files_of_programs_are_left_to_them(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, range(0))
    with gzip.open(tmp_path / "packed", "wb") as packed:
        packed.write(OCTETS)
    with gzip.open(tmp_path / "packed", "rb") as packed:
        assert needs_loading(FileBlock(packed, 0, 1000)) is None
    assert needs_loading(FileBlock(BytesIO(OCTETS), 0, 1000)) is None


def test_faults_are_left_to_the_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, range(0))
    with open(path, "rb", buffering=0) as file:
        beyond, load = needs_loading(FileBlock(file, len(OCTETS), 1000)), needs_loading(FileBlock(file, 0, 1000))
        assert beyond is not None
        beyond()
    assert load is not None
    load()
    assert needs_loading(FileBlock(file, 0, 1000)) is None
    assert disk.read == []


def test_a_source_is_read_ahead_in_stretches() -> None:
    file = BytesIO(bytes(2 * READ_AHEAD + 1000))
    source = Source(file, 500, 2 * READ_AHEAD + 1000)
    asked: list[FileBlock | None] = []
    carry_out(examine_in_pieces(b"Subject: x\n", source), lambda effect: asked.append(checked_pause(effect).reads))
    assert [one for one in asked if one is not None] == [
        FileBlock(file, 500, READ_AHEAD),
        FileBlock(file, 500 + READ_AHEAD, READ_AHEAD),
        FileBlock(file, 500 + 2 * READ_AHEAD, 500),
    ]
    assert len(asked) == 2 * READ_AHEAD // (1 << 18) + 2


# ----------------------------------------------------------------- in the driver


class SlowDisk:
    """Blocks are loaded until :meth:`go`; ``threads`` did it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self.begun = threading.Event()
        self._go = threading.Event()
        monkeypatch.setattr(filecache, "needs_loading", lambda block: self._load)

    def _load(self) -> None:
        self.threads.append(threading.get_ident())
        self.begun.set()
        assert self._go.wait(LIMIT)

    async def wait_until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, LIMIT)

    def go(self) -> None:
        self._go.set()


BLOCK = FileBlock(None, 0, 1)


async def two_blocks(done: list[str]) -> str:
    await GiveWay(BLOCK)
    done.append("first")
    await GiveWay()
    return "read"


def test_the_loop_does_not_wait_for_the_disk(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)

    async def main() -> None:
        driver, done = new_driver(), list[str]()
        work = asyncio.create_task(driver.run(two_blocks(done)))
        await disk.wait_until_begun()
        assert done == []
        disk.go()
        assert await work == "read"
        await driver.aclose()

    run(main())
    assert len(disk.threads) == 1
    assert threading.get_ident() not in disk.threads


def test_a_stop_ends_the_wait_for_the_disk(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)

    async def main() -> None:
        driver, stop = new_driver(), Stop()
        work = asyncio.create_task(driver.run(two_blocks([]), stop=stop))
        await disk.wait_until_begun()
        stop.request("told to stop")
        assert await work == "read"
        disk.go()
        await driver.aclose()

    run(main())


def test_nobody_goes_on_with_shared_work_before_its_block_is_there(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)

    async def main() -> None:
        driver, done = new_driver(), list[str]()
        shared = SharedWork(two_blocks(done))
        works = [asyncio.create_task(driver.run(shared.result())) for _ in range(3)]
        await disk.wait_until_begun()
        for _ in range(10):
            await asyncio.sleep(0)
        assert done == []
        works[0].cancel()
        disk.go()
        assert await asyncio.gather(*works[1:]) == ["read", "read"]
        assert done == ["first"]
        await driver.aclose()

    run(main())


def test_work_that_is_closed_while_its_block_is_loaded(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)

    async def main() -> None:
        driver = new_driver()
        shared = SharedWork(two_blocks([]))
        work: Operation[str] = shared.result()
        task = asyncio.create_task(driver.run(work))
        await disk.wait_until_begun()
        shared.close(ContentError("let go of"))
        disk.go()
        with pytest.raises(ContentError, match="let go of"):
            await task
        await driver.aclose()

    run(main())
