"""Why a recipient is still in the queue: the constraint that binds now, its attempts so far, and what comes next.

A recipient may wait for several things at a time: its due time, the end of a suspension, a connection. The constraint
that *binds* is the one that ends last; one that ends only by an operator's action (a hold, a queue that no process
delivers) binds before those that end by themselves. :func:`explain` finds it for a queued recipient,
:func:`explain_end` explains an ended one::

    known = Circumstances(now=time.time(), rules=rules, nodes=nodes, status=status)
    print(explain(row, history, known).summary)

This module decides nothing; it calls the rules that decide: ``schedule.classify`` and ``schedule.next_attempt`` for the
backoff, ``rules.Rules.apply`` for standing rules, ``settlement.expiry`` and ``settlement.warning`` for the age.
Sentences may contain untrusted text (replies, names): escape them for a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from zsmtp.delivery.outcome import Scope
from zsmtp.queue.limits import BY_COMMAND, HELD_FOR_DOUBT
from zsmtp.queue.moves import MOVED_FROM, Move, is_apart, move_of
from zsmtp.queue.operators import NodeStatus, Row, Rule, SiteStatus
from zsmtp.queue.rules import Applied, Rules
from zsmtp.queue.schedule import FailureClass, RetryPolicy, classify, next_attempt
from zsmtp.queue.settlement import RecipientWork, expiry, warning
from zsmtp.queue.slots import ALL, SLOTS, count
from zsmtp.queue.states import HistoryEntry, Outcome, QueuedRecipient, State
from zsmtp.queue.wording import reply_words, span, utc

OLD_STATUS = 60.0
"""Seconds after which the status of a site is shown as old."""
_TOLERANCE = 0.002  # seconds: stores keep whole milliseconds


class Constraint(Enum):
    """What a recipient waits for. The value is its name in JSON."""

    ENDED = "ended"
    """Nothing: it has its end."""
    HELD_BY_RULE = "held by rule"
    """A standing rule holds it."""
    HELD_BY_COMMAND = "held by command"
    """An operator holds it."""
    HELD_FOR_DOUBT = "held for doubt"
    """Its server may have the message already, and the configuration says ``in-doubt = hold``."""
    MOVING = "moving"
    """It is set apart for another queue."""
    IN_HAND = "in hand"
    """A node has read it: its attempt runs, or is next, and nothing holds its site back."""
    NO_NODE = "no node"
    """No process delivers this queue."""
    SUSPENDED = "suspended"
    """A standing rule suspends mail of its kind."""
    BACKOFF = "backoff"
    """An attempt failed, and the next one is not due yet."""
    NOT_BEFORE = "not before"
    """It was submitted for a later time, or an operator chose one."""
    EXPIRED = "expired"
    """Its time is over: it is given up as soon as a node looks at its site."""
    NO_ROUTE = "no route"
    """The configuration has no route for its mail: its relay does not exist any more."""
    DEAD_SITE = "dead site"
    """The site does not answer: one probe at a time is sent, and this recipient waits for the result."""
    RATE = "rate"
    """A rate of the site is used up."""
    WINDOW = "window"
    """All connections that the window of the site allows are in use."""
    NO_SLOT = "no slot"
    """The site may have more connections, but the limit of all connections is reached."""
    TURN = "turn"
    """Other recipients are before it in the line for the connections of the site."""
    DUE = "due"
    """Nothing keeps it back: it is tried next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The state of the queue around the recipient. Times are in seconds since 1970."""

    now: float
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    """The retry policy of the queue."""
    configured: bool = False
    """Whether ``policy`` is that of the queue; else it is the default one, and the sentences say so."""
    rules: Sequence[Rule] = ()
    """The standing rules, oldest first."""
    moves: Sequence[Move] = ()
    """The moves to other queues."""
    nodes: Sequence[NodeStatus] = ()
    """The processes that deliver."""
    status: SiteStatus | None = None
    """The status of the recipient's site by the node that serves its slot; None if no node reported one."""
    time_text: Callable[[float], str] = utc
    """Formats a time."""
    route: str = ""
    """The queue key that the configuration gives such a recipient; "" if the configuration is not known."""
    route_reason: str = ""
    """The reason for ``route``."""
    lost_route: str = ""
    """Why the configuration has no route for its queue key; "" if it has one, or that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueExplanation:
    """The explanation of a recipient's state."""

    constraint: Constraint
    """The constraint that binds."""
    summary: str
    """The reason in a few words, without a full stop."""
    until: float | None
    """When the constraint ends by itself; None if that is not known, or if an operator has to act."""
    details: tuple[str, ...]
    """Sentences on the constraint, and on others that hold it back as well."""
    others: tuple[Constraint, ...]
    """Other constraints, which end earlier."""
    next: tuple[str, ...]
    """Sentences on what comes next, in this order."""
    attempts: tuple[HistoryEntry, ...]
    """Its history, oldest first."""
    route: str = ""
    """Where it goes, and why; "" if the configuration is not known."""


