"""The table of failures: (phase, reply) to what becomes of the recipients."""

import pytest

from zsmtp.delivery.outcome import (
    HOST_REST,
    ConnectFailure,
    Disposition,
    Peer,
    Scope,
    Verdict,
    asks_for_another_transaction,
    combine_host_failures,
    from_connect_failures,
    from_loss,
    from_loss_behind,
    from_no_route,
    from_refusal,
    from_reply,
    in_doubt,
    next_candidate_may_help,
)
from zsmtp.dns.candidates import Endpoint, Family, NoRoute
from zsmtp.errors import (
    ConnectionLost,
    ContentError,
    Interrupted,
    ReplyError,
    ServiceClosing,
    WaitTimeout,
    ZsmtpError,
)
from zsmtp.proto.phase import FINAL_PHASES, Phase, ReplyMeaning, judge
from zsmtp.proto.plan import LocalRefusal
from zsmtp.proto.reply import Reply
from zsmtp.proto.status import EnhancedStatus
from zsmtp.records import replace

MX = Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET)
PEER = Peer(MX, ("192.0.2.200", 40025))


def verdict_on(phase: Phase, code: int, text: bytes = b"text", *, enhanced: bool = False) -> Verdict:
    reply = Reply(code, (text,))
    return from_reply(phase, reply, judge(phase, code), "dialogue", enhanced=enhanced, peer=PEER)


FAILED, DEFERRED, DELIVERED = Disposition.FAILED, Disposition.DEFERRED, Disposition.DELIVERED


@pytest.mark.parametrize(
    ("phase", "code", "fate", "level"),
    [
        (Phase.GREETING, 421, DEFERRED, Scope.HOST),
        (Phase.GREETING, 450, DEFERRED, Scope.HOST),
        (Phase.GREETING, 554, FAILED, Scope.HOST),
        (Phase.EHLO, 421, DEFERRED, Scope.HOST),
        (Phase.HELO, 450, DEFERRED, Scope.HOST),
        (Phase.HELO, 550, FAILED, Scope.HOST),
        (Phase.HELO, 502, DEFERRED, Scope.HOST),  # the wrong protocol must not bounce mail
        (Phase.LHLO, 500, DEFERRED, Scope.HOST),
        (Phase.MAIL, 451, DEFERRED, Scope.MESSAGE),
        (Phase.MAIL, 550, FAILED, Scope.MESSAGE),
        (Phase.MAIL, 503, DEFERRED, Scope.MESSAGE),
        (Phase.RCPT, 450, DEFERRED, Scope.RECIPIENT),
        (Phase.RCPT, 550, FAILED, Scope.RECIPIENT),
        (Phase.RCPT, 501, FAILED, Scope.RECIPIENT),
        (Phase.DATA, 451, DEFERRED, Scope.MESSAGE),
        (Phase.DATA, 554, FAILED, Scope.MESSAGE),
        (Phase.CONTENT, 250, DELIVERED, Scope.MESSAGE),
        (Phase.CONTENT, 452, DEFERRED, Scope.MESSAGE),
        (Phase.CONTENT, 554, FAILED, Scope.MESSAGE),
        (Phase.LAST, 259, DELIVERED, Scope.MESSAGE),
        (Phase.LAST, 552, FAILED, Scope.MESSAGE),
    ],
)
def test_what_a_reply_means(phase: Phase, code: int, fate: Disposition, level: Scope) -> None:
    verdict = verdict_on(phase, code)
    assert (verdict.fate, verdict.level) == (fate, level)
    assert verdict.status.cls == {DELIVERED: 2, DEFERRED: 4, FAILED: 5}[fate]
    assert verdict.at_final_dot is (phase in (Phase.CONTENT, Phase.LAST))
    assert verdict.retry_after == (HOST_REST if level is Scope.HOST and fate is DEFERRED else 0)
    assert verdict.peer is PEER
    assert not verdict.in_doubt


