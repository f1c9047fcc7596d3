"""One name, one thing: no class name stands for two things, no room has a module that says nothing."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "zsmtp"

SAME_IDEA = {
    "Client",  # with an event loop, and without
    "News",  # of two stores
    "Queue",  # with an event loop, and without
    "ShardedQueue",  # with an event loop, and without
    "Stop",  # of two drivers
    "WriteTransaction",  # of two stores
}
"""Classes of one name that are the same idea in two drivers, stores or faces."""

ONCE = {"address", "candidates", "events", "fields", "ledger", "message", "plan", "report"}
"""Modules whose names would fit in many rooms, and which only one has; a session has events of its own."""


def test_no_class_name_stands_for_two_things() -> None:
    found = defaultdict(list)
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(SOURCE)))
    twice = {name: paths for name, paths in found.items() if len(paths) > 1}
    assert {name: paths for name, paths in twice.items() if name not in SAME_IDEA} == {}
    assert set(twice) == SAME_IDEA, "an exception that is none any more"


def test_each_of_these_modules_is_there_once() -> None:
    found = defaultdict(list)
    for path in SOURCE.rglob("*.py"):
        found[path.stem].append(str(path.relative_to(SOURCE)))
    allowed = {"events": ["events.py", "proto/events.py"]}
    assert {name: sorted(found[name]) for name in ONCE if len(found[name]) > 1} == allowed
