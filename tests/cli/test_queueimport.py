"""``zsmtp queue import``: what is in the queue after files of other programs were read, and that those stay."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.importsources import Found, SourceKind, kind_of, messages
from zsmtp.cli.postfixspool import read_queue_file
from zsmtp.cli.queueimport import run
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import SpoolError
from zsmtp.queue.filter import Filter
from zsmtp.queue.operators import Row
from zsmtp.queue.quotas import Amount
from zsmtp.queue.sqlite.store import SQLiteStore

NOTE = b"From: a@example.org\nTo: b@example.net\nBcc: c@example.net\nSubject: %s\n\nHi\n"


class Place:
    """A folder with files of other programs, and a queue."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.queue = home / "queue.db"
        self._capsys = capsys

    def write(self, path: str, data: bytes, mode: int = 0o600) -> Path:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(mode)
        return file

    def run(self, path: str, *options: str) -> tuple[int, str, str]:
        """Import; the status and what is said. The originals must be the same afterwards."""
        before = self._state()
        status = run([str(self.home / path), "--queue", str(self.queue), *options])
        assert self._state() == before
        said = self._capsys.readouterr()
        return status, said.out, said.err

    def _state(self) -> list[object]:
        return [
            (str(path), path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in sorted(self.home.rglob("*"))
            if not path.name.startswith("queue.db")
        ][1:]

    def rows(self) -> list[Row]:
        async def read() -> list[Row]:
            store = await SQLiteStore.open(self.queue)
            try:
                return [row async for row in store.select(Filter())]
            finally:
                await store.close()

        return asyncio.run(read())

    def contents(self) -> list[bytes]:
        async def read() -> list[bytes]:
            store = await SQLiteStore.open(self.queue)
            try:
                found = {row.message.id: row.message.size async for row in store.select(Filter())}
                return [b"".join([part async for part in store.content(id, size)]) for id, size in found.items()]
            finally:
                await store.close()

        return asyncio.run(read())

    def queued(self) -> list[tuple[bytes, bytes]]:
        """Sender and recipient of all that is queued, in order."""
        return [(row.message.sender, row.recipient.address) for row in self.rows()]


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, capsys)


BOTH = [(b"a@example.org", b"b@example.net"), (b"a@example.org", b"c@example.net")]

# -------------------------------------------------------------- messages in files


def test_a_maildir(place: Place) -> None:
    place.write("mail/new/1.host", NOTE % b"new")
    place.write("mail/cur/2.host:2,S", NOTE % b"cur")
    place.write("mail/tmp/3.host", NOTE % b"unfinished")
    place.write("mail/new/.hidden", b"no message")
    assert place.run("mail") == (0, "2 messages to 4 recipients imported\n", "")
    assert place.queued() == BOTH * 2
    assert b"Bcc" not in place.contents()[0]
    assert {row.message.origin for row in place.rows()} == {"import maildir"}
    (place.home / "mail/new/1.host").rename(place.home / "mail/cur/1.host:2,")
    assert place.run("mail") == (0, "0 messages to 0 recipients imported, 2 already queued\n", "")
    assert len(place.rows()) == 4


def test_a_mbox(place: Place) -> None:
    quoted = NOTE % b"two" + b">From the start\n>>From here\nFrom within\n"
    place.write("mbox", b"From a Sat Nov 28\n" + NOTE % b"one" + b"\nFrom b Sat Nov 28\n" + quoted)
    assert place.run("mbox") == (0, "2 messages to 4 recipients imported\n", "")
    one, two = place.contents()
    assert one.endswith(b"Subject: one\n\nHi\n\n")
    assert two.endswith(b"\n\nHi\nFrom the start\n>From here\nFrom within\n")
    assert place.run("mbox")[1] == "0 messages to 0 recipients imported, 2 already queued\n"


def test_messages_in_folders(place: Place) -> None:
    place.write("out/a/1.eml", NOTE % b"one")
    place.write("out/2.EML", NOTE % b"two")
    place.write("out/read.me", b"no message")
    place.write("out/bad.eml", b"no message")
    status, said, problems = place.run("out", "--from", "<>", "--to", "d@example.com", "--tenant", "shop")
    assert (status, said) == (Exit.DATA, "2 messages to 2 recipients imported, 1 not imported\n")
    assert problems.endswith("/out/bad.eml: the message does not begin with a header field\n")
    assert place.queued() == [(b"", b"d@example.com")] * 2
    assert {row.message.tenant for row in place.rows()} == {"shop"}
    assert place.run("out/2.EML", "--from", "<>", "--to", "d@example.com", "--tenant", "shop")[1].startswith("0 ")


