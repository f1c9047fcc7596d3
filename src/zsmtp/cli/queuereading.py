"""The verbs of ``zsmtp queue`` that only read: ``why list count shape show ends attempts body top check``.

Lists are written as they are read, in bounded memory. Missing items are reported on standard error, with exit status 1
if a single one was requested.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from zsmtp.cli import queuejson, queuetext
from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.queue import BY_SHARD, VerbContext
from zsmtp.cli.queuefilter import filter_of, message_of
from zsmtp.cli.queueshards import Shard, place_of
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import is_terminal
from zsmtp.escape import escape
from zsmtp.queue.filter import FIELDS_OF_ENDS, Field, Filter, Operator, Term
from zsmtp.queue.ids import to_text
from zsmtp.queue.moves import Move
from zsmtp.queue.operators import (
    AGES,
    OLDEST,
    Health,
    NodeStatus,
    Row,
    Rule,
    SiteStatus,
    combined,
    of_message,
)
from zsmtp.queue.states import HistoryEntry
from zsmtp.text.look import Style

if TYPE_CHECKING:
    from zsmtp.queue.explanation import Circumstances, QueueExplanation

CHECKING = 600.0
"""The longest time in seconds until the next finding of ``check`` from each of several queues."""
MOST_RECIPIENTS = 1000
"""The most recipients of one message that ``show`` shows."""
_BLOCK = 3 << 14  # octets of a base64 line without padding

T = TypeVar("T")


async def list_recipients(context: VerbContext) -> int:
    """``list``: write one recipient a line."""
    wanted, limit = filter_of(context.options), context.options.limit
    now, look = context.clock(), context.look
    return await _listed(
        context,
        context.shards.merged(lambda store: store.select(wanted, limit=limit), place_of, limit),
        queuetext.list_heading(look),
        lambda row, shard: queuetext.list_line(row, shard, now, look),
        queuejson.row_document,
    )


async def list_ends(context: VerbContext) -> int:
    """``ends``: write one ended recipient a line, the latest end first."""
    wanted, limit = filter_of(context.options, FIELDS_OF_ENDS), context.options.limit
    now, look = context.clock(), context.look
    return await _listed(
        context,
        context.shards.merged(lambda store: store.ends(wanted, limit=limit), lambda entry: -entry.at, limit),
        queuetext.ends_heading(look),
        lambda entry, shard: queuetext.ends_line(entry, shard, now, look),
        queuejson.entry_document,
    )


async def _listed(
    context: VerbContext,
    rows: AsyncIterator[tuple[Shard, T]],
    heading: str,
    line: Callable[[T, int], str],
    document: Callable[[T, int], Mapping[str, object]],
) -> int:
    """Write rows as they come: as lines below a heading, or each as a JSON document."""
    headed = False
    async for shard, row in rows:
        if context.json:
            sys.stdout.write(queuejson.json_line(document(row, shard.number)))
            continue
        if not headed:
            context.write(heading)
            headed = True
        context.write(line(row, shard.number))
    return Exit.OK


async def count(context: VerbContext) -> int:
    """``count``: write the number of recipients, or the numbers by a group."""
    by, wanted = context.options.by, filter_of(context.options)
    if by == BY_SHARD:
        answers = await context.shards.each(lambda shard: shard.store.count(wanted))
        counted = {f"{shard.number} {shard.name}": groups[""] for shard, groups in answers}
    else:
        counted = await _counted(context, wanted, by)
    if context.json:
        context.write_document({"by": by or None, "total": sum(counted.values())} | ({"groups": counted} if by else {}))
    elif not by:
        context.write(str(counted[""]))
    else:
        for text in queuetext.count_lines(counted, by, context.options.limit, context.look):
            context.write(text)
    return Exit.OK


async def _counted(context: VerbContext, wanted: Filter, by: str) -> dict[str, int]:
    """The numbers of matching recipients in all queues, by a group."""
    return _sum(groups for _, groups in await context.shards.each(lambda shard: shard.store.count(wanted, by=by)))


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, number in part.items():
            total[name] = total.get(name, 0) + number
    return total


async def _statuses(context: VerbContext, sites: list[str]) -> dict[str, list[SiteStatus]]:
    """The states of these sites, by each node that serves a part; of one of several queues, with a problem if any."""
    if not sites:
        return {}
    found: dict[str, list[SiteStatus]] = {}
    now = context.clock()
    for _, statuses in await context.shards.each(lambda shard: shard.store.sites(sites)):
        parts: dict[str, list[SiteStatus]] = {}
        for one in statuses:
            parts.setdefault(one.site, []).append(one)
        for site, some in parts.items():
            if site not in found or queuetext.site_trouble(combined(some), now):
                found[site] = some
    return found


# ----------------------------------------------------------------------- shape


async def shape(context: VerbContext) -> int:
    """``shape``: show the sites with the most recipients, by age."""
    wanted, now = filter_of(context.options), context.clock()
    labels = [*(label for label, _ in AGES), OLDEST]
    sites: dict[str, dict[str, int]] = {}
    for label, terms in zip(labels, _ages(), strict=True):
        for site, number in (await _counted(context, Filter((*wanted.terms, *terms)), "site")).items():
            sites.setdefault(site, {})[label] = number
    ranked = sorted(sites.items(), key=lambda one: (-sum(one[1].values()), one[0]))
    shown, rest = ranked[: context.options.limit], ranked[context.options.limit :]
    statuses = await _statuses(context, [site for site, _ in shown])
    if context.json:
        documents = [
            {
                "site": site,
                "total": sum(counted.values()),
                "ages": {label: counted.get(label, 0) for label in labels},
                **queuejson.statuses_document(statuses.get(site, ())),
            }
            for site, counted in shown
        ]
        context.write_document({"sites": documents, "more_sites": len(rest)})
        return Exit.OK
    everything = {label: sum(counted.get(label, 0) for counted in sites.values()) for label in labels}
    troubles = {site: queuetext.site_trouble(combined(some), now) for site, some in statuses.items()}
    for text in queuetext.shape_lines([("(all)", everything), *shown], labels, troubles, context.look):
        context.write(text)
    if rest:
        context.write(context.look.paint(f"({queuetext.plural(len(rest), 'more site')})", Style.FAINT))
    return Exit.OK


def _ages() -> Iterable[tuple[Term, ...]]:
    """The terms of each age group. ``>=`` and ``<`` share no recipient."""
    lower = 0.0
    for _, limit in AGES:
        yield Term(Field.AGE, Operator.AT_LEAST, (lower,)), Term(Field.AGE, Operator.LESS, (float(limit),))
        lower = float(limit)
    yield (Term(Field.AGE, Operator.AT_LEAST, (lower,)),)


# ------------------------------------------------------------------ one by one


async def why(context: VerbContext) -> int:
    """``why``: show the binding constraint of each recipient, its attempts, and its next step."""
    wanted = _named(context)
    explained = _explained(context, wanted)
    number, documents = 0, []
    async for shard, found, address, message in explained:
        message_id = to_text(message, shard.number)
        if context.json:
            facts = {"id": message_id, "recipient": address.decode("utf-8", "backslashreplace")}
            documents.append(facts | queuejson.explanation_document(found, shard.number))
        else:
            lines = queuetext.explanation_lines(found, address, message_id, context.look)
            context.write("\n".join(["", *lines] if number else lines))
        number += 1
    if context.json:
        context.write_document({"recipients": documents})
    if not number:
        context.note("no recipient matches, neither in the queue nor among the ends that are kept")
        return Exit.NEGATIVE
    return Exit.OK


async def _explained(context: VerbContext, wanted: Filter) -> AsyncIterator[tuple[Shard, QueueExplanation, bytes, int]]:
    """Explanations of the matching recipients; of ended ones if none is in the queue."""
    from zsmtp.queue.explanation import Circumstances, explain, explain_end  # imports many modules, for this verb only

    shards, limit = context.shards, context.options.limit
    standing = dict(await shards.each(_standing))
    histories: dict[tuple[int, int], list[HistoryEntry]] = {}
    number = 0
    async for shard, row in shards.merged(lambda store: store.select(wanted, limit=limit + 1), place_of):
        number += 1
        if number > limit:
            context.note(f"only the first {limit} are shown; --limit shows more")
            return
        place = shard.number, row.message.id
        if place not in histories:
            histories = {place: await shards.ask(shard, shard.store.history(row.message.id)) or []}
        known = await shards.ask(shard, _circumstances(context.at(shard), row, standing[shard]))
        if known is not None:
            yield shard, explain(row, histories[place], known), row.recipient.address, row.message.id
    if number or any(one.field not in FIELDS_OF_ENDS for one in wanted.terms):
        return
    async for shard, end in shards.merged(
        lambda store: store.ends(wanted, limit=limit), lambda entry: -entry.at, limit
    ):
        known = Circumstances(now=context.clock(), time_text=queuetext.time_text)
        history = await shards.ask(shard, shard.store.history(end.message))
        if history is not None:
            yield shard, explain_end(end, history, known), end.address, end.message


class Surroundings(NamedTuple):
    """The facts shared by all recipients of a queue."""

    rules: list[Rule]
    nodes: list[NodeStatus]
    moves: list[Move]


async def _standing(shard: Shard) -> Surroundings:
    store = shard.store
    return Surroundings(await store.rules(), await store.nodes(), await store.moves())


async def _circumstances(context: VerbContext, row: Row, standing: Surroundings) -> Circumstances:
    """The facts about a recipient outside its row; without a configuration the retry policy is the default one."""
    from zsmtp.queue.explanation import Circumstances

    store = context.store
    mine = Filter(
        (*_message(context, row.message.id).terms, Term(Field.KEY, Operator.EQUAL, (row.recipient.key.lower(),)))
    )
    names = await store.count(mine, by="site")  # the sites that the store knows for the key
    status = of_message(await store.sites(list(names)), row.message.id) if names else None
    known = Circumstances(now=context.clock(), **standing._asdict(), status=status, time_text=queuetext.time_text)
    one = row.recipient
    if context.config is not None:
        known = replace(known, policy=context.config.retry.for_recipient(one.key, one.tenant), configured=True)
    if context.delivery is None:
        return known
    from zsmtp.client.destinations import Destinations
    from zsmtp.queue.submission import lost_route, queue_key

    destinations, sender = Destinations(context.delivery), row.message.sender
    return replace(
        known,
        route=queue_key(destinations, one.address, sender),
        route_reason=destinations.of(one.address, sender).reason.value,
        lost_route=lost_route(destinations, one.key),
    )


def _message(context: VerbContext, message: int) -> Filter:
    """All recipients of a message."""
    return Filter((Term(Field.ID, Operator.EQUAL, (to_text(message, context.store.shard),)),))


async def show(context: VerbContext) -> int:
    """``show``: show messages with their recipients in the queue."""
    now = context.clock()
    documents = []
    shown = 0
    async for shard, rows in _messages(context, _named(context)):
        message, store = rows[0].message, shard.store
        counted = await context.shards.ask(shard, store.count(_message(context.at(shard), message.id)))
        if counted is None:
            continue
        there = counted[""]
        if context.json:
            recipients = [queuejson.row_document(row, store.shard) for row in rows]
            facts = {"in_queue": there, "queued": recipients}
            documents.append(queuejson.message_document(message, store.shard) | facts)
        else:
            lines = queuetext.message_lines(message, rows, there, store.shard, now, context.look)
            context.write("\n".join(["", *lines] if shown else lines))
        shown += 1
    if context.json:
        context.write_document({"messages": documents})
    return Exit.OK if shown else _absent(context)


async def _messages(context: VerbContext, wanted: Filter) -> AsyncIterator[tuple[Shard, list[Row]]]:
    """The matching recipients by message, the first ones of each; at most as many messages as requested."""
    rows: list[Row] = []
    messages, last = 0, None
    async for shard, row in context.shards.merged(lambda store: store.select(wanted), place_of):
        if last is not None and (shard, row.message.id) != (last, rows[0].message.id):
            yield last, rows
            rows = []
            messages += 1
            if messages == context.options.limit:
                context.note(f"only the first {messages} messages are shown; --limit shows more")
                return
        last = shard
        if len(rows) < MOST_RECIPIENTS:
            rows.append(row)
    if last is not None:
        yield last, rows


async def attempts(context: VerbContext) -> int:
    """``attempts``: show the history of messages, oldest first."""
    shown = 0
    async for shard, message in _histories(context, _named(context)):
        history = await context.shards.ask(shard, shard.store.history(message))
        if history is None:
            continue
        if context.json:
            for entry in history:
                sys.stdout.write(queuejson.json_line(queuejson.entry_document(entry, shard.number)))
        else:
            lines = queuetext.history_lines(to_text(message, shard.number), history, context.look)
            context.write("\n".join(["", *lines] if shown else lines))
        shown += 1
    return Exit.OK if shown else _absent(context)


async def _histories(context: VerbContext, wanted: Filter) -> AsyncIterator[tuple[Shard, int]]:
    """The messages with matching recipients, in the queue or ended."""
    last, number = None, 0
    async for shard, row in context.shards.merged(lambda store: store.select(wanted), place_of):
        if (shard, row.message.id) != last:
            if number == context.options.limit:
                context.note(f"only the first {number} messages are shown; --limit shows more")
                return
            last = shard, row.message.id
            number += 1
            yield last
    if number or any(one.field not in FIELDS_OF_ENDS for one in wanted.terms):
        return
    seen: set[tuple[int, int]] = set()
    async for shard, end in context.shards.merged(lambda store: store.ends(wanted), lambda entry: -entry.at):
        if (shard.number, end.message) not in seen:
            if len(seen) == context.options.limit:
                return
            seen.add((shard.number, end.message))
            yield shard, end.message


def _named(context: VerbContext) -> Filter:
    """The filter, which must not be empty: single items must be named."""
    wanted = filter_of(context.options)
    if wanted.everything:
        raise CommandFailed(Exit.USAGE, "which? Name an id, an address, a domain or a filter")
    return wanted


def _absent(context: VerbContext) -> int:
    context.note("nothing matches")
    return Exit.NEGATIVE


async def body(context: VerbContext) -> int:
    """``body``: write the content of a message, octet for octet."""
    number, shard = message_of(context.options.message)
    here = [one.store for one in context.shards.found if one.number == shard]
    message = await here[0].message(number) if here else None
    if message is None:
        return _absent(context)
    chunks = here[0].content(message.id, message.size)
    if context.json:
        about = {"schema": "zsmtp.queue-body/1", "id": to_text(number, shard), "size": message.size}
        start = queuejson.json_line(about).rstrip("}\n")
        sys.stdout.write(f'{start}, "base64": "')
        async for text in _base64(chunks):
            sys.stdout.write(text)
        sys.stdout.write('"}\n')
    elif is_terminal(sys.stdout):
        async for text in _lines(chunks):
            sys.stdout.write(text)
    else:
        sys.stdout.flush()
        async for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return Exit.OK


async def _base64(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    kept = b""
    async for chunk in chunks:
        kept += chunk
        whole = len(kept) - len(kept) % 3
        yield base64.b64encode(kept[:whole]).decode("ascii")
        kept = kept[whole:]
    yield base64.b64encode(kept).decode("ascii")


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The content, safe for a terminal: line ends stay, other control characters are escaped."""
    kept = b""
    async for chunk in chunks:
        *lines, kept = (kept + chunk).split(b"\n")
        for one in lines:
            yield _safe(one.removesuffix(b"\r")) + "\n"
        if len(kept) > _BLOCK:  # a very long line
            yield _safe(kept)
            kept = b""
    if kept:
        yield f"{_safe(kept)}\n"


