"""The ``zsmtp`` command."""

from __future__ import annotations

import pytest

from zsmtp import __version__
from zsmtp.cli.main import main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"zsmtp {__version__}\n"


def test_smtp_is_the_agent(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["smtp", "-V"]) == 0
    assert capfd.readouterr().out == f"zsmtp smtp {__version__}\n"


def test_agent_usage_errors_come_through(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["smtp", "-q"]) == 64
    assert capfd.readouterr().err.startswith("# smtp: ")


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_without_a_known_command_it_is_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
