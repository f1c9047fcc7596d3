"""One rule for internationalised domain names: what is mapped, what has no form, and that nothing else comes out."""

from __future__ import annotations

import re

import pytest
from dns.name import IDNA_2008_Practical
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.idn import mapped, to_ascii


@pytest.mark.parametrize(
    ("name", "ascii_form", "unicode_form"),
    [
        ("Example.ORG", "example.org", "Example.ORG"),
        ("example.org.", "example.org", "example.org."),
        ("bücher.example", "xn--bcher-kva.example", "bücher.example"),
        ("BÜCHER.Example", "xn--bcher-kva.example", "bücher.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example", "bücher.example"),
        ("ｅｘａｍｐｌｅ．ｏｒｇ", "example.org", "example.org"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah", "例え.テスト"),
        ("bücher｡example。", "xn--bcher-kva.example", "bücher.example."),
        ("faß.example", "xn--fa-hia.example", "faß.example"),
        ("_mta.bücher.example", "_mta.xn--bcher-kva.example", "_mta.bücher.example"),
        ("xn--n3h.example", "xn--n3h.example", "xn--n3h.example"),
    ],
)
def test_forms(name: str, ascii_form: str, unicode_form: str) -> None:
    assert to_ascii(name) == ascii_form
    assert mapped(name) == unicode_form


@pytest.mark.parametrize(
    "name",
    [
        "☃.example",  # a symbol, which IDNA 2003 let through
        "a\u200db.example",  # a joiner where it joins nothing
        "x＞.example",  # the mapping would make an ASCII bracket of it
        "a\u00a0b.example",  # and a blank of this
        "ü..example",
        "\u00ad",
        "ü" * 70,
        "\udcff.example",
        "ü." * 5000,
    ],
)
def test_names_without_a_form(name: str) -> None:
    assert to_ascii(name) is None
    assert mapped(name) is None


@settings(deadline=None)
@given(st.text(st.sampled_from("aÜß.。．Ｂ@＠＞\r\n \u00a0\u2028ا1٣-_日"), max_size=12) | st.text(max_size=12))
def test_nothing_that_could_end_a_path_comes_out(name: str) -> None:
    ascii_form, unicode_form = to_ascii(name), mapped(name)
    assert (ascii_form is None) == (unicode_form is None)
    if ascii_form is not None and unicode_form is not None and not name.isascii():
        assert re.fullmatch(r"[a-z0-9_.-]+", ascii_form)
        assert to_ascii(unicode_form) == ascii_form
        assert mapped(unicode_form) == unicode_form
        assert not re.search(r"[\x00-\x20\x7f<>@\"\\]", unicode_form)


@settings(deadline=None)
@given(st.text(st.sampled_from("aÜß.。．Ｂا1٣-日שé☃"), min_size=1, max_size=12))
def test_dnspython_has_the_same_rule(name: str) -> None:
    try:
        theirs = ".".join(IDNA_2008_Practical.encode(label).decode() for label in re.split("[.。．｡]", name) if label)
    except Exception:
        theirs = None
    ours = to_ascii(name)
    assert name.isascii() or ours is None or theirs == ours