def test_what_is_imported_is_counted_as_queued_and_in_no_hour(place: Place) -> None:
    place.write("one.eml", NOTE % b"one")
    assert place.run("one.eml", "--tenant", "shop")[0] == 0

    async def figures() -> tuple[object, object]:
        store = await SQLiteStore.open(place.queue)
        try:
            return (await store.queued_by_tenant())["shop"], await store.accepted_by("shop")
        finally:
            await store.close()

    queued, accepted = asyncio.run(figures())
    (row, _) = place.rows()
    assert (queued, accepted) == (Amount(1, row.message.size), {})


def test_a_message_that_was_changed_is_another_one(place: Place) -> None:
    place.write("1.eml", NOTE % b"one")
    place.run("1.eml")
    place.write("1.eml", NOTE % b"two")
    assert place.run("1.eml") == (0, "1 messages to 2 recipients imported\n", "")


def test_nothing_is_queued_by_a_dry_run(place: Place) -> None:
    place.write("1.eml", NOTE % b"one")
    assert place.run("1.eml", "--dry-run") == (0, "1 messages to 2 recipients would be imported\n", "")
    assert not place.queue.exists()
    status, said, _ = place.run("1.eml", "--json")
    assert status == 0
    assert json.loads(said) == {
        "format": "zsmtp.queue-import/1",
        "dry_run": False,
        "imported": 1,
        "recipients": 2,
        "existing": 0,
        "problems": [],
    }


def test_links_and_devices_are_not_read(place: Place) -> None:
    place.write("secret", NOTE % b"secret")
    (place.home / "out").mkdir()
    (place.home / "out/link.eml").symlink_to(place.home / "secret")
    (place.home / "out/folder").symlink_to(place.home)
    os.mkfifo(place.home / "out/pipe.eml")
    (place.home / "out/dir.eml").mkdir()
    status, said, problems = place.run("out")
    assert (status, said) == (Exit.DATA, "0 messages to 0 recipients imported, 2 not imported\n")
    assert "pipe.eml: not a regular file" in problems
    assert "link.eml: Too many levels of symbolic links" in problems
    with pytest.raises(CommandFailed, match="neither a folder nor a file"):
        place.run("out/pipe.eml")
    with pytest.raises(CommandFailed, match="No such file"):
        place.run("none")


# ------------------------------------------------------------------------ Postfix


def record(kind: str, value: bytes = b"") -> bytes:
    length, octets = len(value), b""
    while length >> 7:
        octets += bytes([length & 0x7F | 0x80])
        length >>= 7
    return kind.encode() + octets + bytes([length]) + value


def queue_file(*recipients: bytes, sender: bytes = b"a@example.org", before: bytes = b"") -> bytes:
    """A queue file as Postfix writes it, with recipients as records."""
    lines = [b"Received: by x", b"From: a@example.org", b"To: b@example.net", b"", b"Hi", b"." * 200, b"From x"]
    head = record("C", b"%15d %15d %15d %15d" % (100, 200, 1, 0)) + record("T", b"1795867200 123456")
    head += record("A", b"rewrite_context=local") + record("S", sender) + before + b"".join(recipients)
    content = b"".join(record("N", line) for line in lines) + record("L", b"long ") + record("N", b"line")
    return head + record("M") + content + record("X") + record("E")


