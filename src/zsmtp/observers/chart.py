"""The chart of a trace before drawing: sections of rows, each a bar in time with a label and a note.

:func:`sections` makes them from a trace; ``zsmtp.observers.waterfall`` draws them with characters and
``zsmtp.observers.page`` as a page. Both use the same decisions of this module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from zsmtp.observers.document import (
    AnyItem,
    BrokenItem,
    ConnectItem,
    ContentItem,
    DecisionItem,
    ExchangeItem,
    FetchItem,
    HandshakeItem,
    LookupItem,
    Safety,
    Trace,
    TracedConnection,
    TracedRecipient,
)


class RowKind(Enum):
    """The kind of a row; the value is the word in the legend."""

    LOOKUP = "DNS, policy"
    CONNECT = "connect"
    SESSION = "session"  # greeting, EHLO, RSET, NOOP, QUIT
    SECURITY = "TLS and login"
    ENVELOPE = "envelope"
    CONTENT = "content"
    FINAL = "final reply"
    WORDS = "decision"  # a decision or an end: text without a bar


class Mood(Enum):
    """The outcome that a row shows."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class ChartRow:
    """One bar. ``lines`` are the full text, for readers who open the row; ``note`` is its summary."""

    kind: RowKind
    label: str
    start: float
    end: float | None
    note: str = ""
    mood: Mood = Mood.PLAIN
    shared: bool = False
    lines: tuple[str, ...] = ()

    @property
    def earlier(self) -> bool:
        """Whether it was over when the delivery began."""
        return self.end is not None and self.end <= 0 and self.start < 0


@dataclass(slots=True)
class Section:
    """A group of rows: the steps to a connection, or the events on it."""

    title: str
    about: str = ""
    mood: Mood = Mood.PLAIN
    rows: list[ChartRow] = field(default_factory=list)


_ABOUT = {"dns": "route", "net": "connection", "tls": "security", "proto": "session", "body": "content"}
_SECURITY = {"STARTTLS", "AUTH"}
_ENVELOPE = {"MAIL", "RCPT", "DATA", "BDAT"}
_FINAL = {"end of data", "BDAT LAST"}


def span_of(trace: Trace) -> float:
    """The seconds that a drawing shows; never zero."""
    return max(trace.seconds, 1e-6, *(item.start if item.end is None else item.end for item in trace.items))


def sections(trace: Trace, most_recipients: int = 8) -> list[Section]:
    """The sections of a trace in the order of time; only the first recipients of a transaction have a row."""
    found: list[Section] = []
    current = -1
    for item in trace.items:
        number = max(current, 0) if isinstance(item, DecisionItem) and not item.connection else item.connection
        if number != current or not found:
            found.append(_section(trace, number, again=bool(found)))
            current = number
        found[-1].rows.append(_row(item, trace))
    for section in found:
        section.rows = list(_gathered(section.rows, most_recipients))
    return found


def _section(trace: Trace, number: int, *, again: bool) -> Section:
    if number == 0:
        return Section("On the way again" if again else "On the way")
    connection = trace.connections[number - 1]
    mood = Mood.WARN if connection.refused else Mood.PLAIN
    broken = any(
        isinstance(i, BrokenItem) and i.connection == number and i.reason == connection.reason for i in trace.items
    )
    words = connection_words(connection, broken=broken)
    return Section(f"Connection {number} to {_where(connection)}", words, mood)


def _where(connection: TracedConnection) -> str:
    if not connection.port:
        return connection.address
    name = "" if connection.host == connection.address else f"{connection.host} "
    return f"{name}[{connection.address}] port {connection.port}"


def connection_words(connection: TracedConnection, *, broken: bool = False) -> str:
    """Further facts about a connection, in one line; a ``broken`` one has a row with the reason."""
    words = [f"from {connection.local.replace('|', ' port ')}" if connection.local else ""]
    words.append(connection.tls or "in clear")
    if connection.deliveries > 1:
        words.append(f"shared by {connection.deliveries} deliveries")
    if connection.refused:
        words.append(f"no session: {connection.refused}")
    elif connection.closed is None:
        words.append("left open")
    elif connection.reason and not broken:
        words.append(f"closed: {connection.reason}")
    return ", ".join(word for word in words if word)


def _row(item: AnyItem, trace: Trace) -> ChartRow:
    lines: tuple[str, ...]
    match item:
        case LookupItem():
            return _lookup(item)
        case FetchItem():
            mood = Mood.BAD if item.problem else Mood.PLAIN
            note = item.problem or size_words(item.octets)
            lines = (f"MTA-STS policy of {item.host.removeprefix('mta-sts.')}", note)
            return ChartRow(RowKind.LOOKUP, f"HTTPS {item.host}", item.start, item.end, note, mood, item.shared, lines)
        case ConnectItem():
            mood = Mood.BAD if item.failed else Mood.PLAIN
            where = f"{item.address} port {item.port}" if item.port else item.address
            note = item.failed or ("connected" if item.end is not None else "no answer yet")
            lines = (f"{item.host} [{where}]", note)
            return ChartRow(
                RowKind.CONNECT, f"connect {item.host}", item.start, item.end, note, mood, item.shared, lines
            )
        case HandshakeItem():
            mood = Mood.BAD if item.error else Mood.PLAIN
            lines = tuple(line for line in (f"name asked for: {item.server_name}", item.session, item.peer) if line)
            note = item.error or item.session
            return ChartRow(RowKind.SECURITY, "TLS handshake", item.start, item.end, note, mood, item.shared, lines)
        case ExchangeItem():
            return _exchange(item, trace)
        case ContentItem():
            note = f"{size_words(item.octets)} for {item.recipients} recipient{'s' if item.recipients != 1 else ''}"
            label = f"content {size_words(item.octets)}"
            lines = (note, f"{item.header_octets} octets of it are headers")
            return ChartRow(RowKind.CONTENT, label, item.start, item.end, _rate(item), Mood.PLAIN, item.shared, lines)
        case DecisionItem():
            mood = Mood.WARN if item.text.startswith(("not good enough", "NOT ")) else Mood.PLAIN
            return ChartRow(
                RowKind.WORDS, _ABOUT.get(item.about, item.about), item.start, item.end, item.text, mood, item.shared
            )
        case BrokenItem():
            where = f" when waiting for {item.phase}" if item.phase else ""
            return ChartRow(RowKind.WORDS, "broken", item.start, item.end, item.reason + where, Mood.BAD, item.shared)


