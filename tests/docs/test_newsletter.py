"""The program of the how-to on newsletters, as people run it; the page itself runs its parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zsmtp.cli.main import main
from zsmtp.queue.shaping import Rate
from zsmtp.server.serviceconfig import read_service

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(folder: Path, addresses: list[str]) -> str:
    (folder / "letter.txt").write_text("Mon, 02 Nov 2026 08:00:00 +0000\nDear reader, ...\n")
    (folder / "addresses.txt").write_text("\n".join(addresses))
    command = [sys.executable, str(EXAMPLES / "newsletter.py"), "mail.db", "November", "letter.txt", "addresses.txt"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_second_run_queues_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, ["ann@example.net"]) == "queued: 1\n"
    assert run(tmp_path, ["ann@example.net", "bob@example.net"]) == "queued: 2\n"
    assert main(["queue", "count", "--queue", str(tmp_path / "mail.db")]) == 0
    assert capsys.readouterr().out == "2\n"


def test_the_limits_that_it_shows_can_be_read() -> None:
    queue = read_service(EXAMPLES / "newsletter.toml").queue
    limits = queue.limits_for("example.com")
    assert (limits.messages, limits.connections) == ((Rate(20, 1.0), Rate(30000, 3600.0)), (Rate(60, 60.0),))
    assert queue.weight_of("news") == 0.5
