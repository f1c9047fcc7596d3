"""What a developer meets in the library; each test is named after its point. Programs run as processes of their own."""

from __future__ import annotations

import pytest
from tests.support.newcomer import Newcomer
from tests.support.receiver import receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

LETTER = r"""
import sys, zsmtp
letter = b"From: ann@example.org\nTo: bob@example.net\nSubject: Lunch\n\nAt one?\n"
"""


def test_h4_a_timeout_that_is_named_changes_no_other(newcomer: Newcomer) -> None:
    (newcomer.folder / "zsmtp.toml").write_text("[timeouts]\nquit = 2\n")
    done = newcomer.python(
        LETTER
        + "usual = zsmtp.Config().timeouts\n"
        + "for config in (zsmtp.Config(timeouts=zsmtp.Timeouts(quit=2)), zsmtp.Config.from_toml('zsmtp.toml')):\n"
        + "    print(config.timeouts.connect == usual.connect, config.timeouts.final == usual.final)\n"
    )
    assert (done.out, done.err) == ("True True\n" * 2, "")


def test_h6_a_header_is_read_once_and_by_one_reader(newcomer: Newcomer) -> None:
    program = r"""
import cProfile, pstats, sys, zsmtp
letters = [b"From: a@example.org\nTo: b%d@example.net\nSubject: x\n\nhi\n" % n for n in range(50)]
profile = cProfile.Profile()
import asyncio
async def main():
    async with zsmtp.aio.Client(relay=sys.argv[1]) as client:
        async for result in client.stream(letters):
            assert result.ok, result
profile.enable()
asyncio.run(main())
profile.disable()
calls = {}
for (file, _, name), (_, count, *_) in pstats.Stats(profile).stats.items():
    if "/email/" in file:
        calls["email"] = calls.get("email", 0) + count
    if (file.rpartition("/client/")[2], name) in {("header.py", "envelope_in"), ("message.py", "_read")}:
        calls[name] = count
print(sorted(calls.items()))
"""
    with Sink() as sink:
        done = newcomer.python(program, f"smtp://127.0.0.1:{sink.port}")
    assert (done.out, done.err) == ("[('_read', 50), ('envelope_in', 50)]\n", "")


def test_m3_deliver_on_an_event_loop_names_the_right_call(newcomer: Newcomer) -> None:
    done = newcomer.python(
        LETTER
        + "import asyncio\nasync def view(): zsmtp.deliver(letter, relay='smtp://127.0.0.1:1')\nasyncio.run(view())"
    )
    assert done.status == 1
    assert done.err.rstrip().endswith("use await zsmtp.aio.deliver(...)")


def test_m4_a_client_without_asyncio_keeps_its_connection(newcomer: Newcomer) -> None:
    program = LETTER + (
        "with zsmtp.Client(relay=sys.argv[1]) as client:\n"
        "    for result in client.stream([letter] * 20):\n"
        "        print(result.fate.value)\n"
    )
    with Sink() as sink:
        done = newcomer.python(program, f"smtp://127.0.0.1:{sink.port}")
    assert (done.out, done.err) == ("delivered\n" * 20, "")
    assert len(sink.connections) < 20


def test_m5_a_missing_secret_is_found_out_at_once(newcomer: Newcomer) -> None:
    done = newcomer.python(
        LETTER
        + "relay = zsmtp.Relay.from_url('smtp://ann@localhost:1', password_env='NOPE')\n"
        + "try:\n    zsmtp.Client(relay=relay)\nexcept zsmtp.ConfigError as error:\n    print(error)\n"
    )
    assert done.out == "the secret for ann: the environment variable NOPE is empty\n"


def test_m2_one_recipient_that_is_no_address_fails_alone(newcomer: Newcomer) -> None:
    program = LETTER + (
        "one = zsmtp.Submission(message=letter, recipients=['good@example.net', 'bad'])\n"
        "with zsmtp.Client(relay=sys.argv[1]) as client:\n"
        "    for result in client.stream([one]):\n"
        "        print(result.recipient, result.fate.value, result.submission is one)\n"
    )
    with Sink() as sink:
        done = newcomer.python(program, f"smtp://127.0.0.1:{sink.port}")
    assert sorted(done.out.splitlines()) == ["bad failed True", "good@example.net delivered True"]


