"""The text output of ``zsmtp queue``: lists whose lines fit the width, tables, messages with their recipients.

It escapes all text from outside (addresses, replies, names, tenants).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from zsmtp.escape import escape
from zsmtp.queue.ids import to_text
from zsmtp.queue.operators import Health, NodeStatus, Row, Rule, SiteStatus, combined
from zsmtp.queue.slots import SLOTS, count
from zsmtp.queue.states import HistoryEntry, Outcome, QueuedMessage, State
from zsmtp.queue.suppression import Suppression
from zsmtp.queue.wording import reply_words, span
from zsmtp.text.lines import Text, cut, line, padded
from zsmtp.text.look import Look, Style
from zsmtp.text.tree import Node, draw

if TYPE_CHECKING:
    from zsmtp.queue.explanation import QueueExplanation

MOST_ATTEMPTS = 20
"""The most attempts of a recipient that ``why`` shows: the last ones."""
_LIST = (("ID", 15), ("AGE", 4), ("NEXT", 7), ("TRY", 3))
_ENDS = (("AGO", 4), ("END", 9), ("ID", 15))
_SUPPRESSIONS = (("AGO", 4), ("LEFT", 4), ("TENANT", 12))
_OUTCOMES = {
    Outcome.DELIVERED: Style.GOOD,
    Outcome.FAILED: Style.BAD,
    Outcome.EXPIRED: Style.BAD,
    Outcome.DROPPED: Style.BAD,
}


_NODES = (("NODE", 24), ("HOST", 20), ("PID", 8), ("SINCE", 5), ("SITES", 6))
_SHARD = ("SHARD", 5)


def brief(seconds: float) -> str:
    """A duration in one unit: ``42s``, ``12m``, ``30h``, ``5d``."""
    whole = max(int(seconds), 0)
    for unit, length, limit in (("s", 1, 60), ("m", 60, 3600), ("h", 3600, 48 * 3600)):
        if whole < limit:
            return f"{whole // length}{unit}"
    return f"{whole // 86400}d"


def time_text(at: float) -> str:
    """A local time: ``2026-11-29 14:05:12``."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def plural(number: int, noun: str) -> str:
    """``1 recipient``, ``1,200 recipients``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _address(octets: bytes) -> str:
    return escape(octets) or "<>"


def _cells(cells: Iterable[tuple[str, int]], look: Look) -> str:
    return " ".join(padded(look.fit(text), width, mark_of(look)) for text, width in cells)


def _rest(columns: Sequence[tuple[str, int]], look: Look) -> tuple[int, int]:
    """The widths of the last two columns, which share the remaining width."""
    left = max(look.width - sum(width + 1 for _, width in columns), 21)
    address = left * 52 // 100
    return address, left - address - 1


def nodes_heading(look: Look, *, shards: bool = False) -> str:
    """The heading of a list of nodes; ``shards``: each with its shard."""
    columns = (*_NODES, _SHARD) if shards else _NODES
    return look.paint(_cells([*columns, ("STATE", 10)], look).rstrip(), Style.FAINT)


def nodes_line(node: NodeStatus, now: float, look: Look, *, shard: int | None = None) -> str:
    """A process that delivers."""
    state = ("draining" if node.draining else "alive") if node.alive else "gone"
    values = (escape(node.node), escape(node.host), str(node.pid), brief(now - node.since), str(node.sites))
    cells = [(value, width) for value, (_, width) in zip(values, _NODES, strict=True)]
    cells += [] if shard is None else [(str(shard), _SHARD[1])]
    return _cells([*cells, (state, 10)], look).rstrip()


# ----------------------------------------------------------------------- lists


def list_heading(look: Look) -> str:
    """The heading of a list of recipients."""
    widths = _rest(_LIST, look)
    return look.paint(_cells([*_LIST, ("RECIPIENT", widths[0]), ("REASON", widths[1])], look).rstrip(), Style.FAINT)


def list_line(row: Row, shard: int, now: float, look: Look) -> str:
    """A recipient in the queue."""
    recipient = row.recipient
    values = (
        to_text(recipient.message, shard),
        brief(now - row.message.submitted),
        _next(row, now),
        str(recipient.attempts),
    )
    widths = _rest(_LIST, look)
    cells = [(value, width) for value, (_, width) in zip(values, _LIST, strict=True)]
    cells += [(_address(recipient.address), widths[0]), (escape(recipient.reason or recipient.status), widths[1])]
    return _cells(cells, look).rstrip()


def _next(row: Row, now: float) -> str:
    if row.state is not State.DUE:
        return "held" if row.state is State.HELD else "in hand"
    wait = row.recipient.due - now
    return "now" if wait <= 0 else f"in {brief(wait)}"


def ends_heading(look: Look) -> str:
    """The heading of a list of ends."""
    widths = _rest(_ENDS, look)
    return look.paint(_cells([*_ENDS, ("RECIPIENT", widths[0]), ("REASON", widths[1])], look).rstrip(), Style.FAINT)


def ends_line(entry: HistoryEntry, shard: int, now: float, look: Look) -> str:
    """An ended recipient."""
    values = (brief(now - entry.at), entry.outcome.value, to_text(entry.message, shard))
    widths = _rest(_ENDS, look)
    cells = [(value, width) for value, (_, width) in zip(values, _ENDS, strict=True)]
    by = f"{escape(entry.by)}: " if entry.by else ""
    cells += [(_address(entry.address), widths[0]), (by + escape(reply_words(entry)), widths[1])]
    return _cells(cells, look).rstrip()


def suppressions_heading(look: Look) -> str:
    """The heading of the suppression list."""
    widths = _rest(_SUPPRESSIONS, look)
    cells = [*_SUPPRESSIONS, ("ADDRESS", widths[0]), ("REASON", widths[1])]
    return look.paint(_cells(cells, look).rstrip(), Style.FAINT)


def suppression_line(one: Suppression, now: float, look: Look) -> str:
    """A suppressed address."""
    left = "-" if one.until is None else brief(one.until - now)
    widths = _rest(_SUPPRESSIONS, look)
    values = (brief(now - one.at), left, escape(one.tenant) or "-")
    cells = [(value, width) for value, (_, width) in zip(values, _SUPPRESSIONS, strict=True)]
    why = ": ".join(escape(word) for word in (one.source, one.reason) if word)
    cells += [(_address(one.address), widths[0]), (why, widths[1])]
    return _cells(cells, look).rstrip()


def attempt_text(entry: HistoryEntry, *, named: bool = False) -> Text:
    """An entry of the history: time, attempt, result, and its source."""
    number = f"{entry.attempt:2}" if entry.attempt else " -"
    text = line(f"{number}  {time_text(entry.at)}  ") + line(
        entry.outcome.value, _OUTCOMES.get(entry.outcome, Style.WARN)
    )
    text += line(f"  {_address(entry.address)}", Style.STRONG) if named else ()
    took = f" after {entry.seconds:.1f} s" if entry.seconds >= 0.05 else ""
    where = f", {escape(entry.server)}" if entry.server else ""
    tls = f" ({escape(entry.tls)})" if entry.tls else ""
    words = escape(reply_words(entry))
    by = f", by {escape(entry.by)}" if entry.by else ""
    return text + line(f"{took}{where}{tls}{by}" + (f": {words}" if words else ""))


# ---------------------------------------------------------------------- tables


def count_lines(counted: dict[str, int], by: str, limit: int, look: Look) -> Iterator[str]:
    """Counts, the largest first; those after ``limit`` in one line."""
    ranked = sorted(counted.items(), key=lambda one: (-one[1], one[0]))
    shown, rest = ranked[:limit], ranked[limit:]
    numbers = [f"{number:,}" for _, number in shown]
    left_out = sum(number for _, number in rest)
    width = max((len(number) for number in [*numbers, f"{left_out:,}"]), default=1)
    for (name, _), number in zip(shown, numbers, strict=True):
        yield f"{number:>{width}}  {_group(name, by, look, width)}".rstrip()
    if rest:
        yield look.paint(f"{left_out:>{width},}  ({plural(len(rest), 'more group')})", Style.FAINT)


def _group(name: str, by: str, look: Look, taken: int) -> str:
    text = escape(name) or ("(no reason)" if by == "reason" else f"(no {by})")
    return cut(look.fit(text), max(look.width - taken - 2, 10), mark_of(look))


def shape_lines(
    rows: Sequence[tuple[str, dict[str, int]]],
    ages: Sequence[str],
    troubles: Mapping[str, str],
    look: Look,
) -> Iterator[str]:
    """The table of sites by age: a line for each site, with its problem below it."""
    names = max(look.width - 8 - 7 * len(ages), 12)
    columns = "".join(f"{age:>7}" for age in ages)
    yield look.paint(f"{padded('SITE', names)}{'TOTAL':>8}{columns}", Style.FAINT)
    for name, counted in rows:
        cells = "".join(f"{_short(counted.get(age, 0)):>7}" for age in ages)
        total = _short(sum(counted.values()))
        yield f"{padded(look.fit(escape(name)), names - 1, mark_of(look))} {total:>8}{cells}"
        if trouble := troubles.get(name):
            yield look.paint(cut(look.fit(f"  {trouble}"), look.width, mark_of(look)), Style.WARN)


def _short(number: int) -> str:
    """A number in six characters."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 100 * size or (size > 1000 and number >= size):
            return f"{number / size:.1f}{unit}"
    return str(number)


