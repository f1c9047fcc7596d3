"""The verbs of ``zsmtp queue`` that make changes:
``now at priority hold release suspend resume reroute fail drop rules``.

Each first prints the number of recipients, and asks for confirmation on a terminal; elsewhere it needs ``--yes``. The
store changes them in pieces, so that delivery continues meanwhile. Rules and ends contain the operator and the reason,
and every change is a line in the system's log (facility ``mail``).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pwd
import shlex
import sys
import syslog
from collections.abc import Callable
from typing import NamedTuple

from zsmtp.cli import queuejson, queuetext
from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.queue import VerbContext
from zsmtp.cli.queuefilter import FIELDS_OF_RECIPIENTS, FIELDS_OF_RULES, filter_of, moment
from zsmtp.cli.queueshards import Shard, place_of
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import is_terminal
from zsmtp.dns.literal import domain_problem
from zsmtp.escape import escape
from zsmtp.idn import to_ascii
from zsmtp.queue.filter import Field, Filter, Operator, Term
from zsmtp.queue.limits import BY_COMMAND
from zsmtp.queue.location import usual_location
from zsmtp.queue.operators import Change, Rule
from zsmtp.queue.states import MAX_REASON, State

REFUSED = "refused by the operator of this system"
"""The reason in a notice of a failure without a text."""
_HELD_BY_RULES = (
    Term(Field.RULE, Operator.MORE, (0.0,)),
    Term(Field.RULE, Operator.LESS, (float(BY_COMMAND),)),
)
_SHOWN = 10  # recipients that --dry-run shows
_RELAY = "relay:"


class PlannedChange(NamedTuple):
    """A change: the verb in the past tense, the filter of its recipients, and the change itself.

    ``rule`` is added first, if there is one; ``change`` is made from its number (0 without one), None: the rule
    is the whole change.
    """

    done: str
    wanted: Filter
    change: Callable[[int], Change] | None
    rule: Rule | None = None
    hint: str = ""
    """The line printed if nothing matches."""


async def now(context: VerbContext) -> int:
    """``now``: try them at once."""
    at = context.clock()
    return await _carry_out(context, PlannedChange("to be tried now", filter_given(context), lambda _: Change(due=at)))


async def at(context: VerbContext) -> int:
    """``at TIME``: try them then."""
    due = time_given(context, context.options.at)
    done = f"to be tried at {queuetext.time_text(due)}"
    return await _carry_out(context, PlannedChange(done, filter_given(context), lambda _: Change(due=due)))


async def priority(context: VerbContext) -> int:
    """``priority N``: change their priority."""
    rank = -context.options.rank
    return await _carry_out(
        context, PlannedChange(f"of priority {-rank}", filter_given(context), lambda _: Change(rank=rank))
    )


async def hold(context: VerbContext) -> int:
    """``hold``: keep them back until released, or until the rule ends."""
    wanted = filter_given(context)
    rule = _rule(context, wanted, "hold")
    free = Filter((*wanted.terms, Term(Field.STATE, Operator.UNEQUAL, (State.HELD,))))
    return await _carry_out(
        context, PlannedChange("held", free, lambda number: Change(hold=number or BY_COMMAND), rule)
    )


async def release(context: VerbContext) -> int:
    """``release``: end their hold."""
    wanted = filter_given(context)
    held = Filter((*wanted.terms, Term(Field.STATE, Operator.EQUAL, (State.HELD,))))
    by_rules = await _count(context, Filter((*held.terms, *_HELD_BY_RULES)))
    status = await _carry_out(
        context, PlannedChange("released", held, lambda _: Change(hold=0), hint="nothing that matches is held")
    )
    if by_rules and not (status or context.options.dry_run):
        held_by = f"{queuetext.plural(by_rules, 'recipient')} held by a rule"
        context.note(f"{held_by}: it holds them again until it is deleted (zsmtp queue rules --delete)")
    return status


async def suspend(context: VerbContext) -> int:
    """``suspend``: leave them where they are until the rule ends, later ones, too."""
    wanted = filter_given(context, FIELDS_OF_RULES)
    context.options.standing = True
    return await _carry_out(context, PlannedChange("suspended", wanted, None, _rule(context, wanted, "suspend")))


async def reroute(context: VerbContext) -> int:
    """``reroute KEY``: give them another destination."""
    key = _key(context.options.key)
    wanted = filter_given(context)
    rule = _rule(context, wanted, "reroute", key)
    return await _carry_out(context, PlannedChange(f"rerouted to {key}", wanted, lambda _: Change(key=key), rule))


async def fail(context: VerbContext) -> int:
    """``fail``: end them with a notice."""
    text = _sentence(context.options.text, "--text") or REFUSED
    wanted = filter_given(context)
    change = Change(end="failed", status="5.7.1", reason=text, by=by_whom(context), notify=True)
    return await _carry_out(
        context, PlannedChange("failed", wanted, lambda _: change, _rule(context, wanted, "fail", text))
    )


async def drop(context: VerbContext) -> int:
    """``drop``: end them without a notice."""
    wanted = filter_given(context)
    change = Change(end="dropped", reason=reason_given(context) or "dropped by an operator", by=operator_name())
    return await _carry_out(context, PlannedChange("dropped", wanted, lambda _: change, _rule(context, wanted, "drop")))


# ----------------------------------------------------------------------- rules


async def rules(context: VerbContext) -> int:
    """``rules``: list rules, or delete one."""
    number = context.options.delete
    if number is not None:
        return await _delete(context, [one for one in await _rules(context, number) if one.rule.number == number])
    standing = await _rules(context)
    if context.json:
        context.write_document({"rules": [queuejson.rule_document(one.rule, one.shard.number) for one in standing]})
        return Exit.OK
    _write_rules(context, standing)
    if not standing:
        context.note("there are no rules")
    return Exit.OK


async def resume(context: VerbContext) -> int:
    """``resume``: delete suspensions: one by its number, those of a filter, or all."""
    options = context.options
    wanted = None if options.number is not None else filter_given(context, FIELDS_OF_RULES)
    suspensions = [one for one in await _rules(context, options.number) if one.rule.action == "suspend"]
    if wanted is None:
        suspensions = [one for one in suspensions if one.rule.number == options.number]
    elif not wanted.everything:
        suspensions = [one for one in suspensions if one.rule.filter == str(wanted)]
    return await _delete(context, suspensions)


class StandingRule(NamedTuple):
    """A rule, and its queue."""

    shard: Shard
    rule: Rule


async def _rules(context: VerbContext, number: int | None = None) -> list[StandingRule]:
    """The rules of all queues; raises CommandFailed for a number with several queues."""
    if number is not None:
        _check_number(context)
    answers = await context.shards.each(lambda shard: shard.store.rules())
    return [StandingRule(shard, rule) for shard, rules in answers for rule in rules]


def _check_number(context: VerbContext) -> None:
    if context.shards.several:
        raise CommandFailed(Exit.USAGE, "each queue numbers its own rules; name the one that is meant with --queue URL")


def _write_rules(context: VerbContext, rules: list[StandingRule]) -> None:
    """Write rules; with several queues each with its queue."""
    for shard, rule in rules:
        where = shard.title if context.shards.several else ""
        context.write("\n".join(queuetext.rule_lines(rule, context.clock(), context.look, where=where)))


async def _delete(context: VerbContext, found: list[StandingRule]) -> int:
    options = context.options
    if not found:
        context.note("there is no such rule; zsmtp queue rules lists them all")
        if context.json:
            context.write_document({"deleted": [], "dry_run": options.dry_run})
        return Exit.NEGATIVE
    if not context.json:
        _write_rules(context, found)
    if not options.dry_run:
        await confirm(context, f"delete {queuetext.plural(len(found), 'rule')}")
    deleted = []
    for shard, rule in [] if options.dry_run else found:
        if await context.shards.ask(shard, shard.store.delete_rule(rule.number)):
            deleted.append(StandingRule(shard, rule))
            log_change(context, f"deleted {_rule_text(context, shard, rule)}")
    if context.json:
        gone = found if options.dry_run else deleted
        numbers: list[object] = [one.rule.number for one in gone]
        if context.shards.several:
            numbers = [{"shard": one.shard.number, "number": one.rule.number} for one in gone]
        context.write_document({"deleted": numbers, "dry_run": options.dry_run})
    else:
        ending = "would be deleted" if options.dry_run else "deleted"
        context.write(f"{queuetext.plural(len(found if options.dry_run else deleted), 'rule')} {ending}")
    return Exit.OK


def _rule_text(context: VerbContext, shard: Shard, rule: Rule) -> str:
    """A rule as text for the system's log."""
    where = f" of {shard.title}" if context.shards.several else ""
    return f"rule {rule.number}{where} ({rule.action} {rule.filter or 'everything'})"


