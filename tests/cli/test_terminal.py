"""What a stream can show, and who has a say in it."""

from __future__ import annotations

import io

import pytest

from zsmtp.cli.terminal import FILE_WIDTH, MAX_WIDTH, MIN_WIDTH, look_of
from zsmtp.text.look import Look, Style


class Screen(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_has_colours_and_a_file_has_none() -> None:
    assert look_of(Screen()).colour
    assert not look_of(io.StringIO()).colour
    assert look_of(io.StringIO()).width == FILE_WIDTH


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "")])
def test_colours_can_be_unwanted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert not look_of(Screen()).colour
    assert look_of(Screen(), "always").colour


def test_an_empty_no_color_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert look_of(Screen()).colour


def test_the_option_has_the_last_word() -> None:
    assert not look_of(Screen(), "never").colour
    assert look_of(io.StringIO(), "always").colour


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("10", MIN_WIDTH), ("999", MAX_WIDTH)])
def test_the_width_is_the_terminal_s_within_reason(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert look_of(Screen()).width == width


def test_an_ascii_terminal_is_given_ascii() -> None:
    look = look_of(Screen("ascii"))
    assert not look.unicode
    assert look.fit("über │") == "\\xfcber \\u2502"


def test_paint_is_a_pair_of_sequences_or_nothing() -> None:
    assert Look(colour=True).paint("x", Style.GOOD) == "\x1b[32mx\x1b[0m"
    assert Look(colour=True).paint("", Style.GOOD) == ""
    assert Look(colour=True).paint("x", Style.PLAIN) == "x"
    assert Look().paint("x", Style.GOOD) == "x"
