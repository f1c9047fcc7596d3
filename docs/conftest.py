"""The names that the examples in the pages use without importing them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "examples"))


@pytest.fixture(autouse=True)
def names_of_the_examples(doctest_namespace: dict[str, object]) -> None:
    """``outcome`` of ``examples/outcome.py``: the how-to on scripted servers shows it whole."""
    from outcome import outcome

    doctest_namespace["outcome"] = outcome
