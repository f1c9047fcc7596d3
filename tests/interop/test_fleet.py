"""Nodes on a PostgreSQL of their own: everything dies at random for two minutes (``make chaos``: ten), and one site."""

from __future__ import annotations

import pytest
from tests.chaos import sharing
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


@pytest.mark.interop
@pytest.mark.timeout(900)
def test_two_nodes_share_one_site_and_one_goes_on_alone() -> None:
    assert installed(), "the programs of a PostgreSQL server are missing: apt-get install postgresql"
    report = sharing.play(messages=3000)
    print(report)
    assert report.findings == [], report
    assert min(report.before["node-0"], report.before["node-1"]) >= 100
    assert report.delivered.total() == 3000
