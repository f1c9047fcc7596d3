"""The manual pages of ``man/`` as pages of this documentation: the directive ``manual-page:: smtp.8``.

mandoc(1) makes HTML of them where it is installed; where it is not, man's own formatter, groff(1), makes text. With
neither the build goes on and the page tells where the manual is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

MAN = Path(__file__).parent.parent.parent / "man"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    return done.stdout


def as_html(page: Path) -> str:
    """The page as an HTML fragment. References to manuals that are not ours are words, not links."""
    html = _run("mandoc", "-T", "html", "-O", "fragment,man=%N.%S.html", str(page))
    ours = {f"{path.name}.html" for path in MAN.iterdir()}

    def link(match: re.Match[str]) -> str:
        return match[0] if match[1] in ours else f'<span class="Xr">{match[2]}</span>'

    html = re.sub(r'<a class="Xr" href="([^"]*)">(.*?)</a>', link, html, flags=re.DOTALL)
    html = re.sub(r'<table class="(head|foot)">.*?</table>', "", html, flags=re.DOTALL)
    for old, new in (("h2", "h3"), ("h1", "h2")):  # the page's own title is the h1
        html = re.sub(rf"<(/?){old}\b", rf"<\1{new}", html)
    return f'<div class="manpage">{html}</div>'


def as_text(page: Path) -> str:
    """The page as plain text, 80 columns."""
    return _run("groff", "-mandoc", "-Tutf8", "-P-cbou", "-rLL=78n", str(page))


class ManualPage(SphinxDirective):
    """Puts one page of ``man/`` here."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """HTML, else text, else a sentence."""
        page = MAN / self.arguments[0]
        self.env.note_dependency(str(page))
        if shutil.which("mandoc"):
            return [nodes.raw("", as_html(page), format="html")]
        if shutil.which("groff"):
            text = as_text(page)
            return [nodes.literal_block(text, text)]
        return [
            nodes.paragraph("", f"The manual is in man/{page.name}; neither mandoc nor groff was there to show it.")
        ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("manual-page", ManualPage)
    return {"parallel_read_safe": True}
