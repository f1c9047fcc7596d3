"""Standing rules: decisions of operators for all mail of a kind, both queued and future.

A rule is a filter, an action, and perhaps an end (``zsmtp.queue.store.Rule``). Rules are applied when a recipient is
about to be delivered, the oldest first; the first that matches decides. ``suspend`` leaves recipients where they are
until the rule ends: no attempt is counted and no row is written. The other actions settle the recipients they match.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zsmtp.errors import QueueError
from zsmtp.queue.filter import Filter
from zsmtp.queue.settlement import RecipientWork, failed_by_rule, unchanged
from zsmtp.queue.states import State
from zsmtp.queue.store import Rule, Settlement

ACTIONS = ("hold", "suspend", "fail", "drop", "reroute")


@dataclass(frozen=True, slots=True)
class Applied:
    """The effect of a rule on a recipient. ``settlement`` None: it stays as it is until the rule ends."""

    rule: Rule
    settlement: Settlement | None


class Rules:
    """The current standing rules. Raises QueueError for one that cannot be read; stores contain none such."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = [(rule, Filter.parse(rule.filter)) for rule in rules]
        for rule, _ in self._rules:
            if rule.action not in ACTIONS:
                raise QueueError(f"rule {rule.number}: {rule.action!r} is no action; known: {', '.join(ACTIONS)}")

    def __bool__(self) -> bool:
        return bool(self._rules)

    def stands(self, number: int) -> bool:
        """Whether there is a rule of this number."""
        return any(rule.number == number for rule, _ in self._rules)

    def next_end(self, now: float) -> float | None:
        """The time when the first of them ends; None if none does."""
        return min((rule.until for rule, _ in self._rules if rule.until is not None and rule.until > now), default=None)

    def match(self, work: RecipientWork, now: float) -> Rule | None:
        """The first rule that matches a recipient."""
        for rule, wanted in self._rules:
            if rule.until is not None and rule.until <= now:
                continue
            if wanted.matches(work.recipient, work.message, State.DUE, now):
                return rule
        return None

    def apply(self, work: RecipientWork, now: float) -> Applied | None:
        """The effect of the rules on a recipient before its delivery; None: deliver it."""
        if not self._rules:
            return None
        rule = self.match(work, now)
        if rule is None or (rule.action == "reroute" and work.recipient.key == rule.argument):
            return None
        return Applied(rule, _settlement(rule, work, now))


def _settlement(rule: Rule, work: RecipientWork, now: float) -> Settlement | None:
    recipient = work.recipient
    if rule.action in ("fail", "drop"):
        return failed_by_rule(work, rule, now)
    if rule.action == "suspend":
        return None
    return unchanged(
        recipient,
        hold=rule.number if rule.action == "hold" else 0,
        key=rule.argument if rule.action == "reroute" else None,
    )
