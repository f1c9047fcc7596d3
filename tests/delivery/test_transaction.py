"""Which recipient gets which word of the server."""

import pytest
from tests.support.network import message, numbered, run

from zsmtp.delivery.outcome import Fate
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.net.script import Reaction, Script, Then

D, F, L = Fate.DELIVERED, Fate.FAILED, Fate.DEFERRED  # L: later
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
    keywords: tuple[str, ...], replies: dict[str, list[Reaction]], fates: list[Fate]
) -> None:
    there = run(Script(keywords=keywords, replies=replies), one=message(*numbered(3)))
    assert there.fates == fates
    assert there.lines()[-1] == "QUIT"


@pytest.mark.parametrize(("reply", "fate"), [("451 later", L), ("554 no", F)])
def test_data_refused(reply: str, fate: Fate) -> None:
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
    assert "RSET" not in there.lines()


def test_a_mailbox_that_is_full_is_not_too_many() -> None:
    script = Script(keywords=("ENHANCEDSTATUSCODES",), replies=says(RCPT="250 ok|452 4.2.2 full|552 5.2.2 full"))
    there = run(script, one=message(*numbered(3)))
    assert there.fates == [D, L, F]


def test_the_first_recipient_is_never_too_many() -> None:
    assert run(Script(replies=says(RCPT="452 too many")), one=message(*numbered(2))).fates == [L, L]


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


@pytest.mark.parametrize(("keywords", "status"), [(("ENHANCEDSTATUSCODES",), "5.7.1"), ((), "5.1.1")])
def test_a_status_code_counts_only_if_the_server_offered_them(keywords: tuple[str, ...], status: str) -> None:
    there = run(Script(keywords=keywords, replies=says(RCPT="550 5.7.1 no")))
    assert str(there.verdicts[0][0].status) == status
