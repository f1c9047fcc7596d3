"""The table of failures: (phase, reply) to what becomes of the recipients."""

import pytest

from zsmtp.delivery.outcome import (
    HOST_REST,
    ConnectFailure,
    Fate,
    Level,
    Peer,
    Verdict,
    asks_for_another_transaction,
    combine_host_failures,
    from_connect_failures,
    from_loss,
    from_no_route,
    from_refusal,
    from_reply,
    in_doubt,
    next_candidate_may_help,
)
from zsmtp.dns.plan import Endpoint, Family, NoRoute
from zsmtp.errors import (
    ConnectionLost,
    ContentError,
    Interrupted,
    ReplyError,
    ServiceClosing,
    WaitTimeout,
    ZsmtpError,
)
from zsmtp.proto.phase import Phase, judge
from zsmtp.proto.plan import Refusal
from zsmtp.proto.reply import Reply
from zsmtp.proto.status import EnhancedStatus

MX = Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET)
PEER = Peer(MX, ("192.0.2.200", 40025))


def verdict_on(phase: Phase, code: int, text: bytes = b"text", *, enhanced: bool = False) -> Verdict:
    reply = Reply(code, (text,))
    return from_reply(phase, reply, judge(phase, code), "dialogue", enhanced=enhanced, peer=PEER)


FAILED, DEFERRED, DELIVERED = Fate.FAILED, Fate.DEFERRED, Fate.DELIVERED


@pytest.mark.parametrize(
    ("phase", "code", "fate", "level"),
    [
        (Phase.GREETING, 421, DEFERRED, Level.HOST),
        (Phase.GREETING, 450, DEFERRED, Level.HOST),
        (Phase.GREETING, 554, FAILED, Level.HOST),
        (Phase.EHLO, 421, DEFERRED, Level.HOST),
        (Phase.HELO, 450, DEFERRED, Level.HOST),
        (Phase.HELO, 550, FAILED, Level.HOST),
        (Phase.HELO, 502, DEFERRED, Level.HOST),  # the wrong protocol must not bounce mail
        (Phase.LHLO, 500, DEFERRED, Level.HOST),
        (Phase.MAIL, 451, DEFERRED, Level.MESSAGE),
        (Phase.MAIL, 550, FAILED, Level.MESSAGE),
        (Phase.MAIL, 503, DEFERRED, Level.MESSAGE),
        (Phase.RCPT, 450, DEFERRED, Level.RECIPIENT),
        (Phase.RCPT, 550, FAILED, Level.RECIPIENT),
        (Phase.RCPT, 501, FAILED, Level.RECIPIENT),
        (Phase.DATA, 451, DEFERRED, Level.MESSAGE),
        (Phase.DATA, 554, FAILED, Level.MESSAGE),
        (Phase.CONTENT, 250, DELIVERED, Level.MESSAGE),
        (Phase.CONTENT, 452, DEFERRED, Level.MESSAGE),
        (Phase.CONTENT, 554, FAILED, Level.MESSAGE),
        (Phase.LAST, 200, DELIVERED, Level.MESSAGE),
        (Phase.LAST, 552, FAILED, Level.MESSAGE),
    ],
)
def test_what_a_reply_means(phase: Phase, code: int, fate: Fate, level: Level) -> None:
    verdict = verdict_on(phase, code)
    assert (verdict.fate, verdict.level) == (fate, level)
    assert verdict.status.cls == {DELIVERED: 2, DEFERRED: 4, FAILED: 5}[fate]
    assert verdict.at_final_dot is (phase in (Phase.CONTENT, Phase.LAST))
    assert verdict.retry_after == (HOST_REST if level is Level.HOST and fate is DEFERRED else 0)
    assert verdict.peer is PEER
    assert not verdict.in_doubt


@pytest.mark.parametrize(
    ("code", "text", "enhanced", "status", "diagnostic"),
    [
        (550, b"5.7.1 no (really)", True, "5.7.1", "smtp; 550 (no [really])"),
        (550, b"5.7.1 no", False, "5.1.1", "smtp; 550 (5.7.1 no)"),
        (550, b"4.7.1 no", True, "5.1.1", "smtp; 550 (4.7.1 no)"),
        (550, b"5.007.001 no", True, "5.7.1", "smtp; 550 (no)"),
        (550, b"5.7.1", True, "5.7.1", "smtp; 550 ()"),
        (451, b"no code", True, "4.3.0", "smtp; 451 (no code)"),
        (550, b"\x1b[2J\r5", True, "5.1.1", "smtp; 550 (\\x1b[2J\\r5)"),
    ],
)
def test_status_and_diagnostic(code: int, text: bytes, status: str, diagnostic: str, *, enhanced: bool) -> None:
    verdict = verdict_on(Phase.RCPT, code, text, enhanced=enhanced)
    assert (str(verdict.status), verdict.diagnostic) == (status, diagnostic)


