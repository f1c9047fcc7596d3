"""The picture of a session: a box for each phase of ``zsmtp.proto.phase``, an arrow for each way the engine goes.

The boxes are the rows of the phase table. The arrows come from sessions led against scripted servers
(``drawn.sessions``). Only the places of the boxes are written down here: a phase without a place stops the build.
The directive is ``session-diagram``.
"""

from __future__ import annotations

from html import escape
from typing import Any, ClassVar, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from drawn.sessions import Order, orders
from zsmtp.proto.phase import RULES, Phase, Timeouts

Pair = tuple[Phase, Phase]


class Point(NamedTuple):
    """A place in the picture."""

    x: float
    y: float


HALF = Point(58, 23)  # of a box
SIZE = Point(760, 500)
GAP = 5.0  # between an arrow and its opposite, halved

PLACES = {
    Phase.GREETING: Point(90, 40),
    Phase.EHLO: Point(90, 150),
    Phase.LHLO: Point(280, 40),
    Phase.HELO: Point(280, 222),
    Phase.STARTTLS: Point(90, 290),
    Phase.AUTH: Point(270, 320),
    Phase.MAIL: Point(490, 150),
    Phase.RCPT: Point(490, 250),
    Phase.DATA: Point(440, 350),
    Phase.CONTENT: Point(440, 450),
    Phase.LAST: Point(600, 350),
    Phase.RSET: Point(690, 150),
    Phase.NOOP: Point(690, 450),
    Phase.QUIT: Point(90, 450),
    Phase.BDAT: Point(250, 450),
}

BENDS = {  # where a straight arrow would run through a box
    (Phase.CONTENT, Phase.MAIL): Point(270, 300),
    (Phase.LAST, Phase.MAIL): Point(600, 230),
    (Phase.DATA, Phase.RSET): Point(560, 290),
}


def _edge(box: Point, towards: Point) -> Point:
    """Where the line from the middle of ``box`` towards a point leaves it."""
    dx, dy = towards.x - box.x, towards.y - box.y
    scale = min(HALF.x / abs(dx) if dx else 1e9, HALF.y / abs(dy) if dy else 1e9)
    return Point(box.x + dx * scale, box.y + dy * scale)


def _aside(start: Point, end: Point) -> tuple[Point, Point]:
    """Both ends moved to the right of their direction, so that two opposite arrows do not lie on one another."""
    dx, dy = end.x - start.x, end.y - start.y
    length = (dx * dx + dy * dy) ** 0.5
    right = Point(-dy / length * GAP, dx / length * GAP)
    return Point(start.x + right.x, start.y + right.y), Point(end.x + right.x, end.y + right.y)


def _arrow(pair: Pair, drawn: set[Pair], *, ahead: bool) -> str:
    before, after = PLACES[pair[0]], PLACES[pair[1]]
    kind = "ahead" if ahead else "waits"
    if pair[0] is pair[1]:
        x, y = before.x + HALF.x, before.y
        path = f"M{x:.0f} {y - 10:.0f} C{x + 34:.0f} {y - 16:.0f} {x + 34:.0f} {y + 16:.0f} {x:.0f} {y + 10:.0f}"
    elif pair in BENDS:
        bend = BENDS[pair]
        start, end = _edge(before, bend), _edge(after, bend)
        path = f"M{start.x:.0f} {start.y:.0f} Q{bend.x:.0f} {bend.y:.0f} {end.x:.0f} {end.y:.0f}"
    else:
        start, end = _edge(before, after), _edge(after, before)
        if (pair[1], pair[0]) in drawn:
            start, end = _aside(start, end)
        path = f"M{start.x:.0f} {start.y:.0f} L{end.x:.0f} {end.y:.0f}"
    return f'<path class="{kind}" d="{path}" marker-end="url(#head-{kind})"/>'


def _box(phase: Phase, *, met: bool, quits: bool) -> str:
    rule, place = RULES[phase], PLACES[phase]
    note = f"{rule.codes} · {Timeouts().of(rule.wait):.0f} s" if met else "not used"
    left, top = place.x - HALF.x, place.y - HALF.y
    mark = f'<text class="quit" x="{place.x + HALF.x - 4}" y="{top + 11}">⇥</text>' if quits else ""
    return (
        f'<g class="{"met" if met else "unmet"}"><title>{escape(rule.words)}</title>'
        f'<rect x="{left}" y="{top}" width="{2 * HALF.x}" height="{2 * HALF.y}" rx="6"/>'
        f'<text class="name" x="{place.x}" y="{place.y - 3}">{escape(phase.value)}</text>'
        f'<text class="note" x="{place.x}" y="{place.y + 14}">{escape(note)}</text>{mark}</g>'
    )


def picture(order: Order) -> str:
    """The SVG. Its colours are those of the page, light or dark."""
    missing = set(Phase) - set(PLACES)
    if missing:
        raise LookupError(f"no place in the picture for {', '.join(phase.name for phase in missing)}")
    pairs = order.waited | order.ran_ahead
    quits = {before for before, after in pairs if after is Phase.QUIT}
    drawn = {pair for pair in pairs if pair[1] is not Phase.QUIT}
    met = {phase for pair in pairs for phase in pair}
    heads = "".join(
        f'<marker id="head-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path class="head-{kind}" d="M0 0 L8 4 L0 8 z"/></marker>'
        for kind in ("waits", "ahead")
    )
    ordered = sorted(drawn, key=lambda pair: (pair[0].name, pair[1].name))
    arrows = "".join(_arrow(pair, drawn, ahead=pair in order.ran_ahead) for pair in ordered)
    boxes = "".join(_box(phase, met=phase in met, quits=phase in quits) for phase in Phase)
    title = "The phases of a session and the order in which they follow one another"
    return (
        f'<svg class="session" viewBox="0 0 {SIZE.x} {SIZE.y}" role="img" aria-label="{title}">'
        f"<defs>{heads}</defs>{arrows}{boxes}</svg>"
    )


class SessionDiagram(SphinxDirective):
    """Puts the picture into the page."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        """The picture as it is; readers that show no HTML get nothing, the text around it says the same."""
        return [nodes.raw("", picture(orders()), format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("session-diagram", SessionDiagram)
    return {"parallel_read_safe": True}
