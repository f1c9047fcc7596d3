"""What arrives is what was sent: content, octet for octet, in every server's mailboxes."""

from __future__ import annotations

import pytest
from tests.interop.exchange import Exchange
from tests.interop.servers import LISTENERS, Listener

pytestmark = pytest.mark.interop

everywhere = pytest.mark.parametrize("listener", LISTENERS, ids=lambda listener: listener.name)

DOT_LINES = {
    "dots at line starts": b".\n..\n...\n.x\n..x\n. \n text . and\n.\n",
    "a lone dot without line end": b".",
    "two dots without line end": b"first\n..",
    "no line end": b"the last line has none",
    "empty": b"",
    "an empty line": b"\n",
    "empty lines and dots": b"\n\n.\n\n.\n\n\n",
    "dots over many blocks": b".\n" * 300_001,
    "pairs of dots over many blocks": b"..\n" * 200_001,
}

LINE_ENDS = {
    "CRLF in the file": b"one\r\ntwo\r\n\r\n.\r\nthree\n",
    "bare CR": b"one\rtwo\r\rthree\r",
    "CR dot CR": b"one\r.\rMAIL FROM:<mallory@example.net>\r.\r\ntwo\n",
    "LF dot CR LF": b"one\n.\r\nMAIL FROM:<mallory@example.net>\r\ntwo\n",
    "CR at the end": b"one\n.\r",
}


@everywhere
def test_one_message(exchange: Exchange) -> None:
    message = exchange.post(["user000"], b"Hello,\n\nthis is a message.\n--\nMe\n")
    exchange.deliver([message])
    exchange.assert_stored({"user000": [message]})


@everywhere
def test_dot_lines(exchange: Exchange) -> None:
    messages = [exchange.post(["user001"], body) for body in DOT_LINES.values()]
    exchange.deliver(messages)
    exchange.assert_stored({"user001": messages})


@everywhere
def test_line_ends_that_smugglers_use(exchange: Exchange) -> None:
    """Each line end arrives as one, and no message ends before its end."""
    messages = [exchange.post(["user002"], body) for body in LINE_ENDS.values()]
    exchange.deliver(messages)
    exchange.assert_stored({"user002": messages})


@pytest.mark.parametrize(
    "listener", [listener for listener in LISTENERS if listener.eight_bit], ids=lambda listener: listener.name
)
def test_eight_bit_text(exchange: Exchange) -> None:
    mime = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
    message = exchange.post(["user003"], "Grüße aus Zürich, \N{SNOWMAN}\n".encode() * 500, mime=mime)
    exchange.deliver([message])
    exchange.assert_stored({"user003": [message]})
    assert any(b"BODY=8BITMIME" in command for command in exchange.commands())


@everywhere
def test_twenty_megabytes(exchange: Exchange, listener: Listener) -> None:
    """Lines of all lengths up to 300, every third of them starting with a dot."""
    lines = [b"." * (number % 3 == 0) + b"%06d " % number + b"x" * (number % 293) + b"\n" for number in range(130_000)]
    body = b"".join(lines)
    assert len(body) > 20_000_000
    message = exchange.post(["user004"], body)
    exchange.deliver([message])
    exchange.assert_stored({"user004": [message]})
    if listener.chunking:
        assert any(command.startswith(b"BDAT ") for command in exchange.commands())
