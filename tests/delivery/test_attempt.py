"""One message's way: next hosts, stale links, RSET, limits, doubts, and what is refused on this side."""

import pytest
from tests.support.network import CONTENT, World, content_form, message, numbered, run, world

from zsmtp.delivery.outcome import Disposition, Scope
from zsmtp.errors import ContentError
from zsmtp.events import Closed
from zsmtp.net.script import Reaction, Script, ServerPace, Then
from zsmtp.net.scripted import Unreachable
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, EnvelopeRecipient

D, F, L = Disposition.DELIVERED, Disposition.FAILED, Disposition.DEFERRED
CLOSING = Reaction("421 closing")
GONE = Reaction(b"", Then.CLOSE)


def verbs(there: World, connection: int = 0) -> list[str]:
    known = ("EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT")
    return [line.split()[0] for line in there.lines(connection) if line.startswith(known)]


ONCE = ["EHLO", "MAIL", "RCPT", "DATA"]


# -------------------------------------------------------------------------- the next host


@pytest.mark.parametrize("keywords", [(), ("PIPELINING",), ("CHUNKING",)])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("end", [CLOSING, GONE, Reaction(b"", Then.RESET)], ids=["421", "close", "reset"])
def test_a_session_that_ends_before_the_dot_goes_on_at_the_next_host(
    keywords: tuple[str, ...], verb: str, end: Reaction
) -> None:
    there = run(Script(keywords=keywords, replies={verb: [end]}), Script(), one=message(*numbered(2)))
    assert there.fates == [D, D]
    assert len(there.network.connections) == (1 if verb == "DATA" and "CHUNKING" in keywords else 2)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
def test_every_host_is_tried_once(verb: str) -> None:
    script = Script(replies={verb: [CLOSING]})
    there = run(script, script, script)
    assert there.fates == [L]
    assert [c.endpoint.address for c in there.network.connections] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


def test_who_was_decided_about_is_not_sent_again() -> None:
    first = Script(replies={"RCPT": [Reaction("250 ok"), Reaction("550 no"), Reaction("250 ok")], "DATA": [CLOSING]})
    there = run(first, Script(), one=message(*numbered(3)))
    assert there.fates == [D, F, D]
    assert [acceptance.path for acceptance in there.network.connections[1].acceptances] == [
        b"r0@example.org",
        b"r2@example.org",
    ]


def test_a_host_that_broke_off_did_not_refuse_for_good() -> None:
    there = run(Script(replies={"MAIL": [CLOSING]}), Script(greeting=Reaction("554 no")))
    assert there.fates == [L]


@pytest.mark.parametrize("reaction", [Reaction("350 odd"), Reaction("nonsense"), Reaction(b"", Then.HANG)])
def test_disorder_and_silence_defer_at_once(reaction: Reaction) -> None:
    there = run(Script(replies={"MAIL": [reaction]}), Script())
    assert there.fates == [L]
    assert len(there.network.connections) == 1
    assert there.network.connections[0].closed_at is not None


# --------------------------------------------------------------------------------- doubts


@pytest.mark.parametrize("keywords", [(), ("PIPELINING",), ("CHUNKING",)])
@pytest.mark.parametrize(
    "end",
    [GONE, Reaction(b"", Then.RESET), Reaction(b"", Then.HANG), Reaction("354 what"), Reaction("250", Then.CLOSE)],
)
def test_no_final_word_leaves_doubt_and_nobody_else_gets_the_message(keywords: tuple[str, ...], end: Reaction) -> None:
    there = run(Script(keywords=keywords, replies={"DOT": [end], "BDAT": [end]}), Script(), one=message(*numbered(2)))
    said = end.octets == b"250\r\n"
    assert there.fates == [D if said else L] * 2
    assert [verdict.in_doubt for verdict in there.verdicts[0]] == [not said] * 2
    assert len(there.network.connections) == 1


def test_421_after_the_dot_is_a_word_and_leaves_no_doubt() -> None:
    there = run(Script(replies={"DOT": [CLOSING]}), Script())
    verdict = there.verdicts[0][0]
    assert (verdict.fate, verdict.in_doubt, verdict.at_final_dot) == (L, False, True)
    assert len(there.network.connections) == 1


def test_a_server_that_goes_away_in_the_content_leaves_no_doubt() -> None:
    big = content_form(b"x" * 500 + b"\r\n", block=50)
    first = Script(in_content=(100, Reaction(b"", Then.RESET)), write_sizes=(10,), pace=ServerPace.AT_ONCE)
    there = run(first, Script(), one=message(content=big))
    assert there.fates == [D]
    assert not there.network.connections[0].acceptances


