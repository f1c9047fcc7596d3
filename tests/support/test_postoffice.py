"""The temporary post office: what it writes, what it reads back, and how strict it is with reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.postoffice import BODY, HEADER, Diagnostic, PostOffice, Rcpt, Report, wire_content


def test_control_and_message_file(tmp_path: Path) -> None:
    office = PostOffice(tmp_path)
    job = office.post(["a@b", Rcpt("c@d", host="x.example", words="NOTIFY=NEVER", state="+")], name="A/B/1001-7")
    control = office.control(job)
    assert control.startswith(b"@ 0x00000007\ni 1001-7\no ")
    assert control.endswith(b"m\n" + HEADER.encode() + b"\n")
    assert [control[offset : offset + 2] for offset in job.offsets] == [b"r ", b"r+"]
    assert b"\nr+          smtp x.example c@d 99\nN NOTIFY=NEVER\n" in control
    body_offset = int(control.split(b"\no ")[1].split(b"\n")[0])
    assert (office.queue / "A/B/1001-7").read_bytes()[body_offset:] == BODY.encode()
    assert (job.id, office.marks(job), office.locked()) == (b"1001", " +", [])


def test_locks_and_diagnostics_are_seen(tmp_path: Path) -> None:
    office = PostOffice(tmp_path)
    job = office.post([Rcpt("a@b", state="~", lock="   123")])
    with (office.transport / job.path).open("ab") as control:
        control.write(b"d 100:252:-1::1795364806\ta@b\x01failed\x015.1.1\x01smtp; 550 (x)\x01y\tno\r<<- x\n")
    assert office.locked() == ["1001"]
    assert office.diagnostics(job) == [
        Diagnostic(100, 252, -1, 1795364806, (b"a@b", b"failed", b"5.1.1", b"smtp; 550 (x)", b"y"), b"no\r<<- x")
    ]


def test_notary_data_are_in_the_report_or_in_the_file(tmp_path: Path) -> None:
    office = PostOffice(tmp_path)
    job = office.post(["a@b", "c@d"], name="A/77-1")
    office.post(["a@b"], name="A/770-1")
    with (office.transport / job.path).open("ab") as control:
        control.write(b"d %d:252:-1::1\tc@d\x01failed\x015.1.1\x01smtp; 550 (x)\x01y\tno\n" % job.offsets[1])
    first, second = (Report(job.id, offset, (), "error2", b"") for offset in job.offsets)
    assert office.notary(first) == ()
    assert office.notary(second)[:2] == (b"c@d", b"failed")
    assert office.notary(Report(job.id, 0, (b"x",), "error", b"")) == (b"x",)


@pytest.mark.parametrize(
    ("line", "fate"),
    [
        (b"1/2\t\tok", "ok"),
        (b"1/2\t\tok3 \r<<- .\r->> 250 ok", "ok"),
        (b"1/2\ta@b\x01failed\x015.1.1 (bad)\x01smtp; 550 (x)\x01dns; m (1|2|3|4)\x01smtp[1]\terror no", "error"),
        (b"1/2\ta@b\x01failed\x014.4.1\x01smtp; 450 (x)\x01\tretryat +60 no", "deferred"),
    ],
)
def test_reports_are_taken_apart(line: bytes, fate: str) -> None:
    assert Report.parse(line).fate == fate


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"1/2\tok",
        b"1/2\t\tmaybe",
        b"1/2\t\tok tab\there",
        b"1/2\t\tok esc\x1b[m",
        b"1/2\t\tretryat soon",
        b"1/2\ta@b\x01failed\x015.1.1\terror no",
        b"1/2\ta@b\x01failed\x01never\x01smtp; 550\x01\terror no",
        b"1/2\ta@b\x01lost\x015.1.1\x01smtp; 550\x01\terror no",
        b"1/2\ta@b\x01delayed\x014.4.1\x01smtp; 450 (x)\x01\tdeferred no",
        b"1/2\ta@b\x01failed\x015.1.1\x01smtp; 550\rx\x01\terror no",
    ],
)
def test_bad_reports_are_not_taken(line: bytes) -> None:
    with pytest.raises(AssertionError):
        Report.parse(line)


def test_the_form_of_the_wire() -> None:
    assert wire_content("A: b\n", ".\nx\r\n..y\rz") == b"A: b\r\n\r\n..\r\nx\r\n...y\r\nz\r\n"
    assert wire_content(b"A: b\n", b".x", stuffed=False) == b"A: b\r\n\r\n.x\r\n"
