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


QUEUED, SHORT, MANY = EXAMPLES


def test_there_are_a_queue_a_short_one_and_a_stream() -> None:
    assert "zsmtp.Queue.open" in QUEUED
    assert len([line for line in SHORT.splitlines() if line]) <= 5
    assert "with zsmtp.Client" in MANY


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_pasted_it_queues(tmp_path: Path) -> None:
    done = run(QUEUED, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[0-9a-z]{15}\n", done.stdout)
    assert (tmp_path / "mail.db").exists()


@pytest.mark.parametrize(("example", "messages"), [(SHORT, 1), (MANY, 100)], ids=["one", "many"])
def test_pasted_it_delivers(example: str, messages: int, tmp_path: Path) -> None:
    with receiving() as receiver:
        done = run(example.replace("2526", str(receiver.port)), tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) == len(receiver.messages) == messages
        assert all(": delivered by localhost [127.0.0.1]:" in line for line in lines)


def test_the_answer_shown_is_what_is_printed(tmp_path: Path) -> None:
    shown = re.search(r"^    (bob@example\.net: delivered.*)$", README.read_text(), re.MULTILINE)
    assert shown is not None
    with receiving() as receiver:
        done = run(SHORT.replace("2526", str(receiver.port)), tmp_path)
    said = done.stdout.strip().replace(str(receiver.port), "2526").replace("taken as 1", "taken as number 1")
    assert said == shown[1]
