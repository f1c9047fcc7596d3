"""Parses and builds the field DKIM-Signature (RFC 6376 3.5, RFC 8301, RFC 8463, RFC 8616 5).

:func:`parse_signature` parses the value of a field into a :class:`Signature`, or raises the reason why it is invalid: a
required tag is missing, the algorithm is no longer accepted (``rsa-sha1``), the parts contradict each other. The result
is consistent; ``zsmtp.signing.verify`` decides whether it verifies.

A field is built in two steps, because a signature covers its own field with an empty ``b=``::

    field = unsigned_field(front(tags), body_hash=digest, time=now)
    field = with_signature(field, sign(covered + field))

Lines are at most 78 columns wide (RFC 5322 2.1.1) unless a domain is longer than that.
"""

from __future__ import annotations

from base64 import b64encode
from enum import Enum

from zsmtp.dns.literal import domain_problem
from zsmtp.idn import to_ascii
from zsmtp.patterns import pattern
from zsmtp.records import NamedTuple, dataclass
from zsmtp.signing.canonical import Canonicalization
from zsmtp.signing.tags import (
    BLANKS,
    parse_base64,
    parse_number,
    parse_quoted,
    parse_tags,
    parse_words,
    shown,
)

FIELD = b"DKIM-Signature"
HASH_SIZE = 32  # octets of SHA-256, the only hash allowed (RFC 8301 3.1)

