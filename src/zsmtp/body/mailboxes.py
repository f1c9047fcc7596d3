"""Parses the addresses of an address field: mailboxes and groups (RFC 5322 3.4), in all forms found in real mail.

:func:`read_mailboxes` reads the value of a field, as octets with its folds, and returns every address that it names, or
the position of the first error. Nothing is skipped: after an address a comma or the end must come, so that a list with
``;`` or a blank instead of a comma is refused as a whole, and not delivered to half of its addresses::

    read_mailboxes(b' "B, the first" <b@x.example>, Team: c@x.example, d@x.example;')
    # (b"b@x.example", b"c@x.example", b"d@x.example")
    read_mailboxes(b" b@x.example; c@x.example")
    # Unreadable(position=12, problem="';' where a comma or the end belongs")

Accepted beyond the strict grammar: comments and folds anywhere, routes, blanks around dots, empty elements (RFC 5322
4.4), dots wherever a local part has them, dots, brackets and encoded words with any characters in names, octets beyond
ASCII everywhere (RFC 6532), and the address itself in the place of a name. A word without ``@`` and domain counts as an
address too: the caller decides what to do with it. An address is returned without comments, blanks and route, its
quoted string unchanged.

Most fields are simple: one pattern for each address reads those, with the same result.
"""

from __future__ import annotations

from functools import lru_cache

from zsmtp.escape import escape
from zsmtp.patterns import pattern
from zsmtp.records import NamedTuple

_ATEXT = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_SPEC = rb"([%b]++(?:\.[%b]++)*+@[A-Za-z0-9-]++(?:\.[A-Za-z0-9-]++)*+)" % (_ATEXT, _ATEXT)
_NAME = rb"(?:(?:[^ \t\r\n()<>@,:;\[\]\"\\]++|\"(?:[^\"\\]|\\[\s\S])*+\")[ \t\n]++)*+"
_PLAIN = pattern(rb"[ \t\n]*+(?:%b<%b>|%b)[ \t\n]*+(?:,|\Z)" % (_NAME, _SPEC, _SPEC))
_TOKEN = pattern(
    rb"(?P<blank>[ \t\r\n]++)|(?P<comment>\()"
    rb"|(?P<encoded>=\?[^?\s]++\?[BbQq]\?[^?\s]*+\?=)"
    rb"|(?P<atom>[^ \t\r\n()<>@,:;.\[\]\"\\]++)"
    rb"|(?P<string>\"(?:[^\"\\]|\\[\s\S])*+\")"
    rb"|(?P<literal>\[[^\[\]\\]*+\])"
    rb"|(?P<special>[\s\S])"
)
_COMMENT = pattern(rb"[()]|\\[\s\S]")
_SPECIALS = pattern(rb"[()<>@,:;.\[\]\"\\]")
_WORDS = frozenset({"encoded", "atom", "string"})
_CACHED = 1000  # octets of a value that is kept: senders are often the same

_COMMA = "a comma or the end"


class Unreadable(NamedTuple):
    """The reason why a value is no list of addresses; ``position`` is the octet of the value, counted from 0."""

    position: int
    problem: str


class _Token(NamedTuple):
    """A word or a special character at ``start``; ``kind`` is its own character for a special one."""

    kind: str
    text: bytes
    start: int


def read_mailboxes(value: bytes) -> tuple[bytes, ...] | Unreadable:
    """All addresses in the value of an address field, in order, or the position and kind of the error."""
    return _read_kept(value) if len(value) <= _CACHED else _read(value)


def _read(value: bytes) -> tuple[bytes, ...] | Unreadable:
    plain = read_plain(value)
    return read_any(value) if plain is None else plain


_read_kept = lru_cache(512)(_read)


def read_plain(value: bytes) -> tuple[bytes, ...] | None:
    """The addresses of a value in the simplest form; None for any other, which ``read_any`` reads."""
    found = []
    at = 0
    while True:
        match = _PLAIN.match(value, at)
        if match is None:
            return None
        address = match[1] or match[2]
        if b"=?" in address:  # perhaps a piece of an encoded word
            return None
        found.append(address)
        at = match.end()
        if at == len(value):
            return None if value[-1] == 0x2C else tuple(found)


def read_any(value: bytes) -> tuple[bytes, ...] | Unreadable:
    """The result of :func:`read_mailboxes`, by the whole grammar."""
    tokens = _tokens(value)
    return tokens if isinstance(tokens, Unreadable) else _List(tokens, len(value)).read()


def _tokens(value: bytes) -> list[_Token] | Unreadable:
    """The value as words and specials, without blanks and comments."""
    tokens = []
    at = 0
    while at < len(value):
        match = _TOKEN.match(value, at)
        assert match is not None  # the pattern has a branch for every octet
        kind = match.lastgroup
        if kind == "comment":
            end = _end_of_comment(value, at)
            if end is None:
                return Unreadable(at, "a comment without end")
            at = end
            continue
        if kind != "blank":
            text = match[0]
            if text == b'"':
                return Unreadable(at, "a quoted string without end")
            assert kind is not None
            tokens.append(_Token(chr(text[0]) if kind == "special" else kind, text, at))
        at = match.end()
    return tokens


