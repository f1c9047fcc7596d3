"""Every ``--help`` fits a terminal of 80 columns, and so does ``make help``."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsmtp.cli import sendmail
from zsmtp.cli.main import COMMANDS, main
from zsmtp.cli.queue import VERBS
from zsmtp.zmailer.options import help_text

WORDS = [
    [],
    *([name] for name in COMMANDS if name != "smtp"),
    *(["queue", verb] for verb in (*VERBS, "import")),
    ["dkim", "key"],
    ["dkim", "verify"],
    ["trace", "show"],
]
MAKEFILE = Path(__file__).parents[2] / "Makefile"


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_of_zsmtp(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    shown = capsys.readouterr().out
    assert (ended.value.code, shown[:12]) == (0, "usage: zsmtp")
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_help_of_the_agent() -> None:
    lines = help_text().splitlines()
    assert lines[0].startswith("Usage: smtp [-")
    assert [line for line in lines if len(line) > 80 or "\xa0" in line] == []
    assert "            [-T timeouts] [-w octets] [-Z text] [host]" in lines


def test_help_of_sendmail(capsys: pytest.CaptureFixture[str]) -> None:
    assert sendmail.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Usage: ")
    assert [line for line in lines if len(line) > 80] == []


def test_help_of_make() -> None:
    shown = [line.removeprefix("## ") for line in MAKEFILE.read_text().splitlines() if line.startswith("## ")]
    assert any(line.startswith("make test ") for line in shown)
    assert [line for line in shown if len(line) > 80] == []
