"""Signatures verified: the vectors of the standards, each reason, and what hostile messages cannot do."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import example, given
from hypothesis import strategies as st
from tests.body.test_lines import CUTS, cut
from tests.signing import vectors
from tests.signing.samples import MESSAGE, NOW, private_key, published, results, signing_key, verified

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.errors import ContentError
from zsmtp.signing.canonical import Canonicalization, HeaderFields
from zsmtp.signing.keys import PrivateKey
from zsmtp.signing.sign import sign
from zsmtp.signing.signature import Algorithm
from zsmtp.signing.verify import (
    CLOCK_SKEW,
    MAX_HEADER,
    MAX_SIGNATURES,
    _covered,
    key_names,
    read_message,
    signatures_in,
    verify,
)

RSA, ED25519 = Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256
HEADER, _, BODY = MESSAGE.partition(b"\n\n")
HEADER += b"\n"

EXAMPLE = {"brisbane._domainkey.example.com": vectors.BRISBANE_RSA}
FOOTBALL = {
    "brisbane._domainkey.football.example.com": vectors.FOOTBALL_ED25519,
    "test._domainkey.football.example.com": vectors.FOOTBALL_RSA,
}


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_the_messages_of_the_standards(ends: bytes) -> None:
    assert results(vectors.RFC_6376_MESSAGE.replace(b"\n", ends), EXAMPLE) == ["pass"]
    assert results(vectors.RFC_8463_MESSAGE.replace(b"\n", ends), FOOTBALL) == ["pass", "pass"]


def test_the_keys_of_the_standard_make_its_signatures() -> None:
    rsa_key = load_pem_private_key(vectors.RSA_PEM, None)
    assert isinstance(rsa_key, rsa.RSAPrivateKey)
    ed25519_key = Ed25519PrivateKey.from_private_bytes(b64decode(vectors.ED25519_SEED))
    fields, _ = read_message([vectors.RFC_8463_MESSAGE])
    for private, one in zip((PrivateKey(ed25519_key), PrivateKey(rsa_key)), signatures_in(fields), strict=True):
        assert one.signature is not None
        assert private.algorithm is one.signature.algorithm
        assert private.sign(_covered(fields, one, one.signature)) == one.signature.octets


# ------------------------------------------------------------------------ reasons


def signed(*, algorithm: Algorithm = ED25519, header: bytes = HEADER, body: bytes = BODY, **config: object) -> bytes:
    return sign(header, [body], [signing_key(algorithm, **config)], now=NOW) + header + b"\n" + body


RECORDS = published([signing_key(RSA), signing_key(ED25519)])


def said(message: bytes, records: dict[str, str] = RECORDS, *, now: float = NOW) -> str:
    (one,) = verified(message, records, now=now)
    return f"{one.result.value}: {one.reason}" if one.reason else one.result.value


def test_what_is_good() -> None:
    (one,) = verified(signed(algorithm=RSA), RECORDS)
    assert (one.result.value, one.reason, one.bits, one.testing) == ("pass", "", 2048, False)
    (one,) = verified(signed(), {"ed25519._domainkey.example.org": RECORDS["ed25519._domainkey.example.org"] + "; t=y"})
    assert (one.result.value, one.bits, one.testing) == ("pass", 256, True)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"river", b"River", "fail: the body hash does not match bh=: the body was changed"),
        (b"Subject: Lunch", b"Subject: lunch", "fail: the signature does not match"),
        (b"Subject: Lunch\n", b"", "fail: the signature does not match"),
        (b"From: ", b"From: Eve <eve@example.com>\nFrom: ", "fail: the signature does not match"),
        (b"To: ", b"Cc: eve@example.com\nTo: ", "fail: the signature does not match"),
        (b" t=1", b" t=0", "fail: the signature does not match"),
        (b"d=example.org", b"d=example.net", "permerror: no key at ed25519._domainkey.example.net: no such domain"),
        (b"DKIM-Signature: v=1", b"DKIM-Signature: v=9", "permerror: version 9 is not known"),
        (
            b"a=ed25519-sha256",
            b"a=rsa-sha256",
            "permerror: the key at .* is of the type ed25519, and the signature is rsa",
        ),
        (b"the  river", b"the \t river", "pass"),
        (b"river?\n", b"river?  \n\n\n", "pass"),
        (b"Subject: Lunch", b"SUBJECT :\t Lunch ", "pass"),
        (b"From: Ann", b"Received: by x\nX-More: 1\nFrom: Ann", "pass"),
    ],
)
def test_what_was_changed(old: bytes, new: bytes, expected: str) -> None:
    assert re.match(expected, said(signed().replace(old, new, 1)))


def record(**tags: str) -> dict[str, str]:
    """Another record for the key of Ed25519."""
    known = dict(part.split("=", 1) for part in RECORDS["ed25519._domainkey.example.org"].split("; ")) | tags
    return {"ed25519._domainkey.example.org": "; ".join(f"{name}={value}" for name, value in known.items())}


def test_what_records_forbid() -> None:
    where = "the key at ed25519._domainkey.example.org"
    assert said(signed(), record(p="")) == f"permerror: {where} was revoked"
    assert said(signed(), record(p="AAAA")) == f"permerror: {where} cannot be used: p= is not a valid ed25519 key"
    assert said(signed(), record(s="tlsrpt")).startswith(
        "permerror: the record at ed25519._domainkey.example.org is no key"
    )
    assert said(signed(identity="@news.example.org"), record(t="s")).startswith(
        f"permerror: {where} is not for domains below"
    )
    assert said(signed(identity="@news.example.org"), record(t="y")) == "pass"
    assert said(signed(identity="ann@example.org"), record(t="s")) == "pass"
    assert said(signed(), {}) == "permerror: no key at ed25519._domainkey.example.org: no such domain"


def public(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | dsa.DSAPublicKey, form: PublicFormat) -> str:
    return "p=" + b64encode(key.public_bytes(Encoding.DER, form)).decode()


def test_keys_that_are_not_believed() -> None:
    def reason(text: str) -> str:
        return said(signed(algorithm=RSA), {"rsa._domainkey.example.org": text}).rpartition(": ")[2]

    spki, pkcs1 = PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1
    short = rsa.RSAPublicNumbers(65537, (1 << 1022) + 1).public_key()
    assert reason(public(short, spki)) == "an RSA key of 1023 bits; 1024 to 8192 are accepted (RFC 8301 3.2)"
    long = rsa.RSAPublicNumbers(65537, (1 << 8192) + 1).public_key()
    assert reason(public(long, spki)) == "an RSA key of 8193 bits; 1024 to 8192 are accepted (RFC 8301 3.2)"
    assert reason(public(ec.generate_private_key(ec.SECP256R1()).public_key(), spki)) == "p= is not a valid rsa key"
    assert reason("p=" + b64encode(b"garbage").decode()) == "p= is not a valid rsa key"
    signer = load_pem_private_key(private_key(RSA).pem(), None)
    assert isinstance(signer, rsa.RSAPrivateKey)
    assert said(signed(algorithm=RSA), {"rsa._domainkey.example.org": public(signer.public_key(), pkcs1)}) == "pass"
    other = rsa.generate_private_key(65537, 2048).public_key()
    assert said(signed(algorithm=RSA), {"rsa._domainkey.example.org": public(other, spki)}).startswith(
        "fail: the signature does not match"
    )


def test_times() -> None:
    short = signed(lifetime=60)
    assert said(short, now=NOW + 60) == "pass"
    assert said(short, now=NOW + 61) == "policy: the signature has expired (x=)"
    assert said(short, now=NOW - CLOCK_SKEW) == "pass"
    assert said(short, now=NOW - CLOCK_SKEW - 1) == "policy: t= is in the future"


def by_hand(tags: str, covered: bytes, body: bytes = b"At one,\r\nby the river?\r\n") -> bytes:
    """A message with a signature that this program would not make: more tags, fewer fields, less of the body."""
    field = b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.org; s=ed25519; " + tags.encode()
    field += b"; bh=" + b64encode(sha256(body).digest()) + b"; b="
    octets = private_key(ED25519).sign(covered + b"dkim-signature:" + field.partition(b": ")[2])
    return field + b64encode(octets) + b"\n" + MESSAGE


FROM = b"from:Ann <ann@example.org>\r\n"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "policy: only 0 of 24 octets of the body are signed (l=)"),
        (8, "policy: only 8 of 24 octets of the body are signed (l=)"),
        (24, "pass"),
        (25, "permerror: l= is 25 octets, and the body has 24"),
    ],
)
def test_signatures_over_the_beginning_of_a_body(size: int, expected: str) -> None:
    message = by_hand(f"h=from; l={size}", FROM, b"At one,\r\nby the river?\r\n"[:size])
    assert said(message) == expected
    if size == 24:
        assert said(message + b"More.\n").startswith("policy: only 24 of 31 octets of the body are signed (l=)")


def test_a_second_from_that_is_not_covered() -> None:
    message = by_hand("h=from", FROM)
    assert said(message) == "pass"
    assert said(b"From: Eve <eve@example.com>\n" + message) == "policy: 2 From fields, 1 of them signed (RFC 6376 8.15)"


def test_a_signature_over_other_signatures() -> None:
    """Its own field is none of those that h= names (3.5)."""
    first = sign(HEADER, [BODY], [signing_key(RSA)], now=NOW)
    (covered,) = HeaderFields(first).form(Canonicalization.RELAXED)[b"dkim-signature"]
    field = by_hand("h=from:dkim-signature:dkim-signature", FROM + covered).removesuffix(MESSAGE)
    for message in (field + first + MESSAGE, first + field + MESSAGE):
        assert results(message, RECORDS) == ["pass", "pass"]
        assert results(message.replace(b" t=17", b" t=16"), RECORDS) == ["fail", "fail"]


def test_lookups_that_fail_now() -> None:
    fields, body = read_message([signed()])
    found = signatures_in(fields)
    (name,) = key_names(found)
    known = {name: Answer(Query(name, RecordType.TXT), Status.TIMEOUT, problem="silence")}
    (one,) = verify(fields, found, body, known, now=NOW)
    assert (one.result.value, one.reason) == ("temperror", f"the key at {name} cannot be looked up now: silence")
    fields, body = read_message([signed()])
    (one,) = verify(fields, found, body, {}, now=NOW)
    assert (one.result.value, one.reason) == ("temperror", f"the key at {name} was not looked up")


# ----------------------------------------------------------------------- messages


@given(CUTS)
def test_a_message_in_any_blocks(places: list[int]) -> None:
    for message in (signed(), signed().replace(b"\n", b"\r\n")):
        assert results(cut(message, places), RECORDS) == ["pass"]


@pytest.mark.parametrize(
    ("message", "header", "body"),
    [
        (b"", [], b""),
        (b"\n", [], b""),
        (b"\r\nbody", [], b"body\r\n"),
        (b"A: b", [b"a"], b""),
        (b"A: b\n", [b"a"], b""),
        (b"A: b\r\n\r\n\r\nbody\r\n", [b"a"], b"\r\nbody\r\n"),
        (b"A: b\n\nB: c\n", [b"a"], b"B: c\r\n"),
        (b"A: b\n\r\nbody\r", [b"a"], b"body\r\r\n"),
        (b"From x Sat Jan  1\nA: b\n\n", [b"a"], b""),
    ],
)
def test_header_and_body_apart(message: bytes, header: list[bytes], body: bytes) -> None:
    for places in ([], list(range(len(message)))):
        fields, rest = read_message(cut(message, places))
        assert list(fields.form(Canonicalization.SIMPLE)) == header
        assert b"".join(rest) == body


def test_a_header_without_end_is_refused() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65_536

    with pytest.raises(ContentError, match=f"a header block of more than {MAX_HEADER} octets"):
        read_message(endless())
    with pytest.raises(ContentError):
        read_message([b"A: " + b"x" * MAX_HEADER + b"\n\n"])
    read_message([b"A: " + b"x" * (MAX_HEADER - 4) + b"\n\n", b"y" * MAX_HEADER])


def test_only_so_many_signatures_are_looked_at() -> None:
    message = b"".join(sign(HEADER, [BODY], [signing_key()], now=NOW) for _ in range(MAX_SIGNATURES + 2)) + MESSAGE
    found = verified(message, RECORDS)
    assert [one.result.value for one in found] == ["pass"] * MAX_SIGNATURES + ["permerror"] * 2
    assert found[-1].reason == "more than 20 signatures"
    assert len(key_names(one.found for one in found)) == 1


# ------------------------------------------------------------------------ hostile

FIELD = sign(HEADER, [BODY], [signing_key()], now=NOW).partition(b":")[2]


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), max_size=6))
def test_hostile_fields_never_raise(changes: list[tuple[int, bytes]]) -> None:
    field = bytearray(FIELD)
    for place, octets in changes:
        field[place : place + len(octets)] = octets
    message = b"DKIM-Signature:" + bytes(field).rstrip(b"\n") + b"\n" + MESSAGE
    for one in verified(message, RECORDS):
        assert one.reason.isprintable()


KEY_OCTETS = [b64decode(text.rpartition("p=")[2]) for text in (*RECORDS.values(), vectors.FOOTBALL_RSA)]


@given(
    st.sampled_from(KEY_OCTETS),
    st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=4)), max_size=5),
    st.sampled_from(Algorithm),
)
@example(KEY_OCTETS[0], [(20, b"\xff\xff\xff\xff")], RSA)
@example(b"", [], RSA)
def test_hostile_keys_never_raise(octets: bytes, changes: list[tuple[int, bytes]], algorithm: Algorithm) -> None:
    key = bytearray(octets)
    for place, piece in changes:
        key[place : place + len(piece)] = piece
    name = f"{algorithm.key_type}._domainkey.example.org"
    text = f"v=DKIM1; k={algorithm.key_type}; p={b64encode(key).decode()}"
    (one,) = verified(signed(algorithm=algorithm), {name: text})
    assert one.result.value in ("pass", "fail", "permerror")
    assert (one.result.value == "pass") == (bytes(key) == private_key(algorithm).public_key)


@given(st.binary(max_size=300))
def test_hostile_records_never_raise(octets: bytes) -> None:
    message = signed()
    fields, body = read_message([message])
    found = signatures_in(fields)
    (name,) = key_names(found)
    known = {name: Answer(Query(name, RecordType.TXT), Status.OK, ((octets,),))}
    (one,) = verify(fields, found, body, known, now=NOW)
    assert one.result.value == "permerror"
    assert one.reason.isprintable()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "field",
    [
        b" " + b"a=1;" * 4000,
        b" v=1;" + b"\n " * 200_000,
        FIELD.replace(b"h=from", b"h=" + b"to:" * 5000 + b"from"),
        FIELD.replace(b"bh=", b"i=" + "ä".encode() * 3000 + b"@example.org; bh="),
        FIELD.replace(b"d=example.org", b"d=" + "ä".encode() * 400 + b".org"),
    ],
    ids=lambda field: repr(field[:12]),
)
def test_hostile_fields_cost_no_more_than_others(field: bytes) -> None:
    message = (b"DKIM-Signature:" + field.rstrip(b"\n") + b"\n") * (
        MAX_SIGNATURES if len(field) < 50_000 else 2
    ) + MESSAGE
    assert set(results(message, RECORDS)) <= {"permerror", "fail"}
