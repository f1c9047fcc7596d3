"""Logs: the forms of their lines, and that neither peers nor broken files get the better of them."""

import os
import re
import sys
import syslog
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.tls.certificates import issue

from zsmtp import events
from zsmtp.delivery.outcome import Peer
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.judgement import Judgement
from zsmtp.tls.problem import TLSProblem
from zsmtp.zmailer.control import ControlRecipient
from zsmtp.zmailer.diagnostics import RecipientReport, remote_mta
from zsmtp.zmailer.logs import (
    DialogueLog,
    LoggedAttempt,
    LoggedConversion,
    ProcessTitle,
    Syslog,
    VerboseLog,
    debug_observer,
    socket_name,
    syslog_line,
)

START = 1795364806  # Sun, 22 Nov 2026 16:26:46 +0000
PID = 21606
MX = Endpoint("mx1.example", "127.0.0.1", 2525, Family.INET)
LITERAL = Endpoint("127.0.0.1", "127.0.0.1", 2525, Family.INET, literal=True)
IPV6 = Endpoint("::1", "::1", 2525, Family.INET6, literal=True)
SOCKET = Endpoint("/run/sock", "/run/sock", 0, Family.UNIX, literal=True)
LOCAL = ("127.0.0.1", 36724)

RECIPIENT = ControlRecipient(
    offset=100,
    state=b" ",
    channel=b"smtp",
    host=b"[127.0.0.1]",
    user=b"rcpt1@example.com",
    privilege=b"99",
    sender=0,
    header=0,
)


def report(
    *,
    peer: Peer | None = None,
    recipient: ControlRecipient = RECIPIENT,
    message: bytes = b"\r->> 250 ok",
    word: str = "ok",
) -> RecipientReport:
    notary = b"rcpt1@example.com\x01-\x012.0.0\x01smtp; 250 (ok)\x01" + remote_mta(peer).encode() + b"\x01smtp[21606]"
    return RecipientReport(b"1001", recipient, word, notary, remote_mta(peer), message)


