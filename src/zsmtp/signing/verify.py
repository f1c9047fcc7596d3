"""Verifies DKIM signatures (RFC 6376 6, RFC 8301, RFC 8463), with a result and a reason for each.

Three steps, so that lookups stay outside. :func:`signatures_in` parses the fields of a header, :func:`key_names` lists
the TXT records needed, and :func:`verify` decides, given the answers::

    fields, body = read_message(blocks)
    found = signatures_in(fields)
    answers = {name: lookup(Query(name, RecordType.TXT)) for name in key_names(found)}
    for one in verify(fields, found, body, answers, now=now):
        print(one.result.value, one.reason)

Messages and records are untrusted: too many signatures, invalid records, keys of extreme sizes. None of them raises an
exception, and all work is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

from zsmtp.dns.answer import Answer
from zsmtp.errors import ContentError
from zsmtp.patterns import pattern
from zsmtp.records import NamedTuple, dataclass
from zsmtp.signing.canonical import BodyHash, Canonicalization, HeaderFields, canonical_field, wire_blocks
from zsmtp.signing.publickey import PublicKey, read_public_key
from zsmtp.signing.record import KeyRecord, NoRecord, record_in
from zsmtp.signing.signature import Signature, parse_signature, without_octets

MAX_HEADER = 1 << 20  # octets of a header block
MAX_SIGNATURES = 20
"""Signatures of one message that are verified; further ones are not parsed."""
CLOCK_SKEW = 86_400.0
"""Seconds by which the clock of a signer may be ahead: wrong clocks are often wrong by a time zone."""


class DKIMResult(Enum):
    """The result for a signature; the value is the word of RFC 8601 2.7.1."""

    PASS = "pass"  # noqa: S105 - a word of the standard
    FAIL = "fail"  # the message was changed, or the signature is wrong
    POLICY = "policy"  # it verifies, but covers too little or is not valid now
    TEMPERROR = "temperror"  # the key lookup failed temporarily
    PERMERROR = "permerror"  # it can never be verified


class FoundSignature(NamedTuple):
    """One field DKIM-Signature: unchanged from the header (LF line ends), and parsed, or the reason why it is invalid.

    ``number`` counts the fields of this name from the top, from 0.
    """

    number: int
    field: bytes
    signature: Signature | None
    problem: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The result for one signature. ``reason`` is a sentence for people, empty for ``PASS``.

    ``testing``: its domain tests DKIM, and its messages should be treated as unsigned (3.6.1). ``bits`` is the size of
    the key, 0 without one.
    """

    found: FoundSignature
    result: DKIMResult
    reason: str
    testing: bool = False
    bits: int = 0


_EMPTY_LINE = pattern(rb"(^|\n)\r?\n")


def read_message(blocks: Iterable[bytes]) -> tuple[HeaderFields, Iterator[bytes]]:
    """The fields of a message from another system, and its body, which is read lazily.

    Line ends may be CRLF or LF. Raises ContentError for a header of more than ``MAX_HEADER`` octets.
    """
    rest = iter(blocks)
    octets = bytearray()
    end = None
    for block in rest:
        start = max(len(octets) - 2, 0)
        octets += block
        end = _EMPTY_LINE.search(octets, start)
        if end is not None or len(octets) > MAX_HEADER:
            break
    size = len(octets) if end is None else end.end(1)
    if size > MAX_HEADER:
        raise ContentError(f"a header block of more than {MAX_HEADER} octets, or none at all")
    header = bytes(octets[:size])
    first = b"" if end is None else bytes(octets[end.end() :])
    return HeaderFields(header.replace(b"\r\n", b"\n")), wire_blocks(_chained(first, rest))


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def signatures_in(fields: HeaderFields) -> tuple[FoundSignature, ...]:
    """All fields DKIM-Signature, from the top; those beyond ``MAX_SIGNATURES`` are not parsed."""
    found = []
    for number, field in enumerate(fields.stored(b"dkim-signature")):
        signature, problem = None, f"more than {MAX_SIGNATURES} signatures"
        if number < MAX_SIGNATURES:
            try:
                signature, problem = parse_signature(field.partition(b":")[2]), ""
            except ValueError as error:
                problem = str(error)
        found.append(FoundSignature(number, field, signature, problem))
    return tuple(found)


def key_names(found: Iterable[FoundSignature]) -> tuple[str, ...]:
    """The names whose TXT records are needed to verify these signatures, each once."""
    return tuple(dict.fromkeys(one.signature.key_name for one in found if one.signature is not None))


