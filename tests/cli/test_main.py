"""The ``zsmtp`` command: its frame, and how it ends when something goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from zsmtp import __version__
from zsmtp.cli import main as frame
from zsmtp.cli.failure import CommandFailed, read_file
from zsmtp.cli.main import main
from zsmtp.cli.sysexits import Exit, worst
from zsmtp.errors import ConfigError, LocalError


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"zsmtp {__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"    {name}" in text for name in frame.COMMANDS)


def test_smtp_is_the_agent(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["smtp", "-V"]) == 0
    assert capfd.readouterr().out == f"zsmtp smtp {__version__}\n"


def test_agent_usage_errors_come_through(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["smtp", "-q"]) == 64
    assert capfd.readouterr().err.startswith("# smtp: ")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["--nonsense"], ["bad\x1b[31m"]])
def test_without_a_known_command_it_is_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == Exit.USAGE
    text = capsys.readouterr().err
    assert text.startswith("zsmtp: ")
    assert text.count("\n") == 1
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (CommandFailed(Exit.NO_HOST, "nx.example: no such domain"), 68, "nx.example: no such domain"),
        (ConfigError("tls.level: \x1b[31mred"), 78, "tls.level: \\x1b[31mred"),
        (LocalError("lost"), 70, "lost"),
        (RecursionError("too deep"), 70, "too deep"),
        (OSError(28, "No space left on device"), 74, "No space left on device"),
        (KeyboardInterrupt(), 130, None),
        (BrokenPipeError(), 141, None),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(
    error: BaseException,
    status: int,
    line: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(arguments: list[str]) -> int:
        raise error

    monkeypatch.setitem(frame.COMMANDS, "try", ("tried", ""))
    monkeypatch.setattr(frame, "import_module", lambda name: SimpleNamespace(run=run))
    monkeypatch.setattr(frame, "_drop_output", lambda: None)
    assert main(["try"]) == status
    assert capsys.readouterr().err == ("" if line is None else f"zsmtp try: {line}\n")


def test_a_command_is_imported_when_it_is_asked_for() -> None:
    program = "import sys, zsmtp.cli.main; print(*sorted(name for name in sys.modules if name.startswith('zsmtp')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["zsmtp", "zsmtp.cli", "zsmtp.cli.main"]


def test_closed_streams_are_no_trouble() -> None:
    for closing in (">&-", "2>&-", ">&- 2>&-"):
        command = f"{sys.executable} -m zsmtp.cli.main explain '[127.0.0.1]' {closing}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_closed_standard_input_is_an_empty_one() -> None:
    for command, complaint in (
        ("send -", "standard input: the message is empty"),
        ("trace show -", "-: not JSON: line 1, column 1: Expecting value"),
    ):
        words = f"{sys.executable} -m zsmtp.cli.main {command} <&-"
        done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (65, f"zsmtp {command.split()[0]}: {complaint}\n")


def test_the_agent_without_standard_output_does_nothing_and_without_input_ends() -> None:
    for command in (f"{sys.executable} -m zsmtp.cli.main smtp", f"{sys.executable} -m zsmtp.zmailer.agent"):
        for closing, status, out in (("</dev/null >&-", 74, ""), ("<&-", 0, "#hungry\n")):
            done = subprocess.run(
                ["sh", "-c", f"{command} {closing}"], capture_output=True, text=True, check=False, timeout=60
            )
            assert (done.returncode, done.stdout, done.stderr) == (status, out, "")


def test_a_file_that_cannot_be_read_says_which_and_why(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"gone\\x1b: No such file or directory") as failed:
        read_file(str(tmp_path / "gone\x1b"), 10)
    assert failed.value.status is Exit.NO_INPUT
    with pytest.raises(CommandFailed, match="Is a directory") as failed:
        read_file(str(tmp_path), 10)
    assert failed.value.status is Exit.NO_INPUT
    long = tmp_path / "long"
    long.write_bytes(b"x" * 11)
    with pytest.raises(CommandFailed, match="longer than 10 octets") as failed:
        read_file(str(long), 10)
    assert failed.value.status is Exit.DATA


def test_a_file_that_must_not_be_read_is_a_matter_of_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CommandFailed, match="secret: Permission denied") as failed:
        read_file("secret", 10)
    assert failed.value.status is Exit.NO_PERMISSION


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], Exit.OK),
        ([Exit.OK, Exit.OK], Exit.OK),
        ([Exit.OK, Exit.TEMPORARY], Exit.TEMPORARY),
        ([Exit.TEMPORARY, Exit.UNAVAILABLE, Exit.OK], Exit.UNAVAILABLE),
        ([Exit.TEMPORARY, Exit.NO_HOST], Exit.NO_HOST),
        ([Exit.UNAVAILABLE, Exit.NO_INPUT], Exit.NO_INPUT),
    ],
)
def test_the_status_for_several_is_the_worst(statuses: list[Exit], expected: Exit) -> None:
    assert worst(statuses) is expected
