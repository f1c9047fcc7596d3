"""``zsmtp send --journal`` in several runs: nobody gets a message twice, whoever was killed meanwhile."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.receiver import Receiver, receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

from zsmtp.cli import journalfile
from zsmtp.cli.journalfile import JournalFile
from zsmtp.cli.outgoing import Outgoing
from zsmtp.cli.remaining import digest_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def out(tmp_path: Path) -> list[Path]:
    """Three messages."""
    folder = tmp_path / "out"
    folder.mkdir()
    return [write(folder / f"{number}.eml", number) for number in (1, 2, 3)]


def write(path: Path, number: object, to: str = "") -> Path:
    path.write_text(
        f"From: me@example.org\nTo: {to or f'r{number}@example.net'}\nSubject: {number}\n\nHello {number}.\n"
    )
    return path


def relay(receiver: Receiver | Sink) -> tuple[str, str]:
    return "--relay", f"127.0.0.1:{receiver.port}"


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()][1:]


def got(receiver: Receiver) -> Counter[str]:
    return Counter(to for message in receiver.messages for to in message.rcpt_tos)


def test_a_second_run_sends_the_rest(send: Run, out: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with receiving() as receiver:
        receiver.refuse.add("r2@example.net")
        first = send("--journal", journal, *relay(receiver), *out[:2])
        assert first[0] == 69
        assert first[1].splitlines()[-1] == "1 delivered, 1 refused"
        status, told, err = send("--journal", journal, *relay(receiver), *out)
        assert (status, err) == (69, "")
        assert [line.split(":")[0] for line in told.splitlines()[:-1]] == [f"delivered  r3@example.net ({out[2]})"]
        assert told.splitlines()[-1] == "1 delivered; earlier: 1 delivered, 1 refused"
        status, told, _ = send("--journal", journal, *relay(receiver), *out)
        assert (status, told) == (69, "earlier: 2 delivered, 1 refused\n")
        _, told, _ = send("--journal", journal, "--json", *relay(receiver), *out)
    assert json.loads(told) == {
        "schema": "zsmtp.send/1",
        "status": 69,
        "earlier": {"delivered": 2, "failed": 1},
        "unusable": [],
        "results": [],
    }
    assert got(receiver) == {"r1@example.net": 1, "r3@example.net": 1}
    assert [one["fate"] for one in entries(journal) if one["recipient"] == "r1@example.net"] == ["sending", "delivered"]
    assert {one["file"] for one in entries(journal)} == {str(path) for path in out}
    assert journal.stat().st_mode & 0o777 == 0o600


def test_whoever_was_deferred_is_tried_again(send: Run, out: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Sink(Script(replies={"RCPT": (Step("450 4.2.1 later"),)})) as sink:
        assert send("--journal", journal, *relay(sink), out[0])[0] == 75
    with receiving() as receiver:
        assert send("--journal", journal, *relay(receiver), out[0])[0] == 0
    assert got(receiver) == {"r1@example.net": 1}


def test_whoever_is_in_doubt_is_named_and_sent_to_on_request_only(send: Run, out: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Sink(Script(replies={"DOT": (Step(None, Then.CLOSE),)})) as sink:
        assert send("--journal", journal, *relay(sink), out[0])[0] == 75
    with receiving() as receiver:
        status, told, _ = send("--journal", journal, *relay(receiver), *out[:2])
        assert status == 75
        doubtful = next(line for line in told.splitlines() if line.startswith("in doubt "))
        assert f"r1@example.net ({out[0]}): sent at 20" in doubtful
        assert "--resend-in-doubt" in doubtful
        assert told.splitlines()[-1] == "1 delivered, 1 in doubt"
        assert got(receiver) == {"r2@example.net": 1}
        status, told, _ = send("--journal", journal, "--resend-in-doubt", *relay(receiver), *out[:2])
        assert (status, told.splitlines()[-1]) == (0, "1 delivered; earlier: 1 delivered")
        assert send("--journal", journal, *relay(receiver), *out[:2])[1] == "earlier: 2 delivered\n"
    assert got(receiver) == {"r1@example.net": 1, "r2@example.net": 1}


def test_killed_at_any_time_nobody_gets_it_twice(out: list[Path], tmp_path: Path) -> None:
    """The server takes the second message, and its answer never comes: then the sender is killed."""
    journal = tmp_path / "journal"
    command = [sys.executable, "-m", "zsmtp.cli.main", "send", "--journal", str(journal)]
    with Sink(Script(replies={"DOT": (Step("250 2.0.0 ok"), Step(None, Then.HANG))})) as sink:
        process = subprocess.Popen([*command, *relay(sink), *map(str, out[:2])], stdout=subprocess.PIPE)
        sink.wait_for(lambda _: sum(one.complete for one in sink.transactions) == 2)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"delivered  r1@example.net")
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    last = {one["recipient"]: one["fate"] for one in entries(journal)}
    assert last == {"r1@example.net": "delivered", "r2@example.net": "sending"}
    with receiving() as receiver:
        done = subprocess.run([*command, *relay(receiver), *map(str, out)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "")
    assert done.stdout.splitlines()[-1] == "1 delivered, 1 in doubt; earlier: 1 delivered"
    assert got(receiver) == {"r3@example.net": 1}


def test_a_line_that_was_being_written_is_left_out(send: Run, out: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with receiving() as receiver:
        send("--journal", journal, *relay(receiver), out[0])
        whole = journal.read_bytes()
        journal.write_bytes(whole[:-20])
        status, told, _ = send("--journal", journal, *relay(receiver), *out[:2])
        assert (status, told.splitlines()[-1]) == (75, "1 delivered, 1 in doubt")
        journal.write_bytes(b'{"schema": "zsm')
        assert send("--journal", journal, *relay(receiver), out[2])[0] == 0
        assert send("--journal", journal, *relay(receiver), out[2])[1] == "earlier: 1 delivered\n"
    assert got(receiver) == {f"r{number}@example.net": 1 for number in (1, 2, 3)}


def test_two_runs_at_a_time_are_refused(send: Run, out: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with receiving() as receiver:
        other = JournalFile(str(journal))
        status, told, err = send("--journal", journal, *relay(receiver), *out)
        other.close()
        assert (status, told) == (75, "")
        assert err == f"zsmtp send: --journal: {journal}: another zsmtp send is at work with this journal\n"
        assert send("--journal", journal, *relay(receiver), *out)[0] == 0


def test_a_file_that_changed_is_not_sent_before_that_is_asked_for(send: Run, out: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with receiving() as receiver:
        assert send("--journal", journal, *relay(receiver), *out[:2])[0] == 0
        write(out[0], "1, corrected", to="r1@example.net")
        status, told, err = send("--journal", journal, *relay(receiver), *out)
        assert (status, told, len(receiver.messages)) == (65, "", 2)
        assert err.startswith(f"zsmtp send: {out[0]}: it has changed since it was sent, according to the journal; ")
        told = send("--journal", journal, "--keep-going", *relay(receiver), *out)[1]
        assert told.splitlines()[-1] == "1 delivered, 1 unusable; earlier: 1 delivered"
        assert send("--journal", journal, "--send-changed", *relay(receiver), *out)[0] == 0
        assert send("--journal", journal, *relay(receiver), *out)[1] == "earlier: 3 delivered\n"
    assert got(receiver) == {"r1@example.net": 2, "r2@example.net": 1, "r3@example.net": 1}


def test_files_that_were_moved_or_are_named_otherwise_are_the_same(
    send: Run, out: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    with receiving() as receiver:
        assert send("--journal", journal, *relay(receiver), *out)[0] == 0
        monkeypatch.chdir(tmp_path / "out")
        assert send("--journal", "../journal", *relay(receiver), "1.eml", "2.eml")[1] == "earlier: 2 delivered\n"
        out[0].rename(tmp_path / "elsewhere.eml")
        assert send("--journal", journal, *relay(receiver), tmp_path / "elsewhere.eml")[1] == "earlier: 1 delivered\n"
    assert len(receiver.messages) == 3


def test_alike_files_are_each_sent_once(send: Run, out: list[Path], tmp_path: Path) -> None:
    journal, copy = tmp_path / "journal", tmp_path / "copy.eml"
    copy.write_bytes(out[0].read_bytes())
    with receiving() as receiver:
        assert send("--journal", journal, *relay(receiver), out[0], copy)[1].splitlines()[-1] == "2 delivered"
        assert send("--journal", journal, *relay(receiver), out[0], copy)[1] == "earlier: 2 delivered\n"
    assert got(receiver) == {"r1@example.net": 2}


def test_a_file_that_cannot_be_read_any_more_is_tried_again(send: Run, out: list[Path], tmp_path: Path) -> None:
    """It is gone when its turn comes: that is no end of the message."""
    journal = tmp_path / "journal"
    content = out[0].read_bytes()

    def gone(message: Outgoing) -> str:
        digest = digest_of(message)
        out[0].unlink()
        return digest

    with receiving() as receiver, pytest.MonkeyPatch.context() as patched:
        patched.setattr("zsmtp.cli.remaining.digest_of", gone)
        assert send("--journal", journal, *relay(receiver), out[0])[0] == 69
        assert entries(journal) == []
        patched.undo()
        out[0].write_bytes(content)
        assert send("--journal", journal, *relay(receiver), out[0])[0] == 0
    assert got(receiver) == {"r1@example.net": 1}


def test_a_journal_that_cannot_be_written_stops_the_sending(
    send: Run, out: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    JournalFile(str(journal)).close()

    def full(self: JournalFile, octets: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journalfile.JournalFile, "write", full)
    with Sink(Script()) as sink:
        status, told, err = send("--journal", journal, *relay(sink), *out)
    assert (status, err) == (74, f"zsmtp send: --journal: {journal}: No space left on device\n")
    assert told.splitlines()[-1] == "3 deferred"
    assert not any(one.complete for one in sink.transactions)


def test_a_disk_that_does_not_keep_what_is_written_stops_it_too(
    send: Run, out: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    JournalFile(str(journal)).close()

    def lost(self: JournalFile) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journalfile.JournalFile, "sync", lost)
    with Sink(Script()) as sink:
        status, told, err = send("--journal", journal, *relay(sink), *out)
    assert (status, err) == (74, f"zsmtp send: --journal: {journal}: Input/output error\n")
    assert told.splitlines()[-1] == "3 deferred"
    assert not any(one.complete for one in sink.transactions)


def test_results_reach_the_disk_in_groups(send: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come, there are fewer waits for the disk than messages, and nothing is left when it ends."""
    journal, files = tmp_path / "journal", [write(tmp_path / f"{number}.eml", number) for number in range(300)]
    synced: list[int] = []
    really = JournalFile.sync

    def counted(self: JournalFile) -> None:
        size = journal.stat().st_size
        really(self)
        synced.append(size)

    monkeypatch.setattr(journalfile.JournalFile, "sync", counted)
    with receiving() as receiver:
        assert send("--journal", journal, *relay(receiver), *files)[0] == 0
    assert len(entries(journal)) == 600
    assert synced[-1] == journal.stat().st_size
    assert len(synced) < 320


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (("--resend-in-doubt",), 64, "--resend-in-doubt goes with --journal"),
        (("--send-changed",), 64, "--send-changed goes with --journal"),
        (("--journal", "/nonexistent/journal"), 73, "--journal: /nonexistent/journal: No such file or directory"),
        (("--journal", "/dev/null"), 73, "--journal: /dev/null: not a file"),
        (("--journal", "{letter}"), 65, "this is no journal (zsmtp.journal/1)"),
    ],
)
def test_what_cannot_be(send: Run, out: list[Path], words: tuple[str, ...], status: int, problem: str) -> None:
    given = [word.format(letter=out[1]) for word in words]
    before = out[1].read_bytes()
    found, told, err = send(*given, "--relay", "127.0.0.1:1", out[0])
    assert (found, told) == (status, "")
    assert problem in err
    assert out[1].read_bytes() == before


def test_a_dry_run_shows_the_rest_and_changes_nothing(send: Run, out: list[Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with receiving() as receiver:
        _, told, _ = send("--journal", journal, "--dry-run", *relay(receiver), *out)
        assert all(str(path) in told for path in out)
        assert not journal.exists()
        send("--journal", journal, *relay(receiver), out[0])
        before = journal.read_bytes()
        _, told, _ = send("--journal", journal, "--dry-run", *relay(receiver), *out)
    assert str(out[0]) not in told
    assert str(out[1]) in told
    assert journal.read_bytes() == before
