"""What a journal says, whatever part of it reached the disk, and who is sent a message because of it."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.cli.sendjournal import (
    HEADER,
    JournalledMessage,
    JournalState,
    Known,
    RecipientKey,
    changed,
    choose,
    read_lines,
    result_line_of,
    sending_line,
)
from zsmtp.client.report import Fate, Result
from zsmtp.errors import ConfigError

NOW = 1_795_946_400.125
KEY = RecipientKey("d1", "me@example.org", "a@example.net")


def result(fate: Fate, recipient: str = "a@example.net") -> Result:
    return Result(message="1.eml", recipient=recipient, fate=fate, status="2.0.0", reply="250 ok \u2713\n\0")


def state_of(*lines: bytes) -> JournalState:
    return read_lines([HEADER, *lines])[0]


def sent(fate: Fate, key: RecipientKey = KEY, file: str = "/out/1.eml") -> bytes:
    return result_line_of(key, file, NOW, result(fate, key.recipient))


def test_a_line_is_an_object_with_the_time_the_message_and_what_was_said() -> None:
    assert json.loads(sent(Fate.DELIVERED)) == {
        "time": "2026-11-29T10:00:00.125Z",
        "fate": "delivered",
        "message": "d1",
        "file": "/out/1.eml",
        "sender": "me@example.org",
        "recipient": "a@example.net",
        "status": "2.0.0",
        "text": "250 ok \u2713\n\0",
        "server": "",
    }
    assert json.loads(sending_line(KEY._replace(copy=2), "1.eml", NOW))["copy"] == 2


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ([sending_line(KEY, "1", NOW)], Known.SENDING),
        ([sending_line(KEY, "1", NOW), sent(Fate.DELIVERED)], Known.DELIVERED),
        ([sending_line(KEY, "1", NOW), sent(Fate.IN_DOUBT)], Known.IN_DOUBT),
        ([sent(Fate.DEFERRED), sending_line(KEY, "1", NOW), sent(Fate.FAILED)], Known.FAILED),
        ([sending_line(KEY, "1", NOW), sent(Fate.DEFERRED)], Known.DEFERRED),
    ],
)
def test_the_last_word_counts(lines: list[bytes], known: Known) -> None:
    assert state_of(*lines).known[KEY][0] is known


LINES = [
    HEADER,
    sending_line(KEY, "/out/1.eml", NOW),
    sent(Fate.DELIVERED),
    sent(Fate.FAILED, KEY._replace(recipient="b@example.net")),
]
WHOLE = b"".join(LINES)


@given(st.integers(0, len(WHOLE)), st.integers(0, 5000))
def test_whatever_was_cut_off_what_stands_before_it_counts(cut: int, zeros: int) -> None:
    """A writer was killed at any octet, or the machine went down with blocks that were never written."""
    torn = WHOLE[:cut] + bytes(zeros)
    state, octets = read_lines(io.BytesIO(torn))
    ends = [sum(map(len, LINES[:count])) for count in range(len(LINES) + 1)]
    assert octets == max(end for end in ends if end <= cut)
    assert len(state.known) == [0, 0, 1, 1, 2][ends.index(octets)]


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (b"some text\n", "this is no journal"),
        (b"some text", "this is no journal"),
        (b'{"schema": "zsmtp.send/1"}\n', "this is no journal"),
        (HEADER + b"[]\n", "line 2 is no line"),
        (HEADER + b"{}\n", "line 2 is no line"),
        (HEADER + sent(Fate.DELIVERED).replace(b"delivered", b"eaten"), "line 2 is no line"),
        (HEADER + sent(Fate.DELIVERED)[:-2] + b', "copy": 0}\n', "line 2 is no line"),
        (HEADER + b"\0\0\n" + sent(Fate.DELIVERED), "line 2 is no line"),
        (HEADER + sent(Fate.DELIVERED)[:40] + b"\n" + sent(Fate.DELIVERED), "line 2 is no line"),
    ],
)
def test_what_is_no_journal_is_not_taken_for_one(octets: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_lines(io.BytesIO(octets))


def message(*recipients: str, digest: str = "d1", file: str = "/out/1.eml") -> JournalledMessage:
    return JournalledMessage(file, digest, "me@example.org", recipients)


def test_who_has_no_end_is_sent_to() -> None:
    keys = {name: KEY._replace(recipient=name) for name in ("a", "b", "c", "d", "e")}
    state = state_of(
        sent(Fate.DELIVERED, keys["a"]),
        sent(Fate.FAILED, keys["b"]),
        sent(Fate.DEFERRED, keys["c"]),
        sending_line(keys["d"], "1", NOW),
    )
    (choice,) = choose(state, [message("a", "b", "c", "d", "e")], resend=False)
    assert (list(choice.send), choice.delivered, choice.failed) == (["c", "e"], 1, 1)
    assert choice.in_doubt == (("d", "2026-11-29T10:00:00.125Z"),)
    (choice,) = choose(state, [message("a", "b", "c", "d", "e")], resend=True)
    assert (list(choice.send), choice.in_doubt) == (["c", "d", "e"], ())


def test_messages_that_are_alike_are_counted() -> None:
    state = state_of(sent(Fate.DELIVERED))
    first, second, third = choose(state, [message("a@example.net", file=name) for name in "123"], resend=False)
    assert (first.send, first.delivered) == ({}, 1)
    assert second.send == {"a@example.net": KEY._replace(copy=2)}
    assert third.send == {"a@example.net": KEY._replace(copy=3)}
    state = state_of(sent(Fate.DELIVERED), sent(Fate.DELIVERED, KEY._replace(copy=2)))
    assert [len(one.send) for one in choose(state, [message("a@example.net")] * 3, resend=False)] == [0, 0, 1]


def test_another_sender_or_recipient_is_another_message() -> None:
    state = state_of(sent(Fate.DELIVERED))
    other = message("a@example.net")._replace(sender="you@example.org")
    assert [len(one.send) for one in choose(state, [other, message("b@example.net")], resend=False)] == [1, 1]


def test_a_file_that_has_changed_is_named_if_somebody_may_have_the_former_message() -> None:
    for fate in (Fate.DELIVERED, Fate.FAILED, Fate.IN_DOUBT):
        assert changed(state_of(sent(fate)), [message("a", digest="d2")]) == ["/out/1.eml"]
    assert changed(state_of(sending_line(KEY, "/out/1.eml", NOW)), [message("a", digest="d2")]) == ["/out/1.eml"]
    assert changed(state_of(sent(Fate.DEFERRED)), [message("a", digest="d2")]) == []
    assert changed(state_of(sent(Fate.DELIVERED)), [message("a", digest="d2", file="")]) == []


def test_files_that_were_moved_or_sent_as_changed_are_not_named() -> None:
    state = state_of(sent(Fate.DELIVERED))
    assert changed(state, [message("a", digest="d2"), message("a", file="/out/2.eml")]) == []
    state = state_of(sent(Fate.DELIVERED), sent(Fate.DEFERRED, KEY._replace(digest="d2")))
    assert changed(state, [message("a", digest="d2")]) == []
