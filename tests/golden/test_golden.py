"""The agent against recorded sessions of the ZMailer 3.0 agent: same input, same outcome.

For each capture the agent gets the same flags, job lines, spool files and server. What must agree: the fate of each
recipient, the marks, the words and ``d`` records, the number of ``#hungry``, the ``#resync`` lines, the exit status
and the commands on the wire; what is written must have the exact form of ZMailer's reports and logs. With
``-O no-ta-diagnostics`` the words are those of the manual page, and all notary data are in the reports. The reference
takes its recipients last to first, this agent takes them as the file has them: so the capture is read with its
recipients relabelled, the last for the first. Where this project differs on purpose beside the rules in
:func:`tests.golden.capture.normal_commands`, :data:`DIFFERENCES` says how and why.

Where content is converted for the server, what counts is what an independent parser makes of it, and the words that
tell of it in the header; the octets of quoted-printable are each program's own choice. Captures of TLS and AUTH are not
among these: what they show is decided differently here (deferral instead of an error, stronger mechanisms first).
"""

from __future__ import annotations

import email
import email.policy
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.golden.capture import (
    Capture,
    header_and_body,
    load,
    names,
    normal_commands,
    recipient_offsets,
)
from tests.golden.scene import Played, play, read_log
from tests.support.nameserver import REFERENCE_ZONE, NameServer
from tests.support.postoffice import Report, wire_content
from tests.support.wire import Connection, Way

