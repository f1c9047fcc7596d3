"""What the tests of the agent as a process share: a post office of their own, and an agent for many servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.player import Player
from tests.support.postoffice import PostOffice


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
