"""How octets are cut on their way changes nothing: not what is said, not what is heard, not what becomes of the mail.

Generated servers answer with any mix of replies, refusals, nonsense, 421 and silence; each dialogue is run once with
everything in one piece and again with reads and writes cut at generated places.
"""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.support.network import World, content_form, message, numbered, world

from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.net.script import Reaction, Script, ServerPace, Then
from zsmtp.proto.phase import Timeouts
from zsmtp.proto.session import Finished, Lost, Session, SessionEvent, StepAnswered

REPLIES = st.sampled_from(
    [
        "250 ok",
        "250-several\r\n250-lines\r\n250 of text",
        "251 elsewhere",
        "220 hi",
        "354 go ahead",
        "450 4.7.1 later",
        "452 4.5.3 too many",
        "552 too many",
        "550 5.1.1 no",
        "550-5.7.1 no\r\n550 5.7.1 and no",
        "554 5.0.0 no",
        "503 confused",
        "421 closing",
        b"250 bare\n",
        b"250-a\r\n550 b\r\n",
        b"nonsense\r\n",
        b"250 unfinished",
        b"250-unfinished\r\n",
        b"250 a\rb\x00\xff\r\n",
        b"\r\n",
        b"",
    ]
)
SURPLUS = st.sampled_from(["250\r\n250 unasked", "354 go\r\n250 too early", "550 no\r\n250 after all"])
REACTIONS = st.builds(
    Reaction,
    REPLIES,
    then=st.sampled_from([Then.GO_ON] * 5 + [Then.CLOSE, Then.RESET, Then.HANG]),
    drip=st.sampled_from([0.0, 0.0, 0.0, 0.25, 30.0]),
)
GOOD = {"RCPT": "250 ok", "DATA": "354 go", "DOT": "250 ok", "BDAT": "250 ok", "MAIL": "250 ok", "QUIT": "221 bye"}


def reactions(verb: str, odd: st.SearchStrategy[Reaction] = REACTIONS) -> st.SearchStrategy[list[Reaction]]:
    """Now what the command hopes for, so that dialogues get far, now something else."""
    good = st.just(Reaction(GOOD[verb]))
    return st.lists(st.one_of(good, odd), min_size=1, max_size=4)


ENDS = REACTIONS.filter(lambda one: one.then is not Then.GO_ON)  # others are a reply more than there are commands
SIZES = st.lists(st.integers(1, 12), max_size=5)
SCRIPTS = st.builds(
    Script,
    greeting=st.one_of(*[st.just(Reaction("220 hi ESMTP"))] * 4, st.just(Reaction("220-hi\r\n220 there")), REACTIONS),
    keywords=st.lists(st.sampled_from(["PIPELINING", "PIPELINING", "CHUNKING", "DSN", "8BITMIME"]), max_size=3),
    replies=st.sets(st.sampled_from(sorted(GOOD)), max_size=3).flatmap(
        lambda verbs: st.fixed_dictionaries({verb: reactions(verb) for verb in sorted(verbs)})
    ),
    in_content=st.one_of(*[st.none()] * 4, st.tuples(st.integers(0, 60), ENDS)),
    lmtp=st.booleans(),
)


def deliver(script: Script, recipients: int) -> tuple[World, list[object]]:
    """The world after a delivery, and the session events up to the last verdict."""
    greeting = Greeting.LHLO if script.lmtp else Greeting.EHLO
    chosen = SessionSettings(helo_name="client.example", greeting=greeting, timeouts=Timeouts(command=100.0))
    content = content_form(b"Subject: x\r\n\r\n" + b"hello\r\n" * 9, block=16)
    there = world(script, Script(lmtp=script.lmtp), settings=chosen)
    heard: list[SessionEvent] = []

    def next_event(session: Session) -> SessionEvent | None:
        event = ask(session)
        heard.extend([event] if event is not None else [])
        return event

    ask = Session.next_event
    with mock.patch.object(Session, "next_event", next_event):
        there.deliver(message(*numbered(recipients), content=content))
    events = told(heard)
    there.close()
    return there, events


def told(events: list[SessionEvent]) -> list[object]:
    """The events of all sessions as values."""
    values: list[object] = []
    for event in events:
        if isinstance(event, StepAnswered):
            values.append((event.step.phase, event.step.wire, event.reply, event.result, event.recipient))
        elif isinstance(event, Finished):
            values.append(event.completed)
        else:
            assert isinstance(event, Lost)
            step = event.step and (event.step.phase, event.step.wire)
            values.append((type(event.error), str(event.error), step, len(event.in_doubt)))
    return values


@settings(deadline=None, max_examples=examples(60))
@given(SCRIPTS, SIZES, SIZES, st.integers(1, 4))
def test_cutting_changes_nothing(script: Script, reads: list[int], writes: list[int], recipients: int) -> None:
    whole, events = deliver(script, recipients)
    for cut in (
        replace(script, read_sizes=reads, write_sizes=writes),
        replace(script, read_sizes=(1,), write_sizes=(1,)),
    ):
        pieces, pieces_events = deliver(cut, recipients)
        assert [c.client_octets for c in pieces.network.connections] == [
            c.client_octets for c in whole.network.connections
        ]
        assert pieces.verdicts == whole.verdicts
        assert pieces_events == events
        assert pieces.network.now == whole.network.now


@settings(deadline=None, max_examples=examples(40))
@given(
    st.sampled_from([(), ("PIPELINING",), ("CHUNKING",), ("PIPELINING", "CHUNKING")]),
    st.sampled_from(sorted(GOOD.keys() - {"QUIT"})).flatmap(
        lambda verb: st.tuples(st.just(verb), reactions(verb, st.builds(Reaction, SURPLUS)))
    ),
    st.booleans(),
    SIZES,
    st.integers(1, 4),
)
def test_a_reply_too_many_may_be_noticed_sooner_where_more_is_read_at_once(
    keywords: tuple[str, ...], odd: tuple[str, list[Reaction]], lmtp: bool, reads: list[int], recipients: int
) -> None:
    """And that is all: what it hides is in doubt then, or due again, but never anything else than it was."""
    verb, replies = odd
    script = Script(keywords=keywords, replies={verb: replies}, lmtp=lmtp)
    whole, _ = deliver(script, recipients)
    for cut in (replace(script, read_sizes=reads), replace(script, read_sizes=(1,))):
        pieces, _ = deliver(cut, recipients)
        for one, other in zip(whole.verdicts[0], pieces.verdicts[0], strict=True):
            assert one.fate is other.fate or one.fate is Disposition.DEFERRED


@settings(deadline=None, max_examples=examples(40))
@given(SCRIPTS, SIZES, st.integers(1, 4))
def test_a_server_that_answers_at_once_hears_no_more_than_a_patient_one(
    script: Script, writes: list[int], recipients: int
) -> None:
    """Replies that come while a group is still being written may end it early, and do nothing else to its octets."""
    script = replace(script, in_content=None)
    patient, _ = deliver(script, recipients)
    prompt, _ = deliver(replace(script, pace=ServerPace.AT_ONCE, write_sizes=writes), recipients)
    one, other = prompt.network.connections[0], patient.network.connections[0]
    assert other.client_octets.startswith(one.client_octets)
    taken = [acceptance.path for acceptance in other.acceptances]
    if one.client_octets != other.client_octets:  # nonsense ended it before the content was out
        taken = taken[: len(one.acceptances)]
    assert [acceptance.path for acceptance in one.acceptances] == taken