DEFERRALS = frozenset({"deferred", "deferback", "deferall", "retryat"})
TWELVE = [f"RCPT TO:<u{n}@example.com>" for n in range(1, 13)]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where this agent does not do what the capture shows, and why.

    ``without`` are pieces taken out of the capture's command lines; ``commands`` stands for them on the connections
    of ``main``. ``words`` are those allowed in the reports, ``old_word`` is that of each with ``no-ta-diagnostics``;
    ``reply`` the one that decided; ``resyncs`` the number of ``#resync`` lines.
    """

    reason: str
    without: tuple[str, ...] = ()
    commands: tuple[list[str], ...] | None = None
    old_word: str | None = None
    words: frozenset[str] | None = None
    reply: bytes | None = None
    resyncs: int | None = None


SAME = Difference("nothing")
DIFFERENCES = {
    "all_caps": Difference(
        "BODY= only for content that needs it, NOTIFY= only as the control file says",
        without=(" BODY=8BITMIME", " NOTIFY=FAILURE"),
    ),
    "banner421": Difference("a host that refuses at its greeting is left alone for a while", old_word="retryat"),
    "cmd_timeout": Difference(
        "an address that did not answer is not tried twice in a row, and only connection and greeting failures "
        "set a time before which the host is left alone",
        commands=(["EHLO", "MAIL FROM:<sender@example.org>"],),
        words=DEFERRALS,
    ),
    "ctl_nomessage": Difference("the recipients have their reports, there is nothing to rescan", resyncs=0),
    "dns_servfail": Difference("a failure of the name server concerns the whole host", old_word="retryat"),
    "drop_after_dot": Difference(
        "the break itself is the reason, not the last reply", words=frozenset({"deferback"}), reply=b""
    ),
    "drop_mid_data": Difference(
        "the content may be out of the agent's hands before the server breaks the connection",
        words=frozenset({"deferred", "deferback"}),
        reply=b"",
    ),
    "dsn": Difference("NOTIFY= only as the control file says", without=(" NOTIFY=FAILURE",)),
    "ezmlm": Difference(
        "groups in file order",
        commands=(
            [
                "EHLO",
                "MAIL FROM:<list-return-x-SPOOLID@example.org>",
                "RCPT TO:<a@example.com>",
                "DATA",
                "MAIL FROM:<list-return@example.org>",
                "RCPT TO:<b@example.com>",
                "DATA",
                "QUIT",
            ],
        ),
    ),
    "lmtp": Difference("BODY= only for content that needs it", without=(" BODY=8BITMIME",)),
    "mail450_pipe": Difference("the answer to MAIL decides, not what follows from it", reply=b"450 4.7.1 later"),
    "rcptlimit": Difference(
        "recipients in file order, ten and the other two",
        commands=(
            [
                "EHLO",
                "MAIL FROM:<sender@example.org>",
                *TWELVE[:10],
                "DATA",
                "MAIL FROM:<sender@example.org>",
                *TWELVE[10:],
                "DATA",
                "QUIT",
            ],
        ),
    ),
    "refused": Difference("a host that cannot be reached is left alone for a while", old_word="retryat", reply=b""),
    "sig_term_busy": Difference("the report names the address and the reason", reply=b""),
    "size_exceeded": Difference("a local check has no reply", reply=b""),
}

CASES = [name for name in names() if not name.startswith("cli_")]
LOG_LINE = re.compile(r"(\d{5})([0-9A-F]{4})-(\d{4})-(\d{4})([rw#])\t[^\x00-\x08\x0a-\x1f\x7f]*")


@pytest.fixture(scope="module")
def dns() -> Iterator[NameServer]:
    with NameServer(REFERENCE_ZONE) as server:
        yield server


@pytest.mark.parametrize("name", CASES)
def test_the_outcome_is_the_reference_s(name: str, tmp_path: Path, dns: NameServer) -> None:
    capture, difference = load(name), DIFFERENCES.get(name, SAME)
    played = play(capture, tmp_path, dns)
    _check_channel(capture, difference, played)
    _check_fates(capture, played)
    for ours, theirs in _paired(capture, played):
        assert ours.word in (difference.words or {theirs.word})
        assert ours.word not in {"ok2", "error2"} or ours.notary == ()
    _check_texts(capture, difference, played)
    _check_records(capture, played)
    _check_wire(capture, difference, played)
    _check_contents(capture, played)
    _check_log(capture, played)


@pytest.mark.parametrize("name", [name for name in CASES if any(r.word != "ok3" for r in load(name).reports)])
def test_the_words_of_the_manual_page(name: str, tmp_path: Path, dns: NameServer) -> None:
    capture, difference = load(name), DIFFERENCES.get(name, SAME)
    played = play(capture, tmp_path, dns, "-O", "no-ta-diagnostics")
    _check_channel(capture, difference, played)
    _check_fates(capture, played)
    for ours, _ in _paired(capture, played):
        assert ours.word == (difference.old_word or ours.fate)
    _check_texts(capture, difference, played)
    assert not any(played.office.diagnostics(played.job(file, [])) for file in played.control)


def test_the_reference_says_failed_of_a_deferral() -> None:
    """What its notary data say is what the sender of a message that expires is told."""
    actions = {
        (name, report.notary[1], report.notary[2][:1])
        for name in CASES
        for report in load(name).reports
        if report.fate == "deferred"
    }
    # In the last one its deferral is an afterthought: it was told to stop.
    assert {name for name, action, _ in actions if action != b"failed"} == {"sig_term_busy"}
    assert len(actions) > 10


@pytest.mark.parametrize("name", ["cli_badT", "cli_badflag"])
def test_a_bad_command_line_is_a_usage_error(name: str, tmp_path: Path, dns: NameServer) -> None:
    capture = load(name)
    played = play(capture, tmp_path, dns)
    assert played.result.status == capture.status == 64
    assert played.result.stdout == ()
    assert any("usage" in line.decode().lower() for line in played.result.stderr)
    assert all(line.startswith(b"#") for line in played.result.stderr)


def test_the_connection_test(tmp_path: Path, dns: NameServer) -> None:
    capture = load("cli_D")
    played = play(capture, tmp_path, dns)
    (connection,) = played.sinks["main"].connections
    assert connection.lines in ([], [b"QUIT"])
    assert played.result.status == 0
    assert played.result.stdout == ()
    text = b"\n".join(played.result.stderr)
    assert b"127.0.0.1" in text
    assert b"connected" in text
    assert _marks(played) == [" "]


def test_the_helo_name_is_the_one_given(tmp_path: Path, dns: NameServer) -> None:
    played = play(load("helo_name"), tmp_path, dns)
    assert played.sinks["main"].connections[0].lines[0] == b"EHLO helo.name.example"


def test_the_verbose_log_has_the_dialogue(tmp_path: Path, dns: NameServer) -> None:
    play(load("verbose"), tmp_path, dns)
    text = (tmp_path / "verbose").read_bytes()
    for line in (b"EHLO ", b"RCPT TO:<rcpt1@example.com>", b"354 Send it", b"250 2.6.0 Message accepted"):
        assert line in text
    assert b"leading dot" not in text


def test_every_difference_belongs_to_a_capture() -> None:
    assert DIFFERENCES.keys() <= set(CASES)


def _check_channel(capture: Capture, difference: Difference, played: Played) -> None:
    result = played.result
    assert result.status == capture.status
    assert result.hungry == capture.hungry
    assert len(result.resyncs) == (len(capture.resyncs) if difference.resyncs is None else difference.resyncs)
    assert set(result.resyncs) <= set(capture.resyncs)
    if capture.name == "host_none":
        assert b"# smtp needs defined host!" in result.stdout


def _paired(capture: Capture, played: Played) -> list[tuple[Report, Report]]:
    """Our reports and the capture's of the recipient that stood at the same place on the wire."""
    pairs: list[tuple[Report, Report]] = []
    for file in capture.control:
        ours = sorted((r for r in played.result.reports if r.id == file.encode()), key=lambda report: report.offset)
        theirs = sorted((r for r in capture.reports if r.id == file.encode()), key=lambda report: -report.offset)
        assert len(ours) == len(theirs)
        pairs += zip(ours, theirs, strict=True)
    if capture.name in {"dsn_notoffered", "ezmlm"}:  # decided by the recipient's own record, not by its place
        theirs = sorted((r for _, r in pairs), key=lambda report: report.offset)
        pairs = list(zip([r for r, _ in pairs], theirs, strict=True))
    return pairs


