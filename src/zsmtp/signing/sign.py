"""Signs messages (RFC 6376 5): from the final form of a message to the fields to put in front of it.

The form that is sent is signed: convert the message (RFC 6376 5.3), add missing fields and fix line ends before. Only
the header is kept in memory; the body is read in blocks, once for all signatures::

    fields = read_header(header)
    signer = Signer(fields, keyring.choose(fields, granted=None, now=now).keys, now=now)
    for block in content.chunk_blocks():
        signer.feed(block)
    header = signer.finish() + header

:data:`SIGNED_FIELDS` lists the fields that are covered. If adding a field would change what readers see, ``h=`` has its
name once more than there are fields of it (*over-signed*, 5.4.2): a second From makes the signature void. A message
that is signed already gets another signature only on request, and is never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from types import MappingProxyType

from zsmtp.body.lines import LineConverter, canonical_blocks, unified_header
from zsmtp.errors import SubmissionError
from zsmtp.signing.canonical import CRLF, BodyHash, Canonicalization, HeaderFields, canonical_field
from zsmtp.signing.keyring import SigningKey
from zsmtp.signing.signature import unsigned_field, with_signature

MAX_SIGNED = 500
"""Names in ``h=``: no real message has more fields."""


class Cover(Enum):
    """How far a field is covered."""

    EACH = "each"  # the existing fields
    CLOSED = "closed"  # also, if there is one, none may be added
    ALWAYS = "always"  # none may be added, even if there is none


SIGNED_FIELDS: Mapping[bytes, Cover] = MappingProxyType(
    {
        b"from": Cover.ALWAYS,
        b"reply-to": Cover.ALWAYS,
        b"to": Cover.ALWAYS,
        b"cc": Cover.ALWAYS,
        b"subject": Cover.ALWAYS,
        b"sender": Cover.CLOSED,
        b"date": Cover.CLOSED,
        b"message-id": Cover.CLOSED,
        b"in-reply-to": Cover.CLOSED,
        b"references": Cover.CLOSED,
        b"mime-version": Cover.CLOSED,
        b"content-type": Cover.CLOSED,
        b"content-transfer-encoding": Cover.CLOSED,
        b"content-id": Cover.CLOSED,
        b"content-description": Cover.CLOSED,
        b"content-disposition": Cover.CLOSED,
        b"content-language": Cover.CLOSED,
        b"list-unsubscribe": Cover.CLOSED,
        b"list-unsubscribe-post": Cover.CLOSED,  # RFC 8058 4: both must be covered
        b"list-id": Cover.EACH,
        b"list-help": Cover.EACH,
        b"list-subscribe": Cover.EACH,
        b"list-post": Cover.EACH,
        b"list-owner": Cover.EACH,
        b"list-archive": Cover.EACH,
        b"resent-date": Cover.EACH,
        b"resent-from": Cover.EACH,
        b"resent-sender": Cover.EACH,
        b"resent-to": Cover.EACH,
        b"resent-cc": Cover.EACH,
        b"resent-message-id": Cover.EACH,
        b"auto-submitted": Cover.EACH,
        b"feedback-id": Cover.EACH,
        b"tls-required": Cover.EACH,
    }
)
"""The fields that are covered, by name in lower case (RFC 6376 5.4.1)."""


_Kind = tuple[Canonicalization, tuple[str, ...]]  # form of the header, and fields besides the usual ones


class Signer:
    """Makes the signatures of one message by ``keys``, while its body is fed in.

    ``fields`` are those of its header (:func:`read_header`), ``now`` is in seconds since 1970. Raises SubmissionError
    for a message without From, or with too many fields.
    """

    __slots__ = ("_bodies", "_covered", "_keys", "_now", "_utf8")

    def __init__(self, fields: HeaderFields, keys: Sequence[SigningKey], *, now: float) -> None:
        if keys and not fields.count(b"from"):
            raise SubmissionError("a message without From cannot be signed (RFC 6376 5.4)")
        self._keys = keys
        self._now = int(now)
        self._utf8 = fields.internationalised
        self._bodies = {key.body_form: BodyHash(key.body_form) for key in keys}
        self._covered: dict[_Kind, tuple[tuple[bytes, ...], bytes]] = {}
        for key in keys:
            kind = key.header_form, key.config.also_sign
            if kind not in self._covered:
                self._covered[kind] = _covered(fields.form(key.header_form), _rules(key.config.also_sign))

    def feed(self, block: bytes) -> None:
        """Process the next octets of the body as sent: every line ended by CRLF, blocks cut anywhere."""
        for body in self._bodies.values():
            body.feed(block)

    def finish(self) -> bytes:
        """The fields to put in front of the header, one for each key, with LF line ends; call it once."""
        hashes = {form: body.finish() for form, body in self._bodies.items()}
        made = []
        for key in self._keys:
            names, octets = self._covered[key.header_form, key.config.also_sign]
            lifetime = key.config.lifetime
            field = unsigned_field(
                key.front(names, utf8=self._utf8),
                body_hash=hashes[key.body_form],
                time=self._now,
                expires=None if lifetime is None else self._now + lifetime,
            )
            made.append(with_signature(field, key.sign(octets + canonical_field(field, key.header_form))))
        return b"".join(made)


def sign(header: bytes, body: Iterable[bytes], keys: Sequence[SigningKey], *, now: float) -> bytes:
    """The fields to put in front of a whole message, with the line ends of its header.

    ``header`` is the block as stored, without the empty line behind it; ``body`` is the body in blocks, with any line
    ends. Raises as :class:`Signer` does.
    """
    signer = Signer(read_header(header), keys, now=now)
    for block in canonical_blocks(body, LineConverter()):
        signer.feed(block)
    made = signer.finish()
    return made.replace(b"\n", CRLF) if CRLF in header else made


def read_header(header: bytes) -> HeaderFields:
    """The fields of a header block as sent: lone CRs become blanks, empty lines are removed."""
    return HeaderFields(unified_header(header)[0])


def _covered(fields: dict[bytes, list[bytes]], rules: dict[bytes, Cover]) -> tuple[tuple[bytes, ...], bytes]:
    """The names for ``h=``, and the fields that they stand for, the lowest of each name first (5.4.2)."""
    names: list[bytes] = []
    octets: list[bytes] = []
    for name, found in fields.items():
        cover = rules.get(name)
        if cover is None:
            continue
        if len(found) == 1:
            octets.append(found[0])
            names.append(name)
        else:
            octets += reversed(found)
            names += [name] * len(found)
        if cover is not _EACH:
            names.append(name)
    names += [name for name in _ABSENT_TOO if name not in fields]
    if len(names) > MAX_SIGNED:
        raise SubmissionError(f"{len(names)} fields would have to be signed; {MAX_SIGNED} are the limit")
    return tuple(names), b"".join(octets)


@cache
def _rules(also_sign: tuple[str, ...]) -> dict[bytes, Cover]:
    """The cover rules, with further fields of the configuration."""
    return {**SIGNED_FIELDS, **{name.lower().encode("ascii"): Cover.CLOSED for name in also_sign}}


_EACH = Cover.EACH
_ABSENT_TOO = tuple(name for name, cover in SIGNED_FIELDS.items() if cover is Cover.ALWAYS)
