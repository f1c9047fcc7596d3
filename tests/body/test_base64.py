"""Base64 against the standard library, however the octets are cut into blocks."""

from __future__ import annotations

import base64
from itertools import chain, repeat

from hypothesis import example, given
from hypothesis import strategies as st

from zsmtp.body.base64 import Base64Encoder, Base64Wrapper

CUTS = st.lists(st.integers(1, 200), max_size=5)


def run(codec: Base64Encoder | Base64Wrapper, octets: bytes, sizes: list[int]) -> bytes:
    done = []
    at = 0
    for size in chain(sizes, repeat(1_000_000)):
        if at >= len(octets):
            break
        done.append(codec.feed(octets[at : at + size]))
        at += size
    return b"".join(done) + codec.finish()


@given(st.binary(max_size=1000), CUTS)
@example(bytes(57), [])
@example(bytes(57 * 1024 + 1), [57])
@example(bytes(57 * 2048), [])
@example(bytes(57 * 5000 + 56), [200, 1])
def test_encoder(octets: bytes, sizes: list[int]) -> None:
    expected = base64.encodebytes(octets).removesuffix(b"\n").replace(b"\n", b"\r\n")
    assert run(Base64Encoder(), octets, sizes) == expected


@given(
    st.lists(st.sampled_from([b"QUJD", b"\n", b"\xff", b"\0", b" ", b"+/8=" * 300]), max_size=20).map(b"".join), CUTS
)
def test_wrapper_keeps_what_counts(text: bytes, sizes: list[int]) -> None:
    wrapped = run(Base64Wrapper(), text, sizes)
    assert wrapped.replace(b"\r\n", b"") == text.translate(None, b"\n\xff\0 ")
    lines = wrapped.split(b"\r\n")
    assert all(len(line) == 76 for line in lines[:-1])
    assert len(lines[-1]) <= 76