def _check_fates(capture: Capture, played: Played) -> None:
    for ours, theirs in _paired(capture, played):
        assert ours.fate == theirs.fate
    reported = {(report.id.decode(), report.offset): report.fate for report in played.result.reports}
    marks = {"ok": "+", "error": "-", "deferred": " "}
    for file, control in played.control.items():
        offsets = recipient_offsets(control)
        actual = (played.office.transport / file).read_bytes()[: len(control)].decode("latin-1")
        expected = control
        for offset in offsets:
            if (file, offset) in reported:
                expected = f"{expected[: offset + 1]}{marks[reported[file, offset]]}{expected[offset + 2 :]}"
        assert actual == expected
        assert sorted(marks[reported[file, o]] for o in offsets if (file, o) in reported) == sorted(
            mark for o, mark in zip(offsets, capture.marks[file], strict=True) if (file, o) in reported
        )
    assert played.office.locked() == (["1001"] if capture.name == "ctl_locked" else [])


def _marks(played: Played) -> list[str]:
    return [
        played.office.marks(played.job(file, recipient_offsets(control))) for file, control in played.control.items()
    ]


def _check_texts(capture: Capture, difference: Difference, played: Played) -> None:
    for ours, theirs in _paired(capture, played):
        if ours.word == "retryat":
            assert ours.message.startswith(b"+60 ")
        *_, decisive = theirs.message.split(b"\r->> ")
        if b"\r->> " not in theirs.message:
            decisive = b""
        if difference.reply is not None:
            decisive = difference.reply
        assert ours.message.endswith(decisive)
        if decisive and b"BDAT" not in ours.message:
            assert re.search(rb"\r<<- (RCPT TO:|MAIL FROM:|DATA|\.|\(connecting\))", ours.message)
        _check_notary(capture, played, ours)


def _check_notary(capture: Capture, played: Played, report: Report) -> None:
    control = played.control[report.id.decode()]
    record, _, rest = control[report.offset :].partition("\n")
    wants_success = re.match(r"N .*NOTIFY=[A-Z,]*SUCCESS", rest)
    notary = played.office.notary(report)
    if report.fate == "ok" and not wants_success:
        assert notary == ()
        return
    if report.fate == "ok" and capture.offers("DSN"):
        assert notary == (), "the server has taken over what was asked for"
        return
    address, action, status, diagnostic, mta, *agent = notary
    assert record.endswith(f" {address.decode()} 99")
    if report.fate == "ok":
        assert action == b"relayed"
    else:
        assert action == b"failed"
        assert status[:1] == {"error": b"5", "deferred": b"4"}[report.fate]
    assert re.match(rb"(smtp|local|x-[a-z-]+); ", diagnostic)
    assert agent in ([f"smtp[{played.pid}]".encode()], [])
    if played.sinks and played.sinks["main"].connections:
        sink = played.sinks["main"]
        match = re.fullmatch(rb"(dns|X-IP-addr); \S+ \(([\d.]+)\|(\d+)\|([\d.]+)\|(\d+)\)", mta)
        assert match is not None, mta
        assert (match[2], int(match[3])) == (b"127.0.0.1", sink.port)


