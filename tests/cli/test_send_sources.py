"""What ``zsmtp send`` takes for messages: folders, Maildirs, mboxes, lists of names; and what it adds to them."""

from __future__ import annotations

import io
import mailbox
import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.receiver import Receiver, receiving

from zsmtp.cli.sendsources import FilePart, MessagePiece, pieces

Run = Callable[..., tuple[int, str, str]]


def text(number: int) -> str:
    return f"From: me@example.org\nTo: r{number}@example.net\nSubject: {number}\n\nHello {number}.\n"


def relay(receiver: Receiver) -> tuple[str, str]:
    return "--relay", f"127.0.0.1:{receiver.port}"


def got(receiver: Receiver) -> Counter[str]:
    return Counter(to for message in receiver.messages for to in message.rcpt_tos)


def everybody(count: int) -> dict[str, int]:
    return {f"r{number}@example.net": 1 for number in range(count)}


def test_a_folder_is_all_its_eml_files(send: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "deeper").mkdir(parents=True)
    (tmp_path / "out" / "0.eml").write_text(text(0))
    (tmp_path / "out" / "deeper" / "1.EML").write_text(text(1))
    (tmp_path / "out" / "README").write_text("nothing to send")
    with receiving() as receiver:
        status, out, err = send(tmp_path / "out", *relay(receiver))
    assert (status, out.splitlines()[-1]) == (0, "2 delivered")
    assert f"({tmp_path}/out/deeper/1.EML)" in out
    assert err == f"zsmtp send: {tmp_path}/out: 1 files that do not end in .eml are left out\n"
    assert got(receiver) == everybody(2)


def test_a_maildir_is_new_and_cur(send: Run, tmp_path: Path) -> None:
    """With a journal, messages that were marked as seen in between are the same."""
    box = mailbox.Maildir(tmp_path / "box")
    keys = [box.add(text(number)) for number in range(3)]
    (tmp_path / "box" / "tmp" / "half").write_text(text(9))
    journal = tmp_path / "journal"
    with receiving() as receiver:
        assert send("--journal", journal, tmp_path / "box", *relay(receiver))[0] == 0
        seen = box[keys[0]]
        seen.set_subdir("cur")
        seen.add_flag("S")
        box[keys[0]] = seen
        assert len(list((tmp_path / "box" / "cur").iterdir())) == 1
        assert send("--journal", journal, tmp_path / "box", *relay(receiver))[1] == "earlier: 3 delivered\n"
    assert got(receiver) == everybody(3)


def make_mbox(path: Path, count: int) -> None:
    box = mailbox.mbox(path)
    for number in range(count):
        message = EmailMessage()
        message["From"], message["To"] = "me@example.org", f"r{number}@example.net"
        message["Subject"] = str(number)
        message.set_content(f"Hello {number}.\nFrom here on there is a line that looks like the next message.\n")
        box.add(message)
    box.close()


def test_a_mbox_is_all_its_messages(send: Run, tmp_path: Path) -> None:
    make_mbox(tmp_path / "box", 3)
    with receiving() as receiver:
        status, out, _ = send(tmp_path / "box", *relay(receiver))
        assert status == 0
        assert f"({tmp_path}/box, message 2)" in out
    assert got(receiver) == everybody(3)
    contents = [message.original_content or b"" for message in receiver.messages]
    assert all(b"\r\nFrom here on" in content for content in contents)
    assert sorted(content.partition(b"Hello ")[2][:1] for content in contents) == [b"0", b"1", b"2"]


def test_a_mbox_of_standard_input(send: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_mbox(tmp_path / "box", 2)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "box").read_bytes())))
    with receiving() as receiver:
        status, out, _ = send("-", *relay(receiver))
    assert status == 0
    assert "(standard input, message 2)" in out
    assert got(receiver) == everybody(2)


