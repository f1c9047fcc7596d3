"""The recorder: what a scripted delivery leaves in its trace."""

from __future__ import annotations

import pytest
from tests.support.network import content_form, message, numbered
from tests.support.traces import TracedWorld

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.events import Answered, DeliveryStarted, Event
from zsmtp.events import Decision as DecisionEvent
from zsmtp.net.script import Reaction, Script, Then
from zsmtp.net.scripted import Unreachable
from zsmtp.observers.document import (
    MAX_ITEMS,
    MAX_RECIPIENTS,
    MAX_TEXT,
    AnyItem,
    BrokenItem,
    ConnectItem,
    ContentItem,
    DecisionItem,
    ExchangeItem,
    LookupItem,
    Safety,
    Trace,
)
from zsmtp.proto.phase import Phase
from zsmtp.proto.reply import Reply

GONE = Reaction(b"", Then.CLOSE)
LMTP = SessionSettings(greeting=Greeting.LHLO, helo_name="client.example")


def short(item: AnyItem) -> str:
    """An item in a few words, with its time in milliseconds."""
    match item:
        case LookupItem():
            words = f"{item.record_type} {item.name}: {' '.join(item.records) or item.status}"
        case ConnectItem():
            words = f"connect {item.host}" + (f": {item.failed}" if item.failed else "")
        case ExchangeItem():
            words = f"{item.phase} {item.code}"
        case ContentItem():
            words = f"content {item.octets}"
        case BrokenItem():
            words = f"broken at {item.phase}: {item.reason}"
        case _:
            words = type(item).__name__
    end = "?" if item.end is None else f"{1000 * item.end:.0f}"
    return f"{1000 * item.start:.0f}-{end} {words}"


def told(trace: Trace) -> list[str]:
    return [short(item) for item in trace.items if not isinstance(item, DecisionItem | LookupItem)]


def decisions(trace: Trace) -> list[str]:
    return [item.text for item in trace.items if isinstance(item, DecisionItem)]


def slow(say: str, milliseconds: int) -> Reaction:
    return Reaction(say, delay=milliseconds / 1000)


def test_everything_has_its_time() -> None:
    script = Script(
        greeting=slow("220 hello", 10),
        connect_time=0.02,
        replies={
            "EHLO": [slow("250 server.example", 30)],
            "MAIL": [slow("250 ok", 40)],
            "RCPT": [slow("250 ok", 50)],
            "DATA": [slow("354 go", 60)],
            "DOT": [slow("250 queued", 70)],
            "QUIT": [slow("221 bye", 80)],
        },
    )
    (trace,) = TracedWorld(script).deliver()
    assert told(trace) == [
        "0-20 connect mx0.example.org",
        "20-30 greeting 220",
        "30-60 EHLO 250",
        "60-100 MAIL 250",
        "100-150 RCPT 250",
        "150-210 DATA 354",
        "210-210 content 21",
        "210-280 end of data 250",
        "280-360 QUIT 221",
    ]
    (connection,) = trace.connections
    assert (connection.host, connection.opened, connection.closed) == ("mx0.example.org", 0.02, 0.36)
    assert (connection.reason, connection.deliveries) == ("done", 1)
    assert {item.connection for item in trace.items if isinstance(item, ExchangeItem)} == {1}
    assert not any(item.shared for item in trace.items)
    assert (trace.started, trace.seconds) == ("2026-11-18T11:06:40.000+00:00", 0.36)


def test_lookups_plan_and_verdicts_are_there() -> None:
    (trace,) = TracedWorld(Script()).deliver()
    lookup = trace.items[0]
    assert isinstance(lookup, LookupItem)
    assert (lookup.name, lookup.record_type, lookup.records) == ("example.org", "MX", ("10 mx0.example.org.",))
    assert lookup.ttl > 0
    assert lookup.safety is Safety.INSECURE
    assert trace.plan is not None
    assert [candidate.endpoint.host for candidate in trace.plan.route.candidates] == ["mx0.example.org"]
    (recipient,) = trace.recipients
    assert (recipient.address, recipient.fate, recipient.host) == ("r0@example.org", "delivered", "mx0.example.org")
    assert "RCPT TO:<r0@example.org>" in recipient.text
    assert trace.name == "S1"
    assert (trace.fates.recipients, trace.fates.delivered) == (1, 1)


def test_a_dead_exchanger_a_refusing_one_and_the_third() -> None:
    world = TracedWorld(
        Unreachable("No route to host", after=0.5), Script(greeting=Reaction("554 not you")), Script(), Script()
    )
    (trace,) = world.deliver()
    assert [line.split(" ", 1)[1] for line in told(trace)][:6] == [
        "connect mx0.example.org: No route to host",
        "connect mx1.example.org",
        "greeting 554",
        "QUIT 221",
        "connect mx2.example.org",
        "greeting 220",
    ]
    assert [connection.refused != "" for connection in trace.connections] == [True, False]
    assert trace.connections[0].refused == "554 (not you)"


