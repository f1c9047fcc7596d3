"""Spool files and job lines that are not what they must be: nothing shortened is sent, nothing is lost or left locked.

One agent gets all the bad files of a test one after the other, and a good job at the end: it must still be there.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.agent import Result, run
from tests.support.postoffice import BODY, HEADER, Job, PostOffice, wire_content
from tests.support.script import Script
from tests.support.sink import Sink

HOST = "[127.0.0.1]"
TAB_HOST = b"\t[127.0.0.1]\n"
GOOD = "9999"


def play(office: PostOffice, lines: list[bytes], *, caps: tuple[str, ...] = ("PIPELINING",)) -> tuple[Result, Sink]:
    """Feed the lines and then a good job, which must be delivered; every line must have had its answer."""
    good = office.post(["good@example.com"], name=GOOD)
    with Sink(Script(caps=caps)) as sink:
        result = run(office, "-h", "me.example", "-p", str(sink.port), stdin=b"".join(lines) + good.line(HOST))
        if sink.connections:
            sink.wait_until_finished()
    assert result.status == 0
    assert result.hungry == len(lines) + 2
    assert office.marks(good) == "+"
    assert office.locked() == []
    assert sink.deliveries()[b"good@example.com"] == 1
    for connection in sink.connections:
        for line in connection.lines:
            assert not re.search(rb"[\x00-\x1f\x7f]", line), line
    return result, sink


def write(office: PostOffice, name: str, control: bytes) -> bytes:
    """A control file with these octets; returns its job line."""
    (office.transport / name).write_bytes(control)
    return name.encode() + TAB_HOST


def answered_by_resync(result: Result, line: bytes) -> bool:
    return line.split(b"\t")[0] in result.resyncs


def test_a_control_file_cut_at_every_octet(office: PostOffice) -> None:
    job = office.post(["first@example.com", "second@example.com"], extra="n envid\n")
    whole = office.control(job)
    lines = [write(office, str(10000 + size), whole[:size]) for size in range(len(whole))]
    result, sink = play(office, lines)
    content = wire_content(HEADER, BODY)
    for transaction in sink.transactions:
        assert transaction.complete
        assert transaction.content == content, "a message with a shortened header was sent"
        assert set(transaction.recipients) <= {b"first@example.com", b"second@example.com", b"good@example.com"}
        assert transaction.mail.startswith(b"MAIL FROM:<sender@example.org>")
    reported = {report.id for report in result.reports}
    for size, line in enumerate(lines):
        name = line.split(b"\t")[0]
        assert (name in reported) != answered_by_resync(result, line)
        if name not in reported:
            assert (office.transport / name.decode()).read_bytes() == whole[:size]


def test_control_files_with_random_damage(office: PostOffice) -> None:
    job = office.post(["first@example.com", "second@example.com"])
    whole = office.control(job)
    chance = random.Random(5321)
    lines = []
    for number in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(damaged))
            change = bytes(
                chance.choice([0, 9, 10, 13, 32, 45, 49, 62, 114, 126, 255, chance.randrange(256)]) for _ in "x"
            )
            damaged[place : place + chance.randint(0, 2)] = change
        lines.append(write(office, str(10000 + number), bytes(damaged)))
    result, _ = play(office, lines)
    reported = {report.id for report in result.reports}
    for line in lines:
        assert line.split(b"\t")[0] in reported or answered_by_resync(result, line), line


def damage(pattern: bytes, by: bytes) -> Callable[[bytes], bytes]:
    def apply(control: bytes) -> bytes:
        assert re.search(pattern, control, re.MULTILINE)
        return re.sub(pattern, lambda _: by, control, count=1, flags=re.MULTILINE)

    return apply


REFUSED = {
    "empty": lambda control: b"",
    "one line end": lambda control: b"\n",
    "no i record": damage(rb"^i .*\n", b""),
    "i with a path": damage(rb"^i .*", b"i ../transport/1001"),
    "i without a name": damage(rb"^i .*", b"i "),
    "i with NUL": damage(rb"^i .*", b"i 10\x0001"),
    "no o record": damage(rb"^o .*\n", b""),
    "o not a number": damage(rb"^o .*", b"o many"),
    "o negative": damage(rb"^o .*", b"o -1"),
    "o enormous": damage(rb"^o .*", b"o " + b"9" * 5000),
    "o without digits": damage(rb"^o .*", b"o "),
    "unknown format flag": damage(rb"^@ .*", b"@ 0x00000017"),
    "format flags not a number": damage(rb"^@ .*", b"@ yes"),
    "no m record": damage(rb"^m\n(.*\n)*", b""),
    "header without its end": damage(rb"\n\n\Z", b"\n"),
    "NUL in a recipient": damage(rb"a@example", b"a\x00b@example"),
    "NUL in the header": damage(rb"^Subject: ", b"Subject: \x00"),
    "NUL in the sender": damage(rb"sender@example.org 99", b"s\x00@example.org 99"),
    "record of a megabyte": damage(rb"a@example", b"a" * (1 << 20) + b"@example"),
    "recipient without sender": damage(rb"^s .*\n", b""),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> tuple[PostOffice, Result, Sink, dict[str, bytes]]:
    office = PostOffice(tmp_path_factory.mktemp("refused") / "office")
    whole = office.control(office.post(["a@example.com"]))
    controls = {name: change(whole) for name, change in REFUSED.items()}
    lines = [write(office, str(20000 + n), control) for n, control in enumerate(controls.values())]
    result, sink = play(office, lines)
    return office, result, sink, controls


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_is_sent_for(case: str, refused: tuple[PostOffice, Result, Sink, dict[str, bytes]]) -> None:
    office, result, _, controls = refused
    name = str(20000 + list(REFUSED).index(case))
    assert name.encode() in result.resyncs
    assert name.encode() not in {report.id for report in result.reports}
    assert (office.transport / name).read_bytes() == controls[case]
    assert any(name.encode() in comment for comment in result.comments), "the problem was not named"


def test_no_refused_file_led_to_a_transaction(refused: tuple[PostOffice, Result, Sink, dict[str, bytes]]) -> None:
    assert refused[2].deliveries() == {b"good@example.com": 1}


ODD_BUT_GOOD = {
    "unknown records": damage(rb"^i ", b"Q what is this\nZ\ni "),
    "a diagnostic cut short at the end": lambda control: control + b"d 100:252:-1::17953648",
    "decimal format flags": damage(rb"^@ .*", b"@ 7"),
    "unknown words in N": damage(rb"^m\n", b"N FOO=bar NOTIFY=NEVER BAZ\nm\n"),
    "two blanks between fields": damage(rb"smtp \[127", b"smtp  [127"),
    "tabs between fields": damage(rb"smtp \[127.0.0.1\] a@example.com", b"smtp\t[127.0.0.1]\ta@example.com"),
    "a record that looks like one in the header": damage(rb"^Subject: .*", b"Subject: x\nr-weird: yes"),
}


def test_what_is_odd_but_clear_is_delivered(office: PostOffice) -> None:
    whole = office.control(office.post(["a@example.com"]))
    names = [str(30000 + n) for n in range(len(ODD_BUT_GOOD))]
    lines = [write(office, name, change(whole)) for name, change in zip(names, ODD_BUT_GOOD.values(), strict=True)]
    result, sink = play(office, lines)
    fates = {report.id.decode(): report.fate for report in result.reports}
    assert {case: fates.get(name) for name, case in zip(names, ODD_BUT_GOOD, strict=True)} == dict.fromkeys(
        ODD_BUT_GOOD, "ok"
    )
    assert sink.deliveries()[b"a@example.com"] == len(ODD_BUT_GOOD)


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    os.mknod(path, 0o140600)


@pytest.mark.parametrize("make", [None, _directory, _fifo, _socket])
def test_a_message_file_that_is_none(office: PostOffice, make: Callable[[Path], None] | None) -> None:
    job = office.post(["a@example.com", "b@example.com"])
    (office.queue / job.path).unlink()
    if make is not None:
        make(office.queue / job.path)
    result, sink = play(office, [job.line(HOST)])
    reports = [report for report in result.reports if report.id == job.id]
    assert [report.word for report in reports] == ["error2", "error2"]
    assert all(b"message file is missing" in report.message for report in reports)
    assert office.marks(job) == "--"
    assert sink.deliveries() == {b"good@example.com": 1}


@pytest.mark.parametrize("make", [None, _directory, _fifo, _socket])
def test_a_control_file_that_is_none(office: PostOffice, make: Callable[[Path], None] | None) -> None:
    if make is not None:
        make(office.transport / "1001")
    result, _ = play(office, [b"1001" + TAB_HOST])
    assert result.resyncs == [b"1001"]


@pytest.mark.parametrize("case", ["offset beyond the end", "message cut short"])
def test_a_body_that_starts_beyond_the_message(office: PostOffice, case: str) -> None:
    """The control file is in order, so its recipients are known: they are deferred, and the place is named."""
    job = office.post(["a@example.com"])
    if case == "message cut short":
        message = office.queue / job.path
        message.write_bytes(message.read_bytes()[:100])
    else:
        control = re.sub(rb"^o \d+$", b"o 999", office.control(job), flags=re.MULTILINE)
        (office.transport / job.path).write_bytes(control)
    before = office.control(job)
    result, sink = play(office, [job.line(HOST)])
    assert office.control(job) == before
    assert [report.word for report in result.reports if report.id == job.id] == ["deferred"]
    assert any(re.search(rb"1001.*byte \d+", comment) for comment in result.comments)
    assert sink.deliveries() == {b"good@example.com": 1}


JOB_LINES = [
    b"..\t[127.0.0.1]",
    b".\t[127.0.0.1]",
    b"/\t[127.0.0.1]",
    b"../transport/1001\t[127.0.0.1]",
    b"A/../1001\t[127.0.0.1]",
    b"1001/1001\t[127.0.0.1]",
    b"\x00\t[127.0.0.1]",
    b"10\x0001\t[127.0.0.1]",
    b"\xff\xfe\x80\t[127.0.0.1]",
    b"1001\r\t[127.0.0.1]",
    b"\x1b[2J\x07\t[127.0.0.1]",
    b"x" * 5000 + b"\t[127.0.0.1]",
    b"\t[127.0.0.1]",
    b"1001\t",
    b"1001\t\t\t",
    b"1001\t[127.0.0.1]\textra\tfields",
    b"1001\t" + b"h" * 3000,
    b"1001\t\xff\x00\x1b",
    b"1001\t[127.0.0.999]",
    b"1001\t[IPv6:",
    b"1001\t[",
    b"#unknown",
    b"#idle\tmore",
    b"-V",
]


def test_job_lines_of_arbitrary_octets(office: PostOffice) -> None:
    job = office.post(["a@example.com"])
    before = office.control(job)
    result, sink = play(office, [line + b"\n" for line in JOB_LINES])
    for comment in (*result.comments, *result.resyncs):
        assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", comment), comment
    # a path that leads to the file may count as a job; it is done at most once and never left half done
    assert sink.deliveries()[b"a@example.com"] in {0, 1}
    assert office.control(job) in {before, before.replace(b"\nr ", b"\nr+")}


def test_a_job_line_without_end_is_bounded(office: PostOffice) -> None:
    result, _ = play(office, [b"y" * (3 << 20) + TAB_HOST])
    assert sum(len(line) for line in (*result.stdout, *result.stderr)) < 1 << 18


CONTROL_CHARACTERS = [b"\r", b"\x01", b"\x08", b"\x0b", b"\x0c", b"\x1b", b"\x7f"]


@pytest.mark.parametrize("caps", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING", "DSN")], ids="-".join)
def test_addresses_that_must_not_reach_the_wire(office: PostOffice, caps: tuple[str, ...]) -> None:
    whole = office.control(office.post(["bad@example.com", "fine@example.com"]))
    bad = [
        *(b"a%sb@example.com" % octet for octet in CONTROL_CHARACTERS),
        b'"a\rRSET\r"@example.com',
        b"a@example.com>\rRCPT",
        b"a@exam\x1bple.com",
        b"l" * 300 + b"@example.com",
        b"a@" + b"d" * 60 + b".example" * 40,
    ]
    lines = [write(office, str(40000 + n), whole.replace(b"bad@example.com", address)) for n, address in enumerate(bad)]
    result, sink = play(office, lines, caps=caps)
    for number in range(len(bad)):
        reports = [report for report in result.reports if report.id == b"%d" % (40000 + number)]
        assert [report.word for report in reports] == ["error2", "ok3"], bad[number]
        assert office.notary(reports[0])[2][:5] in {b"5.1.3", b"5.1.7"}
    assert sink.deliveries() == {b"fine@example.com": len(bad), b"good@example.com": 1}
    assert len(sink.connections) == 1


@pytest.mark.parametrize("sender", [b"s\rRSET@example.org", b"s\x1b@example.org", b"s" * 300 + b"@example.org"])
def test_senders_that_must_not_reach_the_wire(office: PostOffice, sender: bytes) -> None:
    whole = office.control(office.post(["a@example.com", "b@example.com"]))
    line = write(office, "40000", whole.replace(b"local - sender@example.org", b"local - " + sender))
    result, sink = play(office, [line])
    reports = [report for report in result.reports if report.id == b"40000"]
    assert [report.word for report in reports] == ["error2", "error2"]
    assert {office.notary(report)[2][:5] for report in reports} <= {b"5.1.3", b"5.1.7"}
    assert sink.deliveries() == {b"good@example.com": 1}


def test_dsn_words_with_odd_octets_never_break_a_command(office: PostOffice) -> None:
    whole = office.control(office.post(["a@example.com"], extra="n ENVID\n"))
    words = [
        b"NOTIFY=SUCCESS ORCPT=rfc822;a\rRSET",
        b"NOTIFY=EVERYTHING",
        b"ORCPT=rfc822;" + b"x" * 5000,
        b"ORCPT=",
        b"NOTIFY=NEVER,SUCCESS",
        b"BY=99999999999999999999;R",
        b"BY=;;",
        b"EZMLM=-\x1bx",
    ]
    lines = [
        write(office, str(50000 + n), whole.replace(b"\nm\n", b"\nN %s\nm\n" % word)) for n, word in enumerate(words)
    ]
    lines += [write(office, "50100", whole.replace(b"n ENVID", b"n a\rRSET"))]
    lines += [write(office, "50101", whole.replace(b"n ENVID", b"n " + b"e" * 500))]
    result, sink = play(office, lines, caps=("PIPELINING", "DSN", "DELIVERBY"))
    assert {report.fate for report in result.reports} <= {"ok", "error"}
    assert all(len(command) < 1000 for connection in sink.connections for command in connection.lines)
    assert sum(sink.deliveries().values()) == sum(report.fate == "ok" for report in result.reports)


def test_a_long_list_is_taken_in_its_order(office: PostOffice) -> None:
    job: Job = office.post([f"u{n}@example.com" for n in range(2000)])
    result, sink = play(office, [job.line(HOST)])
    assert office.marks(job) == "+" * 2000
    assert [report.offset for report in result.reports if report.id == b"1001"] == list(job.offsets)
    assert sum(sink.deliveries().values()) == 2001
