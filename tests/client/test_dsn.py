"""What a sender wants to be notified of (RFC 3461): what servers are told, and what is left to the program."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

import zsmtp
from zsmtp.client.message import Letter
from zsmtp.proto.address import is_xtext

LETTER = b"From: ann@example.org\nTo: bob@example.net, carl@example.net, dora@example.com\nSubject: s\n\nbody\n"
ALL = zsmtp.DSN(
    notify={"delay", "success"}, ret="headers", envid="order 17", original={"carl@EXAMPLE.net": "c+1@a.org"}
)
REFUSED = {"RCPT": (Step("250 ok"), Step("550 5.1.1 no"), Step("451 4.2.1 later")), "DOT": (Step("250 ok"),)}


class TwoLines:
    def __repr__(self) -> str:
        return "two\nlines"


def relay(sink: Sink, *, lmtp: bool = False) -> str:
    return f"{'lmtp' if lmtp else 'smtp'}://{sink.host}:{sink.port}"


@pytest.mark.parametrize("caps", [("DSN",), ("DSN", "PIPELINING", "CHUNKING")])
@pytest.mark.parametrize("lmtp", [False, True])
def test_where_dsn_is_offered_the_request_travels_on(caps: tuple[str, ...], *, lmtp: bool) -> None:
    with Sink(Script(caps=caps, lmtp=lmtp)) as sink:
        report = zsmtp.deliver(LETTER, relay=relay(sink, lmtp=lmtp), dsn=ALL)
    assert sink.connections[0].lines[1:5] == [
        b"MAIL FROM:<ann@example.org> ENVID=order+2017 RET=HDRS",
        b"RCPT TO:<bob@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob@example.net",
        b"RCPT TO:<carl@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2B1@a.org",
        b"RCPT TO:<dora@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;dora@example.com",
    ]
    assert [(one.dsn_passed_on, one.dsn_action) for one in report] == [(True, "")] * 3


@pytest.mark.parametrize(("lmtp", "action"), [(False, "relayed"), (True, "delivered")])
def test_where_it_is_not_offered_the_program_has_to_say_so(action: str, *, lmtp: bool) -> None:
    with Sink(Script(lmtp=lmtp)) as sink:
        report = zsmtp.deliver(LETTER, relay=relay(sink, lmtp=lmtp), dsn=ALL)
    assert sink.connections[0].lines[1:3] == [b"MAIL FROM:<ann@example.org>", b"RCPT TO:<bob@example.net>"]
    assert [(one.dsn_passed_on, one.dsn_action) for one in report] == [(False, action)] * 3
    assert report.as_dict()["results"][0]["dsn_action"] == action


@pytest.mark.parametrize(
    ("notify", "actions"),
    [
        ("success,failure,delay", ["", "failed", "delayed"]),
        ("failure", ["", "failed", ""]),
        ("delay", ["", "", "delayed"]),
        ("never", ["", "", ""]),
        ("", ["", "", ""]),
    ],
)
def test_what_did_not_arrive_is_told_if_it_was_asked_for(notify: str, actions: list[str]) -> None:
    with Sink(Script(caps=("DSN",), replies=REFUSED)) as sink:
        report = zsmtp.deliver(LETTER, relay=relay(sink), dsn=zsmtp.DSN(notify=notify))
    assert [one.dsn_passed_on for one in report] == [True, False, False]
    assert [one.dsn_action for one in report] == actions
    asked = [b" NOTIFY=" in line for line in sink.connections[0].lines if line.startswith(b"RCPT")]
    assert asked == [bool(notify)] * 3


@pytest.mark.parametrize("end", [Step("554 5.6.0 no"), Step("451 4.3.0 later"), Step(None, Then.CLOSE)])
def test_a_request_does_not_travel_with_content_that_is_not_taken(end: Step) -> None:
    with Sink(Script(caps=("DSN",), replies={"DOT": (end,)})) as sink:
        report = zsmtp.deliver(LETTER, relay=relay(sink), dsn=ALL)
    assert not any(one.dsn_passed_on for one in report)


def test_nothing_is_said_of_a_message_without_request() -> None:
    with Sink(Script(caps=("DSN",)), Script()) as sink:
        for _ in range(2):
            report = zsmtp.deliver(LETTER, relay=relay(sink))
            assert [(one.dsn_passed_on, one.dsn_action) for one in report] == [(False, "")] * 3
    assert b"MAIL FROM:<ann@example.org>" in sink.connections[0].lines


def test_messages_on_one_connection_have_requests_of_their_own(tmp_path: Path) -> None:
    requests = [None, zsmtp.DSN(notify="never"), zsmtp.DSN(envid="2"), None]
    letters = [
        zsmtp.Submission(message=LETTER, recipients="bob@example.net", name=str(number), dsn=dsn)
        for number, dsn in enumerate(requests)
    ]

    async def main(url: str) -> dict[str, bool]:
        config = zsmtp.Config(relay=zsmtp.Relay.from_url(url), limits=zsmtp.Limits(per_destination=1))
        async with zsmtp.aio.Client(config) as client:
            return {result.message: result.dsn_passed_on async for result in client.stream(letters)}

    path = tmp_path / "lmtp"
    with Sink(Script(caps=("DSN", "PIPELINING"), lmtp=True), unix=path) as sink:
        passed_on = asyncio.run(main(f"lmtp://{path}"))
    assert passed_on == {"0": False, "1": True, "2": True, "3": False}
    (connection,) = sink.connections
    asked = [line for line in connection.lines if line.startswith((b"MAIL", b"RCPT"))]
    assert [b"ENVID=2" in line for line in asked[::2]] == [False, False, True, False]
    assert [b"NOTIFY=NEVER" in line for line in asked[1::2]] == [False, True, False, False]


def test_an_internationalised_original_address_is_ascii_on_the_wire() -> None:
    dsn = zsmtp.DSN(original={"bob@example.net": "Jos\u00e9 <jos\u00e9+1@b\u00fccher.example>"})
    with Sink(Script(caps=("DSN", "SMTPUTF8")), Script(caps=("DSN",))) as sink:
        for _ in range(2):
            assert zsmtp.deliver(LETTER, recipients="bob@example.net", relay=relay(sink), dsn=dsn).ok
    assert sink.connections[1].lines[2] == b"RCPT TO:<bob@example.net>"
    assert rb"RCPT TO:<bob@example.net> ORCPT=utf-8;jos\x{E9}\x{2B}1@b\x{FC}cher.example" in sink.connections[0].lines


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"notify": "sucess"}, r"^notify: 'sucess' is none of success, failure, delay, never$"),
        ({"notify": ["success", b"delay"]}, r"^notify: b'delay' is none"),
        ({"notify": [["success"]]}, r"^notify: \['success'\] is none"),
        ({"notify": "success,"}, r"^notify: '' is none"),
        ({"notify": 5}, r"^notify: words are expected"),
        ({"notify": b"success"}, r"^notify: words are expected, not bytes$"),
        ({"notify": [TwoLines()]}, r"^notify: two\\nlines is none of"),
        ({"ret": TwoLines()}, r"^ret: two\\nlines is none of"),
        ({"notify": ("success", "never")}, r"^notify: never cannot be combined$"),
        ({"ret": "HDRS"}, r"^ret: 'HDRS' is none of full, headers$"),
        ({"ret": None}, r"^ret: None"),
        ({"envid": b"x"}, r"^envid: a string"),
        ({"envid": "a\r\nRSET"}, r"^envid: 'a\\r\\nRSET': printable ASCII"),
        ({"envid": "\u00fc"}, r"^envid: .*printable ASCII"),
        ({"envid": "x" * 98 + "="}, r"^envid: 101 octets when encoded; 100"),
        ({"original": "bob"}, r"^original: addresses by recipients"),
        ({"original": ["ab"]}, r"^original: recipient a: no @"),
        ({"original": [("bob@example.net",)]}, r"^original: addresses by recipients"),
        (
            {"original": [("b@c.example", "x@y.example"), ("b@c.example", "z@y.example")]},
            r"^original: b@c.example is named",
        ),
        (
            {"original": {"b@c.example": "x@y.example", "B <b@C.example>": "z@y.example"}},
            r"^original: B <b@C.example> is named twice$",
        ),
        ({"original": {"bob@example.net": 5}}, r"^original: strings"),
        ({"original": {"bob": "a@b.example"}}, r"^original: recipient bob: no @"),
        ({"original": {"bob@example.net": "a>b@c.example"}}, r"^original a>b"),
        ({"original": {"bob@example.net": "+" * 200 + "@c.example"}}, r"^original: .*500 octets"),
    ],
)
def test_what_cannot_be_asked_for(words: dict[str, Any], problem: str) -> None:
    with pytest.raises(zsmtp.SubmissionError, match=problem):
        zsmtp.DSN(**words)


def test_an_error_is_a_line_however_much_was_given() -> None:
    dsn = zsmtp.DSN(original={"x" * 9_000 + " <eve@example.net>": "a@b.example"})
    with pytest.raises(zsmtp.SubmissionError, match=r"^original: x{120} is no recipient of this message$"):
        Letter(LETTER, dsn=dsn)


@pytest.mark.parametrize(("sender", "action"), [("<>", ""), (b"", ""), (None, "failed"), ("ann@example.org", "failed")])
def test_nobody_is_to_be_told_behind_the_null_sender(sender: str | bytes | None, action: str) -> None:
    dsn = zsmtp.DSN(notify="failure")
    with Sink(Script(replies={"RCPT": (Step("550 5.1.1 no"),)})) as sink:
        (result,) = zsmtp.deliver(LETTER, sender=sender, recipients="bob@example.net", relay=relay(sink), dsn=dsn)
    assert (result.fate, result.dsn_action) == (zsmtp.Fate.FAILED, action)

    async def main() -> list[zsmtp.Result]:
        async with zsmtp.aio.Client(relay="smtp://127.0.0.1:1") as client:
            unreadable = zsmtp.Submission(message=b"\n", sender=sender, recipients="bob@example.net", dsn=dsn)
            return [one async for one in client.stream([unreadable])]

    assert [one.dsn_action for one in asyncio.run(main())] == [action]


def test_the_result_tells_of_the_session_that_took_the_message() -> None:
    """The first transaction is for two recipients, and then the server goes; the next session offers no DSN."""
    replies = {
        "RCPT": (Step("250 ok"), Step("250 ok"), Step("452 4.5.3 too many")),
        "DOT": (Step("250 ok\r\n421 enough", Then.CLOSE),),
    }
    to = [f"{name}@example.net" for name in "abcd"]
    with Sink(Script(caps=("DSN",), replies=replies), Script()) as sink:
        report = zsmtp.deliver(LETTER, recipients=to, relay=relay(sink), dsn=zsmtp.DSN(notify="success,failure,delay"))
    assert [(one.dsn_passed_on, one.dsn_action) for one in report] == [(True, "")] * 2 + [(False, "relayed")] * 2
    assert [b"NOTIFY" in line for one in sink.connections for line in one.lines if line.startswith(b"RCPT")] == [
        *[True] * 4,
        *[False] * 2,
    ]


def test_what_does_not_fit_the_message_is_refused_before_anything_is_sent() -> None:
    stranger = zsmtp.DSN(notify="failure", original={"eve@example.net": "a@b.example"})
    with pytest.raises(zsmtp.SubmissionError, match=r"^original: eve@example.net is no recipient of this message$"):
        zsmtp.deliver(LETTER, relay="smtp://127.0.0.1:1", dsn=stranger)
    with pytest.raises(zsmtp.SubmissionError, match=r"^dsn: DSN is expected, not str$"):
        zsmtp.deliver(LETTER, relay="smtp://127.0.0.1:1", dsn="success")  # type: ignore[arg-type]

    async def main() -> list[zsmtp.Result]:
        async with zsmtp.aio.Client(relay="smtp://127.0.0.1:1") as client:
            bad = zsmtp.Submission(message=LETTER, recipients="bob@example.net", dsn=stranger)
            worse = zsmtp.Submission(message=LETTER, recipients="bob@example.net", dsn="never")  # type: ignore[arg-type]
            return [result async for result in client.stream([bad, worse])]

    assert [(one.fate, one.dsn_action) for one in asyncio.run(main())] == [
        (zsmtp.Fate.FAILED, "failed"),
        (zsmtp.Fate.FAILED, ""),
    ]


def test_a_request_is_a_value() -> None:
    same = zsmtp.DSN(
        notify=["success", "delay", "delay"],
        ret="headers",
        envid="order 17",
        original=[("carl@EXAMPLE.net", "c+1@a.org")],
    )
    assert same == ALL
    assert hash(same) == hash(ALL)
    assert pickle.loads(pickle.dumps(ALL)) == ALL
    assert zsmtp.DSN(notify="delay, success").notify == ("success", "delay")


@given(st.text(max_size=110))
def test_an_envid_is_taken_whole_or_not_at_all(text: str) -> None:
    try:
        dsn = zsmtp.DSN(envid=text)
    except zsmtp.SubmissionError:
        return
    sent = Letter(LETTER, dsn=dsn).envelope([0]).envid
    assert (sent is None) == (text == "")
    assert sent is None or (is_xtext(sent) and len(sent) <= 100)