def verify(
    fields: HeaderFields,
    found: Iterable[FoundSignature],
    body: Iterable[bytes],
    answers: Mapping[str, Answer],
    *,
    now: float,
) -> tuple[Verification, ...]:
    """The result for each of the signatures ``found`` in ``fields``.

    ``body`` are the blocks of the body in the form of the wire, read once. ``answers`` has the answer to the TXT query
    for each of :func:`key_names`; a missing name counts as a failed lookup. ``now`` is in seconds since 1970. Raises
    only what reading ``body`` raises.
    """
    found = tuple(found)
    bodies: dict[tuple[Canonicalization, int | None], BodyHash] = {}
    for one in found:
        if one.signature is not None:
            kind = one.signature.body_form, one.signature.length
            bodies.setdefault(kind, BodyHash(*kind))
    for block in body:
        for hashing in bodies.values():
            hashing.feed(block)
    hashes = {kind: (hashing.finish(), hashing.octets) for kind, hashing in bodies.items()}
    return tuple(_verify_one(fields, one, hashes, answers, now) for one in found)


_Hashes = Mapping[tuple[Canonicalization, int | None], tuple[bytes, int]]


def _verify_one(
    fields: HeaderFields, one: FoundSignature, hashes: _Hashes, answers: Mapping[str, Answer], now: float
) -> Verification:
    signature = one.signature
    if signature is None:
        return Verification(one, DKIMResult.PERMERROR, one.problem)
    answer = answers.get(signature.key_name)
    try:
        if answer is None:
            raise NoRecord(f"the key at {signature.key_name} was not looked up", temporary=True)
        record = record_in(answer)
        key = _usable_key(record, signature)
    except NoRecord as error:
        return Verification(one, DKIMResult.TEMPERROR if error.temporary else DKIMResult.PERMERROR, str(error))
    body_hash, size = hashes[signature.body_form, signature.length]
    if not key.verifies(signature.octets, _covered(fields, one, signature)):
        result, reason = (
            DKIMResult.FAIL,
            "the signature does not match: a signed field was changed, or it was made with another key",
        )
    elif signature.length is not None and signature.length > size:
        result, reason = DKIMResult.PERMERROR, f"l= is {signature.length} octets, and the body has {size}"
    elif body_hash != signature.body_hash:
        result, reason = DKIMResult.FAIL, "the body hash does not match bh=: the body was changed"
    else:
        reason = _policy(fields, signature, size, now)
        result = DKIMResult.POLICY if reason else DKIMResult.PASS
    return Verification(one, result, reason, record.testing, key.bits)


def _usable_key(record: KeyRecord, signature: Signature) -> PublicKey:
    """The key of a record if it is for this signature. Raises NoRecord."""
    where = f"the key at {signature.key_name}"
    if not record.public_key:
        raise NoRecord(f"{where} was revoked")
    if record.algorithm is not signature.algorithm:
        kind = record.algorithm.key_type
        raise NoRecord(f"{where} is of the type {kind}, and the signature is {signature.algorithm.value}")
    if record.strict and not signature.strict_identity:
        raise NoRecord(f"{where} is not for domains below its own (t=s), and i= names one")
    try:
        return read_public_key(record)
    except ValueError as error:
        raise NoRecord(f"{where} cannot be used: {error}") from None


def _covered(fields: HeaderFields, one: FoundSignature, signature: Signature) -> bytes:
    """The signed octets: fields from the bottom for each name of ``h=``, and its own (3.7, 5.4.2)."""
    form = signature.header_form
    present = fields.form(form)
    left: dict[bytes, list[bytes]] = {}
    octets = []
    for name in signature.signed:
        if name not in left:
            left[name] = present.get(name, [])[:]
            if name == b"dkim-signature":  # never its own (3.5)
                del left[name][one.number]
        if left[name]:
            octets.append(left[name].pop())
    octets.append(canonical_field(without_octets(one.field), form))
    return b"".join(octets)


def _policy(fields: HeaderFields, signature: Signature, size: int, now: float) -> str:
    """The reason why a valid signature does not count; empty if it counts."""
    if signature.expires is not None and signature.expires < now:
        return "the signature has expired (x=)"
    if signature.time is not None and signature.time > now + CLOCK_SKEW:
        return "t= is in the future"
    senders, covered = fields.count(b"from"), signature.signed.count(b"from")
    if senders > covered:
        return f"{senders} From fields, {covered} of them signed (RFC 6376 8.15)"
    if signature.length is not None and signature.length < size:
        return f"only {signature.length} of {size} octets of the body are signed (l=)"
    return ""
