"""``zsmtp-sendmail`` as programs call it: what is in the queue afterwards, and how it ends."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from zsmtp.cli import sendmail
from zsmtp.cli.sendmailinput import read_message
from zsmtp.cli.sendmailoptions import SendmailMode, SendmailOptions, UsageProblem, read_options
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import SubmissionError
from zsmtp.queue.filter import Filter
from zsmtp.queue.operators import Row
from zsmtp.queue.sqlite.store import SQLiteStore

UID = os.getuid()
NOTE = b"Subject: x\nFrom: Ann <ann@example.org>\nTo: bob@example.net\n\nHi\n"


class Kept(NamedTuple):
    """A message in the queue."""

    rows: list[Row]
    content: bytes

    @property
    def recipients(self) -> list[bytes]:
        return [row.recipient.address for row in self.rows]

    def fields(self, name: bytes) -> list[bytes]:
        return re.findall(rb"(?im)^" + name + rb": (.*(?:\n[ \t].*)*)", self.content.partition(b"\n\n")[0])


class Machine:
    """A machine with a queue."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        asyncio.run(self._make())

    async def _make(self) -> None:
        await (await SQLiteStore.open(self.path)).close()

    def sendmail(self, *arguments: str, message: bytes | io.RawIOBase = NOTE) -> tuple[int, str]:
        """Run it; the status and what it says."""
        stream = io.BytesIO(message) if isinstance(message, bytes) else message
        self._monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
        status = sendmail.main(list(arguments))
        said = self._capsys.readouterr()
        return status, said.out + said.err

    def take(self, *arguments: str, message: bytes = NOTE) -> Kept:
        """Run it, and give what is queued by that."""
        before = {row.message.id for row in self.rows()}
        assert self.sendmail(*arguments, message=message) == (0, "")
        rows = [row for row in self.rows() if row.message.id not in before]
        return Kept(rows, asyncio.run(self._content(rows[0])))

    def rows(self) -> list[Row]:
        async def read() -> list[Row]:
            store = await SQLiteStore.open(self.path)
            try:
                return [row async for row in store.select(Filter())]
            finally:
                await store.close()

        return asyncio.run(read())

    async def _content(self, row: Row) -> bytes:
        store = await SQLiteStore.open(self.path)
        try:
            return b"".join([block async for block in store.content(row.message.id, row.message.size)])
        finally:
            await store.close()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    (tmp_path / "mailname").write_text("example.org\n")
    monkeypatch.setattr(sendmail, "_MAILNAME", str(tmp_path / "mailname"))
    monkeypatch.setattr(sendmail.pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="ann", pw_gecos="Ann Ä & Co,,,"))
    monkeypatch.setenv("ZSMTP_QUEUE", str(tmp_path / "queue.db"))
    monkeypatch.delenv("ZSMTP_CONFIG", raising=False)
    return Machine(tmp_path / "queue.db", monkeypatch, capsys)


# --------------------------------------------------------------------- messages


def test_a_message_to_the_recipients_of_the_command_line(machine: Machine) -> None:
    kept = machine.take("-i", "bob@example.net", "Carl <carl@example.com>", "root", "bob@EXAMPLE.net")
    assert kept.recipients == [b"bob@example.net", b"carl@example.com", b"root@example.org"]
    (message,) = {row.message for row in kept.rows}
    assert message.sender == b"ann@example.org"
    assert message.origin == f"sendmail uid {UID}"
    assert message.name.endswith("@example.org>")
    assert kept.fields(b"from") == [b"Ann <ann@example.org>"]
    assert [len(kept.fields(name)) for name in (b"date", b"message-id", b"received")] == [1, 1, 1]
    assert b"from uid %d" % UID in kept.fields(b"received")[0]
    assert kept.content.endswith(b"\n\nHi\n")


def test_an_at_sign_in_quotes_begins_no_domain(machine: Machine) -> None:
    kept = machine.take("-i", '"bob@elsewhere.example"')
    assert kept.recipients == [b'"bob@elsewhere.example"@example.org']


