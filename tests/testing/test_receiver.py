"""The receiver for other people's tests: what it takes, what it answers, and that nothing leaves this machine."""

from __future__ import annotations

import smtplib
import subprocess
import sys
import threading
from email.message import EmailMessage
from pathlib import Path

import pytest
from tests.support.retries import LONG, retry_soon

import zsmtp
from zsmtp.dns.answer import MX, Query, RecordType, Status
from zsmtp.testing import ClosedWorld, MailReceiver

MESSAGE = b"From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nSubject: Lunch\r\n\r\nAt one?\r\n"


def deliver(receiver: MailReceiver, *recipients: str, **more: float) -> list[tuple[str, str]]:
    report = zsmtp.deliver(MESSAGE, recipients=recipients or None, config=receiver.config, **more)  # type: ignore[arg-type]
    return [(result.fate.value, result.reply or result.text) for result in report]


def test_mail_to_any_domain_comes_here() -> None:
    with MailReceiver() as receiver:
        assert deliver(receiver, "a@example.net", "b@sub.example.com", "c@no.such.domain.anywhere")[0][0] == "delivered"
        assert sorted(to for mail in receiver.outbox for to in mail.recipients) == [
            "a@example.net",
            "b@sub.example.com",
            "c@no.such.domain.anywhere",
        ]
        assert {query.type for query in receiver.domains.queries} >= {RecordType.MX, RecordType.A}


def test_what_came_can_be_looked_at() -> None:
    with MailReceiver() as receiver:
        deliver(receiver)
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "ann@example.org", "bob@example.net", "Gr\u00fc\u00dfe"
        message.set_content("Hallo \u00fc.\n")
        message.add_alternative("<p>Hallo</p>", subtype="html")
        message.add_attachment(b"\x00\x01", maintype="application", subtype="octet-stream", filename="x.bin")
        zsmtp.deliver(message, config=receiver.config)
        first, second = receiver.outbox
    assert (first.sender, first.recipients, first.content) == ("ann@example.org", ("bob@example.net",), MESSAGE)
    assert (first.message["Subject"], first.text) == ("Lunch", "At one?\n")
    assert (second.message["Subject"], second.text) == ("Gr\u00fc\u00dfe", "Hallo \u00fc.\n")
    assert [part.get_filename() for part in second.message.iter_attachments()] == ["x.bin"]


def test_other_programs_reach_it_as_well() -> None:
    with MailReceiver() as receiver:
        assert receiver.url == f"smtp://127.0.0.1:{receiver.port}"
        with smtplib.SMTP("127.0.0.1", receiver.port) as client:
            client.sendmail("a@example.org", ["b@example.net"], MESSAGE)
        assert zsmtp.deliver(MESSAGE, relay=receiver.url).ok
        assert len(receiver.outbox) == 2


def test_recipients_are_refused_and_deferred_as_scripted() -> None:
    with MailReceiver() as receiver:
        receiver.refuse("*@GONE.example")
        receiver.defer("busy@example.net", times=2)
        assert deliver(receiver, "a@gone.example") == [("failed", "550 5.1.1 No such user")]
        assert [deliver(receiver, "busy@example.net")[0][0] for _ in range(3)] == ["deferred", "deferred", "delivered"]
        assert len(receiver.outbox) == 1
        receiver.reset()
        assert receiver.outbox == []
        assert deliver(receiver, "a@gone.example")[0][0] == "delivered"


def test_every_moment_can_be_answered() -> None:
    with MailReceiver() as receiver:
        receiver.answer("MAIL", "552 5.2.2 You send too much", address="ann@*", times=1)
        assert deliver(receiver) == [("failed", "552 5.2.2 You send too much")]
        receiver.answer("content", "554 5.7.1 Spam", address="bob@*", times=1)
        receiver.answer("content", "451 4.3.0 Disk full", times=1)
        assert deliver(receiver) == [("failed", "554 5.7.1 Spam")]
        assert deliver(receiver) == [("deferred", "451 4.3.0 Disk full")]
        receiver.answer("connect", "421 4.3.2 Too many connections", times=1)
        assert deliver(receiver)[0][0] == "deferred"
        assert receiver.outbox == []
        assert deliver(receiver)[0][0] == "delivered"


def test_a_reply_of_several_lines() -> None:
    with MailReceiver() as receiver:
        receiver.refuse("bob@example.net", "550 5.7.1 No\n5.7.1 and again no")
        assert deliver(receiver) == [("failed", "550 5.7.1 No / 5.7.1 and again no")]


