"""Which recipient gets which word of the server."""

from dataclasses import replace

import pytest
from tests.support.network import content_form, message, numbered, run, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.net.script import Reaction, Script, ServerPace, Then
from zsmtp.tls.policy import Level as TLSLevel
from zsmtp.tls.policy import TLSPolicy

D, F, L = Disposition.DELIVERED, Disposition.FAILED, Disposition.DEFERRED  # L: later
LMTP = SessionSettings(helo_name="client.example", greeting=Greeting.LHLO)
EITHER_WAY = pytest.mark.parametrize("keywords", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")], ids=" ".join)


def says(**replies: str) -> dict[str, list[Reaction]]:
    """``RCPT="250 a|550 b"``: one reaction after the other."""
    return {verb: [Reaction(text) for text in texts.split("|")] for verb, texts in replies.items()}


@EITHER_WAY
@pytest.mark.parametrize(
    ("replies", "fates"),
    [
        (says(), [D, D, D]),
        (says(MAIL="550 no"), [F, F, F]),
        (says(MAIL="451 later"), [L, L, L]),
        (says(MAIL="550 no", RCPT="250 ok"), [F, F, F]),
        (says(RCPT="550 no|250 ok|450 later"), [F, D, L]),
        (says(RCPT="550 no|550 no|450 no"), [F, F, L]),
        (says(RCPT="251 a|252 b|250 c"), [D, D, D]),
        (says(DOT="554 spam", BDAT="554 spam"), [F, F, F]),
        (says(RCPT="550 no|250 ok", DOT="451 later", BDAT="451 later"), [F, L, L]),
    ],
)
def test_each_recipient_has_its_own_word(
    keywords: tuple[str, ...], replies: dict[str, list[Reaction]], fates: list[Disposition]
) -> None:
    there = run(Script(keywords=keywords, replies=replies), one=message(*numbered(3)))
    assert there.fates == fates
    assert there.lines()[-1] == "QUIT"


@pytest.mark.parametrize(("reply", "fate"), [("451 later", L), ("554 no", F)])
def test_data_refused(reply: str, fate: Disposition) -> None:
    there = run(Script(replies=says(RCPT="250 ok|550 no", DATA=reply)), one=message(*numbered(2)))
    assert there.fates == [fate, F]


@EITHER_WAY
@pytest.mark.parametrize("word", ["452 4.5.3 too many", "552 too many"])
def test_too_many_recipients_go_in_further_transactions(keywords: tuple[str, ...], word: str) -> None:
    script = Script(keywords=keywords, replies=says(RCPT=f"250 ok|250 ok|{word}|{word}|250 ok"))
    there = run(script, one=message(*numbered(4)))
    assert there.fates == [D] * 4
    taken = [acceptance.path for acceptance in there.network.connections[0].acceptances]
    assert taken == numbered(4)
    assert sum(line.startswith("MAIL") for line in there.lines()) == 2
    assert there.lines().count("RSET") == (2 if "CHUNKING" in keywords else 0), "behind each chunk, and nowhere else"


def test_a_mailbox_that_is_full_is_not_too_many() -> None:
    script = Script(keywords=("ENHANCEDSTATUSCODES",), replies=says(RCPT="250 ok|452 4.2.2 full|552 5.2.2 full"))
    there = run(script, one=message(*numbered(3)))
    assert there.fates == [D, L, F]


@EITHER_WAY
@pytest.mark.parametrize("word", ["452 too many", "552 5.5.3 too many recipients", "552 too many recipients"])
def test_the_first_recipient_is_never_too_many(keywords: tuple[str, ...], word: str) -> None:
    """There is nobody to be sent before, and it is no refusal of the recipient (RFC 5321 4.5.3.1.10)."""
    there = run(Script(keywords=keywords, replies=says(RCPT=word)), one=message(*numbered(2)))
    assert there.fates == [L, L]
    assert {str(verdict.status) for verdict in there.verdicts[0]} <= {"4.3.1", "4.5.3", "4.2.3"}


def test_lmtp_has_a_word_for_each_accepted_recipient() -> None:
    script = Script(lmtp=True, replies=says(RCPT="250 ok|550 no|250 ok|250 ok", DOT="250 ok|550 5.2.2 full|450 later"))
    there = run(script, one=message(*numbered(4)), settings=LMTP)
    assert there.fates == [D, F, F, L]


@pytest.mark.parametrize("keywords", [(), ("CHUNKING",)])
def test_lmtp_that_breaks_after_two_words(keywords: tuple[str, ...]) -> None:
    words = [Reaction("250 ok"), Reaction("550 full", Then.CLOSE)]
    script = Script(lmtp=True, keywords=keywords, replies={"DOT": words, "BDAT": words})
    there = run(script, Script(lmtp=True), one=message(*numbered(4)), settings=LMTP)
    assert there.fates == [D, F, L, L]
    assert [verdict.in_doubt for verdict in there.verdicts[0]] == [False, False, True, True]
    assert len(there.network.connections) == 1, "nobody else may get what this one may have"


def test_the_dialogue_in_the_report_is_the_recipients_own() -> None:
    script = Script(keywords=("PIPELINING",), replies=says(RCPT="550 first|250 second"))
    first, second = run(script, one=message(*numbered(2))).verdicts[0]
    assert first.text.split("\r")[-2:] == ["<<- RCPT TO:<r0@example.org>", "->> 550 first"]
    assert "first" not in second.text
    assert second.text.endswith("\r->> 250 2.0.0 accepted")


@pytest.mark.parametrize(("keywords", "passed_on"), [(("DSN",), True), ((), False)])
def test_dsn_passes_the_duty_to_report_on(keywords: tuple[str, ...], *, passed_on: bool) -> None:
    assert run(Script(keywords=keywords)).verdicts[0][0].passed_on is passed_on


def test_a_refused_recipient_is_not_passed_on() -> None:
    assert not run(Script(keywords=("DSN",), replies=says(RCPT="550 no"))).verdicts[0][0].passed_on


@pytest.mark.parametrize("keywords", [("ENHANCEDSTATUSCODES",), ()])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("550 5.7.1 no", {"5.7.1"}),
        ("550-5.7.1 no\r\n550 and no", {"5.7.1"}),
        ("550 no", {"5.0.0", "5.1.1"}),
        ("552 no", {"5.3.4", "5.2.3"}),
        ("553 no", {"5.0.0", "5.1.3"}),
    ],
)
def test_the_status_code_of_a_refusal(keywords: tuple[str, ...], verb: str, text: str, statuses: set[str]) -> None:
    """The one of its text, offered or not; else one that blames a mailbox only where the reply is about one."""
    (verdict,) = run(Script(keywords=keywords, replies=says(**{verb: text}))).verdicts[0]
    assert verdict.fate is F
    assert str(verdict.status) in statuses
    if len(statuses) > 1:
        assert (verdict.status.subject in (1, 2)) is (verb == "RCPT")