class Clock:
    """A clock that is told the time."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def complaints() -> list[str]:
    return []


OpenLog = Callable[..., DialogueLog]


@pytest.fixture
def open_log(tmp_path: Path, clock: Clock, complaints: list[str]) -> Iterator[OpenLog]:
    """Opens a dialogue log in ``tmp_path / "log"``, with other values where told."""
    opened: list[DialogueLog] = []

    def open_one(path: Path | None = None, *, pid: int = PID, verbose: int = 0) -> DialogueLog:
        log = DialogueLog(
            str(path or tmp_path / "log"), pid, START, clock=clock, warn=complaints.append, verbose=verbose
        )
        opened.append(log)
        return log

    yield open_one
    for log in opened:
        log.close()


def lines(path: Path) -> list[str]:
    """The lines of a log behind their tags, the kind and the TAB kept."""
    content = path.read_text(encoding="utf-8")
    assert content.endswith("\n")
    return [re.sub(r"^\d{5}[0-9A-F]{4}-\d{4}-\d{4}(?=[rw#]\t)", "", line) for line in content[:-1].split("\n")]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [(MX, "127.0.0.1|2525"), (IPV6, "ipv6 ::1|2525"), (SOCKET, "UNIX:/run/sock")],
)
def test_socket_names(endpoint: Endpoint, expected: str) -> None:
    assert socket_name(endpoint) == expected


def test_the_dialogue_of_one_message(tmp_path: Path, clock: Clock, open_log: OpenLog) -> None:
    log = open_log()
    log.jobspec(b"1001\t[127.0.0.1]")
    log.message(b"1001", b"<m1@example.org>")
    log(events.Connecting(LITERAL))
    log(events.Connected(LITERAL, LOCAL))
    log(events.LineReceived(b"220 sink.example ESMTP Sink"))
    log(events.LineSent(b"EHLO localhost"))
    log(events.ContentProgress(100, 343))
    clock.now += 1.7
    log(events.ContentSent(343, 303, 1, 0.9, 1.7))
    log.diag(report(peer=Peer(LITERAL, LOCAL)))
    log(events.Closed("final close"))
    assert (tmp_path / "log").read_text() == (
        "2160617C6-0000-0000#\tStart time: Sun, 22 Nov 2026 16:26:46 +0000\n"
        "2160617C6-0001-0000#\tjobspec: 1001\t[127.0.0.1]\n"
        "2160617C6-0002-0000#\t1001: <m1@example.org>\n"
        "2160617C6-0003-0000#\t(Connecting to `127.0.0.1' [127.0.0.1|2525] Sun Nov 22 16:26:46 2026)\n"
        "2160617C6-0004-0000r\t220 sink.example ESMTP Sink\n"
        "2160617C6-0005-0000w\tEHLO localhost\n"
        "2160617C6-0006-0001#\t343 bytes, 303 in header, 1 recipients, 0 secs for envelope, 1 secs for body xfer\n"
        "2160617C6-0007-0001#\tDIAG: C='smtp' H='[127.0.0.1]' U='rcpt1@example.com' P='99' ID=1001/100 L=0 -- "
        "stat='ok' notary='rcpt1@example.com\\x01-\\x012.0.0\\x01smtp; 250 (ok)\\x01X-IP-addr; [127.0.0.1] "
        "(127.0.0.1|2525|127.0.0.1|36724)\\x01smtp[21606]' WTT='X-IP-addr; [127.0.0.1]'  MSG='\\r->> 250 ok'\n"
        "2160617C6-0008-0001#\t(closed SMTP channel - final close)\n"
    )


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (events.Connecting(MX), "(Connecting to `mx1.example' [127.0.0.1|2525] Sun Nov 22 16:26:46 2026)"),
        (events.Connecting(IPV6), "(Connecting to `::1' [ipv6 ::1|2525] Sun Nov 22 16:26:46 2026)"),
        (
            events.Connecting(SOCKET),
            "(Connecting to `UNIX:/run/sock' [UNIX:/run/sock] Sun Nov 22 16:26:46 2026)",
        ),
        (
            events.ConnectFailed(MX, "Connection refused"),
            "; 500 (connect to mx1.example [127.0.0.1|2525]: Connection refused)",
        ),
        (events.Remark("setting up TLS connection"), "setting up TLS connection"),
    ],
)
def test_remarks_on_connections(tmp_path: Path, open_log: OpenLog, event: events.Event, expected: str) -> None:
    open_log()(event)
    assert lines(tmp_path / "log")[1:] == [f"#\t{expected}"]


def test_details_are_for_those_who_asked(tmp_path: Path, open_log: OpenLog) -> None:
    quiet, verbose = open_log(tmp_path / "quiet"), open_log(tmp_path / "verbose", verbose=1)
    for event in (events.Detail("why"), events.Connected(MX, LOCAL), events.Connected(SOCKET, None)):
        quiet(event)
        verbose(event)
    assert len(lines(tmp_path / "quiet")) == 1
    assert lines(tmp_path / "verbose")[1:] == [
        "#\twhy",
        "#\t(Connected to `mx1.example' [127.0.0.1|2525|127.0.0.1|36724])",
        "#\t(Connected to `UNIX:/run/sock' [UNIX:/run/sock])",
    ]


def test_a_report_of_no_named_server_names_none(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log()
    log.diag(report(peer=Peer(SOCKET)))
    log.diag(report())
    for line in lines(tmp_path / "log")[1:]:
        assert "WTT" not in line
        assert "smtp[21606]'  MSG='" in line


def test_numbers_seconds_and_process_ids_keep_their_columns(tmp_path: Path, clock: Clock, open_log: OpenLog) -> None:
    log = open_log(pid=7654321)
    for _ in range(10000):
        log.remark("x")
    clock.now = START + 10005
    log.remark("later")
    clock.now = START - 50
    log.remark("set back")
    last = (tmp_path / "log").read_text().splitlines()[-4:]
    assert [line.split("\t")[0] for line in last] == [
        "5432117C6-9999-0000#",
        "5432117C6-0000-0000#",
        "5432117C6-0001-0005#",
        "5432117C6-0002-0000#",
    ]


def test_nothing_that_a_peer_says_makes_a_line_of_its_own(tmp_path: Path, open_log: OpenLog) -> None:
    hostile = b"250 ok\r\n99999FFFF-0000-0000#\tforged\x1b[2J\x01\x00\xff"
    log = open_log()
    log(events.LineReceived(hostile))
    log(events.Closed(hostile.decode("latin-1")))
    log.jobspec(hostile + b"\thost\tmore\n")
    log.message(hostile, hostile)
    log.diag(report(message=hostile))
    log.remark(hostile.decode("latin-1"))
    shown = lines(tmp_path / "log")
    assert len(shown) == 7
    for line in shown[1:]:
        _, text = line.split("\t", 1)
        assert text.replace("\t", "", 1).isprintable() if "jobspec" in line else text.isprintable()
        assert "\\x1b[2J\\x01\\x00" in text


def test_overlong_lines_are_cut(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log()
    log(events.LineReceived(b"x" * 65536))
    log(events.LineReceived(b"\x01" * 65536))
    log.remark("é" * 8192)
    shown = [line[2:] for line in lines(tmp_path / "log")[1:]]
    assert [len(line) for line in shown] == [8195, 8195, 8192]
    assert shown[0].endswith("x...")


def test_agents_share_one_file(tmp_path: Path, open_log: OpenLog) -> None:
    logs = [open_log(pid=pid) for pid in (1, 2, 3)]

    def write_many(log: DialogueLog) -> None:
        for _ in range(200):
            log(events.LineReceived(b"250 " + b"x" * 500))

    threads = [threading.Thread(target=write_many, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines(tmp_path / "log").count("r\t250 " + "x" * 500) == 600


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o644), (0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_decides_who_can_read_a_new_log(
    tmp_path: Path, clock: Clock, open_log: OpenLog, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        open_log()
        VerboseLog(str(tmp_path / "verbose"), clock=clock, warn=print).close()
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("log", "verbose")] == [mode, mode]


def test_a_log_that_cannot_be_opened_is_complained_of_once(
    tmp_path: Path, open_log: OpenLog, complaints: list[str]
) -> None:
    log = open_log(tmp_path / "none" / "log\x1b")
    log(events.LineSent(b"QUIT"))
    assert complaints == [f"no log to {tmp_path}/none/log\\x1b: No such file or directory"]


def test_a_log_that_cannot_be_written_is_switched_off(open_log: OpenLog, complaints: list[str]) -> None:
    log = open_log(Path("/dev/full"))
    log.remark("x")
    assert complaints == ["no log to /dev/full: No space left on device"]


def test_a_line_cut_short_switches_the_log_off(
    tmp_path: Path, open_log: OpenLog, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    write = os.write
    monkeypatch.setattr("zsmtp.zmailer.logs.os.write", lambda fd, data: write(fd, data[:5]))
    log.remark("one")
    log.remark("two")
    assert complaints == [f"no log to {tmp_path}/log: no room for a whole line"]
    assert (tmp_path / "log").read_text().endswith("\n21606")


def test_a_fifo_without_reader_does_not_hold_the_delivery_up(
    tmp_path: Path, open_log: OpenLog, complaints: list[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    open_log(tmp_path / "fifo")
    assert len(complaints) == 1


def test_after_closing_nothing_is_written(tmp_path: Path, open_log: OpenLog, complaints: list[str]) -> None:
    log = open_log()
    log.close()
    log.remark("late")
    log.close()
    assert len(lines(tmp_path / "log")) == 1
    assert complaints == []


def test_the_verbose_log_shows_dialogue_and_reasons(tmp_path: Path, clock: Clock, complaints: list[str]) -> None:
    path = tmp_path / "verbose"
    path.write_bytes(b"what was there\n")
    log = VerboseLog(os.fsencode(path), clock=clock, warn=complaints.append)
    log(events.Remark("MX 10 mx1.example"))
    log(events.Detail("127.0.0.1"))
    log(events.Connecting(MX))
    log(events.LineSent(b"EHLO localhost"))
    log(events.LineReceived(b"250 sink\x1b[2J"))
    log(events.ContentProgress(1, 2))
    log(events.ContentSent(343, 303, 1, 0, 0))
    log.diag(report())
    log.close()
    shown = path.read_text().splitlines()
    assert shown[:-1] == [
        "what was there",
        "MX 10 mx1.example",
        "127.0.0.1",
        "(Connecting to `mx1.example' [127.0.0.1|2525] Sun Nov 22 16:26:46 2026)",
        "<<- EHLO localhost",
        "->> 250 sink\\x1b[2J",
        "343 bytes, 303 in header, 1 recipients, 0 secs for envelope, 0 secs for body xfer",
    ]
    assert shown[-1].startswith("DIAG: C='smtp' ")
    assert complaints == []


def test_a_verbose_log_is_a_plain_file_or_nothing(tmp_path: Path, clock: Clock, complaints: list[str]) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"")
    (tmp_path / "symlink").symlink_to(target)
    other = tmp_path / "other"
    other.write_bytes(b"")
    (tmp_path / "hardlink").hardlink_to(other)
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    refused = [tmp_path / name for name in ("symlink", "hardlink", "fifo", "none/log")]
    try:
        for path in [*refused, tmp_path, "/dev/null", "nul\0"]:
            log = VerboseLog(str(path), clock=clock, warn=complaints.append)
            log(events.Remark("x"))
            log.close()
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)
    assert len(complaints) == len(refused) + 3
    assert target.read_bytes() == other.read_bytes() == b""


def test_debug_lines_are_comments() -> None:
    written: list[bytes] = []
    debug = debug_observer(written.append, clock=Clock())
    for event in (
        events.LineSent(b"EHLO a"),
        events.LineReceived(b"250 b\r\n#hungry\x01"),
        events.Detail("because\n1001/100\t\tok "),
        events.ContentProgress(5, 10),
        events.Closed("done"),
    ):
        debug(event)
    assert written == [
        b"# <<- EHLO a\n",
        b"# ->> 250 b\\r\\n#hungry\\x01\n",
        b"# because\\n1001/100\\t\\tok \n",
        b"# content: 5 of 10 octets\n",
        b"# (closed SMTP channel - done)\n",
    ]


def test_debug_falls_silent_when_nobody_listens() -> None:
    calls: list[bytes] = []

    def write(line: bytes) -> None:
        calls.append(line)
        raise BrokenPipeError

    debug = debug_observer(write, clock=Clock())
    debug(events.Remark("one"))
    debug(events.Remark("two"))
    assert calls == [b"# one\n"]


def test_the_process_title_follows_the_delivery() -> None:
    titles: list[str] = []
    title = ProcessTitle(titles.append)
    title.state("#hungry")
    for event in (
        events.Connecting(MX),
        events.Connected(MX, LOCAL),
        events.LineReceived(b"220 hello"),
        events.LineSent(b"EHLO name"),
        events.LineSent(b"AUTH LOGIN"),
        events.LineSent(b"***secret***"),
        events.LineSent(b"dXNlcg=="),
        events.LineSent(b"data"),
        events.ContentProgress(34567, 120000),
        events.ContentProgress(34568, 120000),
        events.ContentProgress(36000, 120000),
        events.ContentSent(120000, 300, 1, 0, 0),
        events.LineSent(b"RSET"),
        events.Closed("final close"),
    ):
        title(event)
    title.state("#idle")
    assert titles == [
        ">#hungry",
        ">127.0.0.1|2525 mx1.example connecting",
        ">127.0.0.1|2525 mx1.example greeting wait",
        ">127.0.0.1|2525 mx1.example EHLO wait",
        ">127.0.0.1|2525 mx1.example AUTH wait",
        ">127.0.0.1|2525 mx1.example DATA wait",
        ">127.0.0.1|2525 mx1.example DATA 34567/120000 (28%)",
        ">127.0.0.1|2525 mx1.example DATA 36000/120000 (30%)",
        ">127.0.0.1|2525 mx1.example dot wait",
        ">127.0.0.1|2525 mx1.example RSET wait",
        ">closed",
        ">#idle",
    ]


def test_progress_costs_one_title_per_percent() -> None:
    titles: list[str] = []
    title = ProcessTitle(titles.append)
    for octets in range(0, 1_000_001, 100):
        title(events.ContentProgress(octets, 1_000_000))
    assert len(titles) == 101


def test_an_empty_content_is_all_there() -> None:
    titles: list[str] = []
    ProcessTitle(titles.append)(events.ContentProgress(0, 0))
    assert titles == [">DATA 0/0 (100%)"]


def test_a_title_is_printable_and_short() -> None:
    titles: list[str] = []
    title = ProcessTitle(titles.append)
    title(events.Connecting(Endpoint("mx\x1b" + "x" * 500, "192.0.2.1", 25, Family.INET)))
    assert titles[0].startswith(">192.0.2.1|25 mx\\x1bxxx")
    assert titles[0].isprintable()
    assert len(titles[0]) < 300


def test_a_title_that_cannot_be_set_is_given_up() -> None:
    calls: list[str] = []

    def setter(text: str) -> None:
        calls.append(text)
        raise RuntimeError("no room")

    title = ProcessTitle(setter)
    title.state("one")
    title.state("two")
    assert calls == [">one"]


def test_the_system_sets_the_title_unless_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setitem(sys.modules, "setproctitle", SimpleNamespace(setproctitle=titles.append))
    ProcessTitle().state("#hungry")
    assert titles == [">#hungry"]
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    ProcessTitle().state("#idle")
    assert titles == [">#hungry"]


ATTEMPT = LoggedAttempt("S2564876AbjAAMAA", delay=3725.9, xdelay=59, conversion=LoggedConversion.NONE)


def test_a_syslog_line() -> None:
    """As the reference writes it: both ends of the connection, and of the text the last line."""
    message = b"\r<<- RCPT To:<rcpt1@example.com>\r->> 250 ok"
    assert syslog_line(report(peer=Peer(MX, LOCAL), message=message), ATTEMPT) == (
        "S2564876AbjAAMAA: to=<rcpt1@example.com>, delay=01:02:05, xdelay=00:00:59, mailer=smtp, "
        "relay=mx1.example ([127.0.0.1|2525|127.0.0.1|36724]), stat=ok ->> 250 ok cvt=NONE"
    )


def test_a_syslog_line_with_tabs() -> None:
    attempt = LoggedAttempt("S1", delay=-5, xdelay=400000, conversion=LoggedConversion.MULTIPART_QP)
    assert syslog_line(report(peer=Peer(LITERAL, LOCAL), message=b""), attempt, separator="\t") == (
        "S1:\tto=<rcpt1@example.com>\tdelay=00:00:00\txdelay=111:06:40\tmailer=smtp\t"
        "relay=[127.0.0.1] ([127.0.0.1|2525|127.0.0.1|36724])\tstat=ok cvt=MPQP"
    )
    line = syslog_line(report(message=b"\r<<- x\r->> 550 no", word="error2"), attempt, separator="\t")
    assert line.endswith("\tmailer=smtp\tstat=error2\t->> 550 no cvt=MPQP")


def test_a_syslog_line_without_and_with_a_socket() -> None:
    assert "relay" not in syslog_line(report(), ATTEMPT)
    assert "relay" not in syslog_line(report(peer=Peer(SOCKET)), ATTEMPT)


@pytest.mark.parametrize(
    ("peer", "relay"),
    [
        (Peer(MX), "relay=mx1.example ([127.0.0.1|2525])"),
        (
            Peer(Endpoint("mx.example", "2001:db8::1", 25, Family.INET6), ("2001:db8::2", 40000)),
            "relay=mx.example ([ipv6 2001:db8::1|25|2001:db8::2|40000])",
        ),
        (Peer(Endpoint("::1", "::1", 25, Family.INET6, literal=True)), "relay=[IPv6:::1] ([ipv6 ::1|25])"),
    ],
)
def test_the_relay_of_a_syslog_line(peer: Peer, relay: str) -> None:
    assert f", {relay}, stat=" in syslog_line(report(peer=peer), ATTEMPT)


def test_a_syslog_line_is_bounded_and_printable() -> None:
    hostile = b"\x1b\n\t\x00\xff"
    recipient = ControlRecipient(1, b" ", hostile * 99, b"h", hostile * 999, b"1", 0, 0)
    for peer, limit in ((None, 200), (Peer(MX, LOCAL), 400)):
        line = syslog_line(report(peer=peer, recipient=recipient, message=hostile + b"x" * 5000), ATTEMPT)
        assert line.isprintable()
        text = line.partition("stat=ok ")[2].removesuffix(" cvt=NONE")
        assert text.startswith("\\x1b\\n\\t\\x00\\xffxx")
        assert len(text) == limit
        assert len(line) < 1000


class Backend:
    """Stands for the standard library's syslog module."""

    LOG_PID, LOG_MAIL, LOG_INFO = syslog.LOG_PID, syslog.LOG_MAIL, syslog.LOG_INFO

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def openlog(self, ident: str, logoption: int, facility: int) -> None:
        self.calls.append((ident, logoption, facility))

    def syslog(self, priority: int, message: str) -> None:
        self.calls.append((priority, message))