def _safe(octets: bytes) -> str:
    return "\t".join(map(escape, octets.split(b"\t")))


async def _findings(context: VerbContext) -> AsyncIterator[str]:
    """Findings of a queue's store, and mail without a destination under the configuration of the deliverer."""
    async for finding in context.store.check():
        yield finding
    alive = {node.node for node in await context.store.nodes() if node.alive}
    lost: dict[str, str] = {}
    for status in await context.store.sites():
        if status.node in alive and (why := status.lost_route(context.clock())):
            lost[status.site] = why
    if context.delivery is not None:  # no process delivers it before it is due
        from zsmtp.client.destinations import Destinations
        from zsmtp.queue.submission import RELAY_KEY, lost_route

        destinations = Destinations(context.delivery)
        keys = [key for key in await context.store.count(Filter(), by="key") if key.startswith(RELAY_KEY)]
        lost |= {key: why for key in keys if (why := lost_route(destinations, key))}
    for key, why in sorted(lost.items()):
        yield f"mail to {key} waits: {why}"


async def check(context: VerbContext) -> int:
    """``check``: report inconsistencies, a sentence each."""
    findings: list[str] = []

    async def look(shard: Shard) -> None:
        whose = f"{shard.title}: " if context.shards.several else ""
        async for finding in context.shards.pieces(_findings(context.at(shard)), seconds=CHECKING):
            findings.append(f"{whose}{finding}")
            if not context.json:
                context.write(escape(findings[-1]))

    await context.shards.each(look, seconds=None)
    if context.json:
        context.write_document({"findings": findings})
    elif not findings:
        context.write("nothing is wrong with the queue")
    return Exit.NEGATIVE if findings else Exit.OK


