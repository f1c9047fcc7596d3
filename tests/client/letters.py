"""What a letter is on the wire."""

from __future__ import annotations

from zsmtp.body.target import ContentRefusal, Target
from zsmtp.client.message import Letter

OFFERED = Target(eight_bit_mime=True, smtputf8=True)


def sent(letter: Letter, target: Target = OFFERED) -> bytes:
    """The content as it goes out to a server that offers what ``target`` says."""
    content = letter.stored().content(target)
    assert not isinstance(content, ContentRefusal), content
    return b"".join(content.chunk_blocks())
