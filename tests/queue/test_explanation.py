"""Why a recipient is still in the queue: one row for each constraint, and the same words as the rules that decide."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.queue.test_runner import Scene, play
from tests.queue.world import HOUR, SimulatedSite

from zsmtp.delivery.outcome import Scope
from zsmtp.queue.explanation import (
    Circumstances,
    Constraint,
    QueueExplanation,
    explain,
    explain_end,
    failure_of,
    is_scheduled,
)
from zsmtp.queue.filter import Filter
from zsmtp.queue.limits import BY_COMMAND, HELD_FOR_DOUBT
from zsmtp.queue.moves import MOVED_FROM, Elsewhere, Move, apart
from zsmtp.queue.operators import NodeStatus, Row, Rule, SiteStatus
from zsmtp.queue.schedule import FailureClass, RetryOverride, RetryPolicy, Schedule, classify, next_attempt
from zsmtp.queue.states import HistoryEntry, Outcome, QueuedMessage, QueuedRecipient, State
from zsmtp.queue.wording import reply_words, span, utc
from zsmtp.records import replace

NOON = 1_764_331_200.0  # 2025-11-28T12:00:00Z
MINUTE, DAY = 60.0, 86400.0
POLICY = RetryPolicy()

MESSAGE = QueuedMessage(id=7, sender=b"ann@shop.example", submitted=NOON - HOUR, size=100, recipients=1)
RECIPIENT = QueuedRecipient(
    message=7, number=0, address=b"bob@example.net", key="example.net", due=NOON - 1, expires=NOON + 5 * DAY - HOUR
)
NODE = NodeStatus("node-1", NOON - DAY, "host.example", 4711, alive=True, draining=False, sites=1)
SITE = SiteStatus(site="example.net", node="node-1", updated=NOON - 2, window=5, busy=2)
HOLDING = Rule(number=3, action="hold", filter="to=bob@*", by="ann (uid 1000)", reason="spam run", created=NOON - HOUR)


def entry(attempt: int = 1, at: float = NOON - MINUTE, **values: object) -> HistoryEntry:
    """An attempt that failed."""
    given: dict[str, object] = {
        "outcome": Outcome.DEFERRED,
        "status": "4.2.1",
        "code": 450,
        "reason": "4.2.1 mailbox busy",
        "server": "mx.example.net [192.0.2.1]:25",
    }
    return HistoryEntry(
        at=at,
        message=7,
        number=0,
        attempt=attempt,
        address=b"bob@example.net",
        sender=b"ann@shop.example",
        key="example.net",
        **given | values,
    )


def waiting(failed: HistoryEntry, due: float, **values: object) -> QueuedRecipient:
    """The recipient after an attempt that failed."""
    return replace(RECIPIENT, attempts=failed.attempt, due=due, status=failed.status, reason=failed.reason, **values)


class Given(NamedTuple):
    """A recipient with what is known about it."""

    recipient: QueuedRecipient = RECIPIENT
    state: State = State.DUE
    history: tuple[HistoryEntry, ...] = ()
    rules: tuple[Rule, ...] = ()
    moves: tuple[Move, ...] = ()
    nodes: tuple[NodeStatus, ...] = (NODE,)
    status: SiteStatus | None = SITE
    message: QueuedMessage = MESSAGE
    now: float = NOON


REFUSED = entry(code=0, status="4.4.1", reason="connect to mx.example.net: connection refused", server="")
GREY = entry(code=450, status="4.7.1", reason="4.7.1 come back in five minutes")
LOST = entry(2, code=0, status="4.4.2", reason="the process died", outcome=Outcome.IN_DOUBT)
SUSPENSION = replace(HOLDING, number=4, action="suspend", until=NOON + HOUR)

TABLE = {
    "held by a rule": (
        Given(replace(RECIPIENT, hold=3), State.HELD, rules=(HOLDING,)),
        Constraint.HELD_BY_RULE,
        None,
        "held by rule 3 of ann (uid 1000): spam run",
    ),
    "held by a rule that ends, and nothing delivers": (
        Given(replace(RECIPIENT, hold=3), State.HELD, rules=(replace(HOLDING, until=NOON + HOUR),), nodes=()),
        Constraint.HELD_BY_RULE,
        NOON + HOUR,
        "held by rule 3 of ann (uid 1000): spam run",
    ),
    "held by a rule that is gone": (
        Given(replace(RECIPIENT, hold=9), State.HELD),
        Constraint.HELD_BY_RULE,
        None,
        "held by rule 9",
    ),
    "held by a command": (
        Given(replace(RECIPIENT, hold=BY_COMMAND), State.HELD),
        Constraint.HELD_BY_COMMAND,
        None,
        "held by an operator's command",
    ),
    "held for doubt": (
        Given(waiting(LOST, NOON + HOUR, hold=HELD_FOR_DOUBT, doubtful=True), State.HELD, (LOST,)),
        Constraint.HELD_FOR_DOUBT,
        None,
        "held: the server may have the message already",
    ),
    "on its way to another queue": (
        Given(
            replace(RECIPIENT, hold=apart(4, BY_COMMAND)),
            State.HELD,
            moves=(Move(4, Elsewhere("1" * 32, "/var/lib/new.db"), "ann (uid 1000)", NOON - MINUTE),),
        ),
        Constraint.MOVING,
        None,
        "on its way to /var/lib/new.db",
    ),
    "in hand": (
        Given(state=State.LEASED),
        Constraint.IN_HAND,
        None,
        "being delivered by node-1, or next",
    ),
    "in hand of a node whose site does not answer": (
        Given(state=State.LEASED, status=replace(SITE, window=0, dead_until=NOON + 4 * MINUTE)),
        Constraint.DEAD_SITE,
        NOON + 4 * MINUTE,
        f"example.net does not answer: next probe at {utc(NOON + 4 * MINUTE)} (in 4m)",
    ),
    "in hand, and the window is full": (
        Given(state=State.LEASED, status=replace(SITE, busy=5, ready=40)),
        Constraint.WINDOW,
        None,
        "all 5 connections that example.net may have now are in use",
    ),
    "in hand of a site that nothing was reported of": (
        Given(state=State.LEASED, status=None),
        Constraint.IN_HAND,
        None,
        "being delivered, or next",
    ),
    "no node": (
        Given(nodes=()),
        Constraint.NO_NODE,
        None,
        "no process delivers this queue",
    ),
    "a node that died": (
        Given(nodes=(NODE._replace(alive=False),), status=replace(SITE, dead_until=NOON + HOUR)),
        Constraint.NO_NODE,
        None,
        "no process delivers this queue",
    ),
    "a node that stops": (
        Given(nodes=(NODE._replace(draining=True),)),
        Constraint.NO_NODE,
        None,
        "no process delivers this queue",
    ),
    "suspended": (
        Given(rules=(SUSPENSION,)),
        Constraint.SUSPENDED,
        NOON + HOUR,
        f"suspended by rule 4 until {utc(NOON + HOUR)} (in 1h)",
    ),
    "suspended without an end, and not due": (
        Given(replace(RECIPIENT, due=NOON + DAY), rules=(replace(SUSPENSION, until=None),)),
        Constraint.SUSPENDED,
        None,
        "suspended by rule 4 until the rule is deleted",
    ),
    "not due for longer than suspended": (
        Given(waiting(GREY, NOON + 5 * MINUTE), history=(GREY,), rules=(replace(SUSPENSION, until=NOON + MINUTE),)),
        Constraint.BACKOFF,
        NOON + 5 * MINUTE,
        f"waits after a failure (greylisting): attempt 2 at {utc(NOON + 5 * MINUTE)} (in 5m)",
    ),
    "another rule's mail": (
        Given(rules=(replace(SUSPENSION, filter="domain=example.com"), replace(SUSPENSION, until=NOON - 1))),
        Constraint.DUE,
        None,
        "due now",
    ),
    "backoff": (
        Given(waiting(REFUSED, NOON + 4.2 * MINUTE), history=(REFUSED,)),
        Constraint.BACKOFF,
        NOON + 4.2 * MINUTE,
        f"waits after a failure (connection): attempt 2 at {utc(NOON + 4.2 * MINUTE)} (in 4m12s)",
    ),
    "backoff after a doubt": (
        Given(waiting(LOST, NOON + 4.2 * MINUTE, doubtful=True), history=(entry(), LOST)),
        Constraint.BACKOFF,
        NOON + 4.2 * MINUTE,
        f"waits after a failure (in-doubt): attempt 3 at {utc(NOON + 4.2 * MINUTE)} (in 4m12s)",
    ),
    "submitted for later": (
        Given(replace(RECIPIENT, due=NOON + HOUR)),
        Constraint.NOT_BEFORE,
        NOON + HOUR,
        f"not to be sent yet: attempt 1 at {utc(NOON + HOUR)} (in 1h)",
    ),
    "put off by an operator": (
        Given(waiting(GREY, NOON + DAY), history=(GREY,)),
        Constraint.NOT_BEFORE,
        NOON + DAY,
        f"not to be sent yet: attempt 2 at {utc(NOON + DAY)} (in 1d)",
    ),
    "expired": (
        Given(replace(RECIPIENT, expires=NOON - MINUTE), rules=(SUSPENSION,)),
        Constraint.EXPIRED,
        None,
        f"its time was over at {utc(NOON - MINUTE)} (1m ago)",
    ),
    "no route": (
        Given(replace(RECIPIENT, due=NOON + HOUR), status=replace(SITE, no_route="no relay x is configured any more")),
        Constraint.NO_ROUTE,
        None,
        "no relay x is configured any more",
    ),
    "no route for what a node has read": (
        Given(state=State.LEASED, status=replace(SITE, no_route="no relay x is configured any more")),
        Constraint.NO_ROUTE,
        None,
        "no relay x is configured any more",
    ),
    "dead site": (
        Given(status=replace(SITE, window=0, dead_until=NOON + 4 * MINUTE, dead_reason="connection refused")),
        Constraint.DEAD_SITE,
        NOON + 4 * MINUTE,
        f"example.net does not answer: next probe at {utc(NOON + 4 * MINUTE)} (in 4m)",
    ),
    "dead site at the time of its probe": (
        Given(status=replace(SITE, window=0, dead_until=NOON - 2)),
        Constraint.DEAD_SITE,
        None,
        "example.net does not answer: a probe is due, or under way",
    ),
    "not due for longer than the site is dead": (
        Given(replace(RECIPIENT, due=NOON + HOUR), status=replace(SITE, dead_until=NOON + 4 * MINUTE)),
        Constraint.NOT_BEFORE,
        NOON + HOUR,
        f"not to be sent yet: attempt 1 at {utc(NOON + HOUR)} (in 1h)",
    ),
    "rate": (
        Given(status=replace(SITE, rate="14/m", rate_until=NOON + 3)),
        Constraint.RATE,
        NOON + 3,
        "the rate 14/m of example.net is used up",
    ),
    "window": (
        Given(status=replace(SITE, busy=5, ready=40)),
        Constraint.WINDOW,
        None,
        "all 5 connections that example.net may have now are in use",
    ),
    "no slot": (
        Given(status=replace(SITE, no_slot=True)),
        Constraint.NO_SLOT,
        None,
        "no connection is free: the limit for all sites is reached",
    ),
    "turn": (
        Given(status=replace(SITE, ready=200)),
        Constraint.TURN,
        None,
        "waits for a connection to example.net: others are first",
    ),
    "due": (Given(), Constraint.DUE, None, "due now"),
    "due, of a site that nothing was reported of": (Given(status=None), Constraint.DUE, None, "due now"),
}


def explained(given: Given) -> QueueExplanation:
    known = Circumstances(now=given.now, rules=given.rules, moves=given.moves, nodes=given.nodes, status=given.status)
    return explain(Row(given.recipient, given.message, given.state), given.history, known)


@pytest.mark.parametrize(("given", "constraint", "until", "summary"), TABLE.values(), ids=TABLE)
def test_the_constraint_that_binds(given: Given, constraint: Constraint, until: float | None, summary: str) -> None:
    found = explained(given)
    assert (found.constraint, found.until, found.summary) == (constraint, until, summary)
    assert constraint not in found.others
    assert found.attempts == given.history


def test_a_relay_that_the_configuration_has_lost_is_named_although_nobody_serves_it_now() -> None:
    row = Row(replace(RECIPIENT, due=NOON + HOUR), MESSAGE, State.DUE)
    known = Circumstances(now=NOON, nodes=(NODE,), lost_route="no relay x is configured any more")
    assert explain(row, (), known).constraint is Constraint.NO_ROUTE
    served = explain(row, (), replace(known, status=SITE))
    assert served.constraint is Constraint.NOT_BEFORE, "the node that serves it has another configuration"


def test_a_lost_route_that_was_reported_long_ago_is_not_believed() -> None:
    status = replace(SITE, no_route="no relay x is configured any more", updated=NOON - 2 * MINUTE)
    assert explained(Given(status=status)).constraint is Constraint.DUE


def test_every_constraint_has_its_row() -> None:
    assert {constraint for _, constraint, *_ in TABLE.values()} == set(Constraint) - {Constraint.ENDED}


# ------------------------------------------------------------------- sentences


def test_a_backoff_says_what_failed_and_what_comes_next() -> None:
    found = explained(Given(waiting(GREY, NOON + 5 * MINUTE), history=(GREY,)))
    assert found.details == (
        f"Attempt 1 failed at {utc(NOON - MINUTE)} (1m ago) at mx.example.net [192.0.2.1]:25: 450 4.7.1 come back in"
        " five minutes.",
        "After attempt 1 the wait is 5m to 6m for failures of this class (greylisting).",
    )
    assert found.next == (
        "If attempt 2 fails in the same way, attempt 3 follows after 5m to 6m by the default schedule.",
        f"The sender is warned of the delay if it is still here at {utc(NOON + 3 * HOUR)} (in 3h).",
        f"It is given up at {utc(NOON + 5 * DAY - HOUR)} (in 4d23h).",
    )


def test_what_else_keeps_it_back_is_said() -> None:
    found = explained(Given(waiting(GREY, NOON + 5 * MINUTE), history=(GREY,), nodes=()))
    assert found.constraint is Constraint.NO_NODE
    assert found.others == (Constraint.BACKOFF,)
    assert found.details[0] == "No process has ever delivered from it."
    assert found.details[1].startswith("Also: waits after a failure (greylisting)")


@pytest.mark.parametrize(
    ("action", "argument", "words"),
    [
        ("hold", "", "it is held by rule 3 of ann (uid 1000): spam run"),
        ("fail", "no", "it is failed, and its sender notified, by rule 3 of ann (uid 1000): spam run"),
        ("drop", "", "it is dropped without a notice by rule 3 of ann (uid 1000): spam run"),
        ("reroute", "relay:b", "it goes to relay:b by rule 3 of ann (uid 1000): spam run"),
    ],
)
def test_a_rule_that_will_apply_is_foretold(action: str, argument: str, words: str) -> None:
    rule = replace(HOLDING, action=action, argument=argument)
    found = explained(Given(replace(RECIPIENT, due=NOON + HOUR), rules=(rule,)))
    assert found.next[0] == f"When it is due, {words}."
    ends_before = explained(Given(replace(RECIPIENT, due=NOON + HOUR), rules=(replace(rule, until=NOON + MINUTE),)))
    assert not [text for text in ends_before.next if "rule" in text]


def test_a_reroute_to_where_it_goes_already_is_not_foretold() -> None:
    rule = replace(HOLDING, action="reroute", argument="example.net")
    assert not [text for text in explained(Given(rules=(rule,))).next if "rule" in text]


def test_the_last_attempt_is_known_to_be_the_last() -> None:
    failed = entry(9, at=NOON - HOUR)
    found = explained(Given(waiting(failed, NOON + HOUR, expires=NOON + 2 * HOUR), history=(failed,)))
    assert "Attempt 10 is the last one." in found.next
    at_expiry = explained(Given(waiting(failed, NOON + HOUR, expires=NOON + HOUR), history=(failed,)))
    assert not [text for text in at_expiry.next if text.startswith(("Attempt", "If attempt"))]


@pytest.mark.parametrize(
    ("message", "recipient", "words"),
    [
        (MESSAGE, RECIPIENT, "The sender is warned of the delay if it is still here at"),
        (MESSAGE, replace(RECIPIENT, warned=True), "The sender was warned of the delay."),
        (replace(MESSAGE, sender=b""), RECIPIENT, ""),
        (MESSAGE, replace(RECIPIENT, notify=b"FAILURE"), ""),
        (MESSAGE, replace(RECIPIENT, expires=NOON + HOUR), ""),
    ],
)
def test_a_warning_is_foretold_only_if_there_will_be_one(
    message: QueuedMessage, recipient: QueuedRecipient, words: str
) -> None:
    told = [text for text in explained(Given(recipient, message=message)).next if "warned" in text]
    assert [text[: len(words)] for text in told] == ([words] if words else [])


def test_what_this_side_put_off_is_told_in_its_words() -> None:
    put_off = replace(waiting(GREY, NOON + DAY), reason="the rate 14/m is used up")
    found = explained(Given(put_off, history=(GREY,)))
    assert found.details[-1] == "This side deferred it: the rate 14/m is used up."


def test_what_is_due_may_be_under_way() -> None:
    """What a node has in hand is known when it writes results: the first message to a site is not, for a while."""
    assert explained(Given()).details[-1] == "It may be under way already."
    assert explained(Given(status=replace(SITE, busy=0))).details[-1].endswith("0 recipients are ready.")


def test_an_old_report_is_said_to_be_old() -> None:
    found = explained(Given(status=replace(SITE, busy=5, updated=NOON - 5 * MINUTE)))
    assert found.details[-1] == "This was reported 5m ago."


def test_history_of_other_recipients_is_left_out() -> None:
    other = replace(GREY, number=1)
    found = explained(Given(waiting(GREY, NOON + 5 * MINUTE), history=(other, GREY)))
    assert found.attempts == (GREY,)


def test_an_end_is_told() -> None:
    end = entry(2, outcome=Outcome.FAILED, code=550, status="5.1.1", reason="5.1.1 no such user")
    found = explain_end(end, [GREY, end, replace(end, number=1)], Circumstances(now=NOON))
    assert (found.constraint, found.summary) == (Constraint.ENDED, f"failed at {utc(NOON - MINUTE)} (1m ago)")
    assert found.details == ("The last result, mx.example.net [192.0.2.1]:25: 550 5.1.1 no such user.",)
    assert found.attempts == (GREY, end)
    dropped = replace(end, outcome=Outcome.DROPPED, attempt=0, by="ann (uid 1000): spam", code=0, reason="", status="")
    found = explain_end(dropped, [dropped], Circumstances(now=NOON))
    assert found.summary == f"dropped at {utc(NOON - MINUTE)} (1m ago) by ann (uid 1000): spam"
    assert found.details == ()
    moved = replace(dropped, outcome=Outcome.MOVED, reason="to 00abc in /var/lib/new.db")
    found = explain_end(moved, [moved], Circumstances(now=NOON))
    assert found.details == ("It went to 00abc in /var/lib/new.db; that queue delivers it.",)


def test_what_was_moved_here_says_from_where() -> None:
    message = replace(MESSAGE, options={MOVED_FROM: "00abc in /var/lib/old.db"})
    found = explain(Row(RECIPIENT, message, State.DUE), [], Circumstances(now=NOON, nodes=(NODE,), status=SITE))
    assert (
        found.details[-1]
        == "It was moved here; before, it was 00abc in /var/lib/old.db: its earlier attempts are known there."
    )


# ------------------------------------------------------- the rules that decide

FAILURES = [
    ("4.4.1", 0, "no connection"),
    ("4.4.2", 0, "the connection broke"),
    ("4.4.3", 0, "no answer"),
    ("4.7.5", 0, "the certificate does not match"),
    ("4.7.1", 450, "4.7.1 try again"),
    ("4.7.1", 451, "greylisted"),
    ("4.2.2", 452, "mailbox full"),
    ("4.7.0", 421, "too many connections"),
    ("4.3.0", 451, "local error"),
]


@given(
    failure=st.sampled_from(FAILURES),
    attempt=st.integers(1, 12),
    chance=st.floats(0, 1, exclude_max=True),
    life=st.floats(60, 5 * DAY),
    doubtful=st.booleans(),
)
def test_the_class_is_one_that_gives_the_due_time(
    failure: tuple[str, int, str], attempt: int, chance: float, life: float, doubtful: bool
) -> None:
    """Whatever level a failure had when it was settled: the explanation finds a class with this due time."""
    status, code, text = failure
    outcome = Outcome.IN_DOUBT if doubtful else Outcome.DEFERRED
    failed = entry(attempt, at=NOON, status=status, code=code, reason=text, outcome=outcome)
    expires = NOON + life
    for level in Scope:
        deciding = classify(status, code, text, level, attempt, in_doubt=doubtful)
        step = 1 if deciding is FailureClass.IN_DOUBT else attempt
        due = round(next_attempt(POLICY, deciding, step, NOON, expires, chance), 3)
        recipient = waiting(failed, due, expires=expires)
        found = failure_of(failed, recipient, POLICY)
        assert is_scheduled(failed, recipient, found, POLICY)


def test_overrides_of_a_site_count() -> None:
    override = RetryOverride(site="example.net", schedule=Schedule.parse("2h jitter 0%"))
    policy = RetryPolicy(overrides=(override,))
    recipient = waiting(GREY, NOON + 119 * MINUTE)
    known = Circumstances(now=NOON, nodes=(NODE,), policy=policy)
    found = explain(Row(recipient, MESSAGE, State.DUE), [GREY], known)
    assert found.constraint is Constraint.BACKOFF
    assert found.details[-1] == "After attempt 1 the wait is 2h for failures of this class (greylisting)."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-5, "0s"), (42.4, "42s"), (190, "3m10s"), (7500, "2h5m"), (7529, "2h5m"), (86400 * 4 + 11000, "4d3h")],
)
def test_spans_have_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_code_is_not_said_twice() -> None:
    assert reply_words(GREY) == "450 4.7.1 come back in five minutes"
    assert reply_words(replace(GREY, reason="450 busy")) == "450 busy"
    assert reply_words(replace(GREY, code=0, reason="")) == "4.7.1"
    assert reply_words(replace(GREY, code=0, reason="", status="")) == ""


# ---------------------------------------------------------------- a real node


async def constraints(it: Scene) -> dict[Constraint, int]:
    """How many recipients each constraint binds."""
    rules, nodes = await it.store.rules(), await it.store.nodes()
    statuses = {one.site: one for one in await it.store.sites()}
    found: Counter[Constraint] = Counter()
    async for row in it.store.select(Filter()):
        status = statuses.get(row.recipient.key)
        known = Circumstances(now=it.loop.wall(), rules=rules, nodes=nodes, status=status, policy=it.config.retry)
        found[explain(row, await it.store.history(row.message.id), known).constraint] += 1
    return dict(found)


def test_what_a_node_does_is_explained() -> None:
    """A node in virtual time: what binds is what the node waits for."""

    async def scene(it: Scene) -> None:
        start = it.loop.time()
        it.world.sites["grey.example"] = SimulatedSite(greylists=True)
        it.world.sites["dead.example"] = SimulatedSite(dead=((start, start + HOUR),))
        it.world.sites["slow.example"] = SimulatedSite(latency=20.0)
        await it.store.add_rule(Rule(action="suspend", filter="domain=later.example", until=it.loop.wall() + HOUR))
        await it.store.add_rule(Rule(action="hold", filter="domain=held.example"))
        await it.submit("grey.example", "later.example", "held.example", "slow.example")
        await it.submit("dead.example", count=40)
        assert await constraints(it) == {Constraint.NO_NODE: 44}
        it.start()
        await asyncio.sleep(30)
        assert (await constraints(it))[Constraint.DUE] == 1  # the slow one: nothing was written of it yet
        await asyncio.sleep(20)
        found = await constraints(it)
        assert found.pop(Constraint.SUSPENDED) == 1
        assert found.pop(Constraint.HELD_BY_RULE) == 1
        assert found.pop(Constraint.IN_HAND) == 1  # the slow one again
        assert found.pop(Constraint.DEAD_SITE) >= 30  # those that were not tried
        assert set(found) == {Constraint.BACKOFF}  # the grey one, and those whose connections failed
        assert sum(found.values()) <= 11
        await it.stop()
        await it.store.close()
        assert set(await constraints(it)) == {Constraint.NO_NODE, Constraint.HELD_BY_RULE}

    play(scene)