# ------------------------------------------------------------------------- top


async def top(context: VerbContext) -> int:
    """``top``: show a summary of the queue, repeatedly on a terminal, until interrupted."""
    redraws = is_terminal(sys.stdout) and not context.json
    if not redraws:
        return await _watch(context, redraws=False)
    rejoining = asyncio.create_task(context.shards.rejoin())
    try:
        return await _watch(context, redraws=True)
    except asyncio.CancelledError:
        return Exit.OK  # it was watched until the interrupt
    finally:
        rejoining.cancel()


async def _watch(context: VerbContext, *, redraws: bool) -> int:
    """Show the summary once, or again and again."""
    before: tuple[float, Mapping[str, int]] | None = None
    summed: list[int] = []  # the shards whose counters these are
    while True:
        now = context.clock()
        answers = await context.shards.each(lambda shard: shard.store.counters())
        counters = _sum([found for _, found in answers])
        numbers = [shard.number for shard, _ in answers]
        rates = _rates(before if numbers == summed else None, now, counters)
        before, summed = (now, counters), numbers
        text = await _picture(context, now, counters, rates)
        sys.stdout.write(f"\x1b[H\x1b[J{text}" if redraws else text)
        sys.stdout.flush()
        if not redraws:
            return Exit.OK
        await asyncio.sleep(context.options.interval)


