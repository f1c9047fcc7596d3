"""What is signed here, verified by dkimpy; what dkimpy signs, verified here; and what both say of changed messages."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import dkim
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.signing.messages import BODIES, headers
from tests.signing.samples import MESSAGE, NOW, private_key, published, results, signing_key

from zsmtp.body.lines import canonical, canonical_header
from zsmtp.idn import to_ascii
from zsmtp.signing.keyring import SigningKey
from zsmtp.signing.sign import sign
from zsmtp.signing.signature import Algorithm

RSA, ED25519 = Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256
FORMS = ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"]


def sent(header: bytes, body: bytes, keys: list[SigningKey]) -> bytes:
    """A message as it leaves, signed."""
    fields = sign(header, [body], keys, now=NOW).replace(b"\n", b"\r\n")
    return fields + canonical_header(header)[0] + b"\r\n" + canonical(body)[0]


def by_dkimpy(message: bytes, records: Mapping[str, str], count: int) -> list[bool | None]:
    """Whether dkimpy believes each signature; None where the message is none to it."""

    def look_up(name: bytes, timeout: int = 5) -> str | None:
        labels = name.decode("utf-8", "replace").removesuffix(".").split(".")
        return records.get(".".join(to_ascii(label) or "" for label in labels))

    found: list[bool | None] = []
    for number in range(count):
        try:
            found.append(bool(dkim.DKIM(message).verify(number, dnsfunc=look_up)))
        except dkim.MessageFormatError:
            found.append(None)
        except dkim.DKIMException:
            found.append(False)
        except (IndexError, ValueError):  # of its own and its libraries' making, for what is malformed
            found.append(None)
    return found


@pytest.fixture(autouse=True, scope="module")
def _dkimpy_has_our_clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dkim, "time", SimpleNamespace(time=lambda: NOW))
        yield


KEYS = st.builds(
    lambda kinds, forms, lifetime: [
        signing_key(kind, canonicalization=form, lifetime=lifetime) for kind, form in zip(kinds, forms, strict=True)
    ],
    st.permutations([RSA, ED25519]),
    st.tuples(st.sampled_from(FORMS), st.sampled_from(FORMS)),
    st.none() | st.just(3600),
)


@given(headers(), BODIES, KEYS)
def test_any_message_signed_here_is_believed_by_both(header: bytes, body: bytes, keys: list[SigningKey]) -> None:
    message = sent(header, body, keys)
    records = published(keys)
    assert results(message, records) == ["pass", "pass"]
    assert by_dkimpy(message, records, 2) == [True, True]


def test_internationalised_names_are_understood_by_both() -> None:
    key = signing_key(domain="bücher.example", selector="größe", identity="ä@bücher.example")
    for sender in ("ann@bücher.example", "ann@xn--bcher-kva.example"):
        message = sent(f"From: {sender}\nSubject: x\n".encode(), b"Hi.\n", [key])
        assert results(message, published([key])) == ["pass"]
        assert by_dkimpy(message, published([key]), 1) == [True]


@given(headers(), BODIES, st.sampled_from(FORMS), st.sampled_from(Algorithm))
def test_what_dkimpy_signs_is_believed_here(header: bytes, body: bytes, forms: str, algorithm: Algorithm) -> None:
    message = canonical_header(header)[0] + b"\r\n" + canonical(body)[0]
    secret = private_key(algorithm).pem()
    if algorithm is ED25519:  # dkimpy wants the seed alone
        secret = b64encode(b64decode(b"".join(secret.splitlines()[1:-1]))[-32:])
    field = dkim.DKIM(message).sign(
        algorithm.key_type.encode(),
        b"example.org",
        secret,
        signature_algorithm=algorithm.value.encode(),
        canonicalize=tuple(form.encode() for form in forms.split("/")),
    )
    records = published([signing_key(algorithm)])
    assert results(field + message, records) == ["pass"]


# ------------------------------------------------------------------------ changes

SIGNED = sent(*MESSAGE.split(b"\n\n", 1), [signing_key(RSA), signing_key(ED25519)])
RECORDS = published([signing_key(RSA), signing_key(ED25519)])
_START = SIGNED.index(b"From:")
_VISIBLE = bytes(range(0x21, 0x7F))


def verdicts(message: bytes) -> tuple[list[str], list[bool | None]]:
    ours = results(message, RECORDS)
    return ours, by_dkimpy(message, RECORDS, len(ours))


def test_unchanged_it_passes() -> None:
    assert verdicts(SIGNED) == (["pass", "pass"], [True, True])


@given(st.integers(_START, len(SIGNED) - 1), st.sampled_from(_VISIBLE))
def test_a_visible_octet_changed_is_noticed_by_both(place: int, octet: int) -> None:
    assume(SIGNED[place] in _VISIBLE and SIGNED[place] | 0x20 != octet | 0x20)  # names are equal in any case
    ours, theirs = verdicts(SIGNED[:place] + bytes([octet]) + SIGNED[place + 1 :])
    assert "pass" not in ours
    assert True not in theirs


@given(st.integers(_START, len(SIGNED) - 1), st.integers(1, 40))
def test_a_visible_octet_removed_is_noticed_by_both(place: int, size: int) -> None:
    assume(set(SIGNED[place : place + size]) & set(_VISIBLE))
    ours, theirs = verdicts(SIGNED[:place] + SIGNED[place + size :])
    assert "pass" not in ours
    assert True not in theirs


@given(st.integers(_START, len(SIGNED)), st.sampled_from(_VISIBLE))
def test_a_visible_octet_added_is_noticed_by_both(place: int, octet: int) -> None:
    ours, theirs = verdicts(SIGNED[:place] + bytes([octet]) + SIGNED[place:])
    assert "pass" not in ours
    assert True not in theirs


@pytest.mark.parametrize(
    "name", ["From", "To", "Cc", "Subject", "Reply-To", "Date", "Message-ID", "Content-Type", "MIME-Version"]
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_field_added_is_noticed_by_both(name: str, place: str) -> None:
    field = f"{name}: eve@example.com\r\n".encode()
    head, body = SIGNED.split(b"\r\n\r\n", 1)
    message = field + SIGNED if place == "first" else head + b"\r\n" + field + b"\r\n" + body
    ours, theirs = verdicts(message)
    assert "pass" not in ours
    assert True not in theirs


TAGS = SIGNED[:_START]


@given(st.integers(0, _START - 1), st.sampled_from(_VISIBLE))
def test_a_changed_signature_is_noticed_by_both(place: int, octet: int) -> None:
    """It may lose its name, and then the other one is left."""
    assume(SIGNED[place] in _VISIBLE and SIGNED[place] | 0x20 != octet | 0x20)
    line_end = TAGS.find(b"\r\n", place)
    assume(not TAGS[place:line_end].endswith(b"==") or line_end - place > 3)  # bits of base64 that mean nothing
    ours, theirs = verdicts(SIGNED[:place] + bytes([octet]) + SIGNED[place + 1 :])
    assert ours.count("pass") <= 1
    assert theirs.count(True) <= 1


@given(st.lists(st.tuples(st.integers(0, len(SIGNED) - 1), st.sampled_from(b" \tx:;=\n")), min_size=1, max_size=2))
def test_both_say_the_same(changes: list[tuple[int, int]]) -> None:
    """The last line end stays: to dkimpy blanks are not at the end of a line that has none."""
    octets = bytearray(SIGNED.replace(b"\r\n", b"\n"))
    for place, octet in changes:
        octets[place % (len(octets) - 1)] = octet
    ours, theirs = verdicts(bytes(octets).replace(b"\n", b"\r\n"))
    if None not in theirs:
        assert [one == "pass" for one in ours] == theirs