def test_m9_the_dialogue_reads_as_everywhere(newcomer: Newcomer) -> None:
    program = LETTER + (
        "import logging\n"
        "from zsmtp.observers.logging import logging_observer\n"
        "logging.basicConfig(level=logging.DEBUG, format='%(message)s', stream=sys.stdout)\n"
        "report = zsmtp.deliver(letter, relay=sys.argv[1], observe=logging_observer)\n"
        "print(report.results[0].text)\n"
    )
    with Sink(Script(replies={"RCPT": (Step("550 5.1.1 nobody"),)})) as sink:
        done = newcomer.python(program, f"smtp://127.0.0.1:{sink.port}")
    lines = done.out.splitlines()
    assert lines[-2:] == ["C: RCPT TO:<bob@example.net>", "S: 550 5.1.1 nobody"]
    assert lines.count("C: RCPT TO:<bob@example.net>") == 2
    assert "<<-" not in done.out
    assert "->>" not in done.out


@pytest.mark.parametrize("phase", ["connect", "MAIL"])
def test_m10_a_time_that_is_over_is_called_that(newcomer: Newcomer, phase: str) -> None:
    hanging = Script(banner=Step(None)) if phase == "connect" else Script(replies={"MAIL": (Step(None, Then.HANG),)})
    with Sink(hanging) as sink:
        done = newcomer.python(
            LETTER + "print(zsmtp.deliver(letter, relay=sys.argv[1], timeout=0.5))", f"smtp://127.0.0.1:{sink.port}"
        )
    assert "the time for this message (0.5 s) is over" in done.out
    assert "interrupted" not in done.out


def test_m12_an_address_beyond_ascii_in_an_old_message_is_delivered(newcomer: Newcomer) -> None:
    program = (
        "import sys, zsmtp\nfrom email.mime.text import MIMEText\n"
        "note = MIMEText('x')\nnote['From'] = '\u00c4nne <a@b.example>'\nnote['To'] = 'c@d.example'\n"
        "print(zsmtp.deliver(note, relay=sys.argv[1]).ok)\n"
    )
    with receiving() as receiver:
        done = newcomer.python(program, f"smtp://127.0.0.1:{receiver.port}")
    assert (done.out, done.err) == ("True\n", "")
    (envelope,) = receiver.messages
    assert envelope.mail_from == "a@b.example"
    assert isinstance(envelope.content, bytes)
    assert envelope.content.isascii()


def test_m13_results_are_matched_and_raised(newcomer: Newcomer) -> None:
    (newcomer.folder / "note.eml").write_bytes(b"From: a@example.org\nTo: b@example.net\n\nhi\n")
    program = LETTER + (
        "with zsmtp.Client(relay=sys.argv[1]) as client:\n"
        "    for result in client.stream(['note.eml', 'missing.eml']):\n"
        "        print(result.message, result.submission.message)\n"
        "        try:\n            result.raise_for_failure()\n"
        "        except zsmtp.NotDelivered as error:\n"
        "            print('raised', len(error.report), bool(error.report))\n"
    )
    with Sink(Script(replies={"RCPT": (Step("550 5.1.1 nobody"),)})) as sink:
        done = newcomer.python(program, f"smtp://127.0.0.1:{sink.port}")
    assert sorted(done.out.splitlines()) == [
        "missing.eml missing.eml",
        "note.eml note.eml",
        "raised 1 False",
        "raised 1 False",
    ]


def test_low_metrics_made_twice_are_told_of_in_words(newcomer: Newcomer) -> None:
    done = newcomer.python("from zsmtp.observers.prometheus import Metrics\nMetrics()\nMetrics()\n")
    assert done.status == 1
    assert "zsmtp.errors.ConfigError: " in done.err.splitlines()[-1]


def test_low_a_login_with_two_secrets_is_refused_in_a_sentence(newcomer: Newcomer) -> None:
    done = newcomer.python("import zsmtp\nzsmtp.Login(user='ann')\n")
    assert done.err.splitlines()[-1].endswith(
        "password: one of password, password_file and password_env is expected, and none is given"
    )