def site_trouble(status: SiteStatus | None, now: float) -> str:
    """The reason why a site is held back, "" without one."""
    if status is None:
        return ""
    if lost := status.lost_route(now):
        return escape(lost)
    if status.dead_until:
        why = f": {escape(status.dead_reason)}" if status.dead_reason else ""
        probe = f"next probe in {span(status.dead_until - now)}" if status.dead_until > now else "a probe is due"
        return f"does not answer, {probe}{why}"
    if status.rate_until > now:
        return f"held back by the rate {escape(status.rate)}"
    if status.window and status.busy >= status.window and status.ready:
        return f"all {status.window} connections in use"
    return "no connection is free: the limit for all sites is reached" if status.no_slot else ""


def rule_lines(rule: Rule, now: float, look: Look, *, where: str = "") -> list[str]:
    """A standing rule, and its queue if ``where`` is given."""
    what = f"{rule.action} {escape(rule.argument)}" if rule.argument else rule.action
    end = "" if rule.until is None else f", until {time_text(rule.until)} (in {span(rule.until - now)})"
    node = Node(line(f"{rule.number}  ", Style.STRONG) + line(f"{what}: {escape(rule.filter) or 'everything'}"))
    if where:
        node.fact("in", line(escape(where)))
    by = escape(rule.by) or "(unknown)"
    node.fact("by", line(f"{by}, {time_text(rule.created)}{end}"))
    if rule.reason:
        node.fact("because", line(escape(rule.reason)))
    return draw(node, look)