_COLUMNS = 78
_MAX_NAME = 1000  # octets of a domain or a selector that is parsed; a name has 253
_REQUIRED = (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
_FIELD_NAME = pattern(rb"[!-9;-~]++")
_FORMS = {form.value.encode("ascii"): form for form in Canonicalization}


class Algorithm(Enum):
    """The algorithm of a signature; the value is the word of ``a=``."""

    RSA_SHA256 = "rsa-sha256"  # PKCS #1 1.5 over the hash (RFC 6376 3.3.2)
    ED25519_SHA256 = "ed25519-sha256"  # PureEdDSA over the hash (RFC 8463 3)

    @property
    def key_type(self) -> str:
        """The word of ``k=`` in the record of its key."""
        return self.value.partition("-")[0]


_ALGORITHMS = {algorithm.value.encode("ascii"): algorithm for algorithm in Algorithm}


@dataclass(frozen=True, slots=True)
class Signature:
    """The content of one field.

    ``domain`` (``d=``) and ``selector`` (``s=``) are in lower case and A-labels. ``identity`` (``i=``) is decoded,
    ``@domain`` where the field has none; its domain is ``domain`` or one below it; ``strict_identity``: it is
    ``domain`` itself. ``signed`` are the names in ``h=`` in lower case. ``length`` (``l=``) is in octets of the
    canonical body, None for all of it; ``time`` and ``expires`` (``t=``, ``x=``) are seconds since 1970.
    """

    algorithm: Algorithm
    header_form: Canonicalization
    body_form: Canonicalization
    domain: str
    selector: str
    identity: str
    strict_identity: bool
    signed: tuple[bytes, ...]
    body_hash: bytes
    octets: bytes
    length: int | None = None
    time: int | None = None
    expires: int | None = None

    @property
    def key_name(self) -> str:
        """The name at which the key is published (3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"


# ---------------------------------------------------------------------- reading


def parse_signature(value: bytes) -> Signature:
    """Parse the value of a DKIM-Signature field. Raises ValueError with the reason if it is invalid."""
    tags = parse_tags(value, utf8=True)
    if tags.get(b"v", b"1") != b"1":
        raise ValueError(f"version {shown(tags[b'v'])} is not known")
    missing = [name.decode("ascii") for name in _REQUIRED if name not in tags]
    if missing:
        raise ValueError(f"{missing[0]}= is missing")
    if b"dns/txt" not in parse_words(tags.get(b"q", b"dns/txt")):
        raise ValueError("q= has no known method")
    header_form, body_form = _parse_forms(tags.get(b"c", b"simple"))
    domain = _parse_domain(tags[b"d"])
    selector = _parse_selector(tags[b"s"], domain)
    identity, own_domain = _parse_identity(tags.get(b"i"), domain)
    time = parse_number(tags[b"t"], "t", 12) if b"t" in tags else None
    expires = parse_number(tags[b"x"], "x", 12) if b"x" in tags else None
    if time is not None and expires is not None and expires <= time:
        raise ValueError("x= is not after t=")
    body_hash = parse_base64(tags[b"bh"], "bh")
    if len(body_hash) != HASH_SIZE:
        raise ValueError("bh= is not a hash of SHA-256")
    return Signature(
        algorithm=_parse_algorithm(tags[b"a"]),
        header_form=header_form,
        body_form=body_form,
        domain=domain,
        selector=selector,
        identity=identity,
        strict_identity=own_domain == domain,
        signed=_parse_signed(tags[b"h"]),
        body_hash=body_hash,
        octets=parse_base64(tags[b"b"], "b"),
        length=parse_number(tags[b"l"], "l", 76) if b"l" in tags else None,
        time=time,
        expires=expires,
    )


def _parse_algorithm(word: bytes) -> Algorithm:
    algorithm = _ALGORITHMS.get(word)
    if word == b"rsa-sha1":
        raise ValueError("rsa-sha1 is not accepted (RFC 8301 3.1)")
    if algorithm is None:
        raise ValueError(f"algorithm {shown(word)} is not known")
    return algorithm


def _parse_forms(words: bytes) -> tuple[Canonicalization, Canonicalization]:
    header, _, body = words.partition(b"/")
    try:
        return _FORMS[header], _FORMS[body or b"simple"]
    except KeyError:
        raise ValueError(f"canonicalization {shown(words)} is not known") from None


def _name(value: bytes) -> str | None:
    """A domain or selector in lower case and A-labels; None if it is invalid."""
    if len(value) > _MAX_NAME or value.endswith(b"."):
        return None
    return to_ascii(value.decode("utf-8", "surrogateescape"))


def _parse_domain(value: bytes) -> str:
    domain = _name(value)
    if domain is None or "." not in domain or domain_problem(domain) is not None:
        raise ValueError(f"d= is not a domain: {shown(value)}")
    return domain


def _parse_selector(value: bytes, domain: str) -> str:
    selector = _name(value)
    if selector is None or domain_problem(f"{selector}._domainkey.{domain}") is not None:
        raise ValueError(f"s= is not a selector: {shown(value)}")
    return selector


def _parse_identity(value: bytes | None, domain: str) -> tuple[str, str]:
    """``i=`` decoded, and its domain."""
    if value is None:
        return f"@{domain}", domain
    octets = parse_quoted(value)
    _, at, name = octets.rpartition(b"@")
    own = _name(name)
    if not at or own is None or not (own == domain or own.endswith(f".{domain}")):
        raise ValueError(f"i= is not of the domain {domain}: {shown(octets)}")
    return octets.decode("utf-8", "surrogateescape"), own


def _parse_signed(value: bytes) -> tuple[bytes, ...]:
    names = tuple(name.lower() for name in parse_words(value))
    for name in names:
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"h= has an invalid field name: {shown(name)}")
    if b"from" not in names:
        raise ValueError("From is not signed")
    return names


def without_octets(field: bytes) -> bytes:
    """A whole field with an empty ``b=``, as it was signed (3.7). Nothing else changes."""
    name, colon, value = field.partition(b":")
    parts = value.split(b";")
    for index, part in enumerate(parts):
        tag, equals, _ = part.partition(b"=")
        if equals and tag.strip(BLANKS) == b"b":
            parts[index] = tag + equals
    return name + colon + b";".join(parts)


# ---------------------------------------------------------------------- writing


class Tags(NamedTuple):
    """The common part of all signatures by one key over messages with the same fields, as octets for the field.

    ``identity`` is empty for no ``i=``. ``signed`` are the names for ``h=``, in the order in which
    their fields are hashed.
    """

    algorithm: Algorithm
    header_form: Canonicalization
    body_form: Canonicalization
    domain: bytes
    selector: bytes
    identity: bytes
    signed: tuple[bytes, ...]


def front(tags: Tags) -> bytes:
    """The beginning of a field, up to ``h=``, folded."""
    forms = f"{tags.header_form.value}/{tags.body_form.value}".encode("ascii")
    words = [FIELD + b":", b" v=1;", b" a=" + tags.algorithm.value.encode("ascii") + b";", b" c=" + forms + b";"]
    words += [b" d=" + tags.domain + b";", b" s=" + tags.selector + b";"]
    if tags.identity:
        words.append(b" i=" + tags.identity + b";")
    names = [name + b":" for name in tags.signed[:-1]] + [tags.signed[-1] + b";"]
    words += [b" h=" + names[0], *names[1:]]
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) <= _COLUMNS:
            lines[-1] += word
        else:
            lines.append(b" " + word.removeprefix(b" "))
    return b"\n".join(lines)


def unsigned_field(beginning: bytes, *, body_hash: bytes, time: int, expires: int | None = None) -> bytes:
    """A field with this beginning and an empty ``b=`` at its end: lines ended by LF, except for the last one."""
    words = b"t=%d;" % time if expires is None else b"t=%d; x=%d;" % (time, expires)
    digest = b"bh=%b;" % b64encode(body_hash)
    gap = b" " if len(words) + len(digest) + 2 <= _COLUMNS else b"\n "
    return b"%b\n %b%b%b\n b=" % (beginning, words, gap, digest)


def with_signature(field: bytes, octets: bytes) -> bytes:
    """The field of :func:`unsigned_field` with the signature, its last line ended."""
    text = b64encode(octets)
    width = _COLUMNS - 1
    first = width - len(b"b=")
    lines = [text[:first], *(text[place : place + width] for place in range(first, len(text), width))]
    return field + b"\n ".join(lines) + b"\n"
