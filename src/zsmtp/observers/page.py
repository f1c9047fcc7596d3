"""Draws a trace as one HTML page: nothing is fetched, no script runs, every text is escaped.

:func:`page` returns the whole document. It follows the reader's choice of light or dark, adapts to phones, and works
with screen readers and without a mouse: each row of the chart is a ``details`` element whose summary describes its bar,
and which opens to the dialogue. A content security policy in the page blocks whatever a hostile text might still try.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape as _escaped
from itertools import count

from zsmtp.observers.chart import ChartRow, Mood, RowKind, Section, duration_words, mood_of, sections, span_of, summary
from zsmtp.observers.document import Addresses, Trace, TracedRecipient
from zsmtp.observers.pagestyle import STYLE

MOST_RECIPIENTS = 50  # of one transaction that have a row

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_WORDS = {Mood.GOOD: "good", Mood.WARN: "warn", Mood.BAD: "bad", Mood.PLAIN: "plain"}
_TICKS = 5


def page(trace: Trace) -> str:
    """The page, to be encoded as UTF-8."""
    return "\n".join(_lines(trace)) + "\n"


def _text(text: str) -> str:
    """Escaped text, isolated so that it cannot change the direction of its neighbours."""
    return f"<bdi>{_escaped(text)}</bdi>" if not text.isascii() else _escaped(text)


def _lines(trace: Trace) -> Iterator[str]:
    title = f"{trace.name or 'Delivery'} to {trace.destination}"
    yield "<!DOCTYPE html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_escaped(_POLICY)}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{_escaped(title)}</title>"
    yield f"<style>{STYLE}</style>"
    yield "</head>"
    yield "<body>"
    yield "<main>"
    yield from _head(trace)
    if trace.fates.recipients:
        yield from _recipients(trace)
    yield from _chart(trace)
    yield "</main>"
    yield f"<footer>zsmtp.trace/1, written by {_text(trace.program)}</footer>"
    yield "</body>"
    yield "</html>"


def _head(trace: Trace) -> Iterator[str]:
    started = trace.started[:19].replace("T", " ")
    yield "<header>"
    yield f"<h1>{'Mail to' if trace.fates.recipients else 'A try of'} {_text(trace.destination)}</h1>"
    mood = Mood.GOOD if trace.fates.delivered == trace.fates.recipients else Mood.WARN
    yield f'<p class="fate {_WORDS[Mood.BAD if trace.fates.failed else mood]}">{_text(summary(trace))}</p>'
    yield "<dl>"
    facts = [
        ("Message", trace.name),
        ("From", trace.sender or "<>" if trace.fates.recipients else ""),
        ("Started", f"{started} UTC"),
        ("Took", duration_words(trace.seconds)),
        ("Addresses", "hashed" if trace.addresses is Addresses.HASHED else ""),
    ]
    for name, value in facts:
        if value:
            yield f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>"
    yield "</dl>"
    yield "</header>"


def _recipients(trace: Trace) -> Iterator[str]:
    yield '<section aria-labelledby="recipients">'
    yield '<h2 id="recipients">Recipients</h2>'
    yield '<div class="wide" tabindex="0" role="region" aria-labelledby="recipients"><table>'
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Recipient", "Verdict", "Status", "Why"))
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    for recipient in trace.recipients:
        yield _recipient(recipient)
    yield "</tbody></table></div>"
    more = trace.fates.recipients - len(trace.recipients)
    if more > 0:
        yield f"<p>and {more} more</p>"
    yield "</section>"


def _recipient(recipient: TracedRecipient) -> str:
    fate = f"{recipient.fate or 'not settled'}{', in doubt' if recipient.in_doubt else ''}"
    why = _text(recipient.diagnostic.removeprefix("smtp; "))
    if recipient.text:
        why = f"<details><summary>{why or 'the dialogue'}</summary><pre>{_text(recipient.text)}</pre></details>"
    return (
        f'<tr><th scope="row">{_text(recipient.address)}</th>'
        f'<td><span class="fate {_WORDS[mood_of(recipient)]}">{_text(fate)}</span></td>'
        f"<td>{_text(recipient.status)}</td><td>{why}</td></tr>"
    )


# ---------------------------------------------------------------------------------------------------------------- chart


def _chart(trace: Trace) -> Iterator[str]:
    span = span_of(trace)
    yield '<section aria-labelledby="chart" class="chart">'
    yield '<h2 id="chart">What happened when</h2>'
    kinds = [kind for kind in RowKind if kind is not RowKind.WORDS]
    legend = "".join(f'<li><span class="key {_class(kind)}"></span>{_escaped(kind.value)}</li>' for kind in kinds)
    failed = '<li><span class="key bad"></span>failed</li>'
    yield f'<ul class="legend" aria-label="Colours">{legend}{failed}</ul>'
    yield f'<div class="row axis" aria-hidden="true"><span></span><span class="track">{_axis(span)}</span></div>'
    for section in sections(trace, MOST_RECIPIENTS):
        yield from _section(section, span)
    if trace.left_out:
        yield f'<p class="fate warn">{trace.left_out} more items are not in the trace</p>'
    yield "</section>"


def _axis(span: float) -> str:
    step = _nice(span / _TICKS)
    ticks = []
    for number in count():
        at = number * step
        if at > span * 0.93:
            break
        ticks.append(f'<span style="left:{100 * at / span:.2f}%">{duration_words(at) if number else "0"}</span>')
    return "".join(ticks)


def _nice(step: float) -> float:
    """The next larger of 1, 2 and 5 times a power of ten."""
    power = 1e-6
    while power * 10 < step:
        power *= 10
    return next((power * factor for factor in (1, 2, 5) if power * factor >= step), power * 10)


def _section(section: Section, span: float) -> Iterator[str]:
    yield f"<h3>{_text(section.title)}</h3>"
    if section.about:
        yield f'<p class="about {_WORDS[section.mood]}">{_text(section.about)}</p>'
    for row in section.rows:
        yield _words(row) if row.kind is RowKind.WORDS else _row(row, span)


def _words(row: ChartRow) -> str:
    return f'<p class="words {_WORDS[row.mood]}"><b>{_text(row.label)}</b> {_text(row.note)}</p>'


def _row(row: ChartRow, span: float) -> str:
    took = "not over" if row.end is None else duration_words(row.end - row.start)
    shared = ' <span class="tag">shared</span>' if row.shared else ""
    head = (
        f'<span class="label">{_text(row.label)}{shared}</span>{_bar(row, span)}<span class="took">{took}</span>'
        f'<span class="note {_WORDS[row.mood]}">{_text(row.note)}</span>'
    )
    begun = "" if row.earlier else f"began after {duration_words(max(row.start, 0.0))}"
    lines = "\n".join((*row.lines, begun)).strip()
    return f'<details><summary class="row">{head}</summary><pre>{_text(lines)}</pre></details>'


def _bar(row: ChartRow, span: float) -> str:
    if row.earlier:
        return f'<span class="track"><span class="before">{duration_words(-row.start)} before</span></span>'
    start = min(max(row.start, 0.0), span)
    end = span if row.end is None else min(max(row.end, start), span)
    left, width = 100 * start / span, 100 * (end - start) / span
    mood = " bad" if row.mood is Mood.BAD else " open" if row.end is None else ""
    style = f"left:min({left:.3f}%, 100% - 3px);width:max({width:.3f}%, 3px)"
    return f'<span class="track"><span class="bar {_class(row.kind)}{mood}" style="{style}"></span></span>'


def _class(kind: RowKind) -> str:
    return kind.name.lower()