@pytest.mark.parametrize(
    ("code", "text", "accepted", "again"),
    [
        (452, b"too many recipients", 1, True),
        (452, b"4.5.3 too many", 1, True),
        (452, b"4.3.1 no room", 1, True),
        (552, b"too many recipients", 1, True),
        (552, b"5.5.3 too many", 1, True),
        (452, b"too many recipients", 0, False),
        (552, b"5.2.2 mailbox full", 1, False),
        (452, b"4.2.2 mailbox full", 1, False),
        (450, b"4.5.3 too many", 1, False),
        (550, b"5.5.3 too many", 1, False),
    ],
)
def test_too_many_recipients(code: int, text: bytes, accepted: int, *, again: bool) -> None:
    reply = Reply(code, (text,))
    assert asks_for_another_transaction(reply, enhanced=True, accepted=accepted) is again


@pytest.mark.parametrize(
    ("error", "status", "next_one"),
    [
        (ServiceClosing("421"), "4.3.2", True),
        (ConnectionLost("reset"), "4.4.2", True),
        (WaitTimeout("slow"), "4.4.2", False),
        (ReplyError("nonsense"), "4.5.0", False),
        (Interrupted("stop"), "4.3.2", False),
        (ContentError("unreadable"), "4.3.0", False),
    ],
)
def test_what_a_lost_session_means(error: ZsmtpError, status: str, *, next_one: bool) -> None:
    verdict = from_loss(error, "\r<<- DATA", PEER)
    assert (verdict.fate, str(verdict.status), verdict.level) == (Fate.DEFERRED, status, Level.SESSION)
    assert verdict.text == f"\r<<- DATA\r{error}"
    assert next_candidate_may_help(error) is next_one


def test_hostile_words_of_an_error_are_escaped() -> None:
    verdict = from_loss(ReplyError("said \x1b[2J\nand more"), "", PEER)
    assert "\x1b" not in verdict.text + verdict.diagnostic
    assert "\n" not in verdict.text + verdict.diagnostic


def test_in_doubt_says_so() -> None:
    verdict = in_doubt(from_loss(ConnectionLost("reset"), "", PEER))
    assert verdict.in_doubt
    assert verdict.at_final_dot
    assert verdict.fate is Fate.DEFERRED
    assert "in doubt" in verdict.text


def test_refusals_on_this_side_are_final() -> None:
    verdict = from_refusal(Refusal(EnhancedStatus(5, 3, 4), "too large"), PEER, level=Level.MESSAGE)
    assert (verdict.fate, verdict.diagnostic) == (Fate.FAILED, "smtp; 552 (too large)")


@pytest.mark.parametrize(("permanent", "fate", "rest"), [(True, Fate.FAILED, 0), (False, Fate.DEFERRED, HOST_REST)])
def test_no_route(fate: Fate, rest: int, *, permanent: bool) -> None:
    status = "5.1.2" if permanent else "4.4.3"
    verdict = from_no_route(NoRoute(permanent, status, "no such domain"))
    assert (verdict.fate, str(verdict.status), verdict.retry_after) == (fate, status, rest)


def test_every_attempt_to_connect_is_named() -> None:
    other = Endpoint("/run/lmtp", "/run/lmtp", 0, Family.UNIX)
    verdict = from_connect_failures(
        [ConnectFailure(MX, "Connection refused"), ConnectFailure(other, "No such file or directory")]
    )
    assert verdict.text.split("\r") == [
        "connect to mx.example.org [192.0.2.1|25]: Connection refused",
        "connect to UNIX:/run/lmtp: No such file or directory",
    ]
    assert (verdict.fate, str(verdict.status), verdict.retry_after) == (Fate.DEFERRED, "4.4.1", HOST_REST)


REFUSED = verdict_on(Phase.GREETING, 554)
LATER = verdict_on(Phase.GREETING, 450)
DOWN = ConnectFailure(MX, "Connection refused")


@pytest.mark.parametrize(
    ("failures", "refusals", "fate"),
    [
        ([], [REFUSED], Fate.FAILED),
        ([], [REFUSED, REFUSED], Fate.FAILED),
        ([], [REFUSED, LATER], Fate.DEFERRED),
        ([], [LATER, REFUSED], Fate.DEFERRED),
        ([DOWN], [REFUSED], Fate.DEFERRED),
        ([DOWN], [], Fate.DEFERRED),
        ([], [], Fate.DEFERRED),
    ],
)
def test_an_error_only_if_every_host_refuses_for_good(
    failures: list[ConnectFailure], refusals: list[Verdict], fate: Fate
) -> None:
    verdict = combine_host_failures(failures, refusals)
    assert verdict.fate is fate
    assert verdict.level is Level.HOST
    assert verdict.retry_after == (HOST_REST if fate is Fate.DEFERRED else 0)
