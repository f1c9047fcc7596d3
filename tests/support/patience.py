"""Waiting for what another process or thread does, with a deadline that only a hang reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT = 60.0  # seconds


def wait_until(condition: Callable[[], object], told: Callable[[], object] = lambda: "") -> None:
    """Wait until a condition holds; ``told`` is what to say when it never does."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {told()}"
        time.sleep(0.01)
