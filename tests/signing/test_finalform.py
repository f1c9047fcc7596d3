"""A signed message is in a form that no server makes another one of; both verifiers believe it as it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import dkim
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.signing.messages import BODIES, headers
from tests.signing.samples import NOW, published, results, signing_key
from tests.signing.test_dkimpy import by_dkimpy

from zsmtp.body.source import Source
from zsmtp.body.stored import Stored, prepare
from zsmtp.body.target import ContentRefusal, NonMime8Bit, Signed8Bit, Target
from zsmtp.errors import SubmissionError
from zsmtp.signing.finalform import MessageSigning, SignedMessage
from zsmtp.signing.keyring import Keyring
from zsmtp.signing.signature import Algorithm

KEYS = [signing_key(Algorithm.RSA_SHA256), signing_key(Algorithm.ED25519_SHA256, canonicalization="simple/simple")]
RECORDS = published(KEYS)

SERVERS = [
    Target(eight_bit_mime=eight, binary_mime=binary, smtputf8=utf8, internationalised=international)
    for eight in (False, True)
    for binary in (False, True)
    for utf8 in (False, True)
    for international in (False, utf8)
]
"""What sessions may find, for one configuration."""

_MIME = st.sampled_from(
    [
        "",
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n",
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n",
        "MIME-Version: 1.0\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: binary\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n",
        "MIME-Version: 1.0\nContent-Type: multipart/signed; boundary=b; protocol=x\n",
    ]
)
_PARTS = b"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n%b\r\n--b--\r\n"
HEADERS = headers() | st.tuples(
    st.sampled_from(["From: Ann <ann@example.org>\n", "From: Ännchen <ann@example.org>\nTo: ö@bücher.example\n"]), _MIME
).map(lambda parts: "".join(parts).encode())
TEXTS = BODIES | BODIES.map(lambda body: _PARTS % body) | st.text("aäß \r\n.=", max_size=200).map(str.encode)


@pytest.fixture(autouse=True, scope="module")
def _dkimpy_has_our_clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dkim, "time", SimpleNamespace(time=lambda: NOW))
        yield


def signing(**wanted: object) -> MessageSigning:
    return MessageSigning(Keyring(KEYS), Target(**wanted), lambda: NOW)  # type: ignore[arg-type]


def signed(by: MessageSigning, header: bytes, body: bytes) -> tuple[SignedMessage, Stored]:
    """What is made of a message, and that as it is stored for delivery."""
    choice = by.choose(header)
    assert [key.algorithm for key in choice.keys] == [key.algorithm for key in KEYS]
    source = Source.from_bytes(body)
    done = choice.sign(header, source)
    if done.body is not None:
        octets = b"".join(done.body())
        assert len(octets) == done.body_size
        source = Source.from_bytes(octets)
    stored = prepare(done.header, source)
    if done.seen is not None:
        assert done.body is None
        assert Stored(done.seen, source).facts == stored.facts
        stored = Stored(done.seen, source)
    return done, stored


def arrived(octets: bytes) -> bytes:
    """What a server makes of the octets behind DATA (RFC 5321 4.5.2)."""
    assert octets.endswith(b"\r\n.\r\n") or octets == b".\r\n"
    lines = octets[: -len(b".\r\n")].split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


@given(HEADERS, TEXTS, st.sampled_from(list(NonMime8Bit)), st.sampled_from(list(Signed8Bit)), st.booleans())
@example(b"From: ann@example.org\n", "Grüße\r\n.\r\n".encode(), NonMime8Bit.STRIP, Signed8Bit.AS_IS, False)
@example(
    "From: Ä <ann@example.org>\nTo: ö@bücher.example\n".encode(), b"\xe4", NonMime8Bit.CONVERT, Signed8Bit.CONVERT, True
)
def test_whatever_a_server_offers_the_signature_holds(
    header: bytes, body: bytes, nonmime: NonMime8Bit, sealed: Signed8Bit, seven_bit: bool
) -> None:
    wanted = Target(nonmime_8bit=nonmime, signed_8bit=sealed, seven_bit=seven_bit)
    by = MessageSigning(Keyring(KEYS), wanted, lambda: NOW)
    done, stored = signed(by, header, body)
    if done.remarks[0].startswith("not signed"):
        assert not done.header.startswith(b"DKIM-Signature")
        assert all(isinstance(stored.content(one), ContentRefusal) for one in of(wanted))
        return
    forms = set()
    for server in of(wanted):
        content = stored.content(server)
        if isinstance(content, ContentRefusal):
            continue
        by_chunks = b"".join(content.chunk_blocks())
        forms.add(by_chunks)
        if content.body_parameter != b"BINARYMIME":
            assert arrived(b"".join(content.data_blocks())).removesuffix(b"\r\n") == by_chunks.removesuffix(b"\r\n")
    assert len(forms) <= 1
    for form in forms:
        assert results(form, RECORDS) == ["pass", "pass"]
        assert by_dkimpy(form, RECORDS, 2) == [True, True]


def of(wanted: Target) -> list[Target]:
    """The targets that servers make of what is wanted."""
    from zsmtp.records import replace

    return [
        replace(
            wanted,
            eight_bit_mime=one.eight_bit_mime,
            binary_mime=one.binary_mime,
            smtputf8=one.smtputf8,
            internationalised=one.internationalised,
        )
        for one in SERVERS
    ]


@pytest.mark.parametrize(
    ("header", "body", "changed"),
    [
        (b"From: ann@example.org\n", b"Hi.\n", False),
        (b"From: ann@example.org\n", "Grüße\n".encode(), True),
        ("From: Ännchen <ann@example.org>\n".encode(), b"Hi.\n", False),
        (b"From: ann@example.org\nContent-Type: text/plain\nMIME-Version: 1.0\n", b"x" * 2000 + b"\n", True),
    ],
)
def test_what_every_server_takes_is_left_alone(header: bytes, body: bytes, changed: bool) -> None:
    done, stored = signed(signing(), header, body)
    assert (done.body is not None) == changed
    assert not stored.facts.eight_bit
    assert not stored.facts.long_lines
    assert any("encoded anew" in text for text in done.remarks) == changed


def test_a_large_body_passes_by_in_blocks() -> None:
    line = "Grüße aus der Ferne, .. und mehr\r\n".encode()
    done, stored = signed(signing(), b"From: ann@example.org\nContent-Type: text/plain\n", line * 60_000)
    assert done.body is not None
    blocks = list(done.body())
    assert len(blocks) > 1
    assert max(map(len, blocks)) < 2 << 20
    content = stored.content(Target())
    assert not isinstance(content, ContentRefusal)
    message = b"".join(content.chunk_blocks())
    assert results(message, RECORDS) == ["pass", "pass"]


def test_what_is_not_to_be_signed() -> None:
    by = signing()
    assert by.choose(b"From: a@elsewhere.example\n").reason == "there is no key for elsewhere.example"
    assert by.choose(b"From: a@example.org\nDKIM-Signature: v=1\n").reason == "the message is signed already"
    assert (
        by.choose(b"From: a@example.org\n", granted={"x.example"}).reason == "the sender may not sign for example.org"
    )
    many = b"From: ann@example.org\n" + b"List-Id: x\n" * 491
    choice = by.choose(many)
    done = choice.sign(many + b"Date: now\nMessage-ID: <1@example.org>\n", Source.from_bytes(b"x"))
    assert done.remarks == ("not signed: 501 fields would have to be signed; 500 are the limit",)
    with pytest.raises(SubmissionError, match="fields would have to be signed"):
        by.choose(b"From: a@example.org\n" + b"Subject: x\n" * 600)
