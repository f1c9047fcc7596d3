"""The page of metrics has all of them: those the observer registers, and those that the service gives."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from drawn import metrics
from zsmtp.queue import changes, settling
from zsmtp.queue.sqlite import intake, results, suppressing
from zsmtp.queue.states import Outcome
from zsmtp.server.service import Service


def counted_by_name(module: Any) -> set[str]:
    """The names of counters that a module of the store adds to by a literal."""
    return {
        call.args[0].value
        for call in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("count", "_count")
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def test_every_metric_of_the_service_has_a_meaning() -> None:
    names = {name for outcome in Outcome for name in settling.counters(outcome, made=True)}
    names |= (
        counted_by_name(intake) | counted_by_name(results) | counted_by_name(changes) | counted_by_name(suppressing)
    )
    assert {"messages", "accepted", "notices", "repeated"} <= names

    class Store:
        async def counters(self) -> Mapping[str, int]:
            return dict.fromkeys(names, 1)

        async def health(self) -> SimpleNamespace:
            return SimpleNamespace(free_octets=1)

    service = cast(Service, SimpleNamespace(store=Store(), entrances={}, bounces=None, pool=None))
    given = asyncio.run(Service.metrics(service))
    assert set(metrics.meanings()) == set(given)
    assert all(len(meaning) > 10 and meaning.endswith(".") for meaning in metrics.meanings().values())
    assert metrics.service_table().count("   * - ") == 1 + len(given)


def test_every_metric_of_the_observer_has_a_meaning() -> None:
    found = metrics.instruments()
    assert ("zsmtp_replies_total", "counter", ("phase", "class"), "Replies by phase and class.") in found
    assert all(meaning.endswith(".") for *_, meaning in found)
    assert metrics.observer_table().count("   * - ") == 1 + len(found)
