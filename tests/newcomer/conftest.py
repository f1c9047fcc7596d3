"""What a newcomer has: the commands of the installation, and a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.newcomer import Newcomer


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    return Newcomer(tmp_path)
