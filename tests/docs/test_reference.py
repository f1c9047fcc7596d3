"""The reference of configuration keys has every table, and says what every key means."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

from drawn.keys import classes_in, find, keys_of, meanings  # noqa: E402
from zsmtp.client.config import Config  # noqa: E402
from zsmtp.server.serviceconfig import ServiceConfig  # noqa: E402

SHOWN = [
    find(path)
    for path in re.findall(r"^\.\. key-table:: (\S+)$", (DOCS / "reference" / "configuration.rst").read_text(), re.M)
]


def reachable() -> set[type]:
    """All classes that are tables of a file."""
    found: set[type] = set()
    waiting: list[type] = [Config, ServiceConfig]
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found.add(kind)
            waiting += [one for _, hint in keys_of(kind) for one in classes_in(hint)]
    return found


def test_every_table_is_there() -> None:
    assert set(SHOWN) == reachable() - {ServiceConfig}


@pytest.mark.parametrize("kind", SHOWN, ids=lambda kind: kind.__name__)
def test_every_key_has_a_meaning(kind: type) -> None:
    assert {one.name for one, _ in keys_of(kind)} <= set(meanings(kind))
