"""Edits of MIME fields in a header block, when the content behind it changes its form.

Blocks are as in :mod:`zsmtp.body.fields`: LF line ends, no empty line. An edit changes its field only; names keep their
spelling, other parameters their place::

    header = with_encoding(header, b"QUOTED-PRINTABLE")
"""

from __future__ import annotations

from zsmtp.body.fields import parameters, split_fields

_ENCODING = b"content-transfer-encoding"

# The text that RFC 1428 appendix A asks for, in ZMailer's wording.
_WARNING = (
    b"X-Warning: Original message contained 8-bit characters, however during\n"
    b"\t   the SMTP transport session the receiving system did not announce\n"
    b"\t   capability of receiving 8-bit SMTP (RFC 1651-1653), and as this\n"
    b"\t   message does not have MIME headers (RFC 2045-2049) to enable\n"
    b"\t   encoding change, we had very little choice.\n"
    b"X-Warning: We ASSUME it is less harmful to add the MIME headers, and\n"
    b"\t   convert the text to Quoted-Printable, than not to do so,\n"
    b"\t   and to strip the message to 7-bits.. (RFC 1428 Appendix A)\n"
)
_GUESS = (
    b"X-Warning: We don't know what character set the user used, thus we had to\n"
    b"\t   write these MIME-headers with our local system default value.\n"
)


def with_encoding(block: bytes, encoding: bytes) -> bytes:
    """``block`` with ``encoding`` in its Content-Transfer-Encoding, added behind Content-Type if there is none."""
    pieces = []
    done = 0
    place = len(block)
    found = False
    for name, start, value, end in split_fields(block):
        if name == b"content-type":
            place = end
        elif name == _ENCODING:
            pieces.append(block[done:start])
            if not found:
                pieces += [block[start:value], b" ", encoding, b"\n"]
            found = True
            done = end
    if found:
        return b"".join([*pieces, block[done:]])
    return block[:place] + b"Content-Transfer-Encoding: " + encoding + b"\n" + block[place:]


def with_charset_ascii(block: bytes) -> bytes:
    """``block`` with charset=US-ASCII in its Content-Type, if that names a charset in one piece."""
    for name, _, value, end in split_fields(block):
        if name != b"content-type":
            continue
        for each in parameters(block[value:end]):
            if each.name in (b"charset", b"charset*"):
                return block[: value + each.start] + b"charset=US-ASCII" + block[value + each.end :]
        break
    return block


def with_version(block: bytes) -> bytes:
    """``block`` with a MIME-Version field at its end."""
    return block + b"MIME-Version: 1.0\n"


def with_new_mime_fields(block: bytes, charset: bytes, *, warn: bool, guessed: bool) -> bytes:
    """``block``, which has none, with the MIME fields of quoted-printable text, behind its trace fields.

    ``warn``: add the warning of RFC 1428 appendix A; ``guessed``: note that ``charset`` is only the local default.
    """
    place = 0
    for name, start, _, end in split_fields(block):
        if start != place or name not in (b"received", b"return-path"):
            break
        place = end
    fields = (_WARNING if warn else b"") + (_GUESS if warn and guessed else b"")
    fields += b"MIME-Version: 1.0\nContent-Transfer-Encoding: QUOTED-PRINTABLE\n"
    fields += b"Content-Type: TEXT/PLAIN; charset=" + charset + b"\n"
    return block[:place] + fields + block[place:]
