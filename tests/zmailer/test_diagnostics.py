"""Reports: their fields, their words, and the order of marks, records and report lines."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.delivery.outcome import Disposition, Peer, Scope, Verdict
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.errors import SpoolError
from zsmtp.proto.status import EnhancedStatus
from zsmtp.zmailer import diagnostics
from zsmtp.zmailer.control import ControlFile, ControlRecipient, FinalRecord, parse
from zsmtp.zmailer.diagnostics import (
    RecipientReport,
    action,
    diagnostic_record,
    notary,
    notary_fields,
    remote_mta,
    report_line,
    report_message,
    settles,
    status_word,
    success_requested,
)
from zsmtp.zmailer.locks import StateTag, open_control
from zsmtp.zmailer.reporter import ReportWriter

EPOCH = 1795364806
PID = 21621
LOOPBACK = Peer(Endpoint("127.0.0.1", "127.0.0.1", 2525, Family.INET, literal=True), ("127.0.0.1", 36752))

CONTROL = (
    b"@ 0x00000007\ni 1001\no 359\nl <m1@example.org>\ne <sender@example.org>\ns local - sender@example.org 99\n"
    b"r           smtp [127.0.0.1] r1@example.com 99\n"
    b"N NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o1@example.com\n"
    b"r           smtp [127.0.0.1] r2@example.com 99\n"
    b"N NOTIFY=NEVER\n"
    b"m\nFrom: Sender <sender@example.org>\nTo: Rcpt <r1@example.com>\n\n"
)

REFUSED = Verdict(
    Disposition.FAILED,
    EnhancedStatus(5, 1, 1),
    "smtp; 550 (5.1.1 no such user)",
    "\r<<- RCPT To:<rcpt2@example.com>\r->> 550 5.1.1 no such user",
    comment="bad destination mailbox",
    peer=LOOPBACK,
)
TAKEN = Verdict(
    Disposition.DELIVERED,
    EnhancedStatus(2, 0, 0),
    "smtp; 250 (2.6.0 Message accepted)",
    "\r<<- .\r->> 250 2.6.0 Message accepted",
    level=Scope.MESSAGE,
    at_final_dot=True,
    peer=LOOPBACK,
)
LATER = Verdict(
    Disposition.DEFERRED,
    EnhancedStatus(4, 2, 1),
    "smtp; 450 (4.2.1 try later)",
    "\r<<- RCPT To:<rcpt1@example.com>\r->> 450 4.2.1 try later",
    peer=LOOPBACK,
)
BUSY = LATER._replace(level=Scope.HOST, retry_after=60, text="\r<<- (connecting)\r->> 421 4.3.2 busy")
UNREACHABLE = BUSY._replace(peer=Peer(LOOPBACK.endpoint), text="connect to 127.0.0.1: Connection refused")
DNS_TROUBLE = BUSY._replace(peer=None, text="no DNS response")
DOT_REFUSED = LATER._replace(level=Scope.MESSAGE, at_final_dot=True)
IN_DOUBT = LATER._replace(level=Scope.SESSION, at_final_dot=True, in_doubt=True)


class Scheduler:
    """The far side of the report channel and the control file in one: it keeps the order of all that happens."""

    def __init__(
        self, *, closed: bool = False, unwritable: bool = False, lost: bool = False, unsynced: bool = False
    ) -> None:
        self.control: ControlFile = parse("1001", CONTROL)
        self.happened: list[object] = []
        self.lines: list[bytes] = []
        self.records: list[bytes] = []
        self._closed = closed
        self._unwritable = unwritable
        self._lost = lost
        self._unsynced = unsynced

    def write(self, line: bytes) -> None:
        if self._closed:
            raise BrokenPipeError
        self.happened.append(line.split(b"\t")[-1].split(b" ")[0].decode() if b"\t" in line else "#")
        self.lines.append(line)

    def release(self, recipient: ControlRecipient, mark: StateTag) -> bool:
        if self._unwritable:
            raise SpoolError("1001", recipient.offset, "no space left")
        if self._lost:
            return False
        self.happened.append(mark)
        return True

    def append(self, record: bytes) -> None:
        if self._unwritable:
            raise SpoolError("1001", None, "no space left")
        self.happened.append("record")
        self.records.append(record)

    def sync(self) -> None:
        if self._unsynced:
            raise SpoolError("1001", None, "input/output error")
        self.happened.append("sync")


def settle(
    scheduler: Scheduler, verdict: Verdict, *, extended: bool = False, recipient: int = 1, lmtp: bool = False
) -> RecipientReport:
    """Recipient 0 wants to hear of a success, recipient 1 of nothing."""
    reporter = ReportWriter(scheduler.write, pid=PID, extended=extended)
    return reporter.settle(scheduler, scheduler.control.recipients[recipient], verdict, epoch=EPOCH, lmtp=lmtp)


@pytest.mark.parametrize(
    ("endpoint", "local", "expected"),
    [
        (
            Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET),
            ("198.51.100.2", 40123),
            "dns; mx.example.org (192.0.2.1|25|198.51.100.2|40123)",
        ),
        (LOOPBACK.endpoint, LOOPBACK.local, "X-IP-addr; [127.0.0.1] (127.0.0.1|2525|127.0.0.1|36752)"),
        (
            Endpoint("::1", "::1", 2525, Family.INET6, literal=True),
            ("::1", 53912),
            "X-IP-addr; [IPv6:::1] (ipv6 ::1|2525|::1|53912)",
        ),
        (
            Endpoint("mx.example", "2001:db8::1", 25, Family.INET6),
            ("2001:db8::2", 40000),
            "dns; mx.example (ipv6 2001:db8::1|25|2001:db8::2|40000)",
        ),
        (
            Endpoint("/run/sock", "/run/sock", 0, Family.UNIX, literal=True),
            None,
            " (UNIX:/run/sock|UNKNOWN-LOCAL-ADDRESS)",
        ),
        (Endpoint("mx.example", "192.0.2.1", 25, Family.INET), None, "dns; mx.example (192.0.2.1|25)"),
    ],
)
def test_the_remote_mta_names_both_ends(endpoint: Endpoint, local: tuple[str, int] | None, expected: str) -> None:
    assert remote_mta(Peer(endpoint, local)) == expected


def test_without_a_peer_there_is_no_remote_mta() -> None:
    assert remote_mta(None) == ""


def test_notary_data_of_a_failure() -> None:
    assert notary(b"rcpt2@example.com", REFUSED, pid=PID, success_requested=False, lmtp=False) == (
        b"rcpt2@example.com\x01failed\x015.1.1 (bad destination mailbox)\x01smtp; 550 (5.1.1 no such user)\x01"
        b"X-IP-addr; [127.0.0.1] (127.0.0.1|2525|127.0.0.1|36752)\x01smtp[21621]"
    )


def test_notary_data_without_comment_and_peer() -> None:
    verdict = LATER._replace(peer=None)
    assert notary(b"a@b", verdict, pid=1, success_requested=False, lmtp=False) == (
        b"a@b\x01failed\x014.2.1\x01smtp; 450 (4.2.1 try later)\x01\x01smtp[1]"
    )


@pytest.mark.parametrize(
    ("wanted", "passed_on", "lmtp", "expected"),
    [
        (False, False, False, "-"),
        (False, False, True, "-"),
        (True, False, False, "relayed"),
        (True, False, True, "delivered"),
        (True, True, False, "-"),
        (True, True, True, "-"),
    ],
)
def test_the_action_of_a_success(*, wanted: bool, passed_on: bool, lmtp: bool, expected: str) -> None:
    verdict = TAKEN._replace(passed_on=passed_on)
    assert action(verdict, success_requested=wanted, lmtp=lmtp) == expected
    data = notary(b"a@b", verdict, pid=PID, success_requested=wanted, lmtp=lmtp)
    assert data == (b"" if expected == "-" else notary_fields(b"a@b", verdict, pid=PID, action=expected))


@pytest.mark.parametrize("wanted", [True, False])
def test_the_action_of_failure_and_delay_does_not_hang_on_what_was_asked(*, wanted: bool) -> None:
    assert action(REFUSED, success_requested=wanted, lmtp=False) == "failed"
    assert action(LATER._replace(passed_on=True), success_requested=wanted, lmtp=True) == "failed"


def test_success_is_requested_by_notify_only() -> None:
    first, second = parse("1001", CONTROL).recipients
    assert (success_requested(first), success_requested(second)) == (True, False)
    plain = parse("1001", CONTROL.replace(b"N NOTIFY=NEVER\n", b"")).recipients[1]
    assert not success_requested(plain)


def test_a_report_line() -> None:
    assert report_line(b"1001", 150, b"a\x01b", "error", b"\r->> 550 no") == b"1001/150\ta\x01b\terror \r->> 550 no\n"
    assert report_line(b"1001", 150, b"", "retryat +60", b"busy") == b"1001/150\t\tretryat +60 busy\n"


def test_a_diagnostic_record_points_to_recipient_header_and_dsn_record() -> None:
    control = parse("1001", CONTROL)
    header = control.headers[0].offset
    assert CONTROL[header:].startswith(b"From: Sender")
    first, second = control.recipients
    plain = second._replace(dsn_offset=-1)
    assert diagnostic_record(first, header, EPOCH, b"n", b"m") == b"d %d:%d:%d::1795364806\tn\tm\n" % (
        CONTROL.index(b"r  "),
        header,
        CONTROL.index(b"N NOTIFY=SUCCESS"),
    )
    assert diagnostic_record(plain, 252, EPOCH, b"n", b"m") == b"d %d:252:-1::1795364806\tn\tm\n" % plain.offset


HOSTILE = "a\tb\x01c\nd\re\x1b[2Jf\x00g\u202eh\x85i\udcffj"


def test_whatever_a_peer_says_fields_stay_fields() -> None:
    peer = Peer(Endpoint("mx\t\x01", "192.0.2.1", 25, Family.INET), ("\n", 1))
    verdict = REFUSED._replace(diagnostic=HOSTILE, comment=HOSTILE, text=HOSTILE, peer=peer)
    data = notary(HOSTILE.encode("utf-8", "surrogateescape"), verdict, pid=PID, success_requested=False, lmtp=False)
    assert data.count(b"\x01") == 5
    line = report_line(b"1001", 1, data, "error", report_message(verdict.text))
    assert line.count(b"\t") == 2
    assert line.count(b"\n") == 1
    assert line.count(b"\r") == 2  # a line break of the text, LF or CR; none in the notary data
    left = line.rstrip(b"\n").translate(None, b"\t\r\x01").decode("utf-8")
    assert left.isprintable()


def test_long_fields_are_cut() -> None:
    verdict = REFUSED._replace(diagnostic="smtp; 550 (" + "x" * 900 + ")", comment="ü" * 5000)
    fields = notary(b"a" * 70000, verdict, pid=PID, success_requested=False, lmtp=False).split(b"\x01")
    assert len(fields[0]) == 1000
    assert len(fields[2]) <= 1000
    assert fields[2].decode().endswith("ü...")
    assert len(fields[3]) == 500
    assert fields[3].startswith(b"smtp; 550 (xxx")


def test_a_short_message_stays_as_it_is() -> None:
    assert report_message("\r<<- .\r->> 250 é") == "\r<<- .\r->> 250 é".encode()
    assert report_message("one\r\ntwo\nthree\rfour") == b"one\rtwo\rthree\rfour"
    exact = "x" * 999 + "\r" + "y" * 1000
    assert report_message(exact) == exact.encode()


def test_of_a_long_message_the_last_lines_are_kept_whole() -> None:
    lines = [f"->> 250 line {number}" for number in range(1000)]
    message = report_message("\r".join(lines))
    assert 1900 < len(message) <= diagnostics.MESSAGE_LIMIT
    first, *rest = message.decode().split("\r")
    assert first == "..."
    assert rest == lines[-len(rest) :]


def test_of_a_long_last_line_the_beginning_is_kept() -> None:
    message = report_message("first\r->> 550 " + "é" * 5000)
    assert len(message) <= diagnostics.MESSAGE_LIMIT
    assert message.decode().startswith("...\r->> 550 éé")
    assert message.decode().endswith("é...")


@given(st.text(max_size=80) | st.lists(st.text(max_size=9), max_size=700).map("\r".join))
def test_messages_are_bounded_and_printable(text: str) -> None:
    message = report_message(text)
    assert len(message) <= diagnostics.MESSAGE_LIMIT
    assert message.replace(b"\r", b"").decode("utf-8").isprintable()


@pytest.mark.parametrize(
    ("verdict", "default", "extended"),
    [
        (TAKEN, "ok", "ok3"),
        (REFUSED, "error", "error2"),
        (LATER, "deferred", "deferred"),
        (BUSY, "retryat +60", "retryat +60"),
        (UNREACHABLE, "retryat +60", "deferall"),
        (DNS_TROUBLE, "retryat +60", "deferall"),
        (UNREACHABLE._replace(retry_after=0), "deferred", "deferall"),
        (BUSY._replace(retry_after=0), "deferred", "deferred"),
        (LATER._replace(level=Scope.SESSION, retry_after=60), "deferred", "deferred"),
        (DOT_REFUSED, "deferred", "deferback"),
        (IN_DOUBT, "deferred", "deferback"),
        (REFUSED._replace(at_final_dot=True), "error", "error2"),
    ],
)
def test_status_words(verdict: Verdict, default: str, extended: str) -> None:
    what = action(verdict, success_requested=False, lmtp=False)
    assert status_word(verdict, extended=False, action=what, lmtp=False) == default
    assert status_word(verdict, extended=True, action=what, lmtp=False) == extended


def test_a_success_to_be_told_is_ok2() -> None:
    assert status_word(TAKEN, extended=True, action="relayed", lmtp=False) == "ok2"
    assert status_word(TAKEN, extended=False, action="relayed", lmtp=False) == "ok"


def test_an_lmtp_reply_after_the_content_speaks_of_one_mailbox() -> None:
    assert status_word(DOT_REFUSED, extended=True, action="failed", lmtp=True) == "deferred"
    assert status_word(IN_DOUBT, extended=True, action="failed", lmtp=True) == "deferback"


@pytest.mark.parametrize(
    ("verdict", "recipient", "expected"),
    [
        (TAKEN, 1, [StateTag.DELIVERED, "ok"]),
        (TAKEN, 0, [StateTag.DELIVERED, "ok"]),
        (REFUSED, 1, ["error", StateTag.FAILED]),
        (LATER, 1, ["deferred", StateTag.TODO]),
        (BUSY, 1, ["retryat", StateTag.TODO]),
        (IN_DOUBT, 1, ["deferred", StateTag.TODO]),
    ],
)
def test_order_with_default_words(verdict: Verdict, recipient: int, expected: list[object]) -> None:
    scheduler = Scheduler()
    settle(scheduler, verdict, recipient=recipient)
    assert scheduler.happened == expected


@pytest.mark.parametrize(
    ("verdict", "recipient", "expected"),
    [
        (TAKEN, 1, [StateTag.DELIVERED, "ok3"]),
        (TAKEN, 0, ["record", "sync", StateTag.DELIVERED, "ok2"]),
        (TAKEN._replace(passed_on=True), 0, [StateTag.DELIVERED, "ok3"]),
        (REFUSED, 1, ["record", "sync", StateTag.FAILED, "error2"]),
        (LATER, 1, ["deferred", StateTag.TODO]),
        (UNREACHABLE, 1, ["deferall", StateTag.TODO]),
    ],
)
def test_order_with_extended_words(verdict: Verdict, recipient: int, expected: list[object]) -> None:
    scheduler = Scheduler()
    settle(scheduler, verdict, recipient=recipient, extended=True)
    assert scheduler.happened == expected


def test_notary_data_goes_where_the_notification_is_made() -> None:
    default, extended = Scheduler(), Scheduler()
    told = settle(default, REFUSED)
    assert default.lines[0].split(b"\t")[1] == told.notary
    assert told.notary.startswith(b"r2@example.com\x01failed\x01")
    settle(extended, REFUSED, extended=True)
    assert extended.lines[0].split(b"\t")[1] == b""
    assert extended.records[0].split(b"\t")[1] == told.notary
    assert extended.records[0].split(b"\t")[2] == told.message + b"\n"


def test_a_deferral_keeps_its_notary_data_on_the_channel_in_both_modes() -> None:
    for extended in (False, True):
        scheduler = Scheduler()
        told = settle(scheduler, LATER, extended=extended)
        assert scheduler.lines[0].split(b"\t")[1] == told.notary != b""


def test_a_plain_success_has_no_notary_data_but_the_logs_get_it() -> None:
    scheduler = Scheduler()
    told = settle(scheduler, TAKEN)
    line = b"1001/%d\t\tok \r<<- .\r->> 250 2.6.0 Message accepted\n" % scheduler.control.recipients[1].offset
    assert scheduler.lines == [line]
    assert told.notary.split(b"\x01")[:3] == [b"r2@example.com", b"-", b"2.0.0"]
    assert (told.word, told.remote) == ("ok", remote_mta(LOOPBACK))


def test_lmtp_delivers_and_smtp_relays() -> None:
    for lmtp, expected in ((True, b"delivered"), (False, b"relayed")):
        scheduler = Scheduler()
        settle(scheduler, TAKEN, recipient=0, lmtp=lmtp)
        assert scheduler.lines[0].split(b"\t")[1].split(b"\x01")[1] == expected


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(
    ("verdict", "recipient", "expected"),
    [
        (TAKEN, 1, {StateTag.DELIVERED}),
        (TAKEN, 0, {"record", "sync", StateTag.DELIVERED}),
        (REFUSED, 1, {"record", "sync", StateTag.FAILED}),
        (LATER, 1, {StateTag.TODO}),
    ],
)
def test_with_stdout_closed_marks_and_records_are_written(
    verdict: Verdict, recipient: int, expected: set[object], *, extended: bool
) -> None:
    scheduler = Scheduler(closed=True)
    settle(scheduler, verdict, recipient=recipient, extended=extended)
    assert set(scheduler.happened) == expected
    assert len(scheduler.happened) == len(expected)


def test_a_failure_that_nobody_could_hear_of_is_recorded_before_it_is_marked() -> None:
    scheduler = Scheduler(closed=True)
    settle(scheduler, REFUSED)
    assert scheduler.happened == ["record", "sync", StateTag.FAILED]


def test_a_failure_that_can_be_told_nowhere_stays_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler(closed=True)

    def no_space(record: bytes) -> None:
        raise SpoolError("1001", None, "no space left")

    monkeypatch.setattr(scheduler, "append", no_space)
    settle(scheduler, REFUSED)
    assert scheduler.happened == [StateTag.TODO]


def test_once_closed_stdout_is_left_alone() -> None:
    calls: list[bytes] = []

    def write(line: bytes) -> None:
        calls.append(line)
        raise BrokenPipeError

    reporter = ReportWriter(write, pid=PID, extended=False)
    closed = [reporter.stdout_closed]
    reporter.hungry()
    closed.append(reporter.stdout_closed)
    reporter.hungry()
    reporter.resync(b"1001")
    reporter.comment("x")
    assert closed == [False, True]
    assert calls == [b"#hungry\n"]


def test_a_closed_file_object_counts_as_closed(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        reporter = ReportWriter(file.write, pid=PID, extended=False)
    reporter.hungry()
    assert reporter.stdout_closed


@pytest.mark.parametrize(
    ("verdict", "recipient", "extended", "word"),
    [
        (TAKEN, 1, False, b"ok"),
        (TAKEN, 1, True, b"ok3"),
        (REFUSED, 1, False, b"error"),
        (LATER, 1, True, b"deferred"),
        # Without its record the scheduler has to make one: it is told so by the plain word. A failure can wait.
        (TAKEN, 0, True, b"ok"),
        (REFUSED, 1, True, b"deferred"),
    ],
)
def test_an_unwritable_control_file_keeps_no_report_back(
    verdict: Verdict, recipient: int, word: bytes, *, extended: bool
) -> None:
    scheduler = Scheduler(unwritable=True)
    told = settle(scheduler, verdict, recipient=recipient, extended=extended)
    reports = [line for line in scheduler.lines if not line.startswith(b"#")]
    assert len(reports) == 1
    _, data, status = reports[0].split(b"\t")
    assert status.startswith(word + b" ")
    assert told.word.encode() == word
    if word in (b"ok", b"deferred") and extended:
        assert data == told.notary
    if word == b"deferred" and verdict is REFUSED:
        assert data.split(b"\x01")[1:4] == [b"failed", b"4.3.0", b"local; 450 (no space left)"]
        assert told.message.endswith(b"put off, since this cannot be recorded: no space left")
    comments = [line for line in scheduler.lines if line.startswith(b"#")]
    assert comments
    assert all(line.startswith(b"# smtp: no ") and b"no space left" in line for line in comments)


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize(
    ("verdict", "recipient", "word", "mark"),
    [(REFUSED, 1, b"deferred", StateTag.TODO), (TAKEN, 0, b"ok", StateTag.DELIVERED)],
)
def test_a_record_that_may_not_be_on_the_disk_is_none(
    verdict: Verdict, recipient: int, word: bytes, mark: StateTag, *, gather: bool
) -> None:
    """The failure is put off; a success stands, and the scheduler is told in the word that makes it write a record."""
    scheduler = Scheduler(unsynced=True)
    reporter = ReportWriter(scheduler.write, pid=PID, extended=True, gather=gather)
    reporter.settle(scheduler, scheduler.control.recipients[recipient], verdict, epoch=EPOCH, lmtp=False)
    reporter.flush()
    lines = b"".join(scheduler.lines).split(b"\n")[:-1]
    (report,) = [line for line in lines if not line.startswith(b"#")]
    _, data, status = report.split(b"\t")
    assert status.startswith(word + b" ")
    assert data.split(b"\x01")[1] == (b"failed" if verdict is REFUSED else b"relayed")
    assert mark in scheduler.happened
    assert b"# smtp: no diagnostic record for " in b"".join(scheduler.lines)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(
    ("action", "mark", "word"),
    [
        (b"failed", StateTag.FAILED, b"error2"),
        (b"relayed", StateTag.DELIVERED, b"ok2"),
        (b"delivered", StateTag.DELIVERED, b"ok2"),
        (b"expanded", StateTag.DELIVERED, b"ok2"),
    ],
)
def test_a_recipient_with_a_record_is_marked_and_gets_no_second_one(
    action: bytes, mark: StateTag, word: bytes, *, extended: bool
) -> None:
    """The words are those after which the scheduler writes no record either, whatever the option says."""
    scheduler = Scheduler()
    reporter = ReportWriter(scheduler.write, pid=PID, extended=extended, gather=True)
    recipient = scheduler.control.recipients[0]
    record = FinalRecord(recipient.offset, action, recipient.user)
    assert settles(record, recipient)
    told = reporter.settle_recorded(scheduler, recipient, record)
    assert scheduler.happened == [mark, word.decode()]
    assert scheduler.lines[0].split(b"\t")[1:] == [b"", word + b" " + told.message + b"\n"]


@pytest.mark.parametrize(
    ("action", "address", "end"),
    [(b"failed", b"r2@example.com", True), (b"failed", b"\x03", True), (b"relayed", b"r2@example.com", False)],
)
def test_a_record_that_names_another_recipient(action: bytes, address: bytes, end: bool) -> None:
    """The scheduler's own record of an expired message may: a success there is nobody's word for this recipient."""
    recipient = Scheduler().control.recipients[0]
    assert settles(FinalRecord(recipient.offset, action, address), recipient) is end


def test_whoever_could_not_be_locked_is_reported_without_a_mark() -> None:
    scheduler = Scheduler()
    reporter = ReportWriter(scheduler.write, pid=PID, extended=True)
    verdict = LATER._replace(status=EnhancedStatus(4, 3, 0), peer=None, level=Scope.MESSAGE)
    told = reporter.defer_untaken(b"1001", scheduler.control.recipients[1], verdict, lmtp=False)
    assert scheduler.happened == ["deferred"]
    assert scheduler.lines[0].split(b"\t")[1] == told.notary
    assert told.notary.startswith(b"r2@example.com\x01failed\x014.3.0\x01")


def test_a_lock_that_another_process_took_is_told() -> None:
    scheduler = Scheduler(lost=True)
    settle(scheduler, LATER)
    assert scheduler.lines[-1].startswith(b"# smtp: no mark for ")


def test_a_recipient_without_header_block_is_recorded_without_offset() -> None:
    scheduler = Scheduler()
    recipient = scheduler.control.recipients[0]._replace(header=7)
    reporter = ReportWriter(scheduler.write, pid=PID, extended=True)
    reporter.settle(scheduler, recipient, REFUSED, epoch=EPOCH, lmtp=False)
    assert scheduler.records[0].startswith(b"d %d:-1:" % recipient.offset)


def test_other_lines() -> None:
    scheduler = Scheduler()
    reporter = ReportWriter(scheduler.write, pid=PID, extended=False)
    reporter.hungry()
    reporter.resync(b"A/B/12345-6789")
    reporter.resync(b"\xe9t\x1b\n\xff")
    reporter.comment("smtp needs defined host!")
    reporter.comment("two\nlines\x1b[2J\t")
    reporter.comment("")
    assert scheduler.lines == [
        b"#hungry\n",
        b"#resync A/B/12345-6789\n",
        b"#resync \xe9t\\x1b\\n\xff\n",
        b"# smtp needs defined host!\n",
        b"# two\n",
        b"# lines\\x1b[2J\\t\n",
        b"# \n",
    ]


@given(st.text(max_size=40))
def test_a_comment_is_only_comment_lines(text: str) -> None:
    scheduler = Scheduler()
    ReportWriter(scheduler.write, pid=PID, extended=False).comment(text)
    for line in scheduler.lines:
        assert line.startswith(b"# ")
        assert line[:-1].decode("utf-8").isprintable()


@pytest.mark.parametrize("extended", [False, True])
def test_in_a_real_control_file(tmp_path: Path, *, extended: bool) -> None:
    path = tmp_path / "1001"
    path.write_bytes(CONTROL)
    lines: list[bytes] = []
    reporter = ReportWriter(lines.append, pid=PID, extended=extended)
    with open_control(str(path)) as opened:
        first, second = opened.control.recipients
        assert opened.take(first, pid=PID)
        assert opened.take(second, pid=PID)
        reporter.settle(opened, first, TAKEN, epoch=EPOCH, lmtp=False)
        reporter.settle(opened, second, REFUSED, epoch=EPOCH, lmtp=False)
    after = path.read_bytes()
    assert after[first.offset : first.offset + 12] == b"r+          "
    assert after[second.offset : second.offset + 12] == b"r-          "
    assert [line.split(b"\t")[2].split(b" ")[0] for line in lines] == (
        [b"ok2", b"error2"] if extended else [b"ok", b"error"]
    )
    records = after[len(CONTROL) :].split(b"\n")[:-1]
    assert [record.split(b"\t")[1].split(b"\x01")[1] for record in records] == (
        [b"relayed", b"failed"] if extended else []
    )
    parse("1001", after)
