"""How many examples a property is tried with: few in ``make test``, ``ZSMTP_EFFORT`` times as many in ``make explore``.

``make test`` takes the same examples each time, so that it says something about a change and nothing about luck;
``make explore`` takes others each time.

A property with a number of its own gives it as ``@settings(max_examples=examples(150))``.
"""

from __future__ import annotations

import os

EFFORT = int(os.environ.get("ZSMTP_EFFORT", "1"))


def examples(count: int) -> int:
    """So many examples, times the effort that is asked for."""
    return count * EFFORT
