"""How far sending has come: counted, and shown only to somebody who waits."""

from __future__ import annotations

import io
import sys

import pytest

from zsmtp.cli import progress
from zsmtp.cli.progress import LARGE, MANY, Bar, Lines, ProgressDisplay, progress_for
from zsmtp.events import ContentProgress, ContentSent, ContentStarted


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_octets_of_all_connections_and_transactions_are_counted() -> None:
    shown = ProgressDisplay(1000, 2)
    one, other = shown.observer(), shown.observer()
    for observe, octets in ((one, 100), (other, 50), (one, 300)):
        observe(ContentProgress(octets, 500))
    assert shown.sent == 350
    one(ContentStarted(500, None))
    one(ContentProgress(100, 500))
    assert shown.sent == 450
    one(ContentSent(500, 100, 1, 0.0, 0.0))
    assert shown.sent == 850
    shown.settle()
    assert shown.words == "1 of 2 recipients"


def test_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    times = iter([0.0, 1.0, 5.5, 6.0, 11.0])
    observe = Lines(4_000_000, 3, clock=lambda: next(times)).observer()
    for octets in (1_000_000, 2_000_000, 3_000_000, 9_000_000):
        observe(ContentProgress(octets, 9_000_000))
    assert screen.getvalue() == (
        "0 of 3 recipients, 2.0 of 4.0 MB\n"
        "0 of 3 recipients, 4.0 of 4.0 MB\n"
    )  # fmt: skip


@pytest.mark.parametrize(("octets", "recipients", "there"), [(LARGE, 1, True), (1, MANY, True), (1, 1, False)])
def test_a_bar_for_large_or_many_messages(
    octets: int, recipients: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    assert isinstance(progress_for(octets, recipients, colour=False), Bar if there else type(None))


def test_nothing_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress_for(LARGE, MANY, colour=False) is None


def test_without_rich_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    for name in [name for name in sys.modules if name == "rich" or name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(progress_for(LARGE, 1, colour=True), Lines)


def test_the_bar_is_gone_when_all_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "is_terminal", lambda stream: stream is screen)
    monkeypatch.setenv("TERM", "xterm")
    shown = progress_for(LARGE, 2, colour=False)
    assert shown is not None
    with shown:
        shown.observer()(ContentProgress(LARGE // 2, LARGE))
        shown.settle()
        shown.settle()
    assert "2 of 2 recipients" in screen.getvalue()
    assert "\x1b[3" not in screen.getvalue()  # no colours
