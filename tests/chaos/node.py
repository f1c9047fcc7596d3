"""``zsmtp serve`` with a clock that jumps: ``python -m tests.chaos.node CLOCK ARGUMENTS``.

The file ``CLOCK`` says by how many seconds the clock of this machine is wrong. Waits are not concerned, as with a real
clock that is set.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

right = time.time
path = Path(sys.argv[1])


def wrong() -> float:
    """The time, as this machine believes it is."""
    try:
        return right() + float(path.read_text() or 0)
    except (OSError, ValueError):
        return right()


if __name__ == "__main__":
    time.time = wrong
    from zsmtp.cli.main import main

    sys.exit(main(["serve", *sys.argv[2:]]))