@EITHER_WAY
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("reply", ["552 5.3.4 too large", "450 4.3.1 no room"])
@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET, Then.HANG])
def test_a_refusal_in_the_middle_of_the_content_is_the_answer_to_it(
    keywords: tuple[str, ...], reply: str, then: Then, lmtp: bool
) -> None:
    script = Script(
        lmtp=lmtp,
        keywords=keywords,
        in_content=(200, Reaction(reply, then)),
        pace=ServerPace.AT_ONCE,
        write_sizes=(40,),
    )
    sent = message(*numbered(2), content=content_form(b"Subject: x\r\n\r\n" + b"line\r\n" * 99, block=16))
    there = world(script, Script(lmtp=lmtp), settings=LMTP if lmtp else None)
    verdicts = there.deliver(sent)
    assert {verdict.fate for verdict in verdicts} == {F if reply.startswith("5") else L}
    assert {verdict.diagnostic for verdict in verdicts} == {f"smtp; {reply[:3]} ({reply[4:]})"}
    assert not any(verdict.in_doubt or verdict.at_final_dot for verdict in verdicts)
    assert verdicts[0].text.endswith(f"->> {reply}")
    assert len(there.network.connections) == 1, "it is not sent to anybody again"


@EITHER_WAY
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("code", [200, 211, 220, 221, 249, 260, 299, 354])
def test_no_reply_but_25x_says_what_became_of_the_content(keywords: tuple[str, ...], lmtp: bool, code: int) -> None:
    script = Script(lmtp=lmtp, keywords=keywords, replies=says(DOT=f"{code} odd", BDAT=f"{code} odd"))
    there = run(script, Script(lmtp=lmtp), settings=LMTP if lmtp else None)
    (verdict,) = there.verdicts[0]
    assert (verdict.fate, verdict.in_doubt) == (L, True)
    assert len(there.network.connections) == 1