def test_a_deferred_recipient_is_taken_at_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    retry_soon(monkeypatch)
    with MailReceiver() as receiver:
        receiver.defer("bob@example.net", times=1)
        assert deliver(receiver, retry_for=LONG) == [("delivered", "250 2.0.0 ok")]


def test_lmtp_has_an_answer_for_each_recipient() -> None:
    with MailReceiver(lmtp=True) as receiver:
        receiver.answer("content", "552 5.2.2 Mailbox full", address="full@example.net")
        fates = [fate for fate, _ in deliver(receiver, "a@example.net", "full@example.net")]
        assert fates == ["delivered", "failed"]
        (mail,) = receiver.outbox
        assert (mail.recipients, mail.protocol) == (("a@example.net",), "LMTP")
        assert receiver.url.startswith("lmtp://127.0.0.1:")


def test_domains_may_be_missing_silent_or_take_no_mail() -> None:
    with MailReceiver() as receiver:
        receiver.domains.missing.add("gone.example")
        receiver.domains.silent.add("slow.example")
        receiver.domains.no_mail.add("null.example")
        assert deliver(receiver, "a@mail.gone.example")[0][0] == "failed"
        assert deliver(receiver, "a@slow.example")[0][0] == "deferred"
        assert deliver(receiver, "a@null.example")[0][0] == "failed"
        assert receiver.outbox == []


@pytest.mark.parametrize("literal", ["[192.0.2.1]", "[IPv6:2001:db8::1]"])
def test_nothing_leaves_this_machine(literal: str) -> None:
    """Whatever address a recipient names: from loopback there is no way to it, and it is known at once."""
    with MailReceiver() as receiver:
        [(fate, why)] = deliver(receiver, f"a@{literal}")
        assert fate == "deferred"
        assert "timed out" not in why
        assert deliver(receiver, "a@[127.0.0.1]")[0][0] == "delivered"


def test_waiting_for_mail_that_comes_later() -> None:
    with MailReceiver() as receiver:
        sender = threading.Timer(0.1, deliver, (receiver,))
        sender.start()
        assert [mail.sender for mail in receiver.wait_for()] == ["ann@example.org"]
        sender.join()
        with pytest.raises(TimeoutError, match=r"1 of 2 messages came in 0\.1 s"):
            receiver.wait_for(2, timeout=0.1)


@pytest.mark.parametrize("reply", ["250 ok", "no", "99 x", "354 go ahead"])
def test_an_answer_has_to_be_a_refusal(reply: str) -> None:
    with MailReceiver() as receiver:
        with pytest.raises(zsmtp.ConfigError, match="is no refusal"):
            receiver.refuse("a@example.net", reply)
        with pytest.raises(zsmtp.ConfigError, match="times: 0"):
            receiver.defer("a@example.net", times=0)


def test_it_is_closed_once_and_for_all() -> None:
    receiver = MailReceiver()
    receiver.close()
    receiver.close()
    assert deliver(receiver)[0][0] == "deferred"


def test_the_closed_world() -> None:
    world = ClosedWorld()
    assert world.lookup(Query("example.net", RecordType.MX), 0.0).records == (MX(10, "mx.example.net"),)
    assert world.lookup(Query("mx.example.net", RecordType.A), 0.0).records == ("127.0.0.1",)
    for kind in set(RecordType) - {RecordType.MX, RecordType.A}:
        answer = world.lookup(Query("example.net", kind), 0.0)
        assert (answer.status, answer.records) == (Status.NODATA, ())


PROJECT = """
from zsmtp.testing import MailReceiver

def test_one(mail_receiver: MailReceiver) -> None:
    import zsmtp
    assert zsmtp.deliver(b"From: a@example.org\\nTo: b@example.net\\n\\nx\\n", config=mail_receiver.config).ok
    assert len(mail_receiver.outbox) == 1

def test_another(mail_receiver: MailReceiver) -> None:
    assert mail_receiver.outbox == []
"""


def test_the_plugin_in_a_project_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["zsmtp.testing.plugin"]\n')
    (tmp_path / "test_mail.py").write_text(PROJECT)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_pytest_is_needed_for_the_plugin_only() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "import zsmtp.testing\n"
        "with zsmtp.testing.MailReceiver() as receiver: print(receiver.outbox)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