@pytest.mark.parametrize("between", ["\n", "\0"])
def test_a_list_of_names_from_standard_input(
    send: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    (tmp_path / "folder").mkdir()
    files = [tmp_path / "0 with blanks.eml", tmp_path / "1.eml", tmp_path / "folder" / "2.eml"]
    for number, file in enumerate(files):
        file.write_text(text(number))
    names = between.join(map(str, [*files[:2], tmp_path / "folder"])) + between
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
    with receiving() as receiver:
        assert send("--files-from", "-", *relay(receiver))[0] == 0
    assert got(receiver) == everybody(3)


def test_a_list_in_a_file_beside_names_of_the_command_line(send: Run, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.eml").write_text(text(number))
    (tmp_path / "list").write_text(f"\n{tmp_path}/1.eml\n")
    with receiving() as receiver:
        assert send(tmp_path / "0.eml", "--files-from", tmp_path / "list", *relay(receiver))[0] == 0
        (tmp_path / "list").write_text("-\n")
        status, _, err = send("--files-from", tmp_path / "list", *relay(receiver))
        assert (status, "cannot be in a list" in err) == (65, True)
        assert send("--files-from", "/nonexistent", *relay(receiver))[0] == 66
        assert send("-", "--files-from", "-", *relay(receiver))[0] == 64
    assert got(receiver) == everybody(2)


def test_what_is_no_folder_of_messages(send: Run, tmp_path: Path) -> None:
    for folder in ("spool/incoming", "spool/active", "spool/deferred", "empty", "odd/cur", "odd/new"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "odd" / "cur" / "1").write_text("no message")
    status, _, err = send(tmp_path / "spool", "--relay", "127.0.0.1:1")
    assert (status, "zsmtp queue import takes it" in err) == (65, True)
    status, _, err = send(tmp_path / "empty", "--relay", "127.0.0.1:1")
    assert (status, "a folder without files that end in .eml" in err) == (66, True)
    status, _, err = send(tmp_path / "odd", "--relay", "127.0.0.1:1")
    assert (status, err) == (65, f"zsmtp send: {tmp_path}/odd/cur/1: the message does not begin with a header field\n")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_name_may_have_a_line_end(send: Run, tmp_path: Path, jobs: int) -> None:
    for number in range(2):
        (tmp_path / f"{number}\n.eml").write_text(text(number))
    with receiving() as receiver:
        status, out, err = send("--jobs", jobs, tmp_path, *relay(receiver))
    assert (status, err) == (0, "")
    assert f"({tmp_path}/1\\n.eml)" in out
    assert got(receiver) == everybody(2)


def test_date_and_message_id_are_added_where_they_are_missing(send: Run, tmp_path: Path) -> None:
    (tmp_path / "1.eml").write_text(text(1))
    (tmp_path / "2.eml").write_text("Date: yesterday\nMessage-ID: <mine@example.org>\n" + text(2))
    with receiving() as receiver:
        assert send(tmp_path / "1.eml", tmp_path / "2.eml", *relay(receiver))[0] == 0
        assert send("--no-add", tmp_path / "1.eml", *relay(receiver))[0] == 0
        dry = send("--dry-run", tmp_path / "1.eml", *relay(receiver))[1]
        bare = send("--dry-run", "--no-add", tmp_path / "1.eml", *relay(receiver))[1]
    headers = [(message.original_content or b"").partition(b"\r\n\r\n")[0] for message in receiver.messages]
    added = next(one for one in headers if b"r1@" in one and b"Date" in one)
    whole = next(one for one in headers if b"r2@" in one)
    kept = next(one for one in headers if b"r1@" in one and b"Date" not in one)
    assert added.count(b"\r\nDate: ") == added.count(b"\r\nMessage-ID: <") == 1
    assert b"@example.org>" in added.partition(b"Message-ID")[2]
    assert whole.count(b"Date:") == whole.count(b"Message-ID:") == 1
    assert b"Message-ID" not in kept
    assert dry != bare


@given(st.binary(max_size=300), st.data())
def test_a_part_of_a_file_is_a_file_of_its_own(content: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    expected, path = io.BytesIO(content[start:end]), Path(f"/proc/self/fd/{os.memfd_create('part')}")
    with os.fdopen(int(path.name), "w+b") as file:
        file.write(content)
        file.flush()
        part = io.BufferedReader(FilePart(file, start, end))
        for _ in range(data.draw(st.integers(1, 8))):
            if data.draw(st.booleans()):
                size = data.draw(st.integers(0, 400))
                assert part.read(size) == expected.read(size)
            else:
                place = data.draw(st.integers(0, end - start))
                assert part.seek(place) == expected.seek(place)
            assert part.tell() == expected.tell()
        assert part.seek(0, os.SEEK_END) == end - start


def test_messages_of_a_mbox_can_be_read_at_the_same_time(tmp_path: Path) -> None:
    make_mbox(tmp_path / "box", 2)
    with ExitStack() as opened:
        first, second = pieces(str(tmp_path / "box"), opened)
        assert isinstance(first, MessagePiece)
        assert isinstance(second, MessagePiece)
        assert not isinstance(first.source, str)
        assert not isinstance(second.source, str)
        one, other = first.source.readline(), second.source.readline()
        assert (one, other) == (b"From: me@example.org\n", b"From: me@example.org\n")
        assert b"Subject: 0\n" in first.source.read()
        assert b"Subject: 1\n" in second.source.read()