def test_the_attempt_that_lost_the_race_ends_with_it() -> None:
    (trace,) = TracedWorld(Unreachable(after=60.0), Script(connect_time=0.1)).deliver()
    assert told(trace)[:2] == [
        "0-2100 connect mx0.example.org: given up: another connection stood first",
        "2000-2100 connect mx1.example.org",
    ]


@pytest.mark.parametrize(("end", "reason"), [(Reaction("421 full"), "421"), (GONE, "closed the connection")])
def test_a_session_that_ends_in_the_middle_and_the_next(end: Reaction, reason: str) -> None:
    (trace,) = TracedWorld(Script(replies={"RCPT": [end]}), Script()).deliver(message(*numbered(2)))
    (broken,) = [item for item in trace.items if isinstance(item, BrokenItem)]
    assert broken.phase in ("RCPT", "")
    assert reason in broken.reason
    assert len(trace.connections) == 2
    assert any("sent again at once" in text for text in decisions(trace))
    assert trace.fates.delivered == 2
    lost = next(item for item in trace.items if isinstance(item, ExchangeItem) and item.phase == "RCPT")
    assert (lost.code, lost.end is not None) == (421 if reason == "421" else 0, True)


def test_doubt_is_named() -> None:
    (trace,) = TracedWorld(Script(replies={"DOT": [GONE]})).deliver()
    assert (trace.fates.deferred, trace.fates.in_doubt) == (1, 1)
    assert trace.recipients[0].in_doubt


def test_no_route_is_a_trace_too() -> None:
    (trace,) = TracedWorld(dns="example.org MX 0 .").deliver()
    assert (trace.fates.failed, trace.connections) == (1, ())
    assert any("null MX" in text for text in decisions(trace))
    assert "null MX" in trace.recipients[0].text


def test_lmtp_has_a_reply_for_each_recipient() -> None:
    script = Script(lmtp=True, replies={"DOT": [slow("250 first", 10), slow("452 second", 30), slow("250 third", 30)]})
    (trace,) = TracedWorld(script, settings=LMTP).deliver(message(*numbered(3)))
    finals = [item for item in trace.items if isinstance(item, ExchangeItem) and item.phase == "end of data"]
    assert [(item.recipient, item.code) for item in finals] == [(0, 250), (1, 452), (2, 250)]
    assert [recipient.fate for recipient in trace.recipients] == ["delivered", "deferred", "delivered"]
    assert finals[1].start == finals[0].end


@pytest.mark.parametrize("keywords", [("PIPELINING",), ("PIPELINING", "CHUNKING")])
def test_deliveries_that_ride_have_a_trace_each_and_share_the_connection(keywords: tuple[str, ...]) -> None:
    world = TracedWorld(Script(keywords=keywords))
    traces = world.deliver(*(message(b"r%d@example.org" % number) for number in range(5)))
    assert [trace.name for trace in traces] == ["S1", "S2", "S3", "S4", "S5"]
    for number, trace in enumerate(traces):
        assert [r.address for r in trace.recipients] == [f"r{number}@example.org"]
        sent = [item.sent for item in trace.items if isinstance(item, ExchangeItem) and item.phase == "RCPT"]
        assert sent == [f"RCPT TO:<r{number}@example.org>"]
        own = [item for item in trace.items if isinstance(item, ExchangeItem) and item.transaction]
        assert not any(item.shared for item in own)
        greeting = next(item for item in trace.items if isinstance(item, ExchangeItem) and item.phase == "greeting")
        assert greeting.shared == (number > 0) or trace.connections[0].deliveries > 1
    assert traces[-1].connections[0].deliveries == 5
    assert told(traces[-1])[-1].endswith("QUIT 221")
    assert not told(traces[0])[-1].endswith("QUIT 221")


def test_what_the_connection_saw_before_has_times_below_zero() -> None:
    world = TracedWorld(Script())
    world.deliver(close=False)
    world.network.now += 30.0
    trace = world.deliver(message(b"late@example.org"), idle=30.0)[-1]
    greeting = next(item for item in trace.items if isinstance(item, ExchangeItem) and item.phase == "greeting")
    assert (greeting.start, greeting.shared) == (-30.0, True)
    assert trace.connections[0].opened == -30.0
    assert [item.phase for item in trace.items if isinstance(item, ExchangeItem)].count("RSET") == 1