class _HoldingConstraint(NamedTuple):
    """A constraint that holds now. ``until`` None: it does not end by itself."""

    constraint: Constraint
    until: float | None
    summary: str
    sentences: tuple[str, ...] = ()


def explain(row: Row, history: Sequence[HistoryEntry], known: Circumstances) -> QueueExplanation:
    """Why a recipient is in the queue. ``history`` is that of its message; entries of other recipients are left out."""
    case = _Case(row, history, known)
    found = list(case.constraints()) or [case.at_site()]
    binding = max(found, key=lambda one: math.inf if one.until is None else one.until)  # the first of equal ones
    if row.recipient.hold:
        binding = found[0]
    others = [one for one in found if one is not binding]
    sentences = list(binding.sentences)
    sentences += [f"Also: {one.summary}." for one in others]
    if origin := (row.message.options or {}).get(MOVED_FROM):
        sentences.append(f"It was moved here; before, it was {origin}: its earlier attempts are known there.")
    return QueueExplanation(
        constraint=binding.constraint,
        summary=binding.summary,
        until=binding.until,
        details=tuple(sentences),
        others=tuple(one.constraint for one in others),
        next=tuple(case.comes_next()),
        attempts=case.history,
        route=_route(row.recipient.key, known),
    )


def _route(key: str, known: Circumstances) -> str:
    """Where mail of a key goes, and why."""
    if not known.route:
        return ""
    if key == known.route:
        return f"{key}, by the {known.route_reason}"
    now = f"the configuration now routes such mail to {known.route} (by the {known.route_reason})"
    return f"{key}, as it was submitted or rerouted; {now}"


def explain_end(end: HistoryEntry, history: Sequence[HistoryEntry], known: Circumstances) -> QueueExplanation:
    """The explanation of an ended recipient."""
    at = _at(end.at, known)
    by = f" by {end.by}" if end.by else ""
    server = f", {end.server}" if end.server else ""
    words = reply_words(end)
    details: tuple[str, ...] = (f"The last result{server}: {words}.",) if words else ()
    if end.outcome is Outcome.MOVED:
        details = (f"It went {end.reason}; that queue delivers it.",)
    mine = tuple(one for one in history if (one.message, one.number) == (end.message, end.number))
    for one in mine:
        if one.outcome in (Outcome.BOUNCED, Outcome.COMPLAINED):
            details += (f"Then it {one.outcome.value}, {_at(one.at, known)}: {reply_words(one) or 'no words'}.",)
    return QueueExplanation(
        constraint=Constraint.ENDED,
        summary=f"{end.outcome.value} {at}{by}",
        until=None,
        details=details,
        others=(),
        next=(),
        attempts=mine,
    )


def failure_of(entry: HistoryEntry, recipient: QueuedRecipient, policy: RetryPolicy) -> FailureClass:
    """The class of the failed attempt that ``recipient`` waits after.

    The history does not have the scope of a failure. Where the class depends on it, the class is the one whose schedule
    gives the due time of the recipient.
    """
    doubtful = entry.outcome is Outcome.IN_DOUBT
    levels = (Scope.RECIPIENT, Scope.HOST) if entry.code else (Scope.HOST, Scope.RECIPIENT)
    classes = [
        classify(entry.status, entry.code, entry.reason, level, entry.attempt, in_doubt=doubtful) for level in levels
    ]
    return next((one for one in classes if is_scheduled(entry, recipient, one, policy)), classes[0])


def is_scheduled(entry: HistoryEntry, recipient: QueuedRecipient, failure: FailureClass, policy: RetryPolicy) -> bool:
    """Whether the schedule of this class gives the due time of the recipient."""
    earliest, latest = (
        next_attempt(policy, failure, _step(failure, entry.attempt), entry.at, recipient.expires, chance)
        for chance in (0.0, 1.0)
    )
    return earliest - _TOLERANCE <= recipient.due <= latest + _TOLERANCE


def _step(failure: FailureClass, attempt: int) -> int:
    """The index of the schedule's next wait: always the first for an attempt in doubt."""
    return 1 if failure is FailureClass.IN_DOUBT else attempt