def _end_of_comment(value: bytes, start: int) -> int | None:
    depth = 0
    for match in _COMMENT.finditer(value, start):
        depth += (match[0] == b"(") - (match[0] == b")")
        if not depth:
            return match.end()
    return None


class _Stop(Exception):
    """The list cannot be read."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(problem)
        self.answer = Unreadable(position, problem)


class _List:
    """The grammar, over the tokens of a value that ends at ``end``."""

    def __init__(self, tokens: list[_Token], end: int) -> None:
        self._tokens = [*tokens, _Token("end", b"", end)]
        self._at = 0
        self._found: list[bytes] = []

    def read(self) -> tuple[bytes, ...] | Unreadable:
        """All addresses."""
        try:
            self._read_list()
        except _Stop as stop:
            return stop.answer
        return tuple(self._found)

    def _read_list(self) -> None:
        group: _Token | None = None
        while True:
            token = self._tokens[self._at]
            if token.kind == ",":
                self._at += 1
                continue
            if token.kind == "end":
                if group is not None:
                    raise _Stop(group.start, f"the group {_shown(group)} has no ';' at its end")
                return
            if token.kind == ";" and group is not None:
                group = None
                self._at += 1
            elif self._begins_group():
                if group is not None:
                    raise _Stop(token.start, "a group inside a group")
                group = token
                continue
            else:
                self._mailbox()
            following = self._tokens[self._at]
            if following.kind not in (",", "end") and not (following.kind == ";" and group is not None):
                raise _expected(_COMMA if group is None else "a comma or ';'", following)

    def _begins_group(self) -> bool:
        """Whether a name and its colon follow; if so, they are consumed."""
        at = self._at
        while self._tokens[at].kind in _WORDS or self._tokens[at].kind in (".", "literal"):
            at += 1
        if at == self._at or self._tokens[at].kind != ":":
            return False
        self._at = at + 1
        return True

    def _mailbox(self) -> None:
        before = self._take(".", "@", "literal")
        token = self._tokens[self._at]
        if token.kind != "<":
            if not before:
                raise _expected("an address", token)
            self._found.append(_address(before))
            return
        self._at += 1
        self._skip_route()
        inside = self._take(".", "@", "literal")
        closing = self._tokens[self._at]
        if closing.kind != ">":
            raise _Stop(token.start, "'<' without '>'") if closing.kind == "end" else _expected("'>'", closing)
        if not inside:
            raise _Stop(token.start, "an empty address")
        self._at += 1
        address = _address(inside)
        if any(one.kind == "@" for one in before):  # two addresses without a comma, or one given twice
            name = b"".join(one.text for one in before).strip(b"'")
            if name.lower() != address.lower():
                _address(before)  # raises at a surplus word
                raise _expected(_COMMA, token)
        self._found.append(address)

    def _take(self, *specials: str) -> list[_Token]:
        start = self._at
        while self._tokens[self._at].kind in _WORDS or self._tokens[self._at].kind in specials:
            self._at += 1
        return self._tokens[start : self._at]

    def _skip_route(self) -> None:
        """The hosts before an address (RFC 5322 4.4)."""
        if self._tokens[self._at].kind not in ("@", ","):
            return
        self._take(".", "@", ",", "literal")
        if self._tokens[self._at].kind != ":":
            raise _expected("':' after a route", self._tokens[self._at])
        self._at += 1


def _address(tokens: list[_Token]) -> bytes:
    """The address that consists of words, dots and ``@``. Raises _Stop."""
    seen_at = False
    before = "@"
    for token in tokens:
        if token.kind == "@":
            if seen_at:
                raise _expected(_COMMA, token)
            seen_at = True
        elif token.kind != "." and before not in (".", "@"):
            raise _expected(_COMMA, token)
        elif token.kind == "literal" and not (seen_at and before == "@"):
            raise _expected("an address", token)
        elif token.kind == "encoded" and _SPECIALS.search(token.text):
            raise _Stop(token.start, f"the encoded word {_shown(token)} where an address belongs")
        elif token.kind == "." and before == "literal":
            raise _expected(_COMMA, token)
        before = token.kind
    return b"".join(
        b"".join(token.text.split()) if token.kind == "literal" else token.text.replace(b"\n", b"") for token in tokens
    )


def _expected(wanted: str, token: _Token) -> _Stop:
    found = "the end" if token.kind == "end" else _shown(token)
    return _Stop(token.start, f"{found} where {wanted} belongs")


def _shown(token: _Token) -> str:
    text = escape(token.text[:40])
    return f"'{text}...'" if len(token.text) > 40 else f"'{text}'"
