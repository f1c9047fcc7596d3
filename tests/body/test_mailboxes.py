"""The addresses of a field, in all forms that mail has them, and where a list cannot be read."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.body.mailboxes import Unreadable, read_any, read_mailboxes, read_plain

MUTATIONS = int(os.environ.get("ZSMTP_MUTATIONS", "20000"))


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("", []),
        (" ,, ", []),
        ("(nobody)", []),
        ("b@x.example", ["b@x.example"]),
        ("b@x.example, c@x.example,", ["b@x.example", "c@x.example"]),
        ("b@x.example,\n\tc@x.example", ["b@x.example", "c@x.example"]),
        ("Bob <b@x.example>,C.<c@x.example>", ["b@x.example", "c@x.example"]),
        ('"Bob, the first; (of <all>)" <b@x.example>', ["b@x.example"]),
        ('"a \\"b\\", c" <b@x.example>', ["b@x.example"]),
        ("Joe Q. Public <joe@x.example>", ["joe@x.example"]),
        ("J\u00f6rg <b@x.example>, \u65e5\u672c <c@x.example>", ["b@x.example", "c@x.example"]),
        ("[list] Bob <b@x.example>", ["b@x.example"]),
        ("=?utf-8?q?Bob=2C_the_first?= <b@x.example>", ["b@x.example"]),
        ("=?utf-8?q?Bob,_the_first?= =?utf-8?b?LA==?= <b@x.example>", ["b@x.example"]),
        ("=?utf-8?q?a@evil.example,?= <b@x.example>", ["b@x.example"]),
        ("b@x.example <b@x.example>, 'C@x.example' <c@x.example>", ["b@x.example", "c@x.example"]),
        ("b@x.example (Bob (the \\) first), so to say)", ["b@x.example"]),
        ("undisclosed-recipients:;", []),
        ("Team: b@x.example, Cy <c@x.example>;, d@x.example", ["b@x.example", "c@x.example", "d@x.example"]),
        ("Empty:;, Team:,b@x.example,;", ["b@x.example"]),
        ('"odd name"@x.example, "a@b"@x.example', ['"odd name"@x.example', '"a@b"@x.example']),
        ("b..c.@x.example", ["b..c.@x.example"]),
        ("b@[192.0.2.1], c@[IPv6:2001:db8::\n 1]", ["b@[192.0.2.1]", "c@[IPv6:2001:db8::1]"]),
        ("b@b\u00fccher.example, j\u00f6rg@x.example", ["b@b\u00fccher.example", "j\u00f6rg@x.example"]),
        ("/G=Bob/S=B/@x.example", ["/G=Bob/S=B/@x.example"]),
        ("postmaster, b@x.example.", ["postmaster", "b@x.example."]),
        # RFC 5322 appendix A.5, A.6.1 and A.6.3
        ("Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", ["pete@silly.test"]),
        (
            "A Group(Some people)\n     :Chris Jones <c@(Chris's host.)public.example>,\n         joe@example.org,\n"
            "  John <jdoe@one.test> (my dear friend); (the end of the group)",
            ["c@public.example", "joe@example.org", "jdoe@one.test"],
        ),
        ("(Empty list)(start)Hidden recipients  :(nobody(that I know))  ;", []),
        (
            "Mary Smith\n <@node.test:mary@example.net>, , jdoe@test  . example",
            ["mary@example.net", "jdoe@test.example"],
        ),
        ("<@a.example,@b.example:b@x.example>", ["b@x.example"]),
    ],
)
def test_all_forms_of_addresses(value: str, addresses: list[str]) -> None:
    assert read_mailboxes(value.encode()) == tuple(address.encode() for address in addresses)


@pytest.mark.parametrize(
    ("value", "position", "problem"),
    [
        ("b@x; c@x", 3, "';' where a comma or the end belongs"),
        ("b@x;", 3, "';' where a comma or the end belongs"),
        ("b@x c@x", 4, "'c' where a comma or the end belongs"),
        ("b@x\n c@x", 5, "'c' where a comma or the end belongs"),
        ("b@x / c@x", 4, "'/' where a comma or the end belongs"),
        ("b@x/c@x", 5, "'@' where a comma or the end belongs"),
        ("b@x.c@x", 5, "'@' where a comma or the end belongs"),
        ("<b@x> <c@x>", 6, "'<' where a comma or the end belongs"),
        ("<b@x><c@x>", 5, "'<' where a comma or the end belongs"),
        ("<b@x> Bob", 6, "'Bob' where a comma or the end belongs"),
        ("b@x <c@x>", 4, "'<' where a comma or the end belongs"),
        ("b@x Cy <c@x>", 4, "'Cy' where a comma or the end belongs"),
        ("Team: b@x; c@x", 11, "'c' where a comma or the end belongs"),
        ("Team: b@x c@x;", 10, "'c' where a comma or the end belongs"),
        ("Team: b@x", 0, "the group 'Team' has no ';' at its end"),
        ("mailto:b@x", 0, "the group 'mailto' has no ';' at its end"),
        ("A: B: b@x;;", 3, "a group inside a group"),
        ("b@x, Bob (c@x", 9, "a comment without end"),
        ('b@x, "Bob c@x', 5, "a quoted string without end"),
        ("b@x, <c@x", 5, "'<' without '>'"),
        ("b@x, <c@x, d@x>", 9, "',' where '>' belongs"),
        ("<mailto:b@x>", 7, "':' where '>' belongs"),
        ("<@a.example>", 11, "'>' where ':' after a route belongs"),
        ("Bob <>", 4, "an empty address"),
        ("b@x)", 3, "')' where a comma or the end belongs"),
        ("b@x\\, c@x", 3, "'\\' where a comma or the end belongs"),
        (";", 0, "';' where an address belongs"),
        ("undisclosed recipients", 12, "'recipients' where a comma or the end belongs"),
        ("[192.0.2.1]", 0, "'[192.0.2.1]' where an address belongs"),
        ("=?utf-8?q?b@x,?=@y", 0, "the encoded word '=?utf-8?q?b@x,?=' where an address belongs"),
        ("b@x \x1b[2J", 4, "'\\x1b' where a comma or the end belongs"),
    ],
)
def test_a_list_that_cannot_be_read_whole_has_its_place(value: str, position: int, problem: str) -> None:
    assert read_mailboxes(value.encode()) == Unreadable(position, problem)
    before = b"Ann <a@x.example>,\n "
    shifted = read_mailboxes(before + value.encode())
    assert shifted == Unreadable(len(before) + position, problem)


WORDS = st.text(st.sampled_from("aZ09!#$%&'*+-/=?^_`{|}~."), min_size=1, max_size=8)
QUOTED = st.text(st.sampled_from('a \\",;:<>()@[].\u00e4'), max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
BLANKS = st.sampled_from(["", " ", "\n ", "\t", " (a, comment; <b@x>) ", "(((nested)))\n "])
ENCODED = st.sampled_from(["=?utf-8?q?Bob=2C?=", "=?utf-8?Q?a,@b;<c>?=", "=?ISO-8859-1?B?5A==?="])
ADDRESS = st.builds(
    "{}@{}".format, WORDS.filter(lambda word: "=?" not in word) | QUOTED, st.sampled_from(["x.example", "[192.0.2.1]"])
)
SPACE = st.sampled_from([" ", "\n\t", " (c) "])


@st.composite
def mailbox(draw: st.DrawFn) -> tuple[str, list[str]]:
    address = draw(ADDRESS)
    if draw(st.booleans()):
        return draw(BLANKS) + address + draw(BLANKS), [address]
    name = "".join(word + draw(SPACE) for word in draw(st.lists(QUOTED | ENCODED | st.just("B\u00f6b"), max_size=3)))
    return draw(BLANKS) + name + "<" + draw(BLANKS) + address + draw(BLANKS) + ">" + draw(BLANKS), [address]


@st.composite
def group(draw: st.DrawFn) -> tuple[str, list[str]]:
    members = draw(st.lists(mailbox(), max_size=3))
    text = (
        draw(QUOTED | st.just("Team")) + draw(BLANKS) + ":" + ",".join(one for one, _ in members) + ";" + draw(BLANKS)
    )
    return text, [address for _, found in members for address in found]


@settings(max_examples=50)
@given(st.lists(mailbox() | group(), max_size=4))
def test_every_list_gives_everybody_in_it(elements: list[tuple[str, list[str]]]) -> None:
    value = ",".join(text for text, _ in elements)
    assert read_mailboxes(value.encode()) == tuple(one.encode() for _, found in elements for one in found)


@settings(max_examples=50)
@given(
    st.lists(mailbox() | group(), min_size=2, max_size=4), st.sampled_from([";", " ", "\n ", "|", "(and)"]), st.data()
)
def test_nothing_else_parts_addresses(elements: list[tuple[str, list[str]]], mark: str, data: st.DataObject) -> None:
    """With another mark in the place of one comma the list is refused, or nobody is missing."""
    at = data.draw(st.integers(1, len(elements) - 1))
    marks = [mark if number == at else "," for number in range(1, len(elements))]
    value = elements[0][0] + "".join(m + text for m, (text, _) in zip(marks, elements[1:], strict=True))
    found = read_mailboxes(value.encode())
    everybody = tuple(one.encode() for _, listed in elements for one in listed)
    assert isinstance(found, Unreadable) or found == everybody or not set(everybody) - set(found)


PIECES = [
    b"b@x",
    b"c@y.example",
    b"Bob",
    b'"B, R"',
    b"=?utf-8?q?",
    b"?=",
    b"=?u?q?a?=",
    b"J\xc3\xb6rg",
    b"\xff",
    b"[1]",
]
PIECES += [bytes([n]) for n in b',;<>.@:()a"\\'] + [b" ", b" ", b"\n "]


def test_the_plain_reading_is_the_whole_one() -> None:
    """``ZSMTP_MUTATIONS`` in the environment asks for more than a few seconds' worth."""
    chance = random.Random(20)
    plain = 0
    for _ in range(MUTATIONS):
        value = b"".join(chance.choices(PIECES, k=chance.randint(1, 9)))
        found = read_plain(value)
        if found is not None:
            plain += 1
            assert found == read_any(value), value
    assert plain > MUTATIONS / 100


@given(st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_any_octets_are_read_or_refused_at_a_place_in_them(value: bytes) -> None:
    found = read_mailboxes(value)
    if isinstance(found, Unreadable):
        assert 0 <= found.position <= len(value)
        assert found.problem.isprintable()
    else:
        assert all(found)
        assert value.count(b"@") >= len([one for one in found if b"@" in one]) or b"=?" in value


@pytest.mark.parametrize("piece", [b"(", b'"', b"<", b",", b"a ", b"a:", b"a@x,", b"=?", b"=?a?q?", b"\\", b"()", b"."])
@pytest.mark.timeout(60)
def test_hostile_values_cost_no_more_than_others(piece: bytes) -> None:
    read_mailboxes(piece * (60_000 // len(piece)))
