"""Messages signed: which fields are covered, in which form, and that the sent message is the signed one."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from tests.body.test_corpus import TARGETS, receive
from tests.body.test_lines import CUTS, cut
from tests.signing.messages import BODIES, headers
from tests.signing.samples import MESSAGE, NOW, published, results, signing_key, verified

from zsmtp.body.encode import MessageContent
from zsmtp.body.lines import LineConverter, canonical, canonical_blocks, canonical_header
from zsmtp.body.source import Source
from zsmtp.body.stored import prepare
from zsmtp.body.target import Target
from zsmtp.errors import SubmissionError
from zsmtp.signing.keyring import SigningKey
from zsmtp.signing.sign import MAX_SIGNED, SIGNED_FIELDS, Cover, Signer, read_header, sign
from zsmtp.signing.signature import Algorithm, Signature

RSA, ED25519 = Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256
HEADER, _, BODY = MESSAGE.partition(b"\n\n")
HEADER += b"\n"


def signed(header: bytes = HEADER, *keys: SigningKey, now: float = NOW) -> Signature:
    """The one signature of a message."""
    keys = keys or (signing_key(),)
    (found,) = verified(sign(header, [BODY], keys, now=now) + header + b"\n" + BODY, published(keys), now=now)
    assert (found.result.value, found.reason) == ("pass", "")
    assert found.found.signature is not None
    return found.found.signature


def test_what_a_signature_says() -> None:
    found = signed()
    assert (found.domain, found.selector, found.algorithm) == ("example.org", "ed25519", ED25519)
    assert (found.header_form.value, found.body_form.value) == ("relaxed", "relaxed")
    assert (found.time, found.expires, found.length, found.identity) == (NOW, None, None, "@example.org")
    assert found.body_hash == sha256(b"At one,\r\nby the river?\r\n").digest()


def test_what_a_key_adds() -> None:
    key = signing_key(
        canonicalization="simple/simple", lifetime=3600, identity="ann=@news.example.org", also_sign=("X-Thing", "TO")
    )
    found = signed(HEADER + b"X-Thing: 1\nX-Thing: 2\n", key)
    assert (found.header_form.value, found.body_form.value) == ("simple", "simple")
    assert (found.expires, found.identity) == (NOW + 3600, "ann=@news.example.org")
    assert found.signed.count(b"x-thing") == 3
    assert found.signed.count(b"to") == 2


def test_fields_are_covered_and_closed() -> None:
    more = (
        b"List-Id: a\nList-Unsubscribe: <https://example.org/>\nReceived: x\nReceived: y\nResent-To: a\nResent-To: b\n"
    )
    names = signed(HEADER + more).signed
    assert {name: names.count(name) for name in names} == {
        **dict.fromkeys([b"from", b"to", b"subject", b"date", b"message-id", b"mime-version", b"content-type"], 2),
        **dict.fromkeys([b"list-unsubscribe", b"resent-to"], 2),  # closed; twice there
        **dict.fromkeys([b"cc", b"reply-to", b"list-id"], 1),  # must not be added; not closed
    }


def test_the_fields_that_the_standards_name() -> None:
    asked = (
        "From Sender Reply-To To Cc Subject Date Message-ID In-Reply-To References MIME-Version Content-Type "
        "Content-Transfer-Encoding List-Unsubscribe List-Unsubscribe-Post List-Id"
    )
    assert {name.lower().encode() for name in asked.split()} <= set(SIGNED_FIELDS)
    assert SIGNED_FIELDS[b"from"] is Cover.ALWAYS
    assert not {b"received", b"return-path", b"bcc", b"dkim-signature"} & set(SIGNED_FIELDS)


def test_two_keys_two_signatures() -> None:
    keys = signing_key(RSA), signing_key(ED25519, canonicalization="simple/relaxed")
    fields = sign(HEADER, [BODY], keys, now=NOW)
    assert fields.count(b"DKIM-Signature:") == 2
    message = fields + MESSAGE
    assert results(message, published(keys)) == ["pass", "pass"]
    assert results(message, published(keys[:1])) == ["pass", "permerror"]


def test_a_second_round_leaves_the_first_alone() -> None:
    first, second = signing_key(ED25519), signing_key(RSA)
    once = sign(HEADER, [BODY], [first], now=NOW) + HEADER
    twice = sign(once, [BODY], [second], now=NOW) + once
    assert twice.endswith(once)
    assert results(twice + b"\n" + BODY, published([first, second])) == ["pass", "pass"]


def test_no_key_no_field() -> None:
    assert sign(HEADER, [BODY], [], now=NOW) == b""
    assert sign(b"Subject: no From\n", [BODY], [], now=NOW) == b""


def test_a_message_without_from_cannot_be_signed() -> None:
    for header in (b"Subject: x\n", b"From\n : ann@example.org\n", b""):
        with pytest.raises(SubmissionError, match="without From"):
            sign(header, [BODY], [signing_key()], now=NOW)


def test_more_fields_than_can_be_signed() -> None:
    most = HEADER + b"Resent-To: a\n" * (MAX_SIGNED - 16)
    assert len(signed(most).signed) == MAX_SIGNED
    with pytest.raises(SubmissionError, match="501 fields would have to be signed; 500 are the limit"):
        sign(most + b"Resent-To: a\n", [BODY], [signing_key()], now=NOW)


def test_a_key_remembers_the_beginnings_of_so_many_signatures_only() -> None:
    key = signing_key(also_sign=("X-Thing",))
    for count in range(300):
        header = HEADER + b"X-Thing: 1\n" * count
        assert sign(header, [BODY], [key], now=NOW) == sign(header, [BODY], [key], now=NOW)
    assert len(key._fronts) <= 256


@given(headers(), BODIES, CUTS)
def test_any_cut_and_any_line_ends_give_the_same_signature(header: bytes, body: bytes, places: list[int]) -> None:
    keys = [signing_key(), signing_key(RSA, canonicalization="simple/simple")]
    whole = sign(header, [body], keys, now=NOW)
    assert sign(header, cut(body, places), keys, now=NOW) == whole
    wire = canonical_header(header)[0]
    assert sign(wire, [canonical(body)[0]], keys, now=NOW) == whole.replace(b"\n", b"\r\n")
    signer = Signer(read_header(header), keys, now=NOW)
    for block in canonical_blocks(cut(body, places), LineConverter()):
        signer.feed(block)
    assert signer.finish() == whole


# ------------------------------------------------------------- internationalised


def test_names_are_u_labels_where_the_message_is_internationalised() -> None:
    key = signing_key(domain="bücher.example", selector="größe", identity="ä@bücher.example")
    for subject, d, s, i in (
        ("Lunch", "xn--bcher-kva.example", "xn--gre-6ka8i", "=C3=A4@xn--bcher-kva.example"),
        ("Mittag ä", "bücher.example", "größe", "ä@bücher.example"),
        ("Mittag \udce4", "xn--bcher-kva.example", "xn--gre-6ka8i", "=C3=A4@xn--bcher-kva.example"),
    ):
        header = f"From: ann@bücher.example\nSubject: {subject}\n".encode("utf-8", "surrogateescape")
        if subject == "Lunch":
            header = header.replace("bücher".encode(), b"xn--bcher-kva")
        elif "\udce4" in subject:
            header = b"From: ann@xn--bcher-kva.example\nSubject: \xe4\n"
        field = sign(header, [BODY], [key], now=NOW).decode()
        assert f" d={d};" in field
        assert f" s={s};" in field
        assert f" i={i};" in field
        found = signed(header, key)
        assert found.key_name == "xn--gre-6ka8i._domainkey.xn--bcher-kva.example"
        assert (found.identity.partition("@")[0], found.strict_identity) == ("ä", True)


def test_a_name_that_has_no_u_label_stays() -> None:
    key = signing_key(domain="xn--zzzzzz.example")
    assert b" d=xn--zzzzzz.example;" in sign("From: ä\n".encode(), [BODY], [key], now=NOW)


# ------------------------------------------------------------- the final form


@given(headers(), BODIES)
def test_what_is_signed_is_what_leaves(header: bytes, body: bytes) -> None:
    keys = [signing_key(RSA, canonicalization="simple/simple"), signing_key()]
    fields = sign(header, [body], keys, now=NOW)
    stored = prepare(fields + header, Source.from_bytes(body))
    for target in (Target(), Target(eight_bit_mime=True, smtputf8=True, binary_mime=True), Target(seven_bit=True)):
        content = stored.content(target)
        assert isinstance(content, MessageContent)
        sent = b"".join(content.chunk_blocks())
        assert results(sent, published(keys)) == ["pass", "pass"]
        if content.body_parameter != b"BINARYMIME":
            assert receive(b"".join(content.data_blocks())) == sent


def test_no_form_of_a_signed_message_breaks_it() -> None:
    header = "From: ann@example.org\nSubject: ä\nContent-Type: text/plain; charset=utf-8\n".encode()
    header += b"Content-Transfer-Encoding: 8bit\n"
    body = "Käse \n.\n\n\n".encode() + b"x" * 1000
    keys = [signing_key(canonicalization="simple/simple")]
    stored = prepare(sign(header, [body], keys, now=NOW) + header, Source.from_bytes(body))
    for target in TARGETS:
        content = stored.content(target)
        assert isinstance(content, MessageContent)
        assert results(b"".join(content.chunk_blocks()), published(keys)) == ["pass"]


def test_a_large_message_is_signed_in_small_memory() -> None:
    import tracemalloc

    block = b"0123456789 abcdef\r\n" * 10_000
    signer = Signer(read_header(HEADER), [signing_key(), signing_key(RSA, canonicalization="simple/simple")], now=NOW)
    tracemalloc.start()
    for _ in range(100):
        signer.feed(block)
    assert signer.finish().count(b"DKIM-Signature") == 2
    assert tracemalloc.get_traced_memory()[1] < 5 * len(block)
    tracemalloc.stop()


def test_the_body_hash_is_that_of_the_whole_body() -> None:
    field = sign(HEADER, [b"x" * 300_000, b"\n\n"], [signing_key()], now=NOW)
    assert b"bh=" + b64encode(sha256(b"x" * 300_000 + b"\r\n").digest()) + b";" in field