def test_a_stop_waits_for_the_final_word_and_for_nothing_else() -> None:
    there = world(Script(replies={"DOT": [Reaction("250 ok", delay=500.0)]}), stop_at=1001.0)
    assert there.deliver(message())[0].fate is D
    assert there.network.now == 1500.0
    there = world(Script(replies={"MAIL": [Reaction("250 ok", delay=100.0)]}), stop_at=1001.0)
    verdict = there.deliver(message())[0]
    assert (verdict.fate, str(verdict.status), there.network.now) == (L, "4.3.2", 1001.0)


# --------------------------------------------------------------------- one link, many messages


def test_messages_follow_each_other_on_one_connection() -> None:
    there = world(Script())
    for _ in range(3):
        assert there.deliver(message())[0].fate is D
    there.close()
    assert verbs(there) == [*ONCE, "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA", "QUIT"]


def test_a_transaction_that_was_not_completed_is_reset_before_the_next() -> None:
    there = world(Script(replies={"RCPT": [Reaction("550 no"), Reaction("250 ok")]}))
    there.deliver(message())
    assert there.deliver(message())[0].fate is D
    assert verbs(there) == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize(("idle", "asked"), [(20.0, False), (20.1, True)])
def test_a_link_that_rested_is_asked_with_rset(idle: float, *, asked: bool) -> None:
    there = world(Script())
    there.deliver(message())
    there.deliver(message(), idle=idle)
    assert ("RSET" in verbs(there)) is asked


@pytest.mark.parametrize("answer", [Reaction("421 idle"), Reaction("502 no"), GONE, Reaction(b"", Then.HANG)])
def test_a_stale_link_is_made_anew_at_the_same_host(answer: Reaction) -> None:
    there = world([Script(replies={"RSET": [answer]}), Script()], Script())
    there.deliver(message())
    start = there.network.now
    assert there.deliver(message(), idle=60.0)[0].fate is D
    assert [c.endpoint.address for c in there.network.connections] == ["192.0.2.1", "192.0.2.1"]
    assert there.network.now - start == (30.0 if answer.then is Then.HANG else 0.0)


@pytest.mark.parametrize("answer", [CLOSING, GONE])
def test_a_link_that_turns_out_dead_on_mail_is_made_anew_and_not_for_ever(answer: Reaction) -> None:
    there = world(Script(replies={"MAIL": [Reaction("250 ok"), answer]}))
    there.deliver(message())
    assert there.deliver(message())[0].fate is D
    assert len(there.network.connections) == 2


def test_words_after_the_success_spoil_the_link_and_not_the_success() -> None:
    there = world([Script(replies={"DOT": [Reaction("250 ok\r\n250 unasked")]}), Script()])
    assert there.deliver(message())[0].fate is D
    assert there.deliver(message())[0].fate is D
    assert len(there.network.connections) == 2
    assert verbs(there, 0) == ONCE


@pytest.mark.parametrize("end", [Reaction(b"", Then.HANG), Reaction(b"", Then.RESET), Reaction("500 no")])
def test_quit_changes_nothing_and_costs_little(end: Reaction) -> None:
    there = world(Script(replies={"QUIT": [end]}), observed=True)
    there.deliver(message())
    there.close()
    assert there.fates == [D]
    assert there.network.now <= 1010.0
    assert [event for event in there.heard if isinstance(event, Closed)] == [Closed("done")]
    there.close()
    assert len([event for event in there.heard if isinstance(event, Closed)]) == 1


def test_mail_max_ends_a_connection_in_time() -> None:
    there = world(Script(keywords=("LIMITS MAILMAX=2 RCPTMAX=1",)))
    there.deliver(message(*numbered(5)))
    assert there.fates == [D] * 5
    assert [verbs(there, i).count("MAIL") for i in range(len(there.network.connections))] == [2, 2, 1]
    assert [verbs(there, i)[-1] for i in range(2)] == ["QUIT", "QUIT"]


def test_content_is_chosen_anew_for_the_session_it_goes_over() -> None:
    """A server that takes no more messages on a connection is followed by one that can do less."""

    def content_for(capabilities: Capabilities) -> ContentForm:
        return content_form(b"8\r\n", eight_bit=True) if capabilities.eight_bit_mime else content_form(b"7\r\n")

    able = Script(keywords=("8BITMIME", "LIMITS MAILMAX=1 RCPTMAX=1"))
    there = world([able, Unreachable()], Script())
    there.deliver(message(*numbered(2), content_for=content_for))
    assert there.fates == [D, D]
    assert [c.acceptances[0].content for c in there.network.connections] == [b"8\r\n", b"7\r\n"]