@pytest.mark.parametrize(
    ("flags", "separator"),
    [("T", ", "), ("t", "\t"), ("RsST", ", "), ("RstT", "\t"), ("Tt", ", "), ("", None), ("RsS", None)],
)
def test_syslogflg_chooses_the_form(flags: str, separator: str | None) -> None:
    backend = Backend()
    log = Syslog(flags, backend)
    assert log.enabled == (separator is not None)
    log.report(report(), ATTEMPT)
    log.report(report(), ATTEMPT)
    if separator is None:
        assert backend.calls == []
    else:
        opened = ("smtp", syslog.LOG_PID, syslog.LOG_MAIL)
        said = (syslog.LOG_INFO, syslog_line(report(), ATTEMPT, separator=separator))
        assert backend.calls == [opened, said, said]


def test_syslog_is_the_standard_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(syslog, "openlog", lambda *_: None)
    monkeypatch.setattr(syslog, "syslog", lambda _, message: said.append(message))
    Syslog("T").report(report(), ATTEMPT)
    assert said == [syslog_line(report(), ATTEMPT)]


def test_a_handshake_is_one_line_with_all_its_facts() -> None:
    """Protocol, cipher, key exchange, resumption, names, issuer, validity, the verdict and why."""
    shown = issue("mx", names=["mx.example.org"])
    facts = TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "x25519", "mx.example.org", shown.chain, resumed=True)
    trial = Judgement(False, "no way to a trust anchor", problem=TLSProblem.CERTIFICATE_NOT_TRUSTED)
    judgement = Judgement(True, "not verified (configured level may)", trial=trial)
    lines: list[str] = []
    debug = debug_observer(lambda line: lines.append(line.decode()), clock=lambda: 0.0)
    debug(events.Secured(MX, facts, judgement))
    assert lines == [
        "# TLS TLSv1.3 TLS_AES_256_GCM_SHA384 256 bits x25519 resumed; peer subject CN=mx; names mx.example.org; "
        "issuer CN=mx; valid 2027-01-14T08:00Z to 2027-02-14T08:00Z; good enough: not verified (configured level may); "
        "on trial NOT good enough: no way to a trust anchor\n"
    ]
