"""Fixtures of the interoperation tests: the farm of servers, and one test's exchange with one of them.

These tests run only where they are asked for (``pytest -m interop``); asked for, they fail where the servers are
missing: nothing that needs servers is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.interop.exchange import Exchange
from tests.interop.servers import PROGRAMS, Farm, Listener, running_farm
from tests.interop.zones import NameServers, name_servers
from tests.support.postoffice import PostOffice


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the interoperation tests out of every run that does not name their marker."""
    if "interop" in config.option.markexpr:
        return
    ours = [item for item in items if item.get_closest_marker("interop")]
    items[:] = [item for item in items if item not in ours]
    config.hook.pytest_deselected(items=ours)


@pytest.fixture(scope="session")
def farm() -> Iterator[Farm]:
    with running_farm() as running:
        yield running


@pytest.fixture(scope="session")
def names(farm: Farm) -> Iterator[NameServers]:
    """The name servers, whose zones tell of the certificates of all servers."""
    for program in PROGRAMS:
        farm.server(program)
    with name_servers(farm) as running:
        yield running


@pytest.fixture
def exchange(listener: Listener, farm: Farm, tmp_path: Path) -> Exchange:
    """The exchange with the ``listener`` the test is parametrized with."""
    return Exchange(PostOffice(tmp_path / "postoffice"), listener, farm.server(listener.program))
