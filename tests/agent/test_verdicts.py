"""Where verdicts come from (RFC 5321 4.2.1, RFC 2033, RFC 3463): which reply decides about whom.

"Delivered" comes only from a 2xx to the end of the content (LMTP: one for each recipient), "failed" only from a 5xx.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.player import TWO, Player, at, sink_for
from tests.support.script import Script, Step, Then

BY_REPLY = {
    "MAIL 450": (at("MAIL", "450 4.7.1 later"), "DD"),
    "MAIL 550": (at("MAIL", "550 5.7.1 no"), "EE"),
    "RCPT 450 250": (at("RCPT", "450 4.2.1 later", "250 ok"), "DO"),
    "RCPT 550 250": (at("RCPT", "550 5.1.1 no", "250 ok"), "EO"),
    "RCPT 550": (at("RCPT", "550 5.1.1 no"), "EE"),
    "RCPT 450": (at("RCPT", "450 4.2.1 later"), "DD"),
    "RCPT 550 450": (at("RCPT", "550 5.1.1 no", "450 4.2.1 later"), "ED"),
    "RCPT 503": (at("RCPT", "503 5.5.1 sequence"), "DD"),
    "DATA 450": (at("DATA", "450 4.3.0 no"), "DD"),
    "DATA 554": (at("DATA", "554 5.5.1 no"), "EE"),
    "dot 451": (at("DOT", "451 4.3.0 no"), "DD"),
    "dot 554": (at("DOT", "554 5.6.0 no"), "EE"),
    "RCPT 250 550, dot 451": (at("RCPT", "250 ok", "550 5.1.1 no") | at("DOT", "451 4.3.0 no"), "DE"),
    "RCPT 450 250, dot 554": (at("RCPT", "450 4.2.1 later", "250 ok") | at("DOT", "554 5.6.0 no"), "DE"),
    "EHLO 500": (at("EHLO", "500 what"), "OO"),
    "EHLO 450": (at("EHLO", "450 not now"), "OO"),
    "EHLO 550, HELO 550": (at("EHLO", "550 no") | at("HELO", "550 no"), "EE"),
    "EHLO 500, HELO 450": (at("EHLO", "500 what") | at("HELO", "450 not now"), "DD"),
}


@pytest.mark.parametrize("case", BY_REPLY)
def test_verdicts_by_reply(player: Player, case: str, caps: tuple[str, ...]) -> None:
    replies, fates = BY_REPLY[case]
    with sink_for(Script(caps=caps, replies=replies)) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == fates
    assert len(sink.connections) == 1


@pytest.mark.parametrize(("banner", "fates"), [("554 no service", "EE"), ("450 not now", "DD"), ("500 no", "EE")])
def test_greetings_that_refuse(player: Player, banner: str, fates: str) -> None:
    with sink_for(Script(banner=Step(banner, Then.CLOSE))) as sink:
        assert player.deliver(sink).fates == fates


@pytest.mark.parametrize("refusal", ["452 4.5.3 too many recipients", "552 too many recipients"])
def test_too_many_recipients_goes_on_in_a_new_transaction(player: Player, refusal: str, caps: tuple[str, ...]) -> None:
    recipients = tuple(f"u{n}@example.com" for n in range(5))
    steps = ("250 ok", "250 ok", refusal, refusal, refusal, "250 ok", "250 ok", refusal, "250 ok")
    with sink_for(Script(caps=caps, replies=at("RCPT", *steps))) as sink:
        assert player.deliver(sink, recipients).fates == "OOOOO"
    assert [len(t.delivered) for t in sink.transactions] == [2, 2, 1]
    assert sink.deliveries() == {to.encode(): 1 for to in recipients}


def test_all_refused_and_354_nevertheless(player: Player, caps: tuple[str, ...]) -> None:
    """RFC 2920: at most a lone dot may follow, never the message."""
    with sink_for(Script(caps=caps, replies=at("RCPT", "550 no") | at("DATA", "354 go"))) as sink:
        assert player.deliver(sink).fates == "EE"
    assert all(transaction.content == b"" for transaction in sink.transactions)


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize(
    ("reply", "with_codes", "without"),
    [
        ("550 5.7.1 denied", b"5.7.1", b"5.1.1"),
        ("550 4.2.1 contradictory", b"5.1.1", b"5.1.1"),
        ("553 no", b"5.1.3", b"5.1.3"),
        ("554 5.999.999 far", b"5.999.999", b"5.0.0"),
        ("554 5.1.1.1 more", b"5.0.0", b"5.0.0"),
    ],
)
def test_enhanced_codes_count_only_where_offered(
    player: Player, offered: bool, reply: str, with_codes: bytes, without: bytes
) -> None:
    caps = ("ENHANCEDSTATUSCODES",) if offered else ()
    with sink_for(Script(caps=caps, replies=at("RCPT", reply))) as sink:
        outcome = player.deliver(sink)
    assert outcome.fates == "EE"
    assert outcome.reports[0].notary[2].split(b" ")[0] == (with_codes if offered else without)


# LMTP: one reply for each accepted recipient


@pytest.fixture(scope="module")
def lmtp_player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    player = Player(tmp_path_factory.mktemp("lmtp"), "-M", "-p", "24")
    yield player
    player.close()


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize(
    ("steps", "fates"),
    [
        (("250 d1", "250 d2", "250 d3"), "OOO"),
        (("250 d1", "550 5.2.2 full", "450 4.2.2 full"), "OED"),
        (("250 d1", Step(None, Then.CLOSE)), "ODD"),
        (("250 d1", Step(None, Then.RESET)), "ODD"),
        (("250 d1", "550 no", Step(None, Then.CLOSE)), "OED"),
        (("250 d1", Step("421 closing", Then.CLOSE)), "ODD"),
        (("250 d1", "354 what", "250 d3"), "ODD"),
        (("250 d1", b"nonsense\r\n", "250 d3"), "ODD"),
        ((Step(None, Then.CLOSE),), "DDD"),
        (("250 d1", "250 d2", Step(b"250 d3", Then.CLOSE)), "OOD"),
    ],
    ids=str,
)
def test_lmtp_answers_stand_each_for_itself(
    lmtp_player: Player, steps: tuple[str | bytes | Step, ...], fates: str, chunking: bool, caps: tuple[str, ...]
) -> None:
    verb = "BDAT" if chunking else "DOT"
    caps = (*caps, "CHUNKING") if chunking else caps
    with sink_for(Script(lmtp=True, caps=caps, replies=at(verb, *steps))) as sink:
        assert lmtp_player.deliver(sink, (*TWO, "c@example.com")).fates == fates


def test_lmtp_has_no_fallback(lmtp_player: Player) -> None:
    with sink_for(Script()) as sink:
        assert lmtp_player.deliver(sink).fates in {"DD", "EE"}
    assert [verb for verb in sink.connections[0].verbs if verb != "QUIT"] == ["LHLO"]
