"""Every store keeps every promise of the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.queue.contract import PROMISES, Scenario
from tests.queue.harness import STORES, Make, play
from tests.support.postgres import needs_postgres


@needs_postgres
def test_the_store_in_postgresql_is_held_to_the_contract() -> None:
    """Where this is skipped, nothing of what follows is about that store."""
    assert "postgres" in STORES


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
@pytest.mark.parametrize("scenario", PROMISES, ids=lambda scenario: scenario.__name__)
def test_promise(scenario: Scenario, make: Make, tmp_path: Path) -> None:
    play(make(tmp_path), scenario)
