"""One message delivered by a program: what arrives at a receiver by other people, and what is reported."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from tests.support.receiver import Receiver, receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink, refusing_port

import zsmtp
from zsmtp.client import blocking
from zsmtp.errors import LoopRunning


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


def letter() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Ann <ann@example.org>"
    message["To"] = "bob@example.net, Carl <carl@example.com>"
    message["Bcc"] = "dora@example.com"
    message["Subject"] = "hello"
    message["Message-ID"] = "<1@example.org>"
    message.set_content("Grüße\n")
    return message


def url(receiver: Receiver | Sink) -> str:
    return f"smtp://127.0.0.1:{receiver.port}"


def test_an_email_message_goes_to_whom_its_header_names_and_bcc_is_not_told(receiver: Receiver) -> None:
    report = zsmtp.deliver(letter(), relay=url(receiver))
    assert report.ok
    assert report.message == "<1@example.org>"
    assert [one.recipient for one in report] == ["bob@example.net", "carl@example.com", "dora@example.com"]
    assert {one.fate for one in report} == {zsmtp.Fate.DELIVERED}
    assert report.results[0].reply == "250 2.0.0 taken as 1"
    assert report.results[0].server is not None
    assert report.results[0].server.port == receiver.port
    assert [one.problem for one in report.results[0].attempts] == [""]
    (got,) = receiver.messages
    assert got.mail_from == "ann@example.org"
    assert got.rcpt_tos == [one.recipient for one in report]
    assert isinstance(got.content, bytes)
    assert b"Bcc" not in got.content
    assert got.content.endswith("\r\nGrüße\r\n".encode())
    json.dumps(report.as_dict())


@pytest.mark.parametrize("kind", ["bytes", "path", "text path", "file", "pipe"])
def test_octets_a_path_and_a_file_arrive_alike(kind: str, receiver: Receiver, tmp_path: Path) -> None:
    octets = b"From: ann@example.org\r\nBcc: x@example.net,\r\n y@example.net\r\nSubject: s\r\n\r\n.dot\nlast"
    path = tmp_path / "letter.eml"
    path.write_bytes(octets)
    reader, writer = os.pipe()
    with open(path, "rb") as file, open(reader, "rb") as pipe:
        os.write(writer, octets)
        os.close(writer)
        given = {"bytes": octets, "path": path, "text path": str(path), "file": file, "pipe": pipe}[kind]
        report = zsmtp.deliver(given, relay=url(receiver))  # type: ignore[arg-type]
    assert report.ok
    (got,) = receiver.messages
    assert got.rcpt_tos == ["x@example.net", "y@example.net"]
    assert got.content == b"From: ann@example.org\r\nSubject: s\r\n\r\n.dot\r\nlast\r\n"


def test_a_file_is_read_from_where_it_stands(receiver: Receiver) -> None:
    file = io.BytesIO(b"junk\n\nFrom: a@example.org\n\nbody\n")
    file.seek(6)
    assert zsmtp.deliver(file, recipients="b@example.net", relay=url(receiver)).ok
    assert receiver.messages[0].content == b"From: a@example.org\r\n\r\nbody\r\n"


def test_each_recipient_has_its_own_result(receiver: Receiver) -> None:
    receiver.refuse.add("carl@example.com")
    report = zsmtp.deliver(letter(), relay=url(receiver))
    assert not report.ok
    assert [one.fate.value for one in report] == ["delivered", "failed", "delivered"]
    (refused,) = report.with_fate(zsmtp.Fate.FAILED)
    assert (refused.code, refused.status, refused.reply) == (550, "5.1.1", "550 5.1.1 no such user")
    with pytest.raises(zsmtp.NotDelivered, match=r"carl@example\.com: failed") as error:
        report.raise_for_failures()
    assert error.value.report is report


def test_nobody_there_is_a_deferral_and_no_exception() -> None:
    with refusing_port() as port:
        report = zsmtp.deliver(letter(), relay=f"smtp://127.0.0.1:{port}")
    assert {one.fate for one in report} == {zsmtp.Fate.DEFERRED}
    assert [one.problem for one in report.results[0].attempts] == ["Connection refused"]
    assert report.results[0].code == 0


def test_a_connection_lost_behind_the_last_octet_leaves_the_message_in_doubt() -> None:
    with Sink(Script(replies={"DOT": (Step(None, Then.CLOSE),)})) as sink:
        report = zsmtp.deliver(letter(), relay=url(sink))
    assert {one.fate for one in report} == {zsmtp.Fate.IN_DOUBT}


def test_the_time_for_a_message_ends_a_silent_dialogue() -> None:
    with Sink(Script(replies={"MAIL": (Step(None),)})) as sink:
        report = zsmtp.deliver(letter(), relay=url(sink), timeout=0.2)
    assert {one.fate for one in report} == {zsmtp.Fate.DEFERRED}
    assert "the time for this message (0.2 s) is over" in report.results[0].text


def test_it_is_refused_where_a_loop_runs_with_the_name_of_the_right_call(receiver: Receiver) -> None:
    """It would stand still, and all that the program does with it."""

    async def view() -> None:
        with pytest.raises(LoopRunning, match=r"use await zsmtp\.aio\.deliver"):
            blocking.deliver(letter(), relay=url(receiver))
        assert (await zsmtp.aio.deliver(letter(), relay=url(receiver))).ok

    asyncio.run(view())
    assert len(receiver.messages) == 1
    assert issubclass(LoopRunning, RuntimeError)


def test_an_error_has_no_other_one_behind_it() -> None:
    """That no loop was running is no error, and is not shown as the reason of one."""
    with pytest.raises(zsmtp.SubmissionError) as caught:
        zsmtp.deliver(b"x", relay="smtp://localhost:1")
    assert caught.value.__context__ is None


def test_a_report_is_true_if_everybody_got_the_message(receiver: Receiver) -> None:
    receiver.refuse = {"bob@example.net"}
    report = zsmtp.deliver(letter(), relay=url(receiver))
    assert not report
    assert bool(report) is report.ok
    good, *_, bad = sorted(report, key=lambda one: not one.ok)
    good.raise_for_failure()
    with pytest.raises(zsmtp.NotDelivered) as caught:
        bad.raise_for_failure()
    assert caught.value.report.results == (bad,)


def test_a_file_without_a_message_id_is_called_by_its_path(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "note.eml"
    path.write_bytes(b"From: a@example.org\nTo: b@example.net\n\nhello\n")
    with zsmtp.Client(relay=url(receiver)) as client:
        results = list(
            client.stream([path, str(path), tmp_path / "missing.eml", zsmtp.Submission(message=path, name="n")])
        )
    assert sorted(one.message for one in results) == sorted([str(path), str(path), f"{tmp_path}/missing.eml", "n"])