LEVELS = {
    Phase.GREETING: Scope.HOST,
    Phase.EHLO: Scope.HOST,
    Phase.HELO: Scope.HOST,
    Phase.LHLO: Scope.HOST,
    Phase.MAIL: Scope.MESSAGE,
    Phase.RCPT: Scope.RECIPIENT,
    Phase.DATA: Scope.MESSAGE,
    Phase.CONTENT: Scope.MESSAGE,
    Phase.LAST: Scope.MESSAGE,
}
ALWAYS_WAIT = {503, 530}  # a confused dialogue; a session that lacks TLS or a login
GREETING_COMMANDS = {Phase.EHLO, Phase.HELO, Phase.LHLO}
SYNTAX = {500, 501, 502, 503, 504}  # to a greeting command: the wrong protocol is spoken


@pytest.mark.parametrize("phase", LEVELS)
def test_what_every_code_brings_in_every_phase(phase: Phase) -> None:
    """ "Delivered" only from 25x to the end of the content, "failed" only from a 5xx that is about the mail."""
    for code in range(200, 600):
        if judge(phase, code) is ReplyMeaning.DISORDER or (code < 400 and phase not in FINAL_PHASES):
            continue  # the session ends, or goes on: no verdict is asked for
        if code < 400:
            expected, cls = DELIVERED, 2
        elif code < 500 or code in ALWAYS_WAIT or (phase in GREETING_COMMANDS and code in SYNTAX):
            expected, cls = DEFERRED, 4
        else:
            expected, cls = FAILED, 5
        verdict = verdict_on(phase, code)
        assert (verdict.fate, verdict.status.cls) == (expected, cls), code
        assert verdict.level is LEVELS[phase]
        assert verdict.at_final_dot is (phase in FINAL_PHASES)
        assert verdict.retry_after == (HOST_REST if LEVELS[phase] is Scope.HOST and expected is DEFERRED else 0)
        assert verdict.diagnostic == f"smtp; {code} (text)"
        assert verdict.reply is not None
        assert verdict.reply.code == code
        assert not verdict.in_doubt


def test_only_25x_delivers() -> None:
    for phase in Phase:
        for code in range(200, 600):
            if phase in LEVELS and judge(phase, code) is ReplyMeaning.SUCCESS and phase in FINAL_PHASES:
                assert code // 10 == 25


@pytest.mark.parametrize("phase", LEVELS)
@pytest.mark.parametrize("enhanced", [True, False])
def test_a_refusal_explains_itself_whether_or_not_codes_are_offered(phase: Phase, *, enhanced: bool) -> None:
    for code in set(range(500, 600)) - ALWAYS_WAIT - SYNTAX - {571}:
        assert str(verdict_on(phase, code, b"5.7.1 no", enhanced=enhanced).status) == "5.7.1", code
        assert str(verdict_on(phase, code, b"no 5.7.1", enhanced=enhanced).status) != "5.7.1", code
    assert str(verdict_on(phase, 451, b"4.7.1 later", enhanced=enhanced).status) == "4.7.1"
    assert str(verdict_on(phase, 503, b"5.5.1 order", enhanced=enhanced).status) == "4.5.1"


def test_a_success_has_the_code_of_a_server_that_offers_codes() -> None:
    assert str(verdict_on(Phase.CONTENT, 250, b"2.6.0 taken", enhanced=True).status) == "2.6.0"
    assert str(verdict_on(Phase.CONTENT, 250, b"2.6.0 taken", enhanced=False).status) == "2.0.0"


@pytest.mark.parametrize("phase", LEVELS)
def test_a_server_that_wants_a_safer_session_makes_mail_wait_and_the_report_says_why(phase: Phase) -> None:
    clear = replace(PEER, in_clear="STARTTLS was refused: 454 not now")
    for code, text in ((530, b"5.7.0 Must issue a STARTTLS command first"), (550, b"5.7.10 Encryption needed")):
        reply = Reply(code, (text,))
        verdict = from_reply(phase, reply, judge(phase, code), "\r->> no", enhanced=False, peer=clear)
        assert (verdict.fate, verdict.status.cls, verdict.status.subject) == (DEFERRED, 4, 7)
        assert verdict.text == "\r->> no\rin clear: STARTTLS was refused: 454 not now"
        assert verdict_on(phase, code, text).text == "dialogue", "nothing is made up"


