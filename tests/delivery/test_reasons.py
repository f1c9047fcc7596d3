"""Why a recipient has not got a message, in words for people."""

from __future__ import annotations

import pytest

from zsmtp.delivery.outcome import (
    ConnectFailure,
    Peer,
    Scope,
    Verdict,
    combine_host_failures,
    from_backoff,
    from_connect_failures,
    from_loss,
    from_loss_behind,
    from_reply,
    in_doubt,
)
from zsmtp.delivery.reasons import MAX_NAMED, account_of, gathered, reason_of
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.errors import ConnectionLost
from zsmtp.proto.phase import Phase, judge
from zsmtp.proto.reply import Reply
from zsmtp.proto.transcript import CONNECTING, exchange

FIRST, SECOND, THIRD = (
    Endpoint(f"mx{number}.example.org", f"192.0.2.{number}", 25, Family.INET) for number in (1, 2, 3)
)


def refused(endpoint: Endpoint, code: int, text: bytes, phase: Phase = Phase.GREETING) -> Verdict:
    reply = Reply(code, (text,))
    words = exchange(CONNECTING if phase is Phase.GREETING else b"EHLO client.example", reply)
    return from_reply(phase, reply, judge(phase, code), words, enhanced=False, peer=Peer(endpoint))


def test_every_host_has_its_word_whoever_decides() -> None:
    """A block list's refusal is what one looks for; that others could not be reached must not hide it."""
    listed = refused(FIRST, 554, b"5.7.1 your address is on a block list")
    down = [ConnectFailure(SECOND, "Connection refused"), ConnectFailure(THIRD, "No route to host")]
    verdict = combine_host_failures(down, [listed])
    assert reason_of(verdict) == (
        "mx1.example.org [192.0.2.1]:25: 554 5.7.1 your address is on a block list; "
        "connect to mx2.example.org [192.0.2.2]:25: Connection refused; "
        "connect to mx3.example.org [192.0.2.3]:25: No route to host"
    )
    assert account_of(verdict) == (
        "S: 554 5.7.1 your address is on a block list\n" + reason_of(verdict).replace("; ", "\n")
    )


def test_the_words_of_a_temporary_refusal_do_not_hide_those_of_another_host() -> None:
    verdict = combine_host_failures([], [refused(FIRST, 554, b"listed"), refused(SECOND, 421, b"busy")])
    assert verdict.reply == Reply(421, (b"busy",))
    assert reason_of(verdict) == (
        "mx1.example.org [192.0.2.1]:25: 554 listed; mx2.example.org [192.0.2.2]:25: 421 busy"
    )


def test_one_host_is_not_named_twice() -> None:
    verdict = combine_host_failures([], [refused(FIRST, 554, b"listed")])
    assert reason_of(verdict) == "554 listed"


def test_what_many_say_is_said_once() -> None:
    hosts = [Endpoint(f"192.0.2.{n}", f"192.0.2.{n}", 25, Family.INET) for n in range(20)]
    verdict = from_connect_failures([ConnectFailure(host, "Connection refused") for host in hosts])
    assert reason_of(verdict) == (
        f"connect to [192.0.2.0]:25, [192.0.2.1]:25, [192.0.2.2]:25 and {20 - MAX_NAMED} more: Connection refused"
    )


def test_what_is_said_of_nobody_stands_alone() -> None:
    assert gathered([("", "no address is left"), ("a", "busy"), ("", "no address is left")]) == (
        "no address is left",
        "a: busy",
    )


def test_a_session_that_broke_off() -> None:
    loss = from_loss(ConnectionLost("the peer closed the connection"), "\r<<- DATA\r->> 354 go", Peer(FIRST))
    assert reason_of(loss) == "the peer closed the connection"
    assert account_of(loss) == "C: DATA\nS: 354 go\nthe peer closed the connection"
    doubt = in_doubt(loss)
    assert reason_of(doubt) == (
        "the peer closed the connection; the message was sent to its end, and no reply said whether it was taken"
    )
    assert account_of(doubt) == "C: DATA\nS: 354 go\n" + reason_of(doubt).replace("; ", "\n")


def test_a_refusal_before_the_session_broke_off_is_told_with_it() -> None:
    refusal = refused(FIRST, 550, b"5.7.1 no reverse name", Phase.EHLO)
    loss = from_loss(ConnectionLost("gone"), "\r<<- HELO x", Peer(FIRST), level=Scope.HOST)
    assert reason_of(from_loss_behind(refusal, loss)) == "550 5.7.1 no reverse name; gone"


def test_what_keeps_mail_back_is_told_with_why_it_failed_before() -> None:
    reason = reason_of(from_backoff(refused(FIRST, 421, b"busy"), 42.0))
    assert reason == ("421 busy; not tried: that was a moment ago, and the next attempt is in 42 s at the earliest")


@pytest.mark.parametrize("octets", [b"\x00\x01binary\xff", b"a\\b", "ü".encode()])
def test_hostile_octets_are_escaped_once(octets: bytes) -> None:
    verdict = refused(FIRST, 554, octets)
    for words in (reason_of(verdict), account_of(verdict)):
        assert words.replace("\n", "").isprintable()
        assert words.count("\\") == octets.count(b"\\") + sum(octet in b"\x00\x01\xff" for octet in octets)
