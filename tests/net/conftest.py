"""What the tests of drivers share: both kinds of event loop, after which nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from tests.support.loop import Run, running
from tests.support.patience import LIMIT

from zsmtp.net import aio


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run[Any]]:
    """Runs a coroutine; nothing is left of it: no task, callback, descriptor or thread."""
    monkeypatch.setattr(aio, "GRACE", LIMIT)  # threads are waited for, however busy the machine is
    with running(request.param) as runs:
        yield runs
