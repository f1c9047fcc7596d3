"""Notifications to systemd when it is behind with reading them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.patience import LIMIT

from zsmtp.server import systemd
from zsmtp.server.systemd import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(LIMIT)
        yield sock


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    """A notifier whose signs of life fill the queue."""
    notifier = Notifier(manager.getsockname())
    for _ in range(10_000):
        notifier.alive()
    yield notifier
    notifier.close()


def test_what_is_said_once_waits_for_room(
    manager: socket.socket, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "PATIENCE", LIMIT)
    said = threading.Thread(target=notifier.send, args=("STOPPING=1", "STATUS=x"))
    said.start()
    said.join(0.1)  # time to lose it
    heard = [manager.recv(100)]
    while heard[-1] == b"WATCHDOG=1":
        heard.append(manager.recv(100))
    assert heard[-1] == b"STOPPING=1\nSTATUS=x"
    said.join()


def test_a_manager_that_reads_nothing_is_not_waited_for_forever(
    manager: socket.socket, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "PATIENCE", 0.05)
    notifier.send("READY=1")
    manager.setblocking(False)
    heard = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.add(manager.recv(100))
    assert heard == {b"WATCHDOG=1"}
