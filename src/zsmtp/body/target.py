"""The capabilities of a server and the operator's options that decide on the form of the content.

A :class:`Target` is the same for all messages of a session, so the content made for one can be kept under it
(:mod:`zsmtp.body.stored`). Its capabilities are those to be used: without ESMTP (``-77``) there are none.
"""

from __future__ import annotations

from enum import Enum

from zsmtp.records import dataclass


class Signed8Bit(Enum):
    """What to do with signed 8-bit content for a server without 8BITMIME (ZENV SIGNED_8BIT)."""

    AS_IS = "as_is"  # nearly every such server passes it on unchanged
    BOUNCE = "bounce"  # RFC 6152 3 to the letter
    CONVERT = "convert"  # readable everywhere, the signature breaks


class NonMime8Bit(Enum):
    """What to do with 8-bit text that has no MIME fields and a server without 8BITMIME (ZENV NONMIME_8BIT)."""

    CONVERT = "convert"  # RFC 1428 appendix A
    STRIP = "strip"  # removes the eighth bit, so non-ASCII letters are lost


class Conversion(Enum):
    """How the body was changed; the value is the word for logs."""

    NONE = "NONE"  # unchanged
    QP = "QP"  # to quoted-printable or base64
    EIGHT_BIT = "8BIT"  # decoded to 8-bit
    MULTIPART_QP = "MPQP"  # parts of a multipart or of a message in the message


@dataclass(frozen=True, slots=True)
class Target:
    """One server with one set of options.

    ``eight_bit_mime``, ``smtputf8``: offered (RFC 6152, RFC 6531). ``binary_mime``: BINARYMIME and CHUNKING both are
    (RFC 3030). ``seven_bit`` (``-7``): as if neither 8BITMIME nor BINARYMIME were. ``send_eight_bit`` (``-8``): 8-bit
    whatever is offered, quoted-printable text decoded; it overrides ``seven_bit``. ``convert_headers``: encode 8-bit
    text in header fields (off with ``-H``). ``default_charset``: of 8-bit text that is not UTF-8 (ZENV DEFCHARSET).
    ``internationalised``: an address of the envelope needs SMTPUTF8.
    """

    eight_bit_mime: bool = False
    binary_mime: bool = False
    smtputf8: bool = False
    seven_bit: bool = False
    send_eight_bit: bool = False
    convert_headers: bool = True
    default_charset: bytes = b"UNKNOWN-8BIT"
    signed_8bit: Signed8Bit = Signed8Bit.AS_IS
    nonmime_8bit: NonMime8Bit = NonMime8Bit.CONVERT
    internationalised: bool = False


@dataclass(frozen=True, slots=True)
class ContentRefusal:
    """The reason why a message cannot be sent to this target: enhanced status (``5.6.3``) and text."""

    status: str
    text: str
