"""The library as the README shows it: its examples are pasted into an interpreter that knows nothing, and deliver."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.receiver import receiving

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_there_are_a_short_one_and_one_for_asyncio() -> None:
    short, concurrent = EXAMPLES
    assert len([line for line in short.splitlines() if line]) <= 5
    assert "async with zsmtp.aio.Client" in concurrent


@pytest.mark.parametrize(
    ("example", "messages"), list(zip(EXAMPLES, (1, 100), strict=True)), ids=["blocking", "asyncio"]
)
def test_pasted_it_delivers(example: str, messages: int, tmp_path: Path) -> None:
    with receiving() as receiver:
        program = example.replace("2525", str(receiver.port))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) == len(receiver.messages) == messages
        assert all(": delivered by localhost [127.0.0.1]:" in line for line in lines)


def test_the_answer_shown_is_what_is_printed(tmp_path: Path) -> None:
    shown = re.search(r"^    (bob@example\.net: delivered.*)$", README.read_text(), re.MULTILINE)
    assert shown is not None
    with receiving() as receiver:
        program = EXAMPLES[0].replace("2525", str(receiver.port))
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    said = done.stdout.strip().replace(str(receiver.port), "2525").replace("250 2.0.0 taken as 1", "250 OK")
    assert said == shown[1]