def test_several_recipients_in_one_word(machine: Machine) -> None:
    assert machine.take("bob@example.net, root").recipients == [b"bob@example.net", b"root@example.org"]


def test_recipients_of_the_header_and_blind_copies(machine: Machine) -> None:
    blind = b"To: bob@example.net\nCc: root, Eve <eve>\nBcc: carl@example.com,\n dan@example.com\nSubject: x\n\nHi\n"
    kept = machine.take("-ti", message=blind)
    assert kept.recipients == [
        b"bob@example.net",
        b"root@example.org",
        b"eve@example.org",
        b"carl@example.com",
        b"dan@example.com",
    ]
    assert b"carl" not in kept.content
    assert b"dan" not in kept.content
    kept = machine.take("-t", "fred@example.com", message=b"Bcc: carl@example.com\n\n")
    assert kept.recipients == [b"fred@example.com", b"carl@example.com"]


def test_without_t_blind_copies_stay(machine: Machine) -> None:
    kept = machine.take("bob@example.net", message=b"Bcc: carl@example.com\n\nHi\n")
    assert kept.recipients == [b"bob@example.net"]
    assert kept.fields(b"bcc") == [b"carl@example.com"]


def test_fields_that_are_there_stay(machine: Machine) -> None:
    own = b"Date: Sat, 28 Nov 2026 12:00:00 +0000\nMessage-ID: <1@x>\nFrom: a@example.com\n\nHi\n"
    kept = machine.take("bob@example.net", message=own)
    assert kept.content.partition(b"\n")[2].partition(b"\n")[2] == own
    assert kept.rows[0].message.name == "<1@x>"


@pytest.mark.parametrize(
    ("arguments", "sender", "author"),
    [
        ([], b"ann@example.org", b"=?utf-8?q?Ann_=C3=84_Ann_Co?= <ann@example.org>"),
        (["-f", "bounce@example.com"], b"bounce@example.com", b"=?utf-8?q?Ann_=C3=84_Ann_Co?= <ann@example.org>"),
        (["-fbounce@example.com", "-F", "Web (site)"], b"bounce@example.com", b'"Web (site)" <ann@example.org>'),
        (["-r", "other", "-F", ""], b"other@example.org", b"ann@example.org"),
        (["-f", "<>", "-FX"], b"", b"X <ann@example.org>"),
        (["-f", "", "-FX"], b"", b"X <ann@example.org>"),
    ],
)
def test_sender_and_author(machine: Machine, arguments: list[str], sender: bytes, author: bytes) -> None:
    kept = machine.take(*arguments, "bob@example.net", message=b"Subject: x\n\nHi\n")
    assert kept.rows[0].message.sender == sender
    assert kept.fields(b"from") == [author]
    assert kept.fields(b"message-id")[0].endswith(b"@" + (sender.partition(b"@")[2] or b"example.org") + b">")


def test_what_is_asked_of_notices(machine: Machine) -> None:
    kept = machine.take("-N", "delay,FAILURE", "-R", "hdrs", "-V", "id+7", "bob@example.net")
    (row,) = kept.rows
    assert (row.recipient.notify, row.message.ret, row.message.envid) == (b"FAILURE,DELAY", b"HDRS", b"id+2B7")
    assert machine.take("-N", "never", "bob@example.net").rows[0].recipient.notify == b"NEVER"
    assert machine.take("-N", "never", "-R", "full", "bob@example.net").rows[0].message.ret == b"FULL"


def test_a_large_message(machine: Machine) -> None:
    body = b"x" * 70 + b"\n"
    kept = machine.take("-i", "bob@example.net", message=b"Subject: x\n\n" + body * 50_000)
    assert kept.content.endswith(b"\n\n" + body * 50_000)
    assert kept.rows[0].message.size == len(kept.content)


