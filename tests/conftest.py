"""What all tests share: one profile for properties, so that a slow or a busy machine changes nothing."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("zsmtp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("zsmtp"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "zsmtp")
