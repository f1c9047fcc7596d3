"""What a delivery reports, in which order, and that nobody pays who does not listen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.network import message, numbered, world

from zsmtp import events
from zsmtp.events import About, Detail, Event, Remark, combine, ignore
from zsmtp.net.script import Reaction, Script, Then
from zsmtp.net.scripted import Unreachable


def names(heard: list[Event]) -> list[str]:
    """The events by name; lines of dialogue as what they answer, words left out."""
    told = []
    for event in heard:
        match event:
            case Remark() | Detail() | events.LineReceived():
                continue
            case events.Answered(phase, reply):
                told.append(f"{phase.value} {reply.code}")
            case events.LineSent(line):
                told.append(line.split(b":")[0].decode())
            case _:
                told.append(type(event).__name__)
    return told


def test_a_delivery_is_told_from_the_first_question_to_the_end() -> None:
    there = world(Script(), observed=True)
    there.deliver(message())
    there.close()
    assert names(there.heard) == [
        "DeliveryStarted",
        *["LookupStarted", "LookupDone"] * 3,
        "PlanMade",
        "Connecting",
        "Connected",
        "greeting 220",
        "EHLO client.example",
        "EHLO 250",
        "SessionOpened",
        "TransactionStarted",
        "MAIL FROM",
        "MAIL 250",
        "RCPT TO",
        "RCPT 250",
        "DATA",
        "DATA 354",
        "ContentStarted",
        ".",
        "ContentSent",
        "end of data 250",
        "Settled",
        "TransactionEnded",
        "QUIT",
        "QUIT 221",
        "Closed",
    ]


def test_what_belongs_to_a_transaction_names_it_also_while_others_ride() -> None:
    there = world(Script(keywords=("PIPELINING", "CHUNKING")), observed=True)
    there.deliver(message(*numbered(2)))
    (started,) = [event for event in there.heard if isinstance(event, events.TransactionStarted)]
    assert started.recipients == (0, 1)
    assert not started.riding
    own = [event for event in there.heard if getattr(event, "transaction", None) is started.transaction]
    assert names(own) == [
        "TransactionStarted",
        "MAIL FROM",
        "RCPT TO",
        "RCPT TO",
        "MAIL 250",
        "RCPT 250",
        "RCPT 250",
        "BDAT 21 LAST",
        "ContentStarted",
        "RSET",
        "ContentSent",
        "BDAT LAST 250",
        "RSET 250",
        "TransactionEnded",
    ]


def test_a_refused_session_and_a_dead_host_are_told() -> None:
    there = world(Unreachable("No route to host"), Script(greeting=Reaction("554 go away")), Script(), observed=True)
    there.deliver(message())
    told = names(there.heard)
    assert told.index("ConnectFailed") < told.index("SessionRefused") < told.index("SessionOpened")
    (refused,) = [event for event in there.heard if isinstance(event, events.SessionRefused)]
    assert refused.endpoint.address == "192.0.2.2"
    assert "go away" in refused.verdict.text


def test_a_lost_session_says_at_which_phase() -> None:
    there = world(Script(replies={"RCPT": [Reaction(b"", Then.CLOSE)]}), observed=True)
    there.deliver(message())
    (lost,) = [event for event in there.heard if isinstance(event, events.SessionLost)]
    assert lost.phase is not None
    assert lost.phase.value == "RCPT"
    assert "closed" in lost.reason


def test_nobody_listens_no_event_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Callable[..., Any]:
        def made(self: Event, *args: object, **kwargs: object) -> None:
            raise AssertionError(f"{name} was made for nobody")

        return made

    for name, kind in vars(events).items():
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event:
            monkeypatch.setattr(kind, "__init__", refuse(name))
    there = world(Script(keywords=("PIPELINING",)))
    there.deliver(message(*numbered(3)))
    there.close()


def test_combine_tells_all_in_order() -> None:
    heard: list[tuple[str, Event]] = []
    first: events.Observer = lambda event: heard.append(("first", event))  # noqa: E731
    second: events.Observer = lambda event: heard.append(("second", event))  # noqa: E731
    event = Remark("x")
    combine(first, ignore, second)(event)
    assert heard == [("first", event), ("second", event)]
    assert combine(ignore, first) is first
    assert combine() is ignore
    assert combine(ignore) is ignore


def test_a_remark_is_the_same_whatever_it_is_about() -> None:
    assert Remark("x", About.ROUTE) == Remark("x")
