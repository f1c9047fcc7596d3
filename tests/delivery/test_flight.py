"""Many messages under way: what leaves together, what is learned, and what becomes of them when the session breaks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from tests.support.network import World, message, world

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.delivery.settings import SessionSettings
from zsmtp.effects import Connect, ConnectResult
from zsmtp.net.script import Reaction, Script, ScriptedConnection, ServerPace, Then
from zsmtp.net.scripted import ScriptedNetwork, Unreachable

D, F, L = Disposition.DELIVERED, Disposition.FAILED, Disposition.DEFERRED
PIPELINING = ("PIPELINING",)
CHUNKING = ("PIPELINING", "CHUNKING")


def fly(there: World, count: int, *, recipients: int = 1) -> list[list[Verdict]]:
    """Deliver so many messages, all at hand from the start; their verdicts, each recipient having exactly one."""
    found: list[dict[int, Verdict]] = [{} for _ in range(count)]

    def deliveries() -> Iterator[Delivery]:
        for number in range(count):

            def settle(index: int, verdict: Verdict, own: dict[int, Verdict] = found[number]) -> None:
                assert index not in own
                own[index] = verdict

            paths = [b"m%dr%d@example.org" % (number, i) for i in range(recipients)]
            yield Delivery(message(*paths, sender=b"s%d@example.net" % number), Ledger(recipients, settle))

    rest = deliveries()
    while (first := next(rest, None)) is not None:
        there.network.run(there.courier.deliver(there.route, first, lambda: next(rest, None)))
    assert all(len(own) == recipients for own in found)
    return [[own[i] for i in range(recipients)] for own in found]


def fates(verdicts: list[list[Verdict]]) -> list[Disposition]:
    return [one.fate for own in verdicts for one in own]


def flights(there: World, connection: int = 0) -> int:
    """How often the client had nothing more to send and waited: round trips, where the server is patient."""
    return len(there.network.connections[connection].written)


# --------------------------------------------------------------------------- round trips


def test_one_by_one_it_takes_four_round_trips_for_each_message() -> None:
    there = world(Script())
    assert fates(fly(there, 50)) == [D] * 50
    assert flights(there) == 1 + 4 * 50


def test_with_pipelining_it_takes_one() -> None:
    there = world(Script(keywords=PIPELINING))
    assert fates(fly(there, 200)) == [D] * 200
    assert flights(there) <= 1 + 1 + 200  # EHLO, the first envelope, and each content with the next envelope


def test_with_chunking_it_takes_a_tenth() -> None:
    there = world(Script(keywords=CHUNKING))
    assert fates(fly(there, 200)) == [D] * 200
    assert flights(there) <= 1 + 0.1 * 200


def test_without_leave_nothing_rides() -> None:
    settings = SessionSettings(helo_name="client.example", pipelining=False)
    there = world(Script(keywords=CHUNKING), settings=settings)
    assert fates(fly(there, 20)) == [D] * 20
    assert flights(there) == 1 + 3 * 20


def test_each_session_costs_a_round_trip_more_for_what_it_has_to_show() -> None:
    """The first content waits for the answers to its envelope; behind a good answer to it nothing does."""
    there = world([Script(keywords=CHUNKING), Script(keywords=CHUNKING)])
    for number in range(2):
        assert fates(fly(there, 1)) == [D]
        assert flights(there, number) == 3, "EHLO, envelope, content"
        assert fates(fly(there, 1)) == [D]
        assert flights(there, number) == 4, "the whole second message"
        there.close()


# --------------------------------------------------------------- refusals in the middle


@pytest.mark.parametrize("keywords", [PIPELINING, CHUNKING])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_a_refusal_in_the_middle_shifts_nothing(keywords: tuple[str, ...], verb: str) -> None:
    replies = [Reaction("250 ok")] * 5 + [Reaction("550 no")] + [Reaction("250 ok")]
    there = world(Script(keywords=keywords, replies={verb: replies}))
    assert fates(fly(there, 12)) == [D] * 5 + [F] + [D] * 6
    assert len(there.network.connections) == 1


def test_blind_content_is_followed_by_rset() -> None:
    """Or a server that keeps the sender of a message without recipients would take the next one in his name."""
    there = world(Script(keywords=CHUNKING))
    fly(there, 8)
    lines = [line for line in there.lines() if line[:4] in ("MAIL", "RSET", "BDAT")]
    behind = [after[:4] for line, after in pairwise(lines) if line.startswith("BDAT")]
    assert "RSET" in behind
    assert not any(one == after == "RSET" for one, after in pairwise(lines))


def test_content_of_a_message_that_nobody_wants_does_not_put_the_peer_under_suspicion() -> None:
    replies = {
        "RCPT": [Reaction("250 ok")] * 3 + [Reaction("550 no")] + [Reaction("250 ok")],
        "BDAT": [Reaction("250 ok")] * 3 + [Reaction("503 valid RCPT first")] + [Reaction("250 ok")],
    }
    there = world(Script(keywords=CHUNKING, replies=replies))
    assert fates(fly(there, 40)) == [D] * 3 + [F] + [D] * 36
    assert len(there.network.connections) == 1
    assert flights(there) < 20


# ------------------------------------------------------------------- peers out of step


@pytest.mark.parametrize("keywords", [PIPELINING, CHUNKING])
def test_a_peer_that_minds_riding_commands_is_served_strictly_from_then_on(keywords: tuple[str, ...]) -> None:
    first = Script(
        keywords=keywords, replies={"MAIL": [Reaction("250 ok"), Reaction("250 ok"), Reaction("503 not now")]}
    )
    there = world([first, Script(keywords=keywords)])
    assert fates(fly(there, 10)) == [D] * 10
    assert len(there.network.connections) == 2
    taken = [a.path for c in there.network.connections for a in c.acceptances]
    assert len(taken) == len(set(taken)) == 10
    assert flights(there, 1) == 1 + 2 * len(there.network.connections[1].acceptances)


def test_rset_refused_in_a_flight_is_disorder_too() -> None:
    first = Script(keywords=CHUNKING, replies={"RSET": [Reaction("250 ok"), Reaction("503 not now")]})
    there = world([first, Script(keywords=CHUNKING)])
    verdicts = fly(there, 10)
    assert all(v.fate is D or v.in_doubt for own in verdicts for v in own)
    assert len(there.network.connections) == 2


def test_silence_to_a_riding_command_is_no_verdict() -> None:
    silent = Script(keywords=PIPELINING, replies={"MAIL": [Reaction("250 ok"), Reaction(b"", Then.HANG)]})
    there = world([silent, Script(keywords=PIPELINING)])
    assert fates(fly(there, 5)) == [D] * 5
    assert len(there.network.connections) == 2
    assert flights(there, 1) == 1 + 2 * 4, "it may have been the riding"


class OneOfASegment(ScriptedConnection):
    """A server that obeys the first command of what it reads, and forgets the rest."""

    def take(self, octets: memoryview, now: float) -> int:
        if self._content is None:
            line, end, _ = bytes(octets).partition(b"\r\n")
            super().take(memoryview(line + end), now)
            return len(octets)
        return super().take(octets, now)


class Hosts(ScriptedNetwork):
    """One host whose connections are of a kind of their own."""

    def _connect(self, effect: Connect) -> ConnectResult:
        endpoint = effect.endpoints[0]
        self.connections.append(OneOfASegment(endpoint, self._next_host(endpoint), self.now))  # type: ignore[arg-type]
        return ConnectResult(self.connections[-1], endpoint)


def test_a_server_that_forgets_all_but_the_first_command_of_a_segment_is_served_one_by_one() -> None:
    """Within one message, too: no answer to RCPT comes, whatever is sent ahead."""
    script = Script(keywords=PIPELINING)
    there = world(script)
    there.network.__class__ = Hosts
    there.network._performers[Connect] = there.network._connect
    assert fates(fly(there, 1)) == [D]
    assert len(there.network.connections) == 2
    waited = there.network.now
    assert fates(fly(there, 5)) == [D] * 5
    assert len(there.network.connections) == 2
    assert there.network.now == waited, "it is remembered: nothing is waited for in vain again"


@pytest.mark.parametrize("keywords", [PIPELINING, CHUNKING])
@pytest.mark.parametrize("recipients", [1, 3])
@pytest.mark.parametrize(
    "reply",
    [
        "503 5.5.1 bad sequence of commands",
        "500 Pipelining not supported",
        "550 5.5.0 no PIPELINING please",
        "450 pipelined",
    ],
)
@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_a_server_that_minds_a_command_group_is_served_one_by_one(
    verb: str, reply: str, recipients: int, keywords: tuple[str, ...]
) -> None:
    """Nothing is concluded about the mail; it is sent again at once, on the same connection."""
    there = world(Script(keywords=keywords, replies={verb: [Reaction(reply), Reaction("250 ok")]}))
    assert fates(fly(there, 3, recipients=recipients)) == [D] * 3 * recipients
    (connection,) = there.network.connections
    assert len([a for a in connection.acceptances if a.reply.startswith(b"2")]) == 3 * recipients
    again = [octets for _, octets in connection.written][3:]
    assert all(octets.count(b"\r\n") == 1 for octets in again if octets.startswith((b"MAIL", b"RCPT"))), "one by one"


def test_data_out_of_its_place_is_no_verdict() -> None:
    replies = {"DATA": [Reaction("503 5.5.1 what"), Reaction("354 go")]}
    assert fates(fly(world(Script(keywords=PIPELINING, replies=replies)), 2)) == [D, D]


@pytest.mark.parametrize("keywords", [PIPELINING, CHUNKING])
def test_503_to_content_that_waited_for_its_turn_is_the_answer_to_it(keywords: tuple[str, ...]) -> None:
    """It did not run ahead, and is not sent whole a second time at once."""
    end = [Reaction("503 5.5.1 what"), Reaction("250 ok")]
    there = world(Script(keywords=keywords, replies={"DOT": end, "BDAT": end}))
    assert fates(fly(there, 1)) == [L]
    assert len(there.network.connections[0].acceptances) == 1


@pytest.mark.parametrize("keywords", [(), PIPELINING, CHUNKING])
def test_who_is_served_one_by_one_and_says_503_has_its_mail_wait(keywords: tuple[str, ...]) -> None:
    there = world(Script(keywords=keywords, replies={"MAIL": [Reaction("503 5.5.1 never")]}))
    assert fates(fly(there, 2)) == [L, L]
    assert len(there.network.connections) <= 2, "one more where the second message rode"


@pytest.mark.parametrize("keywords", [PIPELINING, CHUNKING])
def test_503_behind_a_refused_mail_is_what_commands_get(keywords: tuple[str, ...]) -> None:
    """It says nothing about the peer: the messages that ride on are not held back for it."""
    replies = {
        "MAIL": [*[Reaction("250 ok")] * 3, Reaction("550 5.7.1 not you"), Reaction("250 ok")],
        "RCPT": [*[Reaction("250 ok")] * 3, Reaction("503 5.5.1 MAIL first"), Reaction("250 ok")],
    }
    there = world(Script(keywords=keywords, replies=replies))
    assert fates(fly(there, 12)) == [D] * 3 + [F] + [D] * 8
    assert len(there.network.connections) == 1
    assert flights(there) < (16 if keywords == PIPELINING else 10)


# ---------------------------------------------------------------------------- broken off


@pytest.mark.parametrize("keywords", [PIPELINING, CHUNKING])
def test_in_doubt_is_who_was_sent_to_the_end_and_nobody_else(keywords: tuple[str, ...]) -> None:
    end = [Reaction("250 ok")] * 3 + [Reaction(b"", Then.RESET)]
    there = world([Script(keywords=keywords, replies={"DOT": end, "BDAT": end}), Script(keywords=keywords)])
    verdicts = fly(there, 9)
    sent = there.network.connections[0].client_octets
    for number, (verdict,) in enumerate(verdicts):
        envelope = sent.partition(b"MAIL FROM:<s%d@" % number)[2].partition(b"MAIL FROM")[0]
        whole = envelope.endswith((b"hello\r\n.\r\n", b"hello\r\nRSET\r\n", b"hello\r\n"))
        assert verdict.in_doubt is (number >= 3 and whole), number
        assert (verdict.fate is L) is verdict.in_doubt
    assert sum(v.in_doubt for (v,) in verdicts) == (1 if keywords == PIPELINING else len(verdicts_in_flight(there)))


def verdicts_in_flight(there: World) -> list[str]:
    """The content commands of the first connection that were not answered well."""
    return [line for line in there.lines() if line.startswith("BDAT")][3:]


def test_doubt_about_recipients_not_yet_answered() -> None:
    """Blind content is out before any answer: the recipients without one are in doubt as the accepted ones are."""
    ok = Reaction("250 ok")
    cut = Script(keywords=CHUNKING, replies={"RCPT": [ok, ok, ok, ok, Reaction("550 no"), Reaction(b"", Then.RESET)]})
    there = world([cut, Script(keywords=CHUNKING)])
    first, second = fly(there, 2, recipients=3)
    assert [(v.fate, v.in_doubt) for v in first] == [(D, False)] * 3
    assert [(v.fate, v.in_doubt) for v in second] == [(L, True), (F, False), (L, True)]
    assert len(there.network.connections) == 1


@pytest.mark.parametrize(("per_connection", "doubtful"), [(1, 0), (4, 3), (8, 7)])
def test_a_server_that_closes_after_a_few_messages_leaves_few_in_doubt(per_connection: int, doubtful: int) -> None:
    """Once it is known how many a connection takes, no more are under way: only the first one's are lost from sight."""
    last = [Reaction("250 ok")] * (per_connection - 1) + [Reaction("250 ok", Then.CLOSE)]
    verdicts = fly(world(Script(keywords=CHUNKING, replies={"BDAT": last})), 120)
    assert all(one.fate is D or one.in_doubt for own in verdicts for one in own)
    assert fates(verdicts).count(L) == doubtful


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "RSET", "BDAT"])
@pytest.mark.parametrize("per_connection", [1, 2, 10])
@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
def test_what_was_sent_behind_a_421_is_simply_due_again(per_connection: int, verb: str, then: Then) -> None:
    """A server that has enough after so many messages, and says so at some command of the next one."""
    count = per_connection if verb != "RSET" else max(per_connection - 1, 0)
    closing = Script(
        keywords=CHUNKING, replies={verb: [Reaction("250 ok")] * count + [Reaction("421 enough for one session", then)]}
    )
    there = world(closing)
    verdicts = fly(there, 60)
    told = [verdict for own in verdicts for verdict in own]
    assert not any(verdict.in_doubt for verdict in told)
    taken = [a.path for c in there.network.connections for a in c.acceptances if a.reply.startswith(b"2")]
    assert len(taken) == len(set(taken)) == fates(verdicts).count(D)
    refused = sum(verdict.reply is not None and verdict.reply.code == 421 for verdict in told)
    if verb == "BDAT":
        assert fates(verdicts).count(L) == refused > 0, "421 is also a refusal of the content it answers"
    else:
        assert fates(verdicts) == [D] * 60


