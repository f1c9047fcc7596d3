"""Patterns are compiled ones in every respect that is used here, but for when they are compiled."""

from __future__ import annotations

import re

import pytest

from zsmtp.patterns import pattern


def test_it_matches_as_the_compiled_one() -> None:
    number = pattern(rb"(\d+)-(\d+)")
    match = number.fullmatch(b"x12-34y", 1, 6)
    assert match is not None
    assert match.groups() == (b"12", b"34")
    assert number.match(b"a") is None
    assert number.sub(rb"\2", b"1-2 3-4") == b"2 4"
    assert [m[0] for m in number.finditer(b"1-2 3-4")] == [b"1-2", b"3-4"]
    assert number.pattern == rb"(\d+)-(\d+)"


def test_flags_count() -> None:
    assert pattern("a b", re.VERBOSE | re.IGNORECASE).fullmatch("AB")


def test_it_is_compiled_once_and_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    original = re.compile

    def counting(source: str, flags: int = 0) -> object:
        compiled.append(source)
        return original(source, flags)

    monkeypatch.setattr(re, "compile", counting)
    one = pattern("a+")
    assert not compiled
    assert one.search("caab")
    assert one.search("b") is None
    assert one.fullmatch("aa")
    assert compiled == ["a+"]


def test_what_a_compiled_one_does_not_have_it_has_not_either() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        pattern("a").nonsense  # type: ignore[attr-defined] # noqa: B018
