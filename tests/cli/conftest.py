"""What the tests of ``zsmtp send`` share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zsmtp.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def send(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``zsmtp send`` on a terminal of 200 columns: status, output, errors."""
    monkeypatch.delenv("ZSMTP_PASSWORD", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main(["send", *map(str, arguments)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