def _rates(before: tuple[float, Mapping[str, int]] | None, now: float, counters: Mapping[str, int]) -> dict[str, float]:
    """The growth of the counters per second."""
    if before is None or now <= before[0]:
        return {}
    return {name: (value - before[1].get(name, 0)) / (now - before[0]) for name, value in counters.items()}


async def _picture(context: VerbContext, now: float, counters: Mapping[str, int], rates: Mapping[str, float]) -> str:
    shards = context.shards
    states = await _counted(context, Filter(), "state")
    sites = await _counted(context, Filter(), "site")
    ranked = sorted(sites.items(), key=lambda one: (-one[1], one[0]))[: context.options.limit]
    statuses = await _statuses(context, [site for site, _ in ranked])
    answers = await shards.each(lambda shard: shard.store.nodes())
    nodes = [(shard, node) for shard, found in answers for node in found]
    healths = await shards.each(lambda shard: shard.store.health())
    problems = {shard.name: health.problem for shard, health in healths if health.problem}
    problems |= {name: f"left out: {problem}" for name, problem in shards.lost.items()}
    rooms = [health.free_octets for _, health in healths if health.free_octets >= 0]
    health = Health("; ".join(_of_queue(context, *one) for one in problems.items()), min(rooms, default=-1))
    if context.json:
        document = {
            "at": now,
            "states": states,
            "counters": dict(counters),
            "nodes": [queuejson.node_document(node, shard.number) for shard, node in nodes],
            "problem": health.problem,
            "free_octets": health.free_octets,
            "sites": [
                {
                    "site": site,
                    "total": number,
                    **queuejson.statuses_document(statuses.get(site, ())),
                }
                for site, number in ranked
            ],
        }
        return queuejson.json_document("top", document)
    lines = queuetext.top_lines(now, states, counters, rates, [node for _, node in nodes], health, context.look)
    lines += queuetext.site_lines(ranked, statuses, now, context.look)
    return "\n".join(lines) + "\n"


def _of_queue(context: VerbContext, name: str, problem: str) -> str:
    """The problem of a queue; with several queues after its name."""
    return f"{name}: {problem}" if context.shards.several else problem
