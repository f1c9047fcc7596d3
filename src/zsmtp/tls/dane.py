"""DANE for SMTP: matches a peer's certificates with TLSA records (RFC 6698, RFC 7671, RFC 7672).

A domain that signs its zone can publish, next to its mail exchanger, the key or the authority that the host's
certificate must have. A record has a certificate *usage* (for SMTP only DANE-TA, an authority of the domain's own, and
DANE-EE, the certificate itself), a *selector* (the whole certificate or its public key) and a *matching type* (the
octets themselves or a hash of them)::

    records = usable(answer.records)              # records that can be used; none: encrypt, unauthenticated
    end_entity_match(records, leaf)               # DANE-EE: names and dates do not matter (RFC 7672 3.1.1)
    anchors(records, chain)                       # DANE-TA: verify the chain up to one of these, and the name

``zsmtp.tls.tlsa`` has the rules for looking the records up and for failed lookups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from zsmtp.dns.answer import TLSA, Query, RecordType
from zsmtp.tls.certificate import Certificate, read_certificate

PKIX_TA, PKIX_EE = 0, 1  # usages that also need public authorities
DANE_TA = 2
DANE_EE = 3
CERTIFICATE, PUBLIC_KEY = 0, 1  # selectors
FULL, SHA256, SHA512 = 0, 1, 2  # matching types

MAX_RECORDS = 64
"""Records of one host that are used; a real set has a handful."""

_DIGEST_SIZES = {SHA256: 32, SHA512: 64}


def usable(records: Iterable[object]) -> tuple[TLSA, ...]:
    """The usable records of an answer, without weaker digests beside a stronger one.

    Usages PKIX-TA and PKIX-EE are not usable in SMTP (RFC 7672 3.1.3), nor are unknown parameters, digests of a wrong
    length and octets that are no certificate or key. Digest agility (RFC 7671 9): among the digests of one usage and
    selector only the strongest counts; octets in full always do.
    """
    found = [r for r in list(records)[:MAX_RECORDS] if isinstance(r, TLSA) and not unusable_because(r)]
    strongest: dict[tuple[int, int], int] = {}
    for record in found:
        key = (record.usage, record.selector)
        strongest[key] = max(strongest.get(key, FULL), record.matching)
    kept = (r for r in found if r.matching in (FULL, strongest[r.usage, r.selector]))
    return tuple(dict.fromkeys(kept))


def unusable_because(record: TLSA) -> str:
    """The reason why a record is not usable, in words; "" if it is."""
    if record.usage in (PKIX_TA, PKIX_EE):
        return f"usage {record.usage} is not for SMTP"
    if record.usage not in (DANE_TA, DANE_EE):
        return f"unknown usage {record.usage}"
    if record.selector not in (CERTIFICATE, PUBLIC_KEY):
        return f"unknown selector {record.selector}"
    if record.matching != FULL:
        size = _DIGEST_SIZES.get(record.matching)
        if size is None:
            return f"unknown matching type {record.matching}"
        return "" if len(record.data) == size else f"a digest of {len(record.data)} octets instead of {size}"
    if record.selector == PUBLIC_KEY:  # a key is a SEQUENCE; other data cannot match
        return "" if record.data[:1] == b"\x30" else "its data is no public key"
    try:
        read_certificate(record.data)
    except ValueError:
        return "its data is no certificate"
    return ""


def matches(record: TLSA, certificate: Certificate) -> bool:
    """Whether the record's data matches this certificate (RFC 6698 2.1.2, 2.1.3)."""
    selected = certificate.der if record.selector == CERTIFICATE else certificate.public_key
    if record.matching == SHA256:
        selected = hashlib.sha256(selected).digest()
    elif record.matching == SHA512:
        selected = hashlib.sha512(selected).digest()
    return selected == record.data


def end_entity_match(records: Sequence[TLSA], leaf: Certificate) -> TLSA | None:
    """The DANE-EE record that the peer's own certificate matches, if there is one."""
    return next((record for record in records if record.usage == DANE_EE and matches(record, leaf)), None)


def anchors(records: Sequence[TLSA], chain: Sequence[bytes]) -> tuple[bytes, ...]:
    """The certificates, in DER, that DANE-TA records make trust anchors.

    These are matching certificates of the chain, and those that a record holds in full, sent or not (RFC 7671 5.2). A
    bare key (selector 1, type 0) counts if the peer sent a certificate with it, as it must (RFC 7672 3.1.2).
    """
    authorities = [record for record in records if record.usage == DANE_TA]
    found: dict[bytes, None] = {}
    for der in chain:
        try:
            certificate = read_certificate(der)
        except ValueError:
            continue
        if any(matches(record, certificate) for record in authorities):
            found[der] = None
    for record in authorities:
        if record.selector == CERTIFICATE and record.matching == FULL:
            found[record.data] = None
    return tuple(found)


def record_for(certificate: Certificate) -> TLSA:
    """The record to publish for a certificate: DANE-EE with the SHA-256 of its key, as RFC 7672 3.1 advises."""
    return TLSA(DANE_EE, PUBLIC_KEY, SHA256, hashlib.sha256(certificate.public_key).digest())


def described(record: TLSA) -> str:
    """``3 1 1 0b9fa5a5...``: a record for people, its data shortened."""
    digits = record.data[:8].hex()
    return f"{record.usage} {record.selector} {record.matching} {digits}{'...' if len(record.data) > 8 else ''}"


async def resolver_validates() -> bool | None:
    """Whether the resolver's answers can be secure at all, tested with a query for the root, which is signed.

    Awaits one ``Query``. None means that there was no answer. Without a validating resolver there is no DANE: nothing
    fails, but the operator should get one warning.
    """
    answer = await Query("", RecordType.TXT)
    return None if answer.temporary else answer.secure