def test_more_recipients_than_a_transaction_takes() -> None:
    there = run(Script(keywords=("PIPELINING",)), one=message(*numbered(205)))
    assert there.fates == [D] * 205
    assert verbs(there).count("MAIL") == 3


@pytest.mark.parametrize(
    ("answer", "kept"),
    [(Reaction("250 ok"), True), (Reaction("421 bye"), False), (Reaction("500 what"), False), (GONE, False)],
)
def test_a_sign_of_life(answer: Reaction, *, kept: bool) -> None:
    there = world(Script(replies={"NOOP": [answer]}))
    there.deliver(message())
    there.network.run(there.courier.keep_alive(there.route))
    assert (there.route.link is not None) is kept
    assert (there.network.connections[0].closed_at is None) is kept
    assert there.deliver(message())[0].fate is D


def test_delivering_on_the_link_opens_no_other() -> None:
    there = world(Script(replies={"MAIL": [Reaction("250 ok"), Reaction("250 ok"), CLOSING]}))
    assert there.deliver(message(), on_link=True)[0].fate is L, "there is no link yet"
    assert there.network.attempts == []
    there.deliver(message())
    assert there.deliver(message(), on_link=True)[0].fate is D
    assert there.deliver(message(), on_link=True)[0].fate is L
    assert len(there.network.connections) == 1
    assert there.route.link is None


# ------------------------------------------------------------------- refused on this side


def test_what_is_refused_here_never_reaches_the_wire() -> None:
    there = run(Script(), one=message(b"a@b\r\nRCPT TO:<c@d>", b"ok@example.org", "ä@example.org".encode(), b""))
    assert there.fates == [F, D, F, F]
    assert [str(verdict.status) for verdict in there.verdicts[0]] == ["5.1.3", "2.0.0", "5.6.7", "5.1.3"]
    assert [line for line in there.lines() if line.startswith("RCPT")] == ["RCPT TO:<ok@example.org>"]


def test_a_bad_sender_and_a_message_too_large_are_refused_without_a_transaction() -> None:
    there = run(Script(), one=message(sender=b"a\n@b"))
    assert [str(verdict.status) for verdict in there.verdicts[0]] == ["5.1.7"]
    assert verbs(there) == ["EHLO", "QUIT"]
    there = run(Script(keywords=("SIZE 20",)), one=message(*numbered(2)))
    assert [(str(v.status), v.fate, v.level) for v in there.verdicts[0]] == [("5.3.4", F, Scope.MESSAGE)] * 2
    assert verbs(there) == ["EHLO", "QUIT"]


def test_a_parameter_that_cannot_be_sent_is_refused_and_not_raised() -> None:
    there = run(Script(keywords=("DSN",)), one=message(EnvelopeRecipient(b"r@example.org", notify=b"SUCCESS\r\nDATA")))
    assert [(str(v.status), v.fate) for v in there.verdicts[0]] == [("5.5.4", F)]
    assert verbs(there) == ["EHLO", "QUIT"]


def test_content_that_cannot_be_read_is_deferred() -> None:
    def unreadable(capabilities: Capabilities) -> ContentForm:
        raise ContentError("disk gone")

    there = run(Script(), one=message(content_for=unreadable))
    verdict = there.verdicts[0][0]
    assert (verdict.fate, str(verdict.status), "disk gone" in verdict.text) == (L, "4.3.0", True)


def test_content_that_breaks_off_ends_the_session_without_a_dot() -> None:
    def broken() -> object:
        yield b"Subject: x\r\n"
        yield b"\r\n"
        raise ContentError("short file")

    form = ContentForm(100, 0, None, broken, broken)  # type: ignore[arg-type]
    there = run(Script(), Script(), one=message(content=form))
    assert there.fates == [L]
    assert not there.verdicts[0][0].in_doubt
    assert len(there.network.connections) == 1
    assert "." not in there.lines()


# ------------------------------------------------------------------------------- the route


def test_no_route_settles_everybody() -> None:
    there = world(dns="other.example A 192.0.2.1")
    assert [str(v.status) for v in there.deliver(message(*numbered(2)))] == ["5.1.2", "5.1.2"]
    assert there.fates == [F, F]
    assert there.route.failure is None or there.route.failure.retry_after == 0


def test_a_route_is_planned_anew_for_each_connection() -> None:
    there = world([Script(), Unreachable()])
    there.deliver(message())
    plan = there.route.plan
    there.close()
    assert there.deliver(message())[0].fate is L
    assert there.route.plan is not plan


def test_the_content_arrives_as_it_is() -> None:
    there = run(Script(keywords=("CHUNKING",)))
    assert there.network.connections[0].acceptances[0].content == CONTENT