def _rule(context: VerbContext, wanted: Filter, action: str, argument: str = "") -> Rule | None:
    """The standing rule of a change, None if the change is for present recipients only."""
    options = context.options
    until = None
    if options.lasting is not None:
        until = context.clock() + options.lasting
    elif options.until is not None:
        until = time_given(context, options.until)
    if until is None and not options.standing:
        return None
    filter_of(options, FIELDS_OF_RULES)
    return Rule(
        action=action,
        filter=str(wanted),
        argument=argument,
        until=until,
        by=operator_name(),
        reason=reason_given(context),
    )


# -------------------------------------------------------------------- changing


async def _carry_out(context: VerbContext, plan: PlannedChange) -> int:
    options = context.options
    matching = await _count(context, plan.wanted)
    if not matching and plan.rule is None:
        context.note(plan.hint or "no recipient matches")
        _report(context, plan, matching, 0, [])
        return Exit.NEGATIVE
    if options.dry_run:
        await rehearse(context, plan, matching)
        return Exit.OK
    await confirm(context, f"{queuetext.plural(matching, 'recipient')} {plan.done}{_later(plan)}")
    rules = await _add_rule(context, plan.rule)
    numbers = {one.shard: one.rule.number for one in rules}
    changed = 0

    async def change(shard: Shard) -> None:
        nonlocal changed
        if plan.change is not None and matching:
            pieces = shard.store.change(plan.wanted, plan.change(numbers.get(shard, 0)))
            async for number in context.shards.pieces(pieces):
                changed += number
                progress(changed, matching)

    try:
        await context.shards.each(change, seconds=None)
    finally:
        if plan.change is not None and (changed or not rules):
            log_change(context, f"{queuetext.plural(changed, 'recipient')} {plan.done} ({plan.wanted or 'everything'})")
        if changed < matching and isinstance(sys.exc_info()[1], asyncio.CancelledError):
            context.note(f"interrupted: {queuetext.plural(changed, 'recipient')} {plan.done}")
    _report(context, plan, matching, changed, rules)
    return Exit.OK


