"""``zsmtp trace show``: the drawing, the page, and one clear line for what is wrong."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from tests.observers.test_waterfall import eventful

from zsmtp.cli.main import main
from zsmtp.observers.codec import trace_text


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "trace.json"
    path.write_text(trace_text(eventful()))
    return str(path)


def test_it_draws(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", file, "--width", "80"]) == 0
    out = capsys.readouterr().out
    assert out == (Path(__file__).parents[1] / "observers/golden/waterfall-80.txt").read_text()


def test_colours_on_wish(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", "--color=always", "--width=80", file]) == 0
    coloured = capsys.readouterr().out
    assert "\x1b[31m" in coloured
    bare = re.sub(r"\x1b\[\d*m", "", coloured)
    assert main(["trace", "show", "--color=never", "--width=80", file]) == 0
    assert capsys.readouterr().out == bare


def test_ascii_where_the_terminal_knows_no_more(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    octets = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(octets, encoding="ascii", errors="strict"))
    assert main(["trace", "show", file]) == 0
    assert octets.getvalue().isascii()


def test_from_standard_input(file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(file).read_bytes())))
    assert main(["trace", "show", "-"]) == 0
    assert "example.org" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--html"], ["--html", "-"], ["--html="]])
def test_a_page_to_standard_output(file: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", file, *arguments]) == (0 if arguments != ["--html="] else 73)
    out = capsys.readouterr().out
    assert out.startswith("<!DOCTYPE html>") == (arguments != ["--html="])


def test_the_option_before_the_file(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", "--html", file]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
    assert "zsmtp.trace/1" in Path(file).read_text()


def test_a_page_to_a_file(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", file, "--html", str(tmp_path / "out.html")]) == 0
    assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out == ""


def test_a_page_does_not_replace_its_trace(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(file).parent)
    assert main(["trace", "show", file, "--html", Path(file).name]) == 64
    assert capsys.readouterr().err == f"zsmtp trace: --html: {Path(file).name} is the trace itself\n"
    assert "zsmtp.trace/1" in Path(file).read_text()


@pytest.mark.parametrize(
    ("content", "status", "complaint"),
    [
        (None, 66, "trace.json: No such file or directory"),
        (b"", 65, "trace.json: not JSON: line 1, column 1: Expecting value"),
        (b"\xff\xff", 65, "trace.json: not a trace: not UTF-8"),
        (b"[]", 65, "trace.json: not a trace: a list instead of an object"),
        (b'{"schema": "zsmtp.trace/9"}', 65, "trace.json: not a trace of zsmtp.trace/1: schema 'zsmtp.trace/9'"),
        (b'{"schema": "\\u001b[2J"}', 65, "trace.json: not a trace of zsmtp.trace/1: schema '\\x1b[2J'"),
    ],
)
def test_what_is_no_trace_is_one_line(
    tmp_path: Path, content: bytes | None, status: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["trace", "show", str(path)]) == status
    error = capsys.readouterr().err
    assert error == f"zsmtp trace: {tmp_path}/{complaint}\n"


def test_a_page_that_cannot_be_written(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", file, "--html", str(tmp_path / "no" / "out.html")]) == 73
    assert capsys.readouterr().err == f"zsmtp trace: {tmp_path}/no/out.html: No such file or directory\n"
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        assert main(["trace", "show", file, "--html", str(tmp_path / "closed" / "out.html")]) == 77


@pytest.mark.parametrize("arguments", [[], ["show"], ["draw"], ["show", "--width", "7", "x"], ["show", "a", "b"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trace", *arguments])
    assert caught.value.code == 64
    assert len(capsys.readouterr().err.splitlines()) == 1
