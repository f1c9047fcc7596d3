"""Three nodes on a PostgreSQL of their own for two minutes, while everything dies at random (``make chaos``: ten)."""

from __future__ import annotations

import pytest
from tests.chaos.fleet import play
from tests.support.postgres import installed


@pytest.mark.interop
@pytest.mark.timeout(600)
def test_a_fleet_loses_nothing_and_knows_its_doubts() -> None:
    assert installed(), "the programs of a PostgreSQL server are missing: apt-get install postgresql"
    fleet = play(seed=14, seconds=120, messages=3000, receivers=60)
    print(fleet.report())
    assert sum(fleet.faults.values()) > 10, fleet.report()
    assert fleet.findings == [], fleet.report()
    assert fleet.shared > 10, fleet.report()
