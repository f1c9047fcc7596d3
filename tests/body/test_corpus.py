"""Messages as programs really write them, in all forms: what a receiver gets is what was stored."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from tests.body.receiver import fields, is_wire_clean, leaves, same_leaves

from zsmtp.body.encode import MessageContent
from zsmtp.body.headers import is_signed
from zsmtp.body.source import Source
from zsmtp.body.stored import Stored, prepare
from zsmtp.body.target import ContentRefusal, Signed8Bit, Target

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.eml"))
SEALED = {"smime-in-list-mail"}  # by a part; the others say so in their header
TARGETS = [
    Target(eight_bit_mime=a, binary_mime=b, smtputf8=c, seven_bit=d, send_eight_bit=e, convert_headers=f)
    for a, b, c, d, e, f in product([False, True], repeat=6)
]


def stored(path: Path) -> tuple[bytes, bytes, Stored]:
    """The header, the whole message, and it prepared."""
    message = path.read_bytes()
    header, _, body = message.partition(b"\n\n")
    return header + b"\n", message, prepare(header + b"\n", Source.from_bytes(body))


def test_the_corpus_is_here() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_every_form_decodes_to_what_is_stored(path: Path) -> None:
    header, message, prepared = stored(path)
    sealed = is_signed(header) or path.stem in SEALED
    for target in TARGETS:
        content = prepared.content(target)
        assert isinstance(content, MessageContent)
        sent = b"".join(content.chunk_blocks())
        assert len(sent) == content.size
        assert same_leaves(message, sent), (leaves(message), leaves(sent))
        assert fields(message) == fields(sent)
        if content.body_parameter == b"BINARYMIME":
            assert target.binary_mime
        else:
            assert is_wire_clean(sent)
            assert receive(b"".join(content.data_blocks())) == sent
        able = target.send_eight_bit or (target.eight_bit_mime and not target.seven_bit)
        if sealed:
            assert sent.replace(b"\r\n", b"\n") == message.replace(b"\r\n", b"\n")
        elif not able and content.body_parameter is None:
            assert sent[content.header_size :].isascii()
            assert sent.isascii() or not target.convert_headers


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_seven_bit_everywhere_if_signatures_may_break(path: Path) -> None:
    _, message, prepared = stored(path)
    content = prepared.content(Target(signed_8bit=Signed8Bit.CONVERT))
    assert isinstance(content, MessageContent)
    sent = b"".join(content.chunk_blocks())
    assert sent.isascii()
    assert same_leaves(message, sent)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_signed_8_bit_content_is_refused_if_that_is_wanted(path: Path) -> None:
    header, message, prepared = stored(path)
    content = prepared.content(Target(signed_8bit=Signed8Bit.BOUNCE))
    sealed = is_signed(header) or path.stem in SEALED
    body = message.partition(b"\n\n")[2]
    assert isinstance(content, ContentRefusal) == (sealed and not body.isascii())
    if isinstance(content, ContentRefusal):
        assert content.status == "5.6.3"


def receive(wire: bytes) -> bytes:
    """Undo dot-stuffing; the final dot must be the only one."""
    assert wire.endswith(b"\r\n.\r\n")
    lines = wire.removesuffix(b".\r\n").split(b"\r\n")
    assert b"." not in lines
    return b"\r\n".join(line.removeprefix(b".") for line in lines)