def test_nothing_is_signed_for_users_and_no_key_is_read(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = '[[dkim]]\ndomain = "example.org"\nselector = "a"\nkey_file = "/nowhere/key.pem"\n'
    (tmp_path / "zsmtp.toml").write_text(key)
    monkeypatch.setenv("ZSMTP_CONFIG", str(tmp_path / "zsmtp.toml"))
    kept = machine.take("-i", "bob@example.net", message=b"From: ceo@example.org\nSubject: x\n\nHi\n")
    assert b"DKIM-Signature" not in kept.content


def test_routes_decide_on_the_queue_key(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zsmtp.toml").write_text('relay = "smtp://relay.example.org"\n')
    monkeypatch.setenv("ZSMTP_CONFIG", str(tmp_path / "zsmtp.toml"))
    assert machine.take("bob@example.net").rows[0].recipient.key == "relay:relay.example.org:25"


SERVICE = """
[queue.addresses]
aliases = { root = "ops@example.net" }
domains = ["example.org"]

[queue.tenants.cron]
queued_messages = 1

[[clients]]
uid = %d
tenant = "cron"

[delivery]
relay = "smtp://relay.example.org"

[[delivery.dkim]]
domain = "example.org"
selector = "a"
key_file = "/nowhere/key.pem"
"""


def test_the_configuration_of_the_service_has_rules_and_quotas(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "serve.toml").write_text(SERVICE % UID)
    monkeypatch.setenv("ZSMTP_CONFIG", str(tmp_path / "serve.toml"))
    (row,) = machine.take("root").rows
    assert (row.recipient.key, row.message.tenant) == ("relay:relay.example.org:25", "cron")
    assert row.recipient.address == b"ops@example.net"
    status, said = machine.sendmail("root")
    assert status == 75
    assert said == (
        "sendmail: the quota queued_messages = 1 of tenant 'cron' is used up (1); try again when mail of it has left "
        "the queue; the message was not kept: send it again later\n"
    )
    assert len(machine.rows()) == 1


@pytest.mark.parametrize("text", ["[queue]\nno = 1\n", "no = 1\n", "[queue\n"])
def test_a_configuration_that_cannot_be_used(
    text: str, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "serve.toml").write_text(text)
    monkeypatch.setenv("ZSMTP_CONFIG", str(tmp_path / "serve.toml"))
    status, said = machine.sendmail("root")
    assert status == 78
    assert "serve.toml" in said


@pytest.mark.parametrize(
    ("given", "dots", "header", "body"),
    [
        (b"A: b\n\nHi\n.\nmore\n", True, b"A: b\n", b"Hi\n"),
        (b"A: b\n\nHi\n.\nmore\n", False, b"A: b\n", b"Hi\n.\nmore\n"),
        (b"A: b\r\n\r\nHi\r\n.\r\nmore", True, b"A: b\n", b"Hi\r\n"),
        (b"A: b\n\nHi\n.", True, b"A: b\n", b"Hi\n"),
        (b"A: b\n\n..\n.x\n .\n", True, b"A: b\n", b"..\n.x\n .\n"),
        (b"A: b\n\n" + b"x" * 65536 + b".\nend", True, b"A: b\n", b"x" * 65536 + b".\nend"),
        (b"A: b\n\n" + b"x" * 65535 + b"\n.\nend", True, b"A: b\n", b"x" * 65535 + b"\n"),
        (b".\n", True, b"", b""),
        (b"", False, b"", b""),
        (b"Hello\nyou\n", False, b"", b"Hello\nyou\n"),
        (b"\nA: b\n", False, b"", b"A: b\n"),
        (b"A: b\nHello: you\nno field\n\nrest", False, b"A: b\nHello: you\n", b"no field\n\nrest"),
        (b"From a@b Sat Nov 28 2026\nA: b\n c\n\nHi", False, b"A: b\n c\n", b"Hi"),
        (b" a: b\n\nHi", False, b"", b" a: b\n\nHi"),
        (b"A: b", False, b"A: b\n", b""),
        (b"A : b\nno", False, b"A : b\n", b"no"),
    ],
)
def test_header_and_body_of_what_is_given(given: bytes, dots: bool, header: bytes, body: bytes) -> None:
    found = read_message(io.BytesIO(given), dots=dots)
    with found.file:
        assert (found.header, found.body.read()) == (header, body)


def test_a_header_without_end_is_refused() -> None:
    with pytest.raises(SubmissionError, match="a header block of more than"):
        read_message(io.BytesIO(b"A: b\n" * 300_000), dots=False)


# ----------------------------------------------------------------------- trouble


@pytest.mark.parametrize(
    ("arguments", "message", "status", "words"),
    [
        ([], NOTE, Exit.USAGE, "there are no recipients on the command line; -t takes them from the header"),
        (["-t"], b"Subject: x\n\n", Exit.USAGE, "there are no recipients in To, Cc or Bcc"),
        (["-t"], b"To: bob@@example.net\n\n", Exit.DATA, "To"),
        (["-t"], b'To: "bob@example.net\n\n', Exit.DATA, "To"),
        (["-t"], b"To: bob@example.net\rBcc: carl@example.net\n\n", Exit.DATA, "CR without an LF"),
        (["a b@example.net"], NOTE, Exit.NO_USER, "recipient"),
        (["-f", "a b", "bob@example.net"], NOTE, Exit.USAGE, "-f: sender"),
        (["-N", "sometimes", "bob@example.net"], NOTE, Exit.USAGE, "notify"),
        (["-V", "ä", "bob@example.net"], NOTE, Exit.USAGE, "envid"),
        (["bob@example.net"], b"Received: x\n" * 101 + b"\n", Exit.DATA, "circles"),
        (["-bs"], NOTE, Exit.USAGE, "no SMTP on standard input"),
        (["-bd"], NOTE, Exit.USAGE, "zsmtp serve"),
        (["-bx"], NOTE, Exit.USAGE, "no mode"),
        (["-bq"], NOTE, Exit.USAGE, "no mode"),
        (["-q30m"], NOTE, Exit.USAGE, "zsmtp serve tries the queue by itself"),
        (["-Z"], NOTE, Exit.USAGE, "-Z is no option"),
        (["-f"], NOTE, Exit.USAGE, "-f needs a value"),
    ],
)
def test_what_is_refused_keeps_nothing(
    machine: Machine, arguments: list[str], message: bytes, status: Exit, words: str
) -> None:
    ended, said = machine.sendmail(*arguments, message=message)
    assert (ended, said.count("\n")) == (status, 1)
    assert said.startswith("sendmail: ")
    assert words in said
    assert machine.rows() == []


def test_a_queue_that_is_not_there(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZSMTP_QUEUE", str(tmp_path / "other.db"))
    status, said = machine.sendmail("bob@example.net")
    assert status == Exit.TEMPORARY
    makes = f"zsmtp serve --queue {tmp_path}/other.db makes it, and so does zsmtp.Queue.open"
    assert f"No such file or directory; {makes}; the message was not kept" in said
    assert not (tmp_path / "other.db").exists()
    status, said = machine.sendmail("-bp")
    assert (status, makes in said) == (Exit.TEMPORARY, True)


@pytest.mark.parametrize("arguments", [["--help"], ["-t", "--help"], ["-i", "--help", "bob@example.net"]])
def test_help_is_shown_and_nothing_is_queued(
    machine: Machine, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sendmail.main(arguments) == 0
    assert capsys.readouterr().out.startswith("Usage: zsmtp-sendmail ")
    assert read_options("sendmail", ["--", "--help"]).recipients == ["--help"]
    assert machine.rows() == []


def test_a_queue_that_cannot_be_written(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 1000)
    monkeypatch.setenv("ZSMTP_QUEUE", str(broken))
    status, said = machine.sendmail("bob@example.net")
    assert status == Exit.TEMPORARY
    assert "no SQLite database" in said
    assert "the message was not kept" in said


@pytest.mark.parametrize("url", ["postgresql:///", "memory:"])
def test_a_queue_that_cannot_be(machine: Machine, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ZSMTP_QUEUE", url)
    status, said = machine.sendmail("bob@example.net")
    assert (status, said.count("\n")) == (Exit.CONFIG, 1)


def test_input_that_cannot_be_read(machine: Machine) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    status, said = machine.sendmail("-i", "bob@example.net", message=Broken())
    assert (status, said) == (
        Exit.IO,
        "sendmail: the message cannot be read: Input/output error; the message was not kept: send it again later\n",
    )


# ----------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("-t -i", SendmailOptions(from_header=True, dots=False)),
        ("-ti", SendmailOptions(from_header=True, dots=False)),
        ("-oi -t", SendmailOptions(from_header=True, dots=False)),
        ("-o i -t", SendmailOptions(from_header=True, dots=False)),
        ("-O IgnoreDots=True x", SendmailOptions(dots=False, recipients=["x"])),
        ("-OIgnoreDots=false x", SendmailOptions(recipients=["x"])),
        ("-OQueueDirectory=/x -oQ/x x", SendmailOptions(recipients=["x"])),
        ("-oem -odb -oee -om x", SendmailOptions(recipients=["x"])),
        ("-em -v -G -U -n -m -d0.1 -x x", SendmailOptions(recipients=["x"])),
        ("-B 8BITMIME -h 3 -L tag -p ESMTP:host -A c -C /etc/x -X log -M id x", SendmailOptions(recipients=["x"])),
        ("-B8BITMIME -L x -Am -bm x", SendmailOptions(recipients=["x"])),
        ("-tif a@b", SendmailOptions(from_header=True, dots=False, sender="a@b")),
        ("-fa@b x -f y", SendmailOptions(sender="a@b", recipients=["x", "-f", "y"])),
        ("-- -x", SendmailOptions(recipients=["-x"])),
        ("-F Name -N never -R full -V 7 -r s", SendmailOptions(
            full_name="Name", notify="never", ret="full", envid="7", sender="s")),
        ("-bp", SendmailOptions(mode=SendmailMode.LIST)),
        ("-q", SendmailOptions(mode=SendmailMode.FLUSH)),
        ("-qf", SendmailOptions(mode=SendmailMode.FLUSH)),
        ("-bi", SendmailOptions(mode=SendmailMode.ALIASES)),
        ("-I", SendmailOptions(mode=SendmailMode.ALIASES)),
    ],
)  # fmt: skip
def test_options(words: str, wanted: SendmailOptions) -> None:
    assert read_options("sendmail", words.split()) == wanted


def test_the_name_of_the_program_counts() -> None:
    assert read_options("mailq", []).mode is SendmailMode.LIST
    assert read_options("newaliases", []).mode is SendmailMode.ALIASES
    with pytest.raises(UsageProblem):
        read_options("sendmail", ["-W"])


# --------------------------------------------------------------------- operating


def test_the_list_shows_ones_own_mail(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    assert machine.sendmail("-bp") == (0, "Mail queue is empty\n")
    machine.take("bob@example.net", "carl@example.com")
    monkeypatch.setattr(os, "getuid", lambda: 1002)
    machine.take("-f", "<>", "dan@example.net")
    status, said = machine.sendmail("-bp")
    lines = said.splitlines()
    assert (status, len(lines)) == (0, 2)
    assert lines[0].endswith("  <>")
    assert re.match(r"[0-9a-z]{15} +\d+ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  <>", lines[0])
    assert re.match(r" +due +dan@example.net", lines[1])
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert len(machine.sendmail("-bp")[1].splitlines()) == 5


def test_flushing_makes_ones_own_mail_due(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    machine.take("bob@example.net")
    (mine,) = machine.rows()
    monkeypatch.setattr(os, "getuid", lambda: 1002)
    assert machine.sendmail("-q") == (0, "")
    assert machine.rows()[0].recipient.due == mine.recipient.due
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    assert machine.sendmail("-q") == (0, "")
    assert machine.rows()[0].recipient.due > mine.recipient.due


def test_there_are_no_aliases(machine: Machine) -> None:
    assert machine.sendmail("-bi") == (0, "there are no aliases in this queue: nothing to rebuild\n")


def test_the_program_itself(machine: Machine) -> None:
    program = "import sys; from zsmtp.cli.sendmail import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "-i", "-f", "a@example.org", "bob@example.net"],
        input=NOTE,
        env={**os.environ, "ZSMTP_QUEUE": f"sqlite://{machine.path}"},
        capture_output=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert [row.recipient.address for row in machine.rows()] == [b"bob@example.net"]