def test_a_delivery_that_never_ends_is_handed_over_at_close() -> None:
    world = TracedWorld(Script())
    world.recorder(DeliveryStarted(Delivery(message(), Ledger(1, lambda number, verdict: None)), "example.org"))
    world.recorder.close()
    (trace,) = world.traces
    assert trace.recipients[0].fate == ""


def test_challenges_of_a_login_are_not_kept() -> None:
    world = TracedWorld(Script())
    world.deliver(close=False)
    world.recorder(DeliveryStarted(Delivery(message(), Ledger(1, lambda number, verdict: None)), "example.org"))
    world.recorder(Answered(Phase.AUTH, Reply(334, (b"c2VjcmV0",)), None, -1))
    world.recorder.close()
    assert "c2VjcmV0" not in repr(world.traces)
    assert "a challenge of 8 octets" in repr(world.traces)


def test_a_trace_is_bounded_whatever_the_peer_says() -> None:
    long = "\r\n".join(f"550-{'x' * 1000}" for _ in range(200)) + "\r\n550 end"
    world = TracedWorld(Script(keywords=("PIPELINING",), replies={"RCPT": [Reaction(long.encode() + b"\r\n")]}))
    (trace,) = world.deliver(message(*numbered(500)))
    characters = sum(len(line) for item in trace.items if isinstance(item, ExchangeItem) for line in item.reply)
    assert characters < 3_000_000
    assert trace.left_out > 0
    assert (trace.fates.failed, len(trace.recipients)) == (500, 500)
    assert all(len(line) <= MAX_TEXT for item in trace.items if isinstance(item, ExchangeItem) for line in item.reply)


def test_many_recipients_are_counted_beyond_the_limit() -> None:
    (trace,) = TracedWorld(Script(keywords=("PIPELINING",))).deliver(message(*numbered(MAX_ITEMS + 100)))
    assert len(trace.recipients) == MAX_RECIPIENTS
    assert len(trace.items) <= MAX_ITEMS
    assert trace.fates.delivered == MAX_ITEMS + 100
    assert trace.left_out > 100


def test_nothing_raises_into_a_delivery() -> None:
    world = TracedWorld(Script())

    def break_down(*args: object) -> None:
        raise RuntimeError("no disk \x1b[2J")

    world.recorder._keep = break_down  # type: ignore[method-assign]
    verdicts = []
    delivery = Delivery(message(), Ledger(1, lambda number, verdict: verdicts.append(verdict)))
    world.network.run(world.courier.deliver(world.route, delivery))
    assert [verdict.fate for verdict in verdicts] == [Disposition.DELIVERED]
    assert world.complaints == ["no more traces: no disk \\x1b[2J"]
    world.recorder(DecisionEvent(about=None, text="x"))  # type: ignore[arg-type]


def test_unknown_events_are_passed_over() -> None:
    world = TracedWorld(Script())
    world.recorder(Event())
    assert len(world.deliver()) == 1


def test_content_takes_time() -> None:
    script = Script(write_sizes=(1000,))
    (trace,) = TracedWorld(script).deliver(message(content=content_form(b"x" * 70 + b"\r\n")))
    (content,) = [item for item in trace.items if isinstance(item, ContentItem)]
    assert (content.octets, content.recipients) == (72, 1)


@pytest.mark.parametrize(("refused", "traces"), [(0, 0), (1, 1)], ids=["nobody was decided about", "one was"])
def test_a_delivery_that_is_taken_back_leaves_a_trace_of_those_that_were_decided_about(
    refused: int, traces: int
) -> None:
    replies = {
        "RCPT": [Reaction("550 5.1.1 no"), Reaction("250 ok")][1 - refused :],
        "DATA": [Reaction(b"", Then.HANG)],
    }
    here = TracedWorld(Script(replies=replies), stop_at=1005.0)
    delivery = Delivery(message(*numbered(2)), Ledger(2, lambda number, verdict: None), "S1")
    here.network.run(here.courier.deliver(here.route, delivery, returns=lambda delivery, verdict: True))
    assert not here.complaints
    assert len(here.traces) == traces
    assert here.recorder._books == {}
    for trace in here.traces:
        assert [one.fate for one in trace.recipients] == ["failed", ""]


def test_a_delivery_that_is_taken_back_counts_when_it_is_started_again() -> None:
    here = TracedWorld([Script(greeting=Reaction("421 too many", Then.CLOSE)), Script()])
    ledger = Ledger(1, lambda number, verdict: None)
    here.network.run(
        here.courier.deliver(here.route, Delivery(message(), ledger), returns=lambda delivery, verdict: True)
    )
    assert here.traces == []
    (trace,) = here.deliver()
    assert trace.fates.delivered == 1
