"""Tries that are made again after a second instead of minutes, for clients whose clock no test can set forward.

How long a client goes on trying is then given as a time that nobody reaches.
"""

from __future__ import annotations

import pytest

from zsmtp.delivery.retry import FailureClass, Schedule

LONG = 600.0  # seconds to try again for


def retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every class of failures a schedule of one second."""
    monkeypatch.setattr("zsmtp.delivery.retry.SCHEDULES", dict.fromkeys(FailureClass, Schedule((), 1.0, 0.0)))
