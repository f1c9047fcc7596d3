"""What all tests share: one profile for properties, so that a slow or a busy machine changes nothing."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("zsmtp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("zsmtp"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "zsmtp")


@pytest.fixture(autouse=True)
def _nobody_was_warned_yet() -> None:
    """What a process says once was not said in another test."""
    from zsmtp.client import destinations

    destinations._warn_once.cache_clear()
