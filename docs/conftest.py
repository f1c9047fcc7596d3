"""The fixtures of the examples in the pages: a function, and a receiver on the loopback interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from outcome import outcome
from stuck import delivering, shell
from tests.support.receiver import Receiver, receiving

import zsmtp
from zsmtp.dns.static import StaticResolver


@pytest.fixture(autouse=True)
def names_of_the_examples(doctest_namespace: dict[str, object]) -> None:
    """``outcome`` of ``examples/outcome.py``: the how-to on scripted servers shows it whole."""
    doctest_namespace["outcome"] = outcome


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A mail server that accepts mail for every recipient except nobody@example.org."""
    with receiving() as running:
        running.refuse.add("nobody@example.org")
        yield running


@pytest.fixture
def closed_world(receiver: Receiver) -> zsmtp.Config:
    """A configuration for a world in which example.org's exchanger is the receiver, and there is no other server."""
    names = StaticResolver("example.org MX 10 mx1.example.org\nmx1.example.org A 127.0.0.1")
    direct = zsmtp.Direct(resolver=names, port=receiver.port, dane=False, mta_sts=zsmtp.STSUse.OFF)
    return zsmtp.Config(direct=direct, helo_name="out.example.net")


@pytest.fixture(name="shell")
def commands(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that runs ``zsmtp`` commands."""
    monkeypatch.setenv("COLUMNS", "86")
    return shell


@pytest.fixture
def three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three messages in the folder ``out`` of the current directory; the recipient of the second does not exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    files = []
    for number, name in enumerate(("anna", "nobody", "carl"), 1):
        files.append(tmp_path / "out" / f"{number}.eml")
        files[-1].write_text(f"From: me@example.net\nTo: {name}@example.org\nSubject: {number}\n\nHello.\n")
    return files


@pytest.fixture
def news_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a queue that commands find by the environment."""
    monkeypatch.setenv("ZSMTP_QUEUE", str(tmp_path / "mail.db"))
    return tmp_path / "mail.db"


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A function that runs commands on the queue of ``examples/stuck.py``; their operator is ann."""
    monkeypatch.setenv("ZSMTP_QUEUE", str(tmp_path / "queue.db"))
    monkeypatch.setenv("COLUMNS", "86")
    operator = SimpleNamespace(getlogin=lambda: "ann", getuid=lambda: 1000)
    monkeypatch.setattr("zsmtp.cli.queuechanging.os", operator)
    monkeypatch.setattr("syslog.syslog", lambda priority, text: None)
    with delivering(tmp_path / "queue.db") as now:
        monkeypatch.setattr("zsmtp.cli.queue.time", SimpleNamespace(time=lambda: now))  # however slow the examples are
        yield shell
