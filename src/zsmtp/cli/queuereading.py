"""The verbs of ``zsmtp queue`` that only read: ``why list count shape show ends attempts body top check``.

Lists are written as they are read, in bounded memory. What is not there is said on standard error, with exit status 1
where one thing was asked for.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from zsmtp.cli import queuejson, queuetext
from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.queue import VerbContext
from zsmtp.cli.queuefilter import filter_of
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import is_terminal
from zsmtp.errors import QueueError
from zsmtp.escape import escape
from zsmtp.queue.filter import FIELDS_OF_ENDS, Field, Filter, Operator, Term
from zsmtp.queue.ids import from_text, to_text
from zsmtp.queue.moves import Move
from zsmtp.queue.operators import AGES, OLDEST, NodeStatus, Row, Rule
from zsmtp.queue.states import HistoryEntry
from zsmtp.text.look import Style

if TYPE_CHECKING:
    from zsmtp.queue.explanation import Circumstances, QueueExplanation

MOST_RECIPIENTS = 1000
"""Recipients of one message that ``show`` shows."""
_BLOCK = 3 << 14  # octets of a base64 line without padding

T = TypeVar("T")


async def list_recipients(context: VerbContext) -> int:
    """``list``: one recipient a line."""
    shard, now, look = context.store.shard, context.clock(), context.look
    return await _listed(
        context,
        context.store.select(filter_of(context.options), limit=context.options.limit),
        queuetext.list_heading(look),
        lambda row: queuetext.list_line(row, shard, now, look),
        lambda row: queuejson.row_document(row, shard),
    )


async def list_ends(context: VerbContext) -> int:
    """``ends``: one recipient that has its end a line, the youngest end first."""
    shard, now, look = context.store.shard, context.clock(), context.look
    return await _listed(
        context,
        context.store.ends(filter_of(context.options, FIELDS_OF_ENDS), limit=context.options.limit),
        queuetext.ends_heading(look),
        lambda entry: queuetext.ends_line(entry, shard, now, look),
        lambda entry: queuejson.entry_document(entry, shard),
    )


async def _listed(
    context: VerbContext,
    rows: AsyncIterator[T],
    heading: str,
    line: Callable[[T], str],
    document: Callable[[T], Mapping[str, object]],
) -> int:
    """Write rows as they come: as lines below a heading, or as a JSON document each."""
    headed = False
    async for row in rows:
        if context.json:
            sys.stdout.write(queuejson.json_line(document(row)))
            continue
        if not headed:
            context.write(heading)
            headed = True
        context.write(line(row))
    return Exit.OK


async def count(context: VerbContext) -> int:
    """``count``: how many recipients, or how many by a group."""
    by = context.options.by
    counted = await context.store.count(filter_of(context.options), by=by)
    if context.json:
        sys.stdout.write(
            queuejson.json_document(
                "count", {"by": by or None, "total": sum(counted.values())} | ({"groups": counted} if by else {})
            )
        )
    elif not by:
        context.write(str(counted[""]))
    else:
        for text in queuetext.count_lines(counted, by, context.options.limit, context.look):
            context.write(text)
    return Exit.OK


# ----------------------------------------------------------------------- shape


async def shape(context: VerbContext) -> int:
    """``shape``: the sites with the most recipients, by age."""
    wanted, now = filter_of(context.options), context.clock()
    labels = [*(label for label, _ in AGES), OLDEST]
    sites: dict[str, dict[str, int]] = {}
    for label, terms in zip(labels, _ages(), strict=True):
        for site, number in (await context.store.count(Filter((*wanted.terms, *terms)), by="site")).items():
            sites.setdefault(site, {})[label] = number
    ranked = sorted(sites.items(), key=lambda one: (-sum(one[1].values()), one[0]))
    shown, rest = ranked[: context.options.limit], ranked[context.options.limit :]
    statuses = {one.site: one for one in await context.store.sites([site for site, _ in shown])} if shown else {}
    if context.json:
        documents = [
            {
                "site": site,
                "total": sum(counted.values()),
                "ages": {label: counted.get(label, 0) for label in labels},
                "status": queuejson.site_document(statuses[site]) if site in statuses else None,
            }
            for site, counted in shown
        ]
        sys.stdout.write(queuejson.json_document("shape", {"sites": documents, "more_sites": len(rest)}))
        return Exit.OK
    everything = {label: sum(counted.get(label, 0) for counted in sites.values()) for label in labels}
    for text in queuetext.shape_lines([("(all)", everything), *shown], labels, statuses, now, context.look):
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
    """``why``: the binding constraint of each recipient, its attempts, what comes next."""
    wanted = _named(context)
    explained = _explained(context, wanted)
    number, documents = 0, []
    async for found, address, message in explained:
        message_id = to_text(message, context.store.shard)
        if context.json:
            facts = {"id": message_id, "recipient": address.decode("utf-8", "backslashreplace")}
            documents.append(facts | queuejson.explanation_document(found, context.store.shard))
        else:
            lines = queuetext.explanation_lines(found, address, message_id, context.look)
            context.write("\n".join(["", *lines] if number else lines))
        number += 1
    if context.json:
        sys.stdout.write(queuejson.json_document("why", {"recipients": documents}))
    if not number:
        context.note("nobody who matches is in the queue, or has an end that is still known")
        return Exit.NEGATIVE
    return Exit.OK


async def _explained(context: VerbContext, wanted: Filter) -> AsyncIterator[tuple[QueueExplanation, bytes, int]]:
    """Explanations of the recipients that match; of those that have their end if none is in the queue."""
    from zsmtp.queue.explanation import Circumstances, explain, explain_end  # only this verb needs what it stands on

    store, limit = context.store, context.options.limit
    rules, nodes, moves = await store.rules(), await store.nodes(), await store.moves()
    histories: dict[int, list[HistoryEntry]] = {}
    number = 0
    async for row in store.select(wanted, limit=limit + 1):
        number += 1
        if number > limit:
            context.note(f"only the first {limit} are shown; --limit shows more")
            return
        message = row.message.id
        if message not in histories:
            histories = {message: await store.history(message)}
        known = await _circumstances(context, row, rules, nodes, moves)
        yield explain(row, histories[message], known), row.recipient.address, message
    if number or any(one.field not in FIELDS_OF_ENDS for one in wanted.terms):
        return
    async for end in store.ends(wanted, limit=limit):
        known = Circumstances(now=context.clock(), time_text=queuetext.time_text)
        yield explain_end(end, await store.history(end.message), known), end.address, end.message


async def _circumstances(
    context: VerbContext, row: Row, rules: list[Rule], nodes: list[NodeStatus], moves: list[Move]
) -> Circumstances:
    """What is known beside a recipient; without a configuration its retry policy is the default one."""
    from zsmtp.queue.explanation import Circumstances

    store = context.store
    mine = Filter(
        (*_message(context, row.message.id).terms, Term(Field.KEY, Operator.EQUAL, (row.recipient.key.lower(),)))
    )
    names = await store.count(mine, by="site")  # what the store has learned of the key
    status = next(iter(await store.sites(list(names))), None) if names else None
    known = Circumstances(
        now=context.clock(), rules=rules, moves=moves, nodes=nodes, status=status, time_text=queuetext.time_text
    )
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
    """``show``: messages with those of their recipients that are in the queue."""
    store, now = context.store, context.clock()
    documents = []
    shown = 0
    async for rows in _messages(context, _named(context)):
        message = rows[0].message
        there = (await store.count(_message(context, message.id)))[""]
        if context.json:
            recipients = [queuejson.row_document(row, store.shard) for row in rows]
            facts = {"in_queue": there, "queued": recipients}
            documents.append(queuejson.message_document(message, store.shard) | facts)
        else:
            lines = queuetext.message_lines(message, rows, there, store.shard, now, context.look)
            context.write("\n".join(["", *lines] if shown else lines))
        shown += 1
    if context.json:
        sys.stdout.write(queuejson.json_document("show", {"messages": documents}))
    return Exit.OK if shown else _absent(context)


async def _messages(context: VerbContext, wanted: Filter) -> AsyncIterator[list[Row]]:
    """The recipients that match, by message, of each the first ones; so many messages at most as wanted."""
    rows: list[Row] = []
    messages = 0
    async for row in context.store.select(wanted):
        if rows and row.message.id != rows[0].message.id:
            yield rows
            rows = []
            messages += 1
            if messages == context.options.limit:
                context.note(f"only the first {messages} messages are shown; --limit shows more")
                return
        if len(rows) < MOST_RECIPIENTS:
            rows.append(row)
    if rows:
        yield rows


async def attempts(context: VerbContext) -> int:
    """``attempts``: the history of messages, oldest first."""
    shown = 0
    async for message in _histories(context, _named(context)):
        history = await context.store.history(message)
        if context.json:
            for entry in history:
                sys.stdout.write(queuejson.json_line(queuejson.entry_document(entry, context.store.shard)))
        else:
            lines = queuetext.history_lines(to_text(message, context.store.shard), history, context.look)
            context.write("\n".join(["", *lines] if shown else lines))
        shown += 1
    return Exit.OK if shown else _absent(context)


async def _histories(context: VerbContext, wanted: Filter) -> AsyncIterator[int]:
    """The messages with recipients that match, in the queue or not any more."""
    last, number = -1, 0
    async for row in context.store.select(wanted):
        if row.message.id != last:
            if number == context.options.limit:
                context.note(f"only the first {number} messages are shown; --limit shows more")
                return
            last = row.message.id
            number += 1
            yield last
    if number or any(one.field not in FIELDS_OF_ENDS for one in wanted.terms):
        return
    seen: set[int] = set()
    async for end in context.store.ends(wanted):
        if end.message not in seen:
            if len(seen) == context.options.limit:
                return
            seen.add(end.message)
            yield end.message


def _named(context: VerbContext) -> Filter:
    """The filter, which must not be empty: what is shown one by one is asked for."""
    wanted = filter_of(context.options)
    if wanted.everything:
        raise CommandFailed(Exit.USAGE, "which? Name an id, an address, a domain or a filter")
    return wanted


def _absent(context: VerbContext) -> int:
    context.note("nothing that matches is there")
    return Exit.NEGATIVE


async def body(context: VerbContext) -> int:
    """``body``: the content of a message, octet for octet."""
    try:
        number, shard = from_text(context.options.message)
    except QueueError as error:
        raise CommandFailed(Exit.USAGE, escape(str(error))) from error
    message = await context.store.message(number) if shard == context.store.shard else None
    if message is None:
        return _absent(context)
    chunks = context.store.content(message.id, message.size)
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
    """The content for a terminal, which must not take it for commands: line ends stay, other controls are escaped."""
    kept = b""
    async for chunk in chunks:
        *lines, kept = (kept + chunk).split(b"\n")
        for one in lines:
            yield _safe(one.removesuffix(b"\r")) + "\n"
        if len(kept) > _BLOCK:  # a line without end
            yield _safe(kept)
            kept = b""
    if kept:
        yield f"{_safe(kept)}\n"


def _safe(octets: bytes) -> str:
    return "\t".join(map(escape, octets.split(b"\t")))


async def _findings(context: VerbContext) -> AsyncIterator[str]:
    """What the store finds, and mail that can go nowhere by the configuration of whoever delivers."""
    async for finding in context.store.check():
        yield finding
    alive = {node.node for node in await context.store.nodes() if node.alive}
    lost: dict[str, str] = {}
    for status in await context.store.sites():
        if status.node in alive and (why := status.lost_route(context.clock())):
            lost[status.site] = why
    if context.delivery is not None:  # what is not due yet is served by nobody
        from zsmtp.client.destinations import Destinations
        from zsmtp.queue.submission import RELAY_KEY, lost_route

        destinations = Destinations(context.delivery)
        keys = [key for key in await context.store.count(Filter(), by="key") if key.startswith(RELAY_KEY)]
        lost |= {key: why for key in keys if (why := lost_route(destinations, key))}
    for key, why in sorted(lost.items()):
        yield f"mail to {key} waits: {why}"


async def check(context: VerbContext) -> int:
    """``check``: what must not be, a sentence each."""
    findings = []
    async for finding in _findings(context):
        findings.append(finding)
        if not context.json:
            context.write(escape(finding))
    if context.json:
        sys.stdout.write(queuejson.json_document("check", {"findings": findings}))
    elif not findings:
        context.write("nothing is wrong with the queue")
    return Exit.NEGATIVE if findings else Exit.OK


# ------------------------------------------------------------------------- top


async def top(context: VerbContext) -> int:
    """``top``: the queue at a glance, again and again on a terminal, until it is interrupted."""
    redraws = is_terminal(sys.stdout) and not context.json
    before: tuple[float, Mapping[str, int]] | None = None
    try:
        while True:
            now, counters = context.clock(), await context.store.counters()
            rates = _rates(before, now, counters)
            before = now, counters
            text = await _picture(context, now, counters, rates)
            sys.stdout.write(f"\x1b[H\x1b[J{text}" if redraws else text)
            sys.stdout.flush()
            if not redraws:
                return Exit.OK
            await asyncio.sleep(context.options.interval)
    except asyncio.CancelledError:
        if not redraws:
            raise
        return Exit.OK  # it was watched until it was interrupted


def _rates(before: tuple[float, Mapping[str, int]] | None, now: float, counters: Mapping[str, int]) -> dict[str, float]:
    """What the counters grew by in a second."""
    if before is None or now <= before[0]:
        return {}
    return {name: (value - before[1].get(name, 0)) / (now - before[0]) for name, value in counters.items()}


async def _picture(context: VerbContext, now: float, counters: Mapping[str, int], rates: Mapping[str, float]) -> str:
    store = context.store
    states = await store.count(Filter(), by="state")
    sites = await store.count(Filter(), by="site")
    ranked = sorted(sites.items(), key=lambda one: (-one[1], one[0]))[: context.options.limit]
    statuses = {one.site: one for one in await store.sites([site for site, _ in ranked])} if ranked else {}
    nodes, health = await store.nodes(), await store.health()
    if context.json:
        document = {
            "at": now,
            "states": states,
            "counters": dict(counters),
            "nodes": [queuejson.node_document(node) for node in nodes],
            "problem": health.problem,
            "free_octets": health.free_octets,
            "sites": [
                {
                    "site": site,
                    "total": number,
                    "status": queuejson.site_document(statuses[site]) if site in statuses else None,
                }
                for site, number in ranked
            ],
        }
        return queuejson.json_document("top", document)
    lines = queuetext.top_lines(now, states, counters, rates, nodes, health, context.look)
    lines += queuetext.site_lines(ranked, statuses, now, context.look)
    return "\n".join(lines) + "\n"
