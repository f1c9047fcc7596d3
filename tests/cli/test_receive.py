"""zsmtp receive: what it takes, shows, keeps and refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.patience import LIMIT

import zsmtp
from zsmtp.cli.main import main

LETTER = (
    b"From: a@example.org\nTo: bob@example.net, nobody@example.net\nSubject: Lunch\n  at one\nX-Other: x\n\nAt one?\n"
)


@contextmanager
def receiving(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The command as a process, and the port it listens on."""
    command = [sys.executable, "-m", "zsmtp.cli.main", "receive", "--listen", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"port (\d+)", process.stdout.readline())
        assert found is not None
        try:
            yield int(found[1]), process
        finally:
            process.terminate()
            process.wait(LIMIT)


def rest(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=LIMIT)
    assert not errors
    return output


def test_a_message_is_shown_with_envelope_and_the_fields_people_look_for() -> None:
    with receiving("--count", "1", "--refuse", "no*") as (port, process):
        report = zsmtp.deliver(LETTER, relay=f"smtp://127.0.0.1:{port}")
        shown = rest(process)
    assert [result.fate.value for result in report] == ["delivered", "failed"]
    assert re.sub(r"\d+ octets", "N octets", shown) == (
        "--- 1: N octets from 127.0.0.1 by ESMTP\n"
        "MAIL FROM:<a@example.org>\nRCPT TO:<bob@example.net>\n"
        "  From: a@example.org\n  To: bob@example.net, nobody@example.net\n  Subject: Lunch\n    at one\n"
    )
    assert process.returncode == 0


def test_whole_messages_are_shown_and_kept_on_request(tmp_path: Path) -> None:
    with receiving("--count", "2", "--full", "--folder", str(tmp_path)) as (port, process):
        for _ in range(2):
            zsmtp.deliver(LETTER, relay=f"smtp://127.0.0.1:{port}")
        shown = rest(process)
    assert "  X-Other: x\n  \n  At one?\n" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001.eml", "000002.eml"]
    assert (tmp_path / "000001.eml").read_bytes() == LETTER.replace(b"\n", b"\r\n")


def test_messages_are_kept_behind_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "000001.eml").write_bytes(b"mine")
    with receiving("--count", "1", "--folder", str(tmp_path)) as (port, process):
        assert zsmtp.deliver(LETTER, relay=f"smtp://127.0.0.1:{port}").ok
        assert "000002.eml" in rest(process)
    assert (tmp_path / "000001.eml").read_bytes() == b"mine"


def test_it_ends_when_nobody_reads_it_any_more() -> None:
    with receiving() as (port, process):
        assert process.stdout is not None
        process.stdout.close()
        report = zsmtp.deliver(LETTER, relay=f"smtp://127.0.0.1:{port}")
        assert process.wait(LIMIT) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert {result.fate.value for result in report} == {"deferred"}


def test_recipients_can_be_deferred_and_lmtp_is_spoken() -> None:
    with receiving("--count", "1", "--lmtp", "--defer", "bob@*") as (port, process):
        report = zsmtp.deliver(LETTER, relay=f"lmtp://127.0.0.1:{port}")
        assert "by LMTP" in rest(process)
    assert [result.fate.value for result in report] == ["deferred", "delivered"]


def test_words_of_strangers_cannot_play_with_the_terminal() -> None:
    with receiving("--count", "1", "--full") as (port, process):
        zsmtp.deliver(b"From: a@example.org\nTo: b@example.net\n\n\x1b[2Jhi\x07\n", relay=f"smtp://127.0.0.1:{port}")
        shown = rest(process)
    assert "\x1b" not in shown
    assert "\x07" not in shown


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--listen", "nowhere"], 64, "not HOST:PORT: nowhere"),
        (["--listen", "70000"], 64, "not HOST:PORT: 70000"),
        (["--count", "0"], 64, "not a number from 1 on: 0"),
        (["--folder", "/nowhere/at/all"], 73, "/nowhere/at/all: not a folder"),
        (["--listen", "192.0.2.1:2526"], 71, "192.0.2.1 port 2526: "),
    ],
)
def test_what_cannot_be(arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = main(["receive", *arguments])
    except SystemExit as end:
        found = int(str(end.code))
    assert found == status
    assert words in capsys.readouterr().err