# --------------------------------------------------------------------- details


def explanation_lines(found: QueueExplanation, address: bytes, message: str, look: Look) -> list[str]:
    """Why a recipient is in its present state; the first line is the reason in a few words."""
    node = Node(line(escape(found.summary), Style.STRONG))
    node.fact("recipient", line(f"{_address(address)}, message {message}"))
    if found.route:
        node.fact("route", line(escape(found.route)))
    _facts(node, "because", [line(escape(text)) for text in found.details])
    _facts(node, "next", [line(escape(text)) for text in found.next])
    shown = found.attempts[-MOST_ATTEMPTS:]
    texts = [attempt_text(entry) for entry in shown]
    if len(shown) < len(found.attempts):
        texts.insert(
            0, line(f"({plural(len(found.attempts) - len(shown), 'earlier entry').replace('entrys', 'entries')})")
        )
    _facts(node, "attempts", texts)
    return draw(node, look)


def _facts(node: Node, key: str, texts: Sequence[Text]) -> None:
    for number, text in enumerate(texts):
        node.fact("" if number else key, text)


def message_lines(
    message: QueuedMessage, rows: Sequence[Row], there: int, shard: int, now: float, look: Look
) -> list[str]:
    """A message with recipients in the queue: ``rows``, out of ``there`` in all."""
    root = Node(line(to_text(message.id, shard), Style.STRONG))
    root.fact("from", line(_address(message.sender)))
    accepted = f"{time_text(message.submitted)} ({span(now - message.submitted)} ago)"
    root.fact("accepted", line(accepted + (f", {escape(message.origin)}" if message.origin else "")))
    root.fact("size", line(plural(message.size, "octet")))
    if message.name:
        root.fact("name", line(escape(message.name)))
    if message.tenant:
        root.fact("tenant", line(escape(message.tenant)))
    if message.priority:
        root.fact("priority", line(str(message.priority)))
    for name, value in (message.options or {}).items():
        root.fact(escape(name), line(escape(str(value))))
    root.fact("recipients", line(f"{there} of {message.recipients} are in the queue"))
    for row in rows:
        _recipient(root, row, now)
    if there > len(rows):
        root.add(line(f"({there - len(rows)} more: zsmtp queue list {to_text(message.id, shard)})", Style.FAINT))
    return draw(root, look)