@EITHER_WAY
@pytest.mark.parametrize("code", range(250, 260))
def test_25x_does(keywords: tuple[str, ...], code: int) -> None:
    assert run(Script(keywords=keywords, replies=says(DOT=f"{code} odd", BDAT=f"{code} odd"))).fates == [D]


@pytest.mark.parametrize("code", [300, 334, 355, 399])
def test_any_3xx_to_data_asks_for_the_content(code: int) -> None:
    assert run(Script(replies=says(DATA=f"{code} go"))).fates == [D]


# --------------------------------------------------------------------- a server that wants a safer session

MUST = "530 5.7.0 Must issue a STARTTLS command first"


@EITHER_WAY
@pytest.mark.parametrize("verbs", [("MAIL",), ("RCPT",), ("DATA", "BDAT"), ("DOT", "BDAT")], ids="-".join)
@pytest.mark.parametrize("reply", [MUST, "550 5.7.10 encryption needed"])
def test_who_asks_for_tls_makes_mail_wait_and_the_report_says_why(
    keywords: tuple[str, ...], verbs: tuple[str, ...], reply: str
) -> None:
    there = run(Script(keywords=keywords, replies=says(**dict.fromkeys(verbs, reply))))
    (verdict,) = there.verdicts[0]
    assert (verdict.fate, verdict.status.cls, verdict.status.subject) == (L, 4, 7)
    assert verdict.text.endswith("\rin clear: no TLS is configured")


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (Script(), "STARTTLS is not offered"),
        (Script(keywords=("STARTTLS",), replies=says(STARTTLS="454 4.7.0 not now")), "refused: 454 4.7.0 not now"),
        (Script(keywords=("STARTTLS",), replies=says(STARTTLS="220 go"), tls="handshake failure"), "handshake failure"),
        (Script(keywords=("STARTTLS",), replies=says(STARTTLS="250 go")), "unexpected reply when sending STARTTLS"),
        (Script(keywords=("STARTTLS",), replies={"STARTTLS": [Reaction(b"", Then.CLOSE)]}), "closed the connection"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_the_report_says_why_the_session_is_in_clear(server: Script, why: str) -> None:
    script = replace(server, replies={**server.replies, **says(MAIL=MUST)})
    (verdict,) = run(script, settings=asking(TLSPolicy(level=TLSLevel.MAY))).verdicts[0]
    assert (verdict.fate, str(verdict.status)) == (L, "4.7.0")
    last = verdict.text.rpartition("\r")[2]
    assert last.startswith("in clear: ")
    assert last.count("in clear") == 1
    assert why in last


def test_who_wants_a_login_in_a_protected_session_makes_mail_wait() -> None:
    authority = Authority.new()
    server = authority.server("mx0.example.org", replies=says(MAIL="530 5.7.0 Authentication required", STARTTLS="220"))
    there = world(server, settings=asking(TLSPolicy(level=TLSLevel.MAY)), now=NOW, anchors=authority.anchors)
    (verdict,) = there.deliver(message())
    assert (verdict.fate, str(verdict.status)) == (L, "4.7.0")
    assert verdict.peer is not None
    assert verdict.peer.protection is not None
    assert "in clear" not in verdict.text