def test_a_spool_of_postfix(place: Place) -> None:
    for queue in ("incoming", "active", "deferred", "hold"):
        (place.home / "spool" / queue).mkdir(parents=True)
    asked = record("A", b"dsn_orig_rcpt=rfc822;o+40example.org") + record("A", b"notify_flags=12")
    other = record("n", b"1") + record("O", b"X@example.net")
    place.write(
        "spool/deferred/4/4A1B2C",
        queue_file(
            record("R", b"b@example.net"),
            asked + record("O", b"o@example.org") + record("D", b"done@example.net"),
            asked + record("O", b"o@example.org") + record("R", b"c@example.net"),
            other + record("R", b"d@example.net"),
            before=record("A", b"envelope_id=QQ314159") + record("A", b"ret_flags=2"),
        ),
        0o700,
    )
    place.write("spool/active/5D", queue_file(record("D", b"done@example.net")), 0o700)
    place.write("spool/incoming/6E", queue_file(record("R", b"b@example.net")), 0o600)
    place.write("spool/hold/7F", queue_file(record("R", b"held@example.net"), sender=b""), 0o700)
    status, said, problems = place.run("spool")
    assert (status, said) == (Exit.DATA, "1 messages to 3 recipients imported, 1 not imported\n")
    assert "/incoming/6E: it is not complete" in problems
    rows = place.rows()
    assert [row.recipient.address for row in rows] == [b"b@example.net", b"c@example.net", b"d@example.net"]
    assert [row.recipient.notify for row in rows] == [None, b"FAILURE,DELAY", b"NEVER"]
    assert [row.recipient.orcpt for row in rows] == [None, b"rfc822;o+40example.org", None]
    assert (rows[0].message.ret, rows[0].message.envid) == (b"HDRS", b"QQ314159")
    (content,) = place.contents()
    assert content == (
        b"Received: by x\nFrom: a@example.org\nTo: b@example.net\n\nHi\n" + b"." * 200 + b"\nFrom x\nlong line\n"
    )
    assert place.run("spool/hold", "--format", "postfix")[1] == "1 messages to 1 recipients imported\n"
    assert place.queued()[-1] == (b"", b"held@example.net")


def test_recipients_that_are_done_meanwhile_make_no_other_message(place: Place) -> None:
    both = record("R", b"b@example.net"), record("R", b"c@example.net")
    place.write("deferred/4A", queue_file(*both), 0o700)
    place.run("deferred", "--format", "postfix")
    place.write("deferred/4A", queue_file(both[0], record("D", b"c@example.net")), 0o700)
    assert place.run("deferred", "--format", "postfix")[1].endswith("1 already queued\n")
    assert place.queued() == BOTH


def test_jumps_in_a_queue_file(place: Place) -> None:
    """A header line was replaced, and a recipient added, behind the end of the file."""
    head = record("S", b"a@example.org") + record("R", b"b@example.net")
    recipient_jump, added_at = len(head), 0
    tail = record("M")
    line_jump = len(head) + 17 + len(tail)
    content = record("N", b"") + record("N", b"Hi") + record("X") + record("E")
    back_to_content = line_jump + 17
    end = back_to_content + len(content)
    added = record("R", b"c@example.net") + record("p", b"%15d" % (recipient_jump + 17))
    added_at = end
    replaced = record("N", b"Subject: new") + record("w", b"padding") + record("p", b"%15d" % back_to_content)
    whole = head + record("p", b"%15d" % added_at) + tail + record("p", b"%15d" % (end + len(added))) + content
    assert len(whole) == end
    place.write("4A", whole + added + replaced, 0o700)
    with open(place.home / "4A", "rb") as file:
        found = read_queue_file("4A", file)
    with found.content:
        assert found.content.read() == b"Subject: new\n\nHi\n"
    assert [one.address for one in found.recipients] == [b"b@example.net", b"c@example.net"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends early"),
        (b"N\x05Hi", "ends early"),
        (record("S", b"a@b") + record("E"), "no sender, or no content"),
        (record("M") + record("E"), "no sender, or no content"),
        (b"S\xff\xff\xff\xff\xff\x01", "a length that cannot be"),
        (b"S\xff\xff\xff\x01", "a record of"),
        (record("S", b"a@b") + record("p", b"0") + record("p", b"9999") + record("M"), "a jump out of the file"),
        (record("S", b"a@b") + record("p", b"x"), "is no number"),
        (record("S", b"a@b") + record("M") + record("N", b"line") + record("p", b"5"), "round in circles"),
        (record("p", b"0") + record("S", b"a@b") + record("p", b"3"), "too many"),
    ],
)
def test_a_file_that_is_no_queue_file(place: Place, data: bytes, words: str) -> None:
    with open(place.write("4A", data), "rb") as file, pytest.raises(SpoolError, match=words):
        read_queue_file("4A", file)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("postfix") / "4A"


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_whatever_the_file_it_is_read_or_refused(scratch: Path, data: st.DataObject) -> None:
    good = queue_file(record("R", b"b@example.net"), record("p", b"0"))
    at = data.draw(st.integers(0, len(good) - 1))
    scratch.write_bytes(good[:at] + data.draw(st.binary(max_size=8)) + good[at + data.draw(st.integers(0, 8)) :])
    with open(scratch, "rb") as file:
        try:
            read = read_queue_file("4A", file)
        except SpoolError as error:
            problem = str(error)
        else:
            problem = "4A, byte "
            read.content.close()
    assert problem.startswith("4A, byte ")