def _check_wire(capture: Capture, difference: Difference, played: Played) -> None:
    for name, sink in played.sinks.items():
        expected = [list(normal_commands(_reduced(wire.commands, difference))) for wire in capture.wire[name]]
        if difference.commands is not None:
            expected = [list(commands) for commands in difference.commands]
        actual = [_commands(connection, played) for connection in sink.connections]
        for ours, theirs in zip(actual, expected, strict=True):
            if theirs[-1:] != ["QUIT"] and ours[-1:] == ["QUIT"]:
                ours.pop()  # the capture ends in the middle: to say good-bye then is polite
            assert ours == theirs
        for connection in sink.connections:
            _check_pipelining(connection, offered=capture.offers("PIPELINING") and "-P" not in capture.flags)


def _reduced(commands: tuple[str, ...], difference: Difference) -> tuple[str, ...]:
    for piece in difference.without:
        commands = tuple(re.sub(f"{piece}(?= |$)", "", command) for command in commands)
    return commands


def _commands(connection: Connection, played: Played) -> list[str]:
    lines = []
    for line in (command.line.decode("latin-1") for command in connection.commands):
        match = re.fullmatch(r"(EHLO|HELO|LHLO) (.*)", line)
        if match is not None:
            assert "." in match[2] or match[2].startswith("[IPv6:") or connection.peer == "unix", line
            line = match[1]
        line = re.sub(r" SIZE=\d+", " SIZE=n", line)
        line = re.sub(r"^BDAT \d+", "BDAT n", line)
        lines.append(line.replace(_spool_id(played.office.queue / "1001"), "SPOOLID"))
    return lines


