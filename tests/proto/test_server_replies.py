"""Replies as octets: never a line that nobody meant, never one too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import LocalError
from zsmtp.proto import server_replies
from zsmtp.proto.reply import Reply, ReplyParser
from zsmtp.proto.server_replies import MAX_REPLY_LINE, make_reply, reply_octets
from zsmtp.proto.status import given_status

CONSTANTS = {name: value for name, value in vars(server_replies).items() if isinstance(value, Reply)}


def parsed(octets: bytes) -> Reply:
    parser = ReplyParser()
    parser.receive_data(octets)
    reply = parser.next_reply()
    assert reply is not None
    assert not parser.pending
    return reply


@pytest.mark.parametrize("reply", CONSTANTS.values(), ids=CONSTANTS)
def test_each_constant_is_one_line_with_its_status(reply: Reply) -> None:
    assert parsed(reply_octets(reply)) == reply
    assert len(reply.lines) == 1
    if reply.code // 100 != 3:
        assert given_status(reply.code, reply.lines) is not None, "RFC 2034: every 2xx, 4xx and 5xx has one"


def test_a_reply_of_several_lines() -> None:
    assert reply_octets(Reply(250, (b"mx.example.org", b"SIZE 10", b"DSN"))) == (
        b"250-mx.example.org\r\n250-SIZE 10\r\n250 DSN\r\n"
    )
    assert reply_octets(Reply(250, ())) == b"250\r\n"


@given(st.lists(st.binary(max_size=700), min_size=1, max_size=4), st.integers(200, 599))
def test_whatever_is_said_stays_in_its_line(texts: list[bytes], code: int) -> None:
    octets = reply_octets(Reply(code, tuple(texts)))
    lines = octets.split(b"\r\n")
    assert len(lines) == len(texts) + 1
    assert max(map(len, lines)) + 2 <= MAX_REPLY_LINE
    assert octets.isascii()
    assert parsed(octets).code == code
    assert not octets.replace(b"\r\n", b"").translate(None, bytes(range(0x20, 0x7F)) + b"\t")


def test_text_of_strangers_is_escaped() -> None:
    hostile = make_reply(550, "5.1.1", "no such user: x\r\n250 2.0.0 ok\x1b[2J é \u202e")
    assert reply_octets(hostile) == (b"550 5.1.1 no such user: x\\r\\n250 2.0.0 ok\\x1b[2J \\xe9 \\u202e\r\n")


@pytest.mark.parametrize("code", [0, 99, 199, 600, 1000])
def test_what_is_no_code_is_not_said(code: int) -> None:
    with pytest.raises(LocalError):
        reply_octets(Reply(code, (b"x",)))
