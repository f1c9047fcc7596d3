"""The verb ``zsmtp queue move``: moves mail to another queue, with its rules and notices.

Recipients are moved by the steps of ``zsmtp.queue.moving``. With ``--rules`` the standing rules of the source are added
to the target first, so that it delivers nothing that is suspended here. If everything is moved by the configuration of
the service, outstanding notices are made before, and are moved like other mail.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zsmtp.cli import queuejson, queuetext
from zsmtp.cli.queue import VerbContext
from zsmtp.cli.queuechanging import PlannedChange, by_whom, confirm, filter_given, log_change, progress, rehearse
from zsmtp.cli.queuestore import open_store
from zsmtp.cli.sysexits import Exit
from zsmtp.queue.filter import Field, Filter, Operator, Term
from zsmtp.queue.location import locate, usual_location
from zsmtp.queue.moving import Mover
from zsmtp.queue.operators import Rule

if TYPE_CHECKING:
    from zsmtp.server.serviceconfig import ServiceConfig

_OVERDUE = 600.0  # seconds from now: by then all outstanding notices are visible
_MOST_OWED = 1000  # messages with notices that are counted


class Moved(NamedTuple):
    """The result of a move: how many recipients matched, were moved, and match now; which messages could not be moved.

    ``rules`` are in the target now, ``behind`` only here; ``owed`` counts messages with outstanding notices here.
    """

    matching: int
    moved: int
    left: int
    problems: dict[str, str]
    rules: list[Rule]
    behind: list[Rule]
    owed: int


async def move(context: VerbContext) -> int:
    """``move URL``: move mail to another queue, with the rest of an earlier, unfinished run."""
    options, given = context.options, filter_given(context)
    source = (locate(options.queue[0]) if options.queue else usual_location()).full_name
    goal = locate(options.target).full_name
    async with open_store(options.target) as target:
        mover = Mover(context.store, target, source, goal, by=by_whom(context))
        missing = await mover.missing_rules()
        carried = [rule for rule in missing if options.rules and not _names_ids(rule)]
        plan = PlannedChange(f"moved to {goal}", given, None)
        matching = (await context.store.count(given))[""]
        if options.dry_run:
            await rehearse(context, plan, matching)
            _print_rules(context, goal, carried, [rule for rule in missing if rule not in carried], would=True)
            return Exit.OK
        more = f", and {queuetext.plural(len(carried), 'rule')} added there" if carried else ""
        await confirm(context, f"{queuetext.plural(matching, 'recipient')} {plan.done}{more}")
        for rule in carried:
            added = await mover.add_rule(rule)
            log_change(context, f"rule {added.number} of {goal} added ({rule.action} {rule.filter or 'everything'})")
        if given.everything and context.service is not None:
            await _make_notices(context, context.service)
        done = 0
        try:
            async for number in _moved(context, mover, given):
                done += number
                progress(done, matching)
        finally:
            if done or mover.problems:
                log_change(context, f"{queuetext.plural(done, 'recipient')} {plan.done} ({given or 'everything'})")
        left = (await context.store.count(given))[""]
        behind = await mover.missing_rules()
    owed = await _owed(context) if given.everything else 0
    return _report(context, plan, Moved(matching, done, left, mover.problems, carried, behind, owed))


async def _moved(context: VerbContext, mover: Mover, given: Filter) -> AsyncIterator[int]:
    """Move the rest of an earlier run, then what matches, repeatedly: leased recipients may have become free."""
    async for number in mover.finish():
        yield number
    began, some = context.clock(), True
    while some:
        some = False
        age = Term(Field.AGE, Operator.AT_LEAST, (max(context.clock() - began, 0.0),))  # nothing that came later
        async for number in mover.move(Filter((*given.terms, age))):
            some = some or number > 0
            yield number


def _names_ids(rule: Rule) -> bool:
    """Whether a rule names messages by their ids, which are different in the target."""
    return any(term.field is Field.ID for term in Filter.parse(rule.filter).terms)


async def _make_notices(context: VerbContext, service: ServiceConfig) -> None:
    """Make the outstanding notices, as the service does; they are mail of the queue then."""
    from zsmtp.client.destinations import Destinations, load_signing
    from zsmtp.queue.composer import Composer
    from zsmtp.queue.housekeeping import Housekeeping
    from zsmtp.queue.templates import load

    destinations = Destinations(service.delivery)
    composer = Composer(
        service.notices, load(Path(service.templates) if service.templates else None), shard=context.store.shard
    )
    signing = load_signing(service.delivery, destinations.target(), context.clock)
    housekeeping = Housekeeping(
        context.store, composer, destinations, service.queue, signing=signing, clock=context.clock
    )
    while await housekeeping.make_notices():
        pass


async def _owed(context: VerbContext) -> int:
    """The number of messages with outstanding notices."""
    return len(await context.store.owed(context.clock() + _OVERDUE, limit=_MOST_OWED))


# ------------------------------------------------------------------- reporting


def _report(context: VerbContext, plan: PlannedChange, result: Moved) -> int:
    for message, problem in sorted(result.problems.items()):
        context.note(f"{message} was not moved: {problem}")
    if context.json:
        document = {
            "to": plan.done.removeprefix("moved to "),
            "matching": result.matching,
            "moved": result.moved,
            "left": result.left,
            "dry_run": False,
            "filter": str(plan.wanted),
            "problems": [{"id": message, "problem": text} for message, text in sorted(result.problems.items())],
            "rules": [queuejson.rule_document(rule) for rule in result.rules],
            "rules_left": [queuejson.rule_document(rule, context.store.shard) for rule in result.behind],
            "notices_owed": result.owed,
        }
        context.write_document(document)
    else:
        _print_result(context, plan, result)
    return Exit.NEGATIVE if result.problems or not result.moved or result.owed else Exit.OK


def _print_result(context: VerbContext, plan: PlannedChange, result: Moved) -> None:
    """Report to people what was moved, and what was not."""
    if result.moved:
        context.write(f"{queuetext.plural(result.moved, 'recipient')} {plan.done}")
    _print_rules(context, plan.done.removeprefix("moved to "), result.rules, result.behind)
    if result.left:
        left = queuetext.plural(result.left, "recipient")
        context.note(f"{left} not moved: being delivered, in doubt, in transfer, or queued meanwhile; move again later")
    if result.owed:
        about = queuetext.plural(result.owed, "message")
        who = "a process that delivers this queue makes them" + (", and so does --config FILE" * (not context.service))
        context.note(f"notices for {about} are still to be made here: {who}; move again then")
    if not result.moved and not result.left and not result.owed:
        context.note("no recipient matches")


def _print_rules(
    context: VerbContext, goal: str, rules: list[Rule], behind: list[Rule], *, would: bool = False
) -> None:
    """Report the rules that the target has now, and that others have no effect there."""
    if context.json:
        return
    if rules:
        verb = "would be added" if would else "added"
        context.write(f"{queuetext.plural(len(rules), 'rule')} {verb} to {goal}")
    if behind:
        count = queuetext.plural(len(behind), "rule")
        why = "ids differ there" if context.options.rules else "--rules adds rules there"
        context.note(f"{goal} lacks {count} of this queue, and delivers without: {why}")
