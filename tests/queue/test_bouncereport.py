"""Reports of other systems, read; and octets of strangers, which never raise."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.queue import reports
from tests.queue.reports import STATUS, TEXT, multipart
from tests.support.queuenotices import SCENES

from zsmtp.queue.bouncereport import (
    MAX_HEADER,
    MAX_OCTETS,
    MAX_PARTS,
    MAX_RECIPIENTS,
    MAX_WORDS,
    Complaint,
    DeliveryReport,
    ReportedRecipient,
    addressed_to,
    read_report,
)
from zsmtp.queue.states import NoticeKind

SHAPES = [reports.postfix, reports.exim, reports.sendmail, reports.exchange]


def recipients(octets: bytes) -> tuple[ReportedRecipient, ...]:
    found = read_report(octets)
    assert isinstance(found, DeliveryReport)
    return found.recipients


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
def test_reports_of_other_systems(shape: Callable[[], bytes], ending: bytes) -> None:
    (one,) = recipients(shape().replace(b"\r\n", ending))
    assert one.addresses[0] == b"bob@example.net"
    assert (one.action, one.status, one.code) == ("failed", "5.1.1", 550)
    assert "no such" in one.words
    assert one.server == ("AB1PR00.example.com" if shape is reports.exchange else "store.example.net")


def test_original_and_final_recipient() -> None:
    assert recipients(reports.postfix())[0].addresses == (b"bob@example.net", b"final-bob@example.net")


def test_internationalised_reports() -> None:
    fields = (
        "Reporting-MTA: dns; mx\n\nOriginal-Recipient: utf-8; k\\x{E4}the@example.net\n"
        "Final-Recipient: utf-8; käthe@exämple.net\nAction: failed\nStatus: 5.1.1\n"
    )
    text = base64.encodebytes(fields.encode()).decode()
    part = ("Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: base64", text)
    (one,) = recipients(multipart("delivery-status", TEXT, part))
    assert one.addresses == ("käthe@example.net".encode(), "käthe@exämple.net".encode())


def test_several_recipients_and_those_that_are_not_told() -> None:
    groups = "\n\n".join(
        f"Final-Recipient: rfc822; r{n}@example.net\nAction: failed" for n in range(MAX_RECIPIENTS + 50)
    )
    found = recipients(multipart("delivery-status", TEXT, (STATUS, f"Reporting-MTA: dns; mx\n\n{groups}\n")))
    assert len(found) == MAX_RECIPIENTS
    assert found[7].addresses == (b"r7@example.net",)
    assert found[7][2:] == ("", 0, "", "mx")


def test_words_are_bounded_and_on_one_line() -> None:
    status = "A: b\n\nFinal-Recipient: rfc822; a@b.example\nAction: failed\nDiagnostic-Code: smtp; 550 \x1b[1m"
    status += "x" * 9999 + "\n"
    (one,) = recipients(multipart("delivery-status", TEXT, (STATUS, status)))
    assert len(one.words) <= MAX_WORDS
    assert one.words.isprintable()
    status = status.replace("a@b.example", "x" * 5000 + "@b.example")
    assert recipients(multipart("delivery-status", TEXT, (STATUS, status)))[0].addresses == ()


def test_a_status_of_another_class_does_not_count() -> None:
    status = "A: b\n\nFinal-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 4.0.0\n"
    status += "Diagnostic-Code: smtp; 550 5.1.1 x\n"
    assert recipients(multipart("delivery-status", TEXT, (STATUS, status)))[0].status == "4.0.0"


@pytest.mark.parametrize("name", SCENES)
def test_the_notices_of_this_program_are_read(name: str) -> None:
    found = recipients(SCENES[name]())
    assert found
    assert {one.action for one in found} <= {kind.value for kind in NoticeKind}
    assert all(one.status for one in found)


def test_complaints() -> None:
    found = read_report(reports.complaint("bounce+1@example.org", "Abuse", "bob@example.net"))
    assert found == Complaint("abuse", (b"bounce+1@example.org",), (b"bob@example.net",), "Loop/1")
    fields = ("Content-Type: message/feedback-report", "Feedback-Type: abuse\nVersion: 1\n")
    found = read_report(multipart("feedback-report", TEXT, fields, reports.ORIGINAL))
    assert found == Complaint("abuse", (b"ann@example.org",), (), "")


def test_what_is_no_report() -> None:
    whole = reports.postfix()
    nested = multipart("x", ("Content-Type: message/rfc822", whole.decode().replace("\r\n", "\n")), boundary="outer")
    many = multipart(
        "delivery-status", *([TEXT] * MAX_PARTS), (STATUS, "A: b\n\nFinal-Recipient: rfc822; a@b.example\n")
    )
    late = multipart(
        "delivery-status", ("A: b", "x" * MAX_OCTETS), (STATUS, "A: b\n\nFinal-Recipient: rfc822; a@b.c\n")
    )
    for octets in (
        b"",
        b"\r\n\r\n",
        b"Subject: out of office\r\n\r\nI am away\r\n",
        whole.replace(b"multipart/report", b"multipart/mixed"),
        whole.replace(b"boundary=", b"border="),
        whole.replace(b"Final-Recipient", b"X").replace(b"Original-Recipient", b"Y"),
        multipart("delivery-status"),
        nested,
        many,
        late,
        reports.complaint("a@b.example").replace(b"Feedback-Type", b"X-Type"),
    ):
        assert read_report(octets) is None


def test_a_report_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    whole = reports.exim()
    end = whole.index(b"Diagnostic-Code")
    assert recipients(whole[:end])[0].status == "5.0.0"


def test_a_header_beyond_its_bound_is_none() -> None:
    fields = "A: b\n\nFinal-Recipient: rfc822; a@b.example\n"
    assert read_report(multipart("delivery-status", (f"{STATUS}\r\nX: {'(' * MAX_HEADER}", fields))) is None
    assert read_report(b"X: " + b"(" * MAX_HEADER + b"\r\n" + reports.exim()) is None


def test_hostile_structures_cost_little() -> None:
    deep = (
        b"Content-Type: multipart/report; boundary=b\r\n\r\n"
        + b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 9000
    )
    assert read_report(deep) is None
    assert read_report(b"Content-Type: multipart/report; boundary=b\r\n\r\n" + b"--b\r\n" * 100_000) is None
    blanks = "\n \t" * 100_000
    assert read_report(multipart("delivery-status", (STATUS, blanks))) is None


SEEDS = [shape() for shape in SHAPES] + [reports.complaint("a@b.example")]


@given(st.binary(max_size=300))
def test_no_octets_raise(octets: bytes) -> None:
    read_report(octets)
    addressed_to(octets)
    read_report(b"Content-Type: multipart/report; boundary=b\n\n--b\n" + octets)


@given(st.data())
def test_no_change_of_a_report_raises(data: st.DataObject) -> None:
    octets = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(octets)))
        end = data.draw(st.integers(start, min(len(octets), start + 40)))
        octets[start:end] = data.draw(
            st.one_of(st.binary(max_size=20), st.sampled_from([b"\n", b"\r", b"--", b";", b'"', b"(", b"="]))
        )
    read_report(bytes(octets))


def test_whom_a_message_came_to() -> None:
    header = b"Delivered-To: <a@b.example>\nX-Original-To: a@b.example\nTo: c@d.example (comment)\nCc: x@y.example\n\n"
    assert addressed_to(header) == [b"a@b.example", b"c@d.example"]