async def _count(context: VerbContext, wanted: Filter) -> int:
    """The number of matching recipients, in all queues."""
    return sum(counted[""] for _, counted in await context.shards.each(lambda shard: shard.store.count(wanted)))


async def _add_rule(context: VerbContext, rule: Rule | None) -> list[StandingRule]:
    """Add a rule to each queue."""
    if rule is None:
        return []
    added = [StandingRule(*one) for one in await context.shards.each(lambda shard: shard.store.add_rule(rule))]
    for one in added:
        log_change(context, f"added {_rule_text(context, *one)}")
    return added


def _later(plan: PlannedChange) -> str:
    if plan.rule is None:
        return ""
    until = "" if plan.rule.until is None else f" until {queuetext.time_text(plan.rule.until)}"
    return f", and later mail{until}"


def _report(context: VerbContext, plan: PlannedChange, matching: int, changed: int, rules: list[StandingRule]) -> None:
    if context.json:
        documents = [queuejson.rule_document(one.rule, one.shard.number) for one in rules]
        document = {
            "matching": matching,
            "changed": changed,
            "dry_run": False,
            "filter": str(plan.wanted),
            "rule": documents[0] if len(documents) == 1 else None,
        }
        context.write_document(document | ({"rules": documents} if context.shards.several else {}))
        return
    if not matching and not rules:
        return
    if plan.change is None:
        context.write(f"{queuetext.plural(matching, 'recipient')} {plan.done}{_later(plan)}")
    else:
        context.write(f"{queuetext.plural(changed, 'recipient')} {plan.done}")
        if changed < matching:
            left = queuetext.plural(matching - changed, "recipient")
            context.note(f"{left} not changed: being delivered, or no longer in the queue")
    for shard, rule in rules:
        at = "" if shard.name == usual_location().full_name else f"--queue {escape(shlex.quote(shard.name))} "
        if plan.change is None:
            context.write(f"zsmtp queue resume {at}--number {rule.number} ends it")
        else:
            ending = f"zsmtp queue rules {at}--delete {rule.number} ends it"
            context.write(f"rule {rule.number} applies to later mail; {ending}")


