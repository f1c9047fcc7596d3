"""The page: well formed, self-contained, and text stays text whatever it is."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given
from tests.observers.test_waterfall import eventful
from tests.support.network import message, numbered
from tests.support.traces import TracedWorld, traces

from zsmtp.net.script import Reaction, Script
from zsmtp.observers.document import Trace
from zsmtp.observers.page import page

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'></style></title><!-- &lt; ]]>"
VOID = {"meta", "link", "img", "br", "input", "hr", "base"}
PLAIN = "html head meta title style body main footer header section h1 h2 h3 p dl div dt dd ul li b bdi span"
ALLOWED = {*PLAIN.split(), "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre"}


class Reader(HTMLParser):
    """Collects elements and text, and sees that every element is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")


def test_it_is_well_formed_and_fetches_nothing() -> None:
    text = page(eventful())
    reader = Reader(text)
    assert set(reader.tags) <= ALLOWED
    assert not {name for name, _ in reader.attributes} & {"src", "href", "action", "srcset", "background"}
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import|javascript:", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'") in (
        reader.attributes
    )


def test_it_says_what_happened() -> None:
    text = " ".join(" ".join(Reader(page(eventful())).text).split())
    assert "3 recipients: 2 delivered, 1 failed" in text
    assert "Recipient Verdict Status Why" in text
    assert "No route to host" in text
    assert "RCPT TO:<r1@example.org>" in text
    assert "no such user in the virtual mailbox table" in text


def test_hostile_texts_are_text() -> None:
    evil = Reaction(f"550 {EVIL}".encode() + b"\r\n")
    script = Script(
        greeting=Reaction(f"220 {EVIL}".encode() + b"\r\n"),
        keywords=(EVIL,),
        replies={"RCPT": [Reaction("250 ok"), evil, Reaction("550 שלום \u202e".encode() + b"\r\n")]},
    )
    recipients = (b"r@example.org", b'"<script>alert(3)</script>"@example.org', b"r2@example.org")
    text = page(TracedWorld(script).deliver(message(*recipients))[0])
    reader = Reader(text)
    assert set(reader.tags) <= ALLOWED
    assert "script" not in reader.tags
    assert any("<script>alert(1)</script>" in data for data in reader.text)
    assert "\u202e" not in text
    assert "<bdi>550 שלום \\u202e</bdi>" in text


@given(traces)
def test_any_trace_has_a_page(trace: Trace) -> None:
    assert set(Reader(page(trace)).tags) <= ALLOWED


def test_many_recipients_do_not_make_a_page_nobody_can_load() -> None:
    trace = TracedWorld(Script(keywords=("PIPELINING",))).deliver(message(*numbered(5000)))[0]
    assert len(page(trace)) < 3_000_000
    assert "and 4000 more" in page(trace)