def _spool_id(message: Path) -> str:
    """The spool id by its definition: inode, then the digits of the time, 6 bits each."""
    if not message.exists():
        return "no spool id"
    stat = message.stat()
    at = time.gmtime(stat.st_mtime_ns // 10**9)
    fields = [(at.tm_year, 3), (at.tm_mon - 1, 1), (at.tm_mday - 1, 1), (at.tm_hour, 1), (at.tm_min, 1), (at.tm_sec, 1)]
    if nanoseconds := stat.st_mtime_ns % 10**9:
        fields.append((nanoseconds, 5))
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123abcdefghijklmnopqrstuvwxyz4567890-="
    text = "".join(digits[value >> (6 * n) & 63] for value, width in fields for n in reversed(range(width)))
    return f"S{stat.st_ino}{text}"


def _check_pipelining(connection: Connection, *, offered: bool) -> None:
    for command in connection.commands:
        if command.verb in {"MAIL", "RCPT"}:
            assert command.followed is offered, command
        elif command.verb in {"EHLO", "HELO", "LHLO"}:
            assert not command.followed, command


CONVERTED = {
    "b8_nomime": (b"MIME-Version: 1.0", b"Content-Transfer-Encoding: QUOTED-PRINTABLE", b"X-Warning:"),
    "b8_notoffered": (b" convert rfc822-to-quoted-printable;", b"Content-Transfer-Encoding: QUOTED-PRINTABLE"),
    "flag7_8bit": (b" convert rfc822-to-quoted-printable;", b"Content-Transfer-Encoding: QUOTED-PRINTABLE"),
    "flag778_qp": (b" convert rfc822-to-8bit;", b"Content-Transfer-Encoding: 8BIT"),
    "hdr8": (b"Subject: =?",),
}


def _check_converted(capture: Capture, played: Played) -> None:
    (transaction,) = played.sinks["main"].transactions
    (theirs,) = capture.wire["main"][0].contents
    ours = email.message_from_bytes(transaction.content, policy=email.policy.SMTP)
    reference = email.message_from_bytes(theirs, policy=email.policy.SMTP)
    assert ours.get_payload(decode=True) == reference.get_payload(decode=True)
    header = transaction.content.partition(b"\r\n\r\n")[0]
    for words in CONVERTED[capture.name]:
        assert words in header
    match = re.search(rb" SIZE=(\d+)", transaction.mail)
    assert match is None or int(match[1]) == len(transaction.content)


def _check_contents(capture: Capture, played: Played) -> None:
    if capture.name in CONVERTED:
        _check_converted(capture, played)
        return
    complete = [t for sink in played.sinks.values() for t in sink.transactions if t.complete]
    files = sorted(capture.message)
    if len(files) == 1:
        files *= len(complete)
    commands = [line for sink in played.sinks.values() for connection in sink.connections for line in connection.lines]
    for transaction, file in zip(complete, files, strict=False):
        header, body = header_and_body(played.control[file], capture.message[file])
        octets = len(wire_content(header, body, stuffed=False))
        chunked = f"BDAT {octets} LAST".encode() in commands
        assert chunked or b"DATA" in commands
        assert transaction.content == wire_content(header, body, stuffed=not chunked)
        match = re.search(rb" SIZE=(\d+)", transaction.mail)
        assert match is None or int(match[1]) == octets
    contents = [content for wires in capture.wire.values() for wire in wires for content in wire.contents]
    if contents and len(contents) == len(complete):
        bodies = [transaction.content.partition(b"\r\n\r\n")[2] for transaction in complete]
        assert bodies == [content.partition(b"\r\n\r\n")[2] for content in contents]


def _check_log(capture: Capture, played: Played) -> None:
    lines = read_log(played.office.log)
    matches = [match for line in lines if (match := LOG_LINE.fullmatch(line)) is not None]
    assert len(matches) == len(lines), [line for line in lines if not LOG_LINE.fullmatch(line)]
    assert {match[1] for match in matches} <= {f"{played.pid % 100000:05d}"}
    assert len({match[2] for match in matches}) <= 1
    assert [int(match[3]) for match in matches] == list(range(len(matches)))
    said = {way: [m[0].partition("\t")[2] for m in matches if m[5] == way] for way in "rw"}
    for sink in played.sinks.values():
        for connection in sink.connections:
            commands = [line.decode("latin-1") for line in connection.lines]
            assert _is_subsequence(commands, said["w"])
            replies = connection.octets(Way.SERVER).decode("latin-1").split("\r\n")[:-1]
            if replies and replies[-1].startswith("221"):
                replies.pop()  # nobody has to wait for it
            assert _is_subsequence(replies, said["r"])


def _is_subsequence(wanted: list[str], lines: list[str]) -> bool:
    rest = iter(lines)
    return all(any(line == want for line in rest) for want in wanted)


def _check_records(capture: Capture, played: Played) -> None:
    for file, control in played.control.items():
        job = played.job(file, recipient_offsets(control))
        records = played.office.diagnostics(job)
        assert len(records) == len(capture.diagnostics[file])
        reports = {report.offset: report for report in played.result.reports if report.id == file.encode()}
        assert sorted(r.offset for r in records) == sorted(
            offset for offset, report in reports.items() if report.word in {"ok2", "error2"}
        )
        for record in records:
            assert record.header_offset == control.index("\nm\n") + 3
            rest = control[control.index("\n", record.offset) + 1 :]
            dsn_offset = len(control) - len(rest) if rest.startswith("N ") else -1
            assert record.dsn_offset == dsn_offset
            address, action, status, diagnostic, _mta, *_agent = record.notary
            assert control[record.offset :].split("\n")[0].endswith(f" {address.decode()} 99")
            assert action == (b"failed" if reports[record.offset].word == "error2" else b"relayed")
            assert re.match(rb"5\." if action == b"failed" else rb"2\.", status)
            assert re.match(rb"(smtp|local|x-[a-z-]+); ", diagnostic)
            assert record.message == reports[record.offset].message


def test_the_default_helo_name_is_never_a_bare_word(tmp_path: Path, dns: NameServer) -> None:
    played = play(load("simple"), tmp_path, dns)
    name = played.sinks["main"].connections[0].lines[0].decode().removeprefix("EHLO ")
    host_name = socket.gethostname()
    assert name == (host_name if "." in host_name else "[127.0.0.1]")