def _lookup(item: LookupItem) -> ChartRow:
    records = " ".join(item.records) if len(item.records) == 1 else f"{len(item.records)} records"
    note = records if item.records else item.problem or item.status
    if item.safety is not Safety.INSECURE:
        note += f", {item.safety.value}"
    mood = Mood.PLAIN
    if item.status in ("server failure", "no answer in time", "bogus"):
        mood = Mood.BAD
    lines = [*item.records, f"{item.status}, {item.safety.value}, TTL {item.ttl} s"]
    lines += [text for text in (item.source and f"from {item.source}", item.problem) if text]
    label = f"{item.record_type} {item.name}"
    return ChartRow(RowKind.LOOKUP, label, item.start, item.end, note, mood, item.shared, tuple(lines))


def _exchange(item: ExchangeItem, trace: Trace) -> ChartRow:
    kind = RowKind.SESSION
    if item.phase in _SECURITY:
        kind = RowKind.SECURITY
    elif item.phase in _ENVELOPE:
        kind = RowKind.ENVELOPE
    elif item.phase in _FINAL:
        kind = RowKind.FINAL
    label = item.phase
    if 0 <= item.recipient < len(trace.recipients):
        label = f"{'RCPT' if item.phase == 'RCPT' else 'for'} {trace.recipients[item.recipient].address}"
    mood = Mood.BAD if item.code >= 500 or not item.code else Mood.WARN if item.code >= 400 else Mood.PLAIN
    note = item.reply[-1] if item.reply else "no reply"
    if item.phase in ("EHLO", "LHLO") and mood is Mood.PLAIN and len(item.reply) > 1:
        plural = "s" if len(item.reply) > 2 else ""
        note = f"{item.code} and {len(item.reply) - 1} extension{plural}"
    lines = tuple(line for line in (item.sent, *item.reply) if line)
    return ChartRow(kind, label, item.start, item.end, note, mood, item.shared, lines)


def _gathered(rows: list[ChartRow], most: int) -> Iterator[ChartRow]:
    """The rows; in a long run of RCPT commands the first few, and one row for the others."""
    run: list[ChartRow] = []
    for row in [*rows, None]:
        if row is not None and row.label.startswith("RCPT"):
            run.append(row)
            continue
        yield from run[:most]
        if len(run) == most + 1:
            yield run[most]
        elif len(run) > most:
            yield _rest(run[most:])
        run = []
        if row is not None:
            yield row


def _rest(rows: list[ChartRow]) -> ChartRow:
    counts = Counter(row.note[:3] if row.note[:3].isdigit() else "no reply" for row in rows)
    note = ", ".join(f"{count} × {code}" for code, count in sorted(counts.items()))
    ends = [row.end for row in rows if row.end is not None]
    worst = max((row.mood for row in rows), key=list(Mood).index)
    end = max(ends) if len(ends) == len(rows) else None
    label = f"RCPT, {len(rows)} more"
    return ChartRow(RowKind.ENVELOPE, label, min(row.start for row in rows), end, note, worst, rows[0].shared)


def _rate(item: ContentItem) -> str:
    if item.end is None:
        return "not sent to its end"
    if item.seconds < 0.001:
        return "at once"
    return f"{size_words(item.octets / item.seconds)}/s"


def size_words(octets: float) -> str:
    """``21 octets``, ``34.6 kB``, ``1.25 MB``."""
    if octets < 1000:
        return f"{octets:.0f} octets"
    units = iter(("kB", "MB", "GB"))
    unit = next(units)
    octets /= 1000
    while octets >= 999.5 and (larger := next(units, "")):
        octets, unit = octets / 1000, larger
    return f"{octets:.3g} {unit}" if octets < 999.5 else f"{octets:.0f} {unit}"


def duration_words(seconds: float) -> str:
    """``0.4 ms``, ``12 ms``, ``1.23 s``, ``2 m 03 s``, ``1 h 02 m``."""
    if seconds < 0.00995:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def summary(trace: Trace) -> str:
    """The results for the recipients, in one line."""
    fates = trace.fates
    if not fates.recipients:
        return "no mail was sent: only tried"
    waiting = fates.recipients - fates.delivered - fates.failed - fates.deferred
    counts = ((fates.delivered, "delivered"), (fates.failed, "failed"), (fates.deferred, "deferred"))
    words = [f"{count} {word}" for count, word in (*counts, (waiting, "not settled")) if count]
    if fates.in_doubt:
        words.append(f"{fates.in_doubt} of them in doubt")
    plural = "s" if fates.recipients != 1 else ""
    return f"{fates.recipients} recipient{plural}: {', '.join(words) or 'none'}"


def mood_of(recipient: TracedRecipient) -> Mood:
    """The outcome for a recipient."""
    moods = {"delivered": Mood.GOOD, "failed": Mood.BAD, "deferred": Mood.WARN}
    return moods.get(recipient.fate, Mood.WARN)
