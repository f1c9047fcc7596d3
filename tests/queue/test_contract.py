"""Every store keeps every promise of the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.queue import contract, contract_parts
from tests.queue.contract import PROMISES, Scenario
from tests.queue.harness import FOLDERS, STORES, Make, play
from tests.support.postgres import needs_postgres


def test_the_scenarios_of_both_modules_are_played() -> None:
    assert {scenario.__module__ for scenario in PROMISES} == {contract.__name__, contract_parts.__name__}


@needs_postgres
def test_the_store_in_postgresql_is_held_to_the_contract() -> None:
    """Where this is skipped, nothing of what follows is about that store."""
    assert "postgres" in STORES


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
@pytest.mark.parametrize("scenario", PROMISES, ids=lambda scenario: scenario.__name__)
def test_promise(scenario: Scenario, make: Make, tmp_path: Path) -> None:
    play(make(tmp_path), scenario)


LARGE = (
    contract.intake_stops_before_results_do,
    contract.an_abandoned_upload_is_swept_after_an_hour,
    contract.an_upload_keeps_its_idempotency_key,
    contract.arrivals_tell_what_other_processes_did,
)
"""The scenarios with large bodies."""


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("scenario", LARGE, ids=lambda scenario: scenario.__name__)
def test_promise_about_large_bodies(scenario: Scenario, make: Make, tmp_path: Path) -> None:
    play(make(tmp_path), scenario)