def test_a_421_that_comes_unasked_leaves_nothing_in_doubt() -> None:
    """Behind the last answer, or while the next message is written: nothing of that was read."""
    last = [Reaction("250 ok"), Reaction("250 ok"), Reaction("250 ok\r\n421 going down", Then.CLOSE)]
    for keywords in (PIPELINING, CHUNKING):
        there = world(Script(keywords=keywords, replies={"DOT": last, "RSET": last}))
        assert fates(fly(there, 12)) == [D] * 12


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
def test_421_answers_its_command_only(verb: str) -> None:
    closing = Script(keywords=CHUNKING, replies={verb: [Reaction("421 bye", Then.CLOSE)]})
    there = world([closing], Script(keywords=CHUNKING))
    assert fates(fly(there, 3)) == [D] * 3, "the only recipient was told no: no doubt, and the next host at once"


def test_what_one_message_met_is_not_held_against_the_next() -> None:
    """421 to the end of the first message closes the only host; the next one starts anew there."""
    bye = Script(keywords=PIPELINING, replies={"DOT": [Reaction("421 bye", Then.CLOSE)]})
    there = world([bye, Script(keywords=PIPELINING)])
    assert fates(fly(there, 3)) == [L, D, D]


def test_hosts_that_failed_one_message_are_tried_for_the_next() -> None:
    gone = Reaction(b"", Then.RESET)
    first = [Script(keywords=PIPELINING, replies={"MAIL": [gone]}), Script(keywords=PIPELINING)]
    second = [Script(keywords=PIPELINING, replies={"MAIL": [Reaction("250 ok"), gone]}), Unreachable()]
    assert fates(fly(world(first, second), 2)) == [D, D]


def test_a_host_that_breaks_off_costs_each_message_one_try() -> None:
    there = world(Script(keywords=PIPELINING, replies={"MAIL": [Reaction(b"", Then.RESET)]}))
    assert fates(fly(there, 3)) == [L] * 3
    assert len(there.network.connections) == 3


@pytest.mark.parametrize("keywords", [PIPELINING, CHUNKING])
def test_a_stop_waits_for_those_whose_last_octet_is_out_and_starts_nobody(keywords: tuple[str, ...]) -> None:
    slow = [Reaction("250 ok")] * 2 + [Reaction("250 ok", delay=500.0)]
    script = Script(keywords=keywords, replies={"DOT": slow, "BDAT": slow}, pace=ServerPace.PATIENT)
    there = world(script, stop_at=1100.0)
    verdicts = fly(there, 6)
    taken = {a.path for a in there.network.connections[0].acceptances}
    assert len(taken) >= 3
    for number, (verdict,) in enumerate(verdicts):
        assert (verdict.fate is D) is (b"m%dr0@example.org" % number in taken)
        assert not verdict.in_doubt
    assert len(there.network.connections) == 1
