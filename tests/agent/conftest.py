"""What the tests of the agent as a process share: a post office of their own, and the usual flags."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.player import Player
from tests.support.postoffice import PostOffice


@pytest.fixture(scope="package", autouse=True)
def usual_signals() -> Iterator[None]:
    """Signals are heard, whoever started the tests: what a parent ignores its children ignore, agents too."""
    ignored = [one for one in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT) if signal.getsignal(one) is signal.SIG_IGN]
    for one in ignored:
        signal.signal(one, signal.SIG_DFL)
    yield
    for one in ignored:
        signal.signal(one, signal.SIG_IGN)


@pytest.fixture
def office(tmp_path: Path) -> PostOffice:
    return PostOffice(tmp_path / "office")


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    """An agent for all servers of a module."""
    player = Player(tmp_path_factory.mktemp("player"))
    yield player
    player.close()


@pytest.fixture(params=[(), ("PIPELINING",)], ids=["one by one", "pipelined"])
def caps(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The keywords of a server with and without PIPELINING."""
    caps: tuple[str, ...] = request.param
    return caps