def test_content_refused_before_its_end_was_not_out() -> None:
    reply = Reply(552, (b"too large",))
    verdict = from_reply(Phase.CONTENT, reply, ReplyMeaning.PERMANENT, "", enhanced=False, peer=PEER, early=True)
    assert (verdict.fate, verdict.at_final_dot, str(verdict.status)) == (FAILED, False, "5.3.4")


@pytest.mark.parametrize(
    ("code", "text", "enhanced", "status", "diagnostic"),
    [
        (550, b"5.7.1 no (really)", True, "5.7.1", "smtp; 550 (no [really])"),
        (550, b"5.7.1 no", False, "5.7.1", "smtp; 550 (5.7.1 no)"),
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


@pytest.mark.parametrize("code", [452, 552])
@pytest.mark.parametrize("accepted", [0, 1, 7])
def test_too_many_recipients_for_every_status(code: int, accepted: int) -> None:
    """A status of the mailbox, the policy, the address: all but these four mean something else than "too many"."""
    for subject in range(9):
        for detail in range(20):
            reply = Reply(code, (b"%d.%d.%d x" % (code // 100, subject, detail),))
            speaks_of_it = (subject, detail) in {(5, 3), (3, 1), (0, 0), (5, 0)}
            again = asks_for_another_transaction(reply, accepted=accepted)
            assert again is (speaks_of_it and accepted > 0), (subject, detail)
            verdict = from_reply(Phase.RCPT, reply, judge(Phase.RCPT, code), "", enhanced=False, peer=PEER)
            for_good = code == 552 and (subject, detail) not in {(5, 3), (7, 10)}
            assert verdict.fate is (FAILED if for_good else DEFERRED), (subject, detail)


@pytest.mark.parametrize(
    ("code", "text", "fate"),
    [
        (552, b"5.5.3 too many recipients", DEFERRED),
        (552, b"too many recipients", DEFERRED),
        (552, b"Too Many Recipients", DEFERRED),
        (552, b"5.5.0 too many recipients", DEFERRED),
        (552, b"5.2.2 mailbox full, too many messages", FAILED),
        (552, b"exceeded storage allocation", FAILED),
        (550, b"5.5.3 too many recipients", DEFERRED),
        (550, b"too many recipients", FAILED),
        (554, b"5.5.3 x", DEFERRED),
    ],
)
def test_too_many_recipients_do_not_fail(code: int, text: bytes, fate: Disposition) -> None:
    verdict = verdict_on(Phase.RCPT, code, text)
    assert verdict.fate is fate
    assert verdict_on(Phase.CONTENT, code, text).fate is FAILED, "only an answer to RCPT is about that"


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
    assert asks_for_another_transaction(reply, accepted=accepted) is again


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
    assert (verdict.fate, str(verdict.status), verdict.level) == (Disposition.DEFERRED, status, Scope.SESSION)
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
    assert verdict.fate is Disposition.DEFERRED
    assert "in doubt" in verdict.text


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("5.3.4", 552),
        ("5.1.3", 501),
        ("5.1.7", 501),
        ("5.6.3", 554),
        ("5.6.7", 553),
        ("5.5.4", 550),
        ("5.0.0", 550),
    ],
)
@pytest.mark.parametrize("level", [Scope.RECIPIENT, Scope.MESSAGE])
def test_refusals_on_this_side_are_final(status: str, code: int, level: Scope) -> None:
    verdict = from_refusal(LocalRefusal(EnhancedStatus.parse(status), "no use"), PEER, level=level)
    assert (verdict.fate, str(verdict.status), verdict.level) == (Disposition.FAILED, status, level)
    assert verdict.diagnostic == f"smtp; {code} (no use)"


@pytest.mark.parametrize(
    ("permanent", "fate", "rest"), [(True, Disposition.FAILED, 0), (False, Disposition.DEFERRED, HOST_REST)]
)
def test_no_route(fate: Disposition, rest: int, *, permanent: bool) -> None:
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
    assert (verdict.fate, str(verdict.status), verdict.retry_after) == (Disposition.DEFERRED, "4.4.1", HOST_REST)


def test_of_several_refusals_the_last_host_has_the_word_and_all_are_told() -> None:
    """Which one is told decides what a bounce says; the text has them all."""
    first = verdict_on(Phase.GREETING, 554, b"first")._replace(text="first")
    last = verdict_on(Phase.EHLO, 550, b"last")._replace(text="last")
    verdict = combine_host_failures([], [first, last])
    assert verdict.diagnostic == "smtp; 550 (last)"
    assert verdict.text == "\rfirst\rlast"


def test_of_several_refusals_a_temporary_one_has_the_word() -> None:
    later = verdict_on(Phase.GREETING, 450, b"later")
    for order in ([later, REFUSED], [REFUSED, later], [later, LATER]):
        assert combine_host_failures([], order).diagnostic == order[order.index(later)].diagnostic
        assert combine_host_failures([DOWN], order).diagnostic == "smtp; 450 (later)"


def test_a_loss_behind_a_refused_ehlo_waits_and_has_the_words_of_the_refusal() -> None:
    refusal = verdict_on(Phase.EHLO, 550, b"5.7.1 no reverse name")
    loss = from_loss(ConnectionLost("gone"), "\r<<- HELO x", PEER, level=Scope.HOST)
    verdict = from_loss_behind(refusal, loss)
    assert (verdict.fate, str(verdict.status), verdict.retry_after) == (DEFERRED, "4.7.1", HOST_REST)
    assert verdict.diagnostic == "smtp; 550 (5.7.1 no reverse name)"
    assert verdict.text == "\r<<- HELO x\rgone"


def test_trouble_of_this_side_is_no_failure_of_a_host() -> None:
    """Nobody was asked: the host is not left alone for it. If anybody was, it is the host's."""
    own = ConnectFailure(MX, "Too many open files", own=True)
    verdict = from_connect_failures([own, own])
    assert (verdict.fate, str(verdict.status), verdict.level, verdict.retry_after) == (
        Disposition.DEFERRED,
        "4.3.0",
        Scope.MESSAGE,
        0,
    )
    assert verdict.diagnostic.startswith("local; 450 (connect to mx.example.org")
    assert "Too many open files" in verdict.text
    mixed = from_connect_failures([own, ConnectFailure(MX, "Connection refused")])
    assert (str(mixed.status), mixed.level, mixed.retry_after) == ("4.4.1", Scope.HOST, HOST_REST)


REFUSED = verdict_on(Phase.GREETING, 554)
LATER = verdict_on(Phase.GREETING, 450)
DOWN = ConnectFailure(MX, "Connection refused")


@pytest.mark.parametrize(
    ("failures", "refusals", "fate"),
    [
        ([], [REFUSED], Disposition.FAILED),
        ([], [REFUSED, REFUSED], Disposition.FAILED),
        ([], [REFUSED, LATER], Disposition.DEFERRED),
        ([], [LATER, REFUSED], Disposition.DEFERRED),
        ([DOWN], [REFUSED], Disposition.DEFERRED),
        ([DOWN], [], Disposition.DEFERRED),
        ([], [], Disposition.DEFERRED),
    ],
)
def test_an_error_only_if_every_host_refuses_for_good(
    failures: list[ConnectFailure], refusals: list[Verdict], fate: Disposition
) -> None:
    verdict = combine_host_failures(failures, refusals)
    assert verdict.fate is fate
    assert verdict.level is Scope.HOST
    assert verdict.retry_after == (HOST_REST if fate is Disposition.DEFERRED else 0)