async def rehearse(context: VerbContext, plan: PlannedChange, matching: int) -> None:
    """Show the recipients of a change."""
    if context.json:
        document = {
            "matching": matching,
            "changed": 0,
            "dry_run": True,
            "filter": str(plan.wanted),
            "rule": None if plan.rule is None else queuejson.rule_document(plan.rule),
        }
        context.write_document(document)
        return
    context.write(f"{queuetext.plural(matching, 'recipient')} would be {plan.done}{_later(plan)}")
    at = context.clock()
    async for shard, row in context.shards.merged(
        lambda store: store.select(plan.wanted, limit=_SHOWN), place_of, _SHOWN
    ):
        context.write(queuetext.list_line(row, shard.number, at, context.look))
    if matching > _SHOWN:
        context.write(f"({matching - _SHOWN:,} more)")


def progress(changed: int, matching: int) -> None:
    """Show the progress of a large change on a terminal."""
    if is_terminal(sys.stderr) and matching > 1000:
        sys.stderr.write(f"\r{changed:,} of {matching:,}" + ("\n" if changed >= matching else ""))
        sys.stderr.flush()


async def confirm(context: VerbContext, what: str) -> None:
    """Ask for confirmation; raises CommandFailed without a terminal, or if the answer is not yes."""
    if context.options.yes:
        return
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise CommandFailed(Exit.USAGE, f"{what}: there is no terminal to confirm on; --yes confirms it")
    sys.stderr.write(f"{escape(what)}? [y/N] ")
    sys.stderr.flush()
    if (await read_answer()).strip().lower() not in ("y", "yes"):
        raise CommandFailed(Exit.NEGATIVE, "nothing was changed")


async def read_answer() -> str:
    """A line from the terminal; the wait for it can be interrupted."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return sys.stdin.readline()


# ----------------------------------------------------------------- command line


def filter_given(context: VerbContext, fields: frozenset[Field] = FIELDS_OF_RECIPIENTS) -> Filter:
    """The filter of a change; an empty one requires ``--all``."""
    wanted = filter_of(context.options, fields)
    if any(one.field is Field.RULE for one in wanted.terms):
        _check_number(context)
    if wanted.everything and not context.options.all:
        raise CommandFailed(Exit.USAGE, "which recipients? Give a filter, or --all")
    if context.options.all and not wanted.everything:
        raise CommandFailed(Exit.USAGE, "--all does not go with a filter")
    return wanted


def time_given(context: VerbContext, text: str) -> float:
    """A time in the future; raises CommandFailed for a past or invalid one."""
    at = context.clock()
    try:
        found = moment(text, at)
    except argparse.ArgumentTypeError as error:
        raise CommandFailed(Exit.USAGE, str(error)) from error
    if found <= at:
        raise CommandFailed(Exit.USAGE, f"{escape(text)}: this time is in the past")
    return found


def _key(text: str) -> str:
    """A queue key: a domain in A-labels and lower case, or a relay."""
    if text.startswith(_RELAY) and len(text) > len(_RELAY) and text.isprintable() and " " not in text:
        return text
    name = to_ascii(text)
    if name is None or domain_problem(name) is not None:
        raise CommandFailed(Exit.USAGE, f"{escape(text[:80])} is no domain, and not relay:NAME")
    return name.lower()


def _sentence(text: str, option: str) -> str:
    if len(text) > MAX_REASON // 2 or not text.isprintable():
        raise CommandFailed(Exit.USAGE, f"{option}: at most {MAX_REASON // 2} characters on one line are allowed")
    return text


def reason_given(context: VerbContext) -> str:
    """The value of ``--because``; raises CommandFailed if it cannot be stored."""
    return _sentence(context.options.because, "--because")


def operator_name() -> str:
    """The user of this process, as it is recorded: ``ann (uid 1000)``."""
    uid = os.getuid()
    try:
        name = os.getlogin()
    except OSError:  # no terminal
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"uid {uid}"
    return f"{name} (uid {uid})"


def by_whom(context: VerbContext) -> str:
    """The operator, with the reason."""
    why = reason_given(context)
    return f"{operator_name()}: {why}" if why else operator_name()


def log_change(context: VerbContext, what: str) -> None:
    """Write a line to the system's log: operator, change and reason."""
    why = reason_given(context)
    record = f"queue {context.options.verb}: {what}, by {operator_name()}" + (f": {why}" if why else "")
    syslog.openlog("zsmtp", syslog.LOG_PID, syslog.LOG_MAIL)
    syslog.syslog(syslog.LOG_NOTICE, escape(record))
