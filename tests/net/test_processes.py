"""Processes of this program: they import the same modules, and only their parent ends them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.patience import LIMIT

from zsmtp.net.processes import ChildProcess

CHILD = """
import os, socket, sys
import zsmtp
from zsmtp.net.processes import ignore_signals

def main():
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.sendall(b"started\\n")
    sock.recv(1)
    ignore_signals()
    sock.sendall(repr({
        "arguments": sys.argv[2:],
        "package": zsmtp.__file__,
        "path": sys.path,
        "session": os.getsid(0) == os.getpid(),
        "input": sys.stdin.read(),
    }).encode())
    while sock.recv(1) == b"f":
        sock.sendall(os.pread(int(sys.argv[2]), 100, 0))
    return 3
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChildProcess]]:
    """Starts children; the directory where they start has a module that must not be imported."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "childmodule.py").write_text(CHILD)
    monkeypatch.syspath_prepend(str(modules))
    (tmp_path / "zsmtp.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    children = []

    def start(*arguments: str, descriptors: tuple[int, ...] = (), new_session: bool = False) -> ChildProcess:
        child = ChildProcess("childmodule", *arguments, descriptors=descriptors, new_session=new_session)
        child.socket.settimeout(LIMIT)
        children.append(child)
        assert child.socket.recv(100) == b"started\n"
        return child

    yield start
    for child in children:
        child.socket.close()
        child.kill()
        asyncio.run(child.wait(LIMIT))


def facts(child: ChildProcess) -> dict[str, object]:
    """What a child has found; it ignores signals now."""
    child.socket.sendall(b"g")
    found = eval(child.socket.recv(65536))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("new_session", [False, True])
def test_a_child_has_the_modules_and_files_of_its_parent(
    start: Callable[..., ChildProcess], tmp_path: Path, new_session: bool
) -> None:
    import zsmtp

    mask, environment = signal.pthread_sigmask(signal.SIG_BLOCK, ()), dict(os.environ)
    file = (tmp_path / "file").open("wb+", buffering=0)
    file.write(b"content")
    child = start(str(file.fileno()), "word", descriptors=(file.fileno(),), new_session=new_session)
    assert facts(child) == {
        "arguments": [str(file.fileno()), "word"],
        "package": zsmtp.__file__,
        "path": [os.path.abspath(entry) for entry in sys.path if entry],
        "session": new_session,
        "input": "",
    }
    child.socket.sendall(b"f")
    assert child.socket.recv(100) == b"content"
    file.close()
    assert (child.exit_status, child.killed_by) == (None, "")
    child.socket.shutdown(socket.SHUT_WR)
    asyncio.run(child.wait(LIMIT))
    assert (child.exit_status, child.killed_by) == (3, "")
    child.kill()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert dict(os.environ) == environment


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_for_the_parent_do_not_end_a_child(start: Callable[..., ChildProcess], number: signal.Signals) -> None:
    """Neither before it ignores them nor after."""
    child = start()
    os.kill(child.pid, number)
    assert facts(child)["arguments"] == []
    os.kill(child.pid, number)
    child.socket.shutdown(socket.SHUT_WR)
    asyncio.run(child.wait(LIMIT))
    assert child.exit_status == 3


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV"), (signal.SIGRTMIN + 2, f"signal {signal.SIGRTMIN + 2}")],
)
def test_the_signal_that_killed_a_child(start: Callable[..., ChildProcess], number: int, name: str) -> None:
    child = start()
    os.kill(child.pid, number)
    asyncio.run(child.wait(LIMIT))
    assert (child.killed_by, child.exit_status) == (name, None)


def test_a_child_that_does_not_end_in_time_is_killed(start: Callable[..., ChildProcess]) -> None:
    child = start()
    asyncio.run(child.wait(0))
    assert child.killed_by == "SIGKILL"


def test_a_child_is_killed_if_the_wait_is_cancelled(start: Callable[..., ChildProcess]) -> None:
    child = start()

    async def story() -> None:
        wait = asyncio.ensure_future(child.wait(LIMIT))
        await asyncio.sleep(0)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    asyncio.run(story())
    assert child.killed_by == "SIGKILL"


def test_nothing_is_left_of_a_child_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    before = os.listdir("/proc/self/fd")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(FileNotFoundError):
        ChildProcess("childmodule")
    assert os.listdir("/proc/self/fd") == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
