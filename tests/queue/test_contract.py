"""Every store keeps every promise of the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.queue.contract import PROMISES, Scenario
from tests.queue.harness import STORES, Make, play


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
@pytest.mark.parametrize("scenario", PROMISES, ids=lambda scenario: scenario.__name__)
def test_promise(scenario: Scenario, make: Make, tmp_path: Path) -> None:
    play(make(tmp_path), scenario)