# ------------------------------------------------------------------------ ZMailer

CONTROL = b"""\
i 1234-5
o 20
l <1@example.org>
e <1@example.org>
s smtp example.org a@example.org 99
r      1smtp example.net b@example.net 99
N NOTIFY=SUCCESS ORCPT=rfc822;o@example.org
r+      smtp example.net done@example.net 99
r~   123smtp example.net c@example.net 99
m
From: a@example.org
Subject: one

s error - - 99
r       smtp example.com d@example.com 99
r       local - root 99
m
Subject: two

"""


def test_a_spool_of_zmailer(place: Place) -> None:
    body = b"Hi\n.\nFrom here\n"
    place.write("post/transport/A/1234-5", CONTROL)
    place.write("post/queue/A/1234-5", b"x" * 19 + b"\n" + body)
    place.write("post/transport/A/77", b"i 1234-5\no 20\n")
    place.write("post/transport/78", CONTROL.replace(b"root", b"e@example.com").replace(b"1234-5", b"78"))
    status, said, problems = place.run("post")
    assert (status, said) == (Exit.DATA, "1 messages to 2 recipients imported, 3 not imported\n")
    assert "/A/1234-5: recipient root: no @ and domain" in problems
    assert "/transport/78: No such file or directory" in problems
    assert place.queued() == BOTH
    assert [row.recipient.notify for row in place.rows()] == [b"SUCCESS", None]
    assert place.contents() == [b"From: a@example.org\nSubject: one\n\n" + body]
    place.write("post/queue/78", b"x" * 19 + b"\n" + body)
    place.write("post/transport/A/1234-5", CONTROL.replace(b"r      1smtp", b"r+     1smtp"))
    status, said, _ = place.run("post")
    assert said == "2 messages to 4 recipients imported, 1 already queued, 1 not imported\n"
    assert place.queued()[-2:] == [(b"", b"d@example.com"), (b"", b"e@example.com")]


def test_links_in_a_spool_of_zmailer(place: Place) -> None:
    place.write("other/1234-5", b"x" * 19 + b"\nsecret\n")
    place.write("post/transport/A/1234-5", CONTROL)
    (place.home / "post/queue").mkdir()
    (place.home / "post/queue/A").symlink_to(place.home / "other")
    assert place.run("post")[1] == "0 messages to 0 recipients imported, 2 not imported\n"


# --------------------------------------------------------------------------- kinds


def test_what_a_path_is(place: Place) -> None:
    for folder in ("m/cur", "m/new", "z/transport", "z/queue", "p/incoming", "p/active", "p/deferred", "e"):
        (place.home / folder).mkdir(parents=True)
    place.write("mbox", b"From x\n")
    place.write("x.eml", b"From: x\n")
    kinds = {name: kind_of(str(place.home / name)) for name in ("m", "z", "p", "e", "mbox", "x.eml")}
    assert list(kinds.values()) == [
        SourceKind.MAILDIR,
        SourceKind.ZMAILER,
        SourceKind.POSTFIX,
        SourceKind.EML,
        SourceKind.MBOX,
        SourceKind.EML,
    ]


def test_keys_tell_messages_apart(place: Place) -> None:
    place.write("out/1.eml", NOTE % b"one")
    place.write("out/2.eml", NOTE % b"one")
    found = list(messages(str(place.home / "out"), SourceKind.EML))
    keys = {one.key for one in found if isinstance(one, Found)}
    for one in found:
        assert isinstance(one, Found)
        one.close()
    assert len(keys) == 2