def _recipient(root: Node, row: Row, now: float) -> None:
    recipient = row.recipient
    node = root.add(line(_address(recipient.address), Style.NAME))
    node.fact("state", line(f"{row.state.value}, queue key {escape(recipient.key)}"))
    when = f"in {span(recipient.due - now)}" if recipient.due > now else "due"
    node.fact("next", line(f"attempt {recipient.attempts + 1} at {time_text(recipient.due)} ({when})"))
    node.fact("given up", line(f"{time_text(recipient.expires)}"))
    if recipient.reason or recipient.status:
        node.fact("reason", line(escape(recipient.reason or recipient.status)))


def history_lines(message: str, history: Sequence[HistoryEntry], look: Look) -> list[str]:
    """The history of a message."""
    node = Node(line(message, Style.STRONG))
    for entry in history:
        node.add(attempt_text(entry, named=True))
    if not history:
        node.add(line("no attempt was made, or its history was removed"))
    return draw(node, look)


# ------------------------------------------------------------------------- top


def top_lines(
    now: float,
    states: Mapping[str, int],
    counters: Mapping[str, int],
    rates: Mapping[str, float],
    nodes: Sequence[NodeStatus],
    health: Health,
    look: Look,
) -> list[str]:
    """The head of ``top``: totals, delivering nodes, the store."""
    total = plural(sum(states.values()), "recipient")
    by_state = ", ".join(f"{number:,} {_STATES[state]}" for state, number in states.items())
    lines = [(f"{time_text(now)}  {total}" + (f": {by_state}" if by_state else ""), Style.STRONG)]
    ends = ("accepted", "delivered", "deferred", "failed", "expired", "dropped", "moved")
    totals = ", ".join(f"{name} {counters[name]:,}" for name in ends if counters.get(name))
    speeds = ", ".join(f"{name} {rates[name]:.1f}/s" for name in ends if rates.get(name))
    lines += [(f"{when}: {text}", Style.PLAIN) for when, text in (("in all", totals), ("now", speeds)) if text]
    alive = [node for node in nodes if node.alive]
    for node in alive:
        stopping = ", stopping" if node.draining else ""
        about = (
            f"{escape(node.node)} on {escape(node.host)}, process {node.pid}, {plural(node.sites, 'site')}{stopping}"
        )
        lines.append((f"delivers: {about}", Style.PLAIN))
    if not alive:
        lines.append(("no process delivers this queue", Style.BAD))
    if health.problem:
        lines.append((f"the store: {escape(health.problem)}", Style.BAD))
    if health.free_octets >= 0:
        lines.append((f"free: {_short(health.free_octets)} octets", Style.PLAIN))
    return [look.paint(cut(look.fit(text), look.width, mark_of(look)), style) for text, style in lines]


_STATES = {"due": "to be tried", "held": "held", "leased": "in hand"}


def site_lines(
    ranked: Sequence[tuple[str, int]], statuses: Mapping[str, Sequence[SiteStatus]], now: float, look: Look
) -> Iterator[str]:
    """The sites of ``top``: number of recipients, connections in use, problems; below it each node of several."""
    if not ranked:
        return
    names = min(max(look.width - 48, 16), 40)
    yield ""
    yield look.paint(f"{padded('SITE', names)} {'TOTAL':>8} {'USED':>7}  STATE", Style.FAINT)
    for site, number in ranked:
        parts = statuses.get(site, ())
        if len(parts) < 2:
            yield _site_line(escape(site), names, _short(number), parts[0] if parts else None, now, look)
            continue
        yield _site_line(escape(site), names, _short(number), combined(parts), now, look)
        for part in parts:
            name = f"  {escape(part.node)}, {count(part.slots)} of {SLOTS} slots"
            yield _site_line(name, names, "", part, now, look)


def _site_line(name: str, names: int, number: str, status: SiteStatus | None, now: float, look: Look) -> str:
    used = "" if status is None else f"{status.busy}/{status.window}"
    room = max(look.width - names - 20, 10)
    trouble = cut(look.fit(site_trouble(status, now)), room, mark_of(look))
    return f"{padded(look.fit(name), names, mark_of(look))} {number:>8} {used:>7}  {trouble}".rstrip()


def mark_of(look: Look) -> str:
    """The mark at the end of a text that was cut off."""
    return "…" if look.unicode else "..."