def _at(at: float, known: Circumstances) -> str:
    """``at 14:05:12 (in 3m10s)``."""
    distance = at - known.now
    words = "now" if abs(distance) < 1 else f"in {span(distance)}" if distance > 0 else f"{span(-distance)} ago"
    return f"at {known.time_text(at)} ({words})"


def rule_words(rule: Rule) -> str:
    """A rule as named in sentences: ``rule 3 of ann (uid 1000): spam run``."""
    by = f" of {rule.by}" if rule.by else ""
    reason = f": {rule.reason}" if rule.reason else ""
    return f"rule {rule.number}{by}{reason}"


class _Case:
    """One recipient with its history and circumstances."""

    def __init__(self, row: Row, history: Sequence[HistoryEntry], known: Circumstances) -> None:
        self.recipient: QueuedRecipient = row.recipient
        self.state = row.state
        self.known = known
        self.work = RecipientWork.of(row.recipient, row.message)
        self.policy = known.policy.for_recipient(row.recipient.key, row.recipient.tenant)
        place = row.recipient.message, row.recipient.number
        self.history = tuple(entry for entry in history if (entry.message, entry.number) == place)
        failed = (Outcome.DEFERRED, Outcome.IN_DOUBT)
        self.last = next((one for one in reversed(self.history) if one.attempt and one.outcome in failed), None)
        self.rules = Rules(known.rules)

    # ----------------------------------------------------------- constraints

    def constraints(self) -> Iterator[_HoldingConstraint]:
        """All constraints but those of the site's connections, the strongest first."""
        if self.recipient.hold:
            yield self._hold()
        elif self.state is State.LEASED:
            yield self._in_hand()
            return
        if not any(node.alive and not node.draining for node in self.known.nodes):
            yield self._no_node()
        if expiry(self.work, self.known.now) is not None:
            yield self._expired()
            return
        if (applied := self._applied(self.known.now)) is not None and applied.rule.action == "suspend":
            yield self._suspended(applied.rule)
        if self.recipient.due > self.known.now:
            yield self._not_due()
        status = self._status()
        if lost := self._lost_route(status):
            yield self._no_route(lost)
        if status is not None and status.dead_until > self.known.now:
            yield self._dead(status)

    def _hold(self) -> _HoldingConstraint:
        hold = self.recipient.hold
        if hold == BY_COMMAND:
            return _HoldingConstraint(
                Constraint.HELD_BY_COMMAND,
                None,
                "held by an operator's command",
                ("It is held until a command releases it (zsmtp queue release). It does not expire meanwhile.",),
            )
        if hold == HELD_FOR_DOUBT:
            why = self.recipient.reason
            return _HoldingConstraint(
                Constraint.HELD_FOR_DOUBT,
                None,
                "held: the server may have the message already",
                (
                    f"The result of attempt {self.recipient.attempts} was lost{f': {why}' if why else ''}.",
                    "Release it to have it sent again (it may then arrive twice), or drop it if it has arrived.",
                ),
            )
        if is_apart(hold):
            return self._moving(move_of(hold))
        rule = next((one for one in self.known.rules if one.number == hold), None)
        if rule is None:
            words = (f"Rule {hold}, which held it, no longer exists: a sweep, or zsmtp queue release, releases it.",)
            return _HoldingConstraint(Constraint.HELD_BY_RULE, None, f"held by rule {hold}", words)
        end = (
            "until the rule is deleted" if rule.until is None else f"until the rule ends {_at(rule.until, self.known)}"
        )
        return _HoldingConstraint(
            Constraint.HELD_BY_RULE,
            rule.until,
            f"held by {rule_words(rule)}",
            (f"It is held {end}. It does not expire meanwhile.", f"The rule holds: {rule.filter or 'everything'}."),
        )

    def _moving(self, number: int) -> _HoldingConstraint:
        move = next((one for one in self.known.moves if one.number == number), None)
        to = "another queue" if move is None else move.to.name
        began = "" if move is None else f", which {move.by} began {_at(move.begun, self.known)}"
        words = (
            f"It belongs to move {number}{began}: no queue delivers it until it has arrived there.",
            f"If zsmtp queue move does not run any more, run it again: zsmtp queue move {to}.",
        )
        return _HoldingConstraint(Constraint.MOVING, None, f"on its way to {to}", words)

    def _in_hand(self) -> _HoldingConstraint:
        status = self._status()
        words = f"A node has read it for attempt {self.recipient.attempts + 1}: it is under way, or next."
        found = self.at_site()
        if found.constraint in _OF_SITE:
            return found._replace(sentences=(words, *found.sentences))
        node = f" by {status.node}" if status is not None else ""
        return _HoldingConstraint(Constraint.IN_HAND, None, f"being delivered{node}, or next", (words,))

    def _no_node(self) -> _HoldingConstraint:
        nodes = self.known.nodes
        if stopping := [node.node for node in nodes if node.alive]:
            words = f"{', '.join(stopping)}: stopping; nothing new is begun."
        elif nodes:
            last = nodes[0]
            words = f"The last one was {last.node} on {last.host} (process {last.pid}, since {self._time(last.since)})."
        else:
            words = "No process has ever delivered from it."
        return _HoldingConstraint(Constraint.NO_NODE, None, "no process delivers this queue", (words,))

    def _suspended(self, rule: Rule) -> _HoldingConstraint:
        end = "until the rule is deleted" if rule.until is None else f"until {self._time(rule.until)}"
        by = f"The suspension is {rule_words(rule)}."
        about = f"It is about: {rule.filter or 'everything'}. No attempt is counted, and the sender is warned as usual."
        in_words = "" if rule.until is None else f" (in {span(rule.until - self.known.now)})"
        return _HoldingConstraint(
            Constraint.SUSPENDED, rule.until, f"suspended by rule {rule.number} {end}{in_words}", (by, about)
        )

    def _expired(self) -> _HoldingConstraint:
        at = _at(self.recipient.expires, self.known)
        words = "It is given up, and its sender notified, when a node next serves its site."
        return _HoldingConstraint(Constraint.EXPIRED, None, f"its time was over {at}", (words,))

    def _not_due(self) -> _HoldingConstraint:
        recipient, last, due = self.recipient, self.last, self.recipient.due
        attempt = f"attempt {recipient.attempts + 1} {_at(due, self.known)}"
        details = () if last is None else (self._failed(last),)
        if last is not None and last.attempt == recipient.attempts:
            failure = failure_of(last, recipient, self.policy)
            if is_scheduled(last, recipient, failure, self.policy):
                waits = self._waits(failure, _step(failure, last.attempt))
                after = (
                    f"After attempt {last.attempt} the wait is {waits} for failures of this class ({failure.value})."
                )
                doubt = ("The server may have the message already.",) if recipient.doubtful else ()
                summary = f"waits after a failure ({failure.value}): {attempt}"
                return _HoldingConstraint(Constraint.BACKOFF, due, summary, (*details, *doubt, after))
        if recipient.reason and (last is None or last.reason != recipient.reason):
            chosen = f"This side deferred it: {recipient.reason}."
        elif recipient.attempts:
            chosen = "The time is not that of the retry schedule known here: it was changed, or configured otherwise."
        else:
            chosen = "The message was submitted for this time, or an operator chose it."
        return _HoldingConstraint(Constraint.NOT_BEFORE, due, f"not to be sent yet: {attempt}", (*details, chosen))

    def _failed(self, entry: HistoryEntry) -> str:
        server = f" at {entry.server}" if entry.server else ""
        return f"Attempt {entry.attempt} failed {_at(entry.at, self.known)}{server}: {reply_words(entry)}."

    def _lost_route(self, status: SiteStatus | None) -> str:
        """Why there is no route, by the report of the node that serves the site, or else by the configuration."""
        return self.known.lost_route if status is None else status.lost_route(self.known.now)

    def _no_route(self, why: str) -> _HoldingConstraint:
        return _HoldingConstraint(
            Constraint.NO_ROUTE,
            None,
            why,
            (
                "No attempt is counted; it is given up in its time, and its sender warned as usual.",
                "It goes on at once when the configuration has that relay again (reload zsmtp serve). "
                "zsmtp queue reroute moves it elsewhere.",
            ),
        )

    def _dead(self, status: SiteStatus) -> _HoldingConstraint:
        why = status.dead_reason
        waits = status.dead_until > self.known.now
        probe = f"next probe {_at(status.dead_until, self.known)}" if waits else "a probe is due, or under way"
        return _HoldingConstraint(
            Constraint.DEAD_SITE,
            status.dead_until if waits else None,
            f"{status.site} does not answer: {probe}",
            (
                f"The last connection failed: {why}." if why else "Connection after connection failed.",
                "One message at a time is tried until the site answers; the others wait, and no attempt is counted.",
                *self._about(status),
            ),
        )

    def at_site(self) -> _HoldingConstraint:
        """The constraint at the site for a recipient that is due."""
        status = self._status()
        if status is None:
            return _HoldingConstraint(Constraint.DUE, None, "due now", ("A node takes it up within seconds.",))
        if lost := self._lost_route(status):
            return self._no_route(lost)
        if status.dead_until:
            return self._dead(status)
        site, about = status.site, self._about(status)
        used = (
            f"{status.busy} of {status.window} connections to {site} are in use, {status.ready} recipients are ready."
        )
        if status.rate_until > self.known.now:
            rate = f"The rate {status.rate} lets the next one through {_at(status.rate_until, self.known)}."
            return _HoldingConstraint(
                Constraint.RATE, status.rate_until, f"the rate {status.rate} of {site} is used up", (rate, *about)
            )
        if status.window and status.busy >= status.window:
            grows = "The window grows while the site takes mail, and shrinks when connections fail."
            summary = f"all {status.window} connections that {site} may have now are in use"
            return _HoldingConstraint(
                Constraint.WINDOW, None, summary, (f"{status.ready} recipients are ready.", grows, *about)
            )
        if status.no_slot:
            summary = "no connection is free: the limit for all sites is reached"
            return _HoldingConstraint(Constraint.NO_SLOT, None, summary, (used, *about))
        if status.ready:
            return _HoldingConstraint(
                Constraint.TURN, None, f"waits for a connection to {site}: others are first", (used, *about)
            )
        way = ("It may be under way already.",) if status.busy else ()  # a store knows when results are written
        return _HoldingConstraint(Constraint.DUE, None, "due now", (used, *about, *way))

    def _about(self, status: SiteStatus) -> tuple[str, ...]:
        """Whose status it is, if several nodes serve the site, and how old, if it is."""
        part = f"{status.node} serves {count(status.slots)} of the {SLOTS} slots of {status.site}, and this recipient."
        old = self.known.now - status.updated
        return (
            *((part,) if status.slots != ALL else ()),
            *((f"This was reported {span(old)} ago.",) if old > OLD_STATUS else ()),
        )

    def _status(self) -> SiteStatus | None:
        """The status of the site, unless its node is gone."""
        status = self.known.status
        alive = {node.node for node in self.known.nodes if node.alive}
        return status if status is not None and status.node in alive else None

    def _applied(self, at: float) -> Applied | None:
        """The rule that a delivering node would apply at a time."""
        return self.rules.apply(self.work, at)

    def _time(self, at: float) -> str:
        return self.known.time_text(at)

    def _waits(self, failure: FailureClass, step: int) -> str:
        schedule = self.policy.schedule(failure)
        first, last = span(schedule.wait(step, 0.0)), span(schedule.wait(step, 1.0))
        return first if first == last else f"{first} to {last}"

    # ------------------------------------------------------------------ next

    def comes_next(self) -> Iterator[str]:
        """What happens from here on."""
        recipient, now = self.recipient, self.known.now
        if expiry(self.work, now) is not None:
            return
        start = max(now, recipient.due)
        applied = self._applied(start)
        if applied is not None and applied.rule.action != "suspend":
            effect = _EFFECTS[applied.rule.action].format(rule_words(applied.rule), applied.rule.argument)
            yield f"When it is due, {effect}."
        yield from self._attempt_after(start)
        warned_at = max(now, self.work.since + self.policy.warn_after)
        if warning(self.work, self.policy, warned_at) is not None:
            yield f"The sender is warned of the delay if it is still here {_at(warned_at, self.known)}."
        elif recipient.warned:
            yield "The sender was warned of the delay."
        held = ", unless it is still held" if recipient.hold else ""
        yield f"It is given up {_at(recipient.expires, self.known)}{held}."

    def _attempt_after(self, start: float) -> Iterator[str]:
        """When the attempt after the next would be, if the next one failed as the last one did."""
        recipient = self.recipient
        if start >= recipient.expires:
            return
        number = recipient.attempts + 1
        failure = failure_of(self.last, recipient, self.policy) if self.last else FailureClass.OTHER
        so = " in the same way" if self.last else ""
        again = next_attempt(self.policy, failure, _step(failure, number), start, recipient.expires, 0.0)
        if again >= recipient.expires:
            yield f"Attempt {number} is the last one."
        else:
            waits = self._waits(failure, _step(failure, number))
            default = "" if self.known.configured else " by the default schedule"
            yield f"If attempt {number} fails{so}, attempt {number + 1} follows after {waits}{default}."


_OF_SITE = (Constraint.NO_ROUTE, Constraint.DEAD_SITE, Constraint.RATE, Constraint.WINDOW, Constraint.NO_SLOT)
_EFFECTS = {
    "hold": "it is held by {0}",
    "fail": "it is failed, and its sender notified, by {0}",
    "drop": "it is dropped without a notice by {0}",
    "reroute": "it goes to {1} by {0}",
}
