"""Encodes 8-bit text in header fields as ASCII: encoded words (RFC 2047), and parameters (RFC 2231).

An encoded word has the form ``=?charset?Q?text?=``. It may replace words of unstructured text, of a phrase (the name
before an address), and of comments; nothing else, and never in an address (RFC 2047 5). Blanks between two encoded
words are not shown, so neighbours become one text with its blanks inside; plain words stay plain. Each encoded word has
at most 75 octets and never ends inside a character, lines that hold one at most 76.

:func:`encode_header` edits a block as :mod:`zsmtp.body.fields` takes it. Text without an ASCII form stays unchanged and
is reported in the result: octets in field names and structured tokens, and addresses that need SMTPUTF8 (RFC 6531). For
a server that takes seven bits only, :func:`encode_whole_header` leaves no such octet::

    encoded = encode_header(header, default_charset=b"ISO-8859-1", keep_utf8=False)
    if encoded.needs_smtputf8: ...
"""

from __future__ import annotations

import codecs
import re
from binascii import b2a_base64

from zsmtp import idn
from zsmtp.body.fields import parameters, split_fields
from zsmtp.body.lines import MAX_LINE
from zsmtp.records import NamedTuple

MAX_WORD = 75
MAX_COLUMNS = 76
_MAX_RAW = MAX_LINE - 10  # a word needs blanks, quotes, or a comma beside it

_ADDRESS_FIELDS = frozenset(
    b"from sender reply-to to cc bcc resent-from resent-sender resent-reply-to resent-to resent-cc resent-bcc"
    b" return-path errors-to apparently-to disposition-notification-to return-receipt-to mail-followup-to"
    b" mail-reply-to list-id list-post x-original-to delivered-to keywords".split()
)
_PARAMETER_FIELDS = frozenset([b"content-type", b"content-disposition"])
_STRUCTURED_FIELDS = frozenset(
    b"received date resent-date message-id resent-message-id in-reply-to references mime-version content-id"
    b" content-transfer-encoding content-location content-base content-md5 content-language content-features"
    b" list-help list-subscribe list-unsubscribe list-unsubscribe-post list-owner list-archive archived-at"
    b" auto-submitted authentication-results received-spf content-conversion precedence importance priority"
    b" sensitivity expires path newsgroups dkim-signature domainkey-signature arc-seal arc-message-signature"
    b" arc-authentication-results".split()
)
_PIECE = re.compile(rb"([ \t\n]*+)([^ \t\n]++|\Z)")
_ENCODED_WORD = re.compile(rb"=\?[^?\s]+\?[BbQq]\?[^?\s]*\?=")
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")  # RFC 2047 5 (3)
_Q_FORM = [chr(n).encode() if n in _Q_SAFE else b"_" if n == 0x20 else b"=%02X" % n for n in range(256)]
_TOKEN = re.compile(
    rb"(?P<blank>[ \t\n]++)|(?P<string>\"(?:[^\"\\]|\\[\s\S])*+\"?)"
    rb"|(?P<angle><(?:[^>\"]|\"(?:[^\"\\]|\\[\s\S])*+\"?)*+>?)"
    rb"|(?P<open>\()|(?P<special>[,:;])|(?P<atom>[^ \t\n\"<(,:;]++)"
)
_COMMENT_TOKEN = re.compile(rb"[()]|\\[\s\S]|[^()\\]++")
_QUOTED_PAIR = re.compile(rb"\\([\s\S])")
_ATTRIBUTE_SAFE = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`{|}~"
)  # RFC 2231 7
_UNFOLDED = re.compile(rb"\n+")
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
_EIGHT_BIT_NAME = re.compile(rb"^[!-9;-~]*+[\x80-\xff][!-9;-~\x80-\xff]*+(?=[ \t]*+:)", re.MULTILINE)


class EncodedHeader(NamedTuple):
    """An edited block. ``left``: 8-bit octets remain where encoded words are not allowed.

    ``needs_smtputf8``: the local part of an address has no ASCII form.
    """

    block: bytes
    left: bool
    needs_smtputf8: bool


def encode_header(block: bytes, *, default_charset: bytes, keep_utf8: bool) -> EncodedHeader:
    """``block`` with its 8-bit text encoded, in UTF-8 where it is valid UTF-8 and else in ``default_charset``.

    ``keep_utf8``: fields in valid UTF-8 stay, as SMTPUTF8 allows. Fields without 8-bit octets are never changed.
    """
    done = 0
    pieces = []
    needs_smtputf8 = False
    for name, start, value, end in split_fields(block):
        field = block[value:end].rstrip(b" \t\n")
        if field.isascii():
            continue
        charset = charset_of(field, default_charset)
        if keep_utf8 and charset == b"UTF-8":
            continue
        edited, needs = _encode_field(name, block[start:value], field, charset)
        needs_smtputf8 |= needs
        pieces += [block[done:start], edited]
        done = end
    encoded = b"".join([*pieces, block[done:]])
    return EncodedHeader(encoded, not encoded.isascii(), needs_smtputf8)


def encode_whole_header(block: bytes, *, default_charset: bytes) -> EncodedHeader:
    """Like :func:`encode_header`, but octets without an encoded form become ``=XX``, also in names and tokens.

    An address that needs SMTPUTF8 is only reported, since changing it would make it another address. Lines may get too
    long.
    """
    block = _EIGHT_BIT_NAME.sub(lambda name: _escaped(name[0]), block)
    encoded = encode_header(block, default_charset=default_charset, keep_utf8=False)
    if not encoded.left or encoded.needs_smtputf8:
        return encoded
    return EncodedHeader(_escaped(encoded.block), left=False, needs_smtputf8=False)


def _escaped(text: bytes) -> bytes:
    return _EIGHT_BIT.sub(lambda octet: b"=%02X" % octet[0][0], text)


def _encode_field(name: bytes, start: bytes, value: bytes, charset: bytes) -> tuple[bytes, bool]:
    """A field of ``start`` and ``value``, encoded where possible, and whether it still needs SMTPUTF8."""
    writer = _Writer(charset, start)
    needs_smtputf8 = False
    if name in _PARAMETER_FIELDS:
        edited = _parameters_encoded(value, charset)
        if edited.isascii():
            writer.put(b"", edited)
        else:
            _encode_comments(edited, writer)
    elif name in _ADDRESS_FIELDS:
        needs_smtputf8 = _encode_addresses(value, writer)
    elif name in _STRUCTURED_FIELDS:
        _encode_comments(value, writer)
    else:
        _encode_text(value, writer)
    return writer.field() + b"\n", needs_smtputf8


def charset_of(text: bytes, default: bytes) -> bytes:
    """The charset label for 8-bit ``text``."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return default
    return b"UTF-8"


def encode_long_words(field: bytes) -> bytes:
    """One field, with encoded forms of the text, names and parameters that are longer than a line."""
    for name, _, value, _ in split_fields(field):
        text = field[value:].rstrip(b" \t\n")
        encoded, _ = _encode_field(name, field[:value], text, charset_of(text, b"UNKNOWN-8BIT"))
        return encoded
    return field


def is_text(name: bytes) -> bool:
    """Whether the field of that name, in lower case, is unstructured (RFC 5322 3.2.5): all others are structured."""
    return not (name in _PARAMETER_FIELDS or name in _ADDRESS_FIELDS or name in _STRUCTURED_FIELDS)


# ---------------------------------------------------------------------------- writing


class _Writer:
    """Builds a field, folding before words where a line with encoded words would get too long."""

    def __init__(self, charset: bytes, name: bytes) -> None:
        self.charset = charset
        self._pieces = [name]
        self._column = len(name)

    def put(self, blanks: bytes, word: bytes) -> None:
        """Append ``blanks`` and the unchanged ``word``."""
        end = self._column + len(blanks) + len(word)
        if blanks and b"\n" not in blanks and end > MAX_COLUMNS - 2 and word.strip():  # room for a comma or bracket
            blanks = b"\n" + blanks
        self._append(blanks + word)

    def encode(self, blanks: bytes, text: bytes) -> None:
        """Append ``text`` as encoded words, leaving room on each line for brackets behind them."""
        start = len(blanks) - blanks.rfind(b"\n") - 1 if b"\n" in blanks else self._column + len(blanks)
        text = _UNFOLDED.sub(b"", text)
        room = MAX_COLUMNS - 4 - start
        if room < 40 and b"\n" not in blanks and _q_size(text, self.charset) > room:
            blanks = b"\n" + (blanks or b" ")
            room = MAX_COLUMNS - 4 - len(blanks)
        words = _encoded_words(text, self.charset, room)
        self._append(blanks + b"\n ".join(words))

    def field(self) -> bytes:
        """The whole field without its last line end."""
        return b"".join(self._pieces)

    def _append(self, text: bytes) -> None:
        self._pieces.append(text)
        last = text.rfind(b"\n")
        self._column = self._column + len(text) if last < 0 else len(text) - last - 1


def _encoded_words(text: bytes, charset: bytes, first: int) -> list[bytes]:
    """``text`` as encoded words; the first has at most ``first`` octets if that is possible at all."""
    overhead = len(b"=??Q??=") + len(charset)
    letters = _characters(text, charset)
    q_size = _q_size(text, charset)
    as_base64 = q_size > MAX_WORD and q_size - overhead > 4 * (len(text) + 2) // 3
    words = []
    room = min(first, MAX_WORD)
    at = 0
    while at < len(letters):
        limit = max(room - overhead, 12)
        size = 0
        end = at
        while end < len(letters):
            cost = len(letters[end]) if as_base64 else sum(len(_Q_FORM[octet]) for octet in letters[end])
            total = size + cost
            if (4 * ((total + 2) // 3) if as_base64 else total) > limit and end > at:
                break
            size = total
            end += 1
        octets = b"".join(letters[at:end])
        if as_base64:
            words.append(b"=?%s?B?%s?=" % (charset, b2a_base64(octets, newline=False)))
        else:
            words.append(b"=?%s?Q?%s?=" % (charset, b"".join(map(_Q_FORM.__getitem__, octets))))
        at = end
        room = MAX_WORD - 4
    return words


def _q_size(text: bytes, charset: bytes) -> int:
    """Octets of ``text`` as one encoded word in Q form."""
    return len(b"=??Q??=") + len(charset) + sum(map(len, map(_Q_FORM.__getitem__, text)))


def _characters(text: bytes, charset: bytes) -> list[bytes]:
    """``text`` in pieces that must not be split; single octets where the charset is unknown."""
    try:
        name = codecs.lookup(charset.decode("ascii")).name
        letters = [letter.encode(name) for letter in text.decode(name)]
    except (LookupError, UnicodeError, ValueError):
        letters = []
    return letters if b"".join(letters) == text else [text[n : n + 1] for n in range(len(text))]


# ---------------------------------------------------------------------------- words


class _HeaderWord(NamedTuple):
    """A word with the blanks before it: as written in the field, and unquoted."""

    blanks: bytes
    raw: bytes
    meant: bytes


def _encode_text(text: bytes, writer: _Writer, *, escapes: bool = False) -> bytes:
    """Encode the words of ``text`` that need it; returns the blanks at its end, which are not written.

    ``escapes``: backslashes in it are those of a comment.
    """
    words = [
        _HeaderWord(m[1], m[2], _QUOTED_PAIR.sub(rb"\1", m[2]) if escapes else m[2]) for m in _PIECE.finditer(text)
    ]
    trailing = words.pop().blanks if words and not words[-1].raw else b""
    _put_words(words, writer)
    return trailing


def _is_unfit(raw: bytes) -> bool:
    """Whether a word must be encoded."""
    return not raw.isascii() or len(raw) > _MAX_RAW


def _put_words(words: list[_HeaderWord], writer: _Writer) -> None:
    """Words with 8-bit octets, or longer than a line, become encoded words, neighbours together; the others stay."""
    at = 0
    after_encoded = False
    while at < len(words):
        blanks, raw, meant = words[at]
        at += 1
        if not _is_unfit(raw):
            writer.put(blanks, raw)
            after_encoded = _ENCODED_WORD.fullmatch(raw) is not None
            continue
        run = [meant]
        while at < len(words) and _is_unfit(words[at].raw):
            run += [words[at].blanks, words[at].meant]
            at += 1
        # Blanks between encoded words are not displayed, so the visible ones are in the encoded text.
        if after_encoded:
            run.insert(0, blanks)
            blanks = b" "
        if at < len(words) and _ENCODED_WORD.fullmatch(words[at].raw):
            run.append(words[at].blanks)
        writer.encode(blanks, b"".join(run))
        after_encoded = True


# ---------------------------------------------------------------------------- structured fields


def _encode_comments(value: bytes, writer: _Writer) -> None:
    """A structured field: only its comments are text."""
    at = 0
    blanks = b""
    while at < len(value):
        token = _TOKEN.match(value, at)
        assert token is not None  # the pattern has a branch for every octet
        at = token.end()
        if token.lastgroup == "blank":
            blanks = token[0]
            continue
        if token.lastgroup == "open":
            at = _encode_comment(value, at, blanks, writer)
        else:
            writer.put(blanks, token[0])
        blanks = b""


def _encode_comment(value: bytes, at: int, blanks: bytes, writer: _Writer) -> int:
    """The comment whose ``(`` stands before ``at``; returns its end. Brackets may touch encoded words."""
    writer.put(blanks, b"(")
    depth = 1
    text: list[bytes] = []
    while depth and at < len(value):
        token = _COMMENT_TOKEN.match(value, at)
        if token is None:  # a backslash that ends the field
            at = len(value)
            break
        at = token.end()
        if token[0] in (b"(", b")"):
            writer.put(_encode_text(b"".join(text), writer, escapes=True), token[0])
            text.clear()
            depth += 1 if token[0] == b"(" else -1
        else:
            text.append(token[0])
    _encode_text(b"".join(text), writer, escapes=True)
    return at


class _Mailboxes:
    """Writes the addresses of one field; ``needs_smtputf8``: one of them needs it."""

    def __init__(self, writer: _Writer) -> None:
        self.needs_smtputf8 = False
        self._writer = writer
        # Read but not written: a name or an address, depending on what follows. For each word its pieces.
        self._read: list[tuple[bytes, list[bytes], list[bytes]]] = []

    def word(self, blanks: bytes, raw: bytes, meant: bytes) -> None:
        """A word of a name or address, or the next piece of one."""
        if blanks or not self._read:
            self._read.append((blanks, [], []))
        self._read[-1][1].append(raw)
        self._read[-1][2].append(meant)

    def _words(self) -> list[_HeaderWord]:
        read, self._read = self._read, []
        return [_HeaderWord(blanks, b"".join(raw), b"".join(meant)) for blanks, raw, meant in read]

    def name(self) -> bool:
        """Write the words read as a name; returns whether it ends with an encoded word."""
        words = self._words()
        _put_words(words, self._writer)
        return bool(words) and _is_unfit(words[-1].raw)

    def address_or_name(self) -> None:
        """Write the words read as an address if they have an ``@``, else as a name."""
        words = self._words()
        if not any(b"@" in word.raw for word in words):
            _put_words(words, self._writer)
            return
        for word in words:
            self._writer.put(word.blanks, self.address(word.raw))

    def address(self, address: bytes) -> bytes:
        """An address in ASCII as far as possible: its domain in A-labels (RFC 5890)."""
        local, at, domain = address.rpartition(b"@")
        if address.isascii() or not at or charset_of(address, b"") != b"UTF-8":
            return address
        if not local.isascii():
            self.needs_smtputf8 = True
            return address
        closing = b">" if domain.endswith(b">") else b""
        ascii_form = idn.to_ascii(domain.removesuffix(b">").decode("utf-8").strip())
        return address if ascii_form is None else local + at + ascii_form.encode("ascii") + closing


def _encode_addresses(value: bytes, writer: _Writer) -> bool:
    """Encode a field of mailboxes and groups (RFC 5322 3.4); returns whether an address needs SMTPUTF8."""
    boxes = _Mailboxes(writer)
    at = 0
    blanks = b""
    while at < len(value):
        token = _TOKEN.match(value, at)
        assert token is not None
        at = token.end()
        text = token[0]
        kind = token.lastgroup
        if kind == "blank":
            blanks = text
            continue
        if kind == "string":
            boxes.word(blanks, text, _QUOTED_PAIR.sub(rb"\1", text[1:].removesuffix(b'"')))
        elif kind == "atom":
            boxes.word(blanks, text, text)
        elif kind == "angle":
            encoded = boxes.name()
            writer.put(blanks or (b" " if encoded else b""), boxes.address(text))
        else:
            if text == b":":
                boxes.name()
            else:
                boxes.address_or_name()
            if kind == "open":
                at = _encode_comment(value, at, blanks, writer)
            else:
                writer.put(blanks, text)
        blanks = b""
    boxes.address_or_name()
    return boxes.needs_smtputf8


def _parameters_encoded(value: bytes, charset: bytes) -> bytes:
    """A field value with its 8-bit parameters in the form of RFC 2231; a boundary stays, the body has it too."""
    pieces = []
    done = 0
    for name, text, start, end in parameters(value):
        if not _is_unfit(text) or name.endswith(b"*") or name == b"boundary" or not name.isascii():
            continue
        line = value[value.rfind(b"\n", 0, start) + 1 : start]
        fold = b"\n\t" if line.strip() or b"\n" not in value[:start] else b""
        pieces += [value[done:start].rstrip(b" \t") if fold else value[done:start], fold]
        pieces.append(_extended_parameter(name, text, charset))
        done = end
    return b"".join([*pieces, value[done:]])


def _extended_parameter(name: bytes, text: bytes, charset: bytes) -> bytes:
    octets = [b"%c" % n if n in _ATTRIBUTE_SAFE else b"%%%02X" % n for n in text]
    whole = charset + b"''" + b"".join(octets)
    if len(name) + len(b"*=") + len(whole) < MAX_COLUMNS - 2:
        return name + b"*=" + whole
    room = max(MAX_COLUMNS - len(name) - 12, 12)
    sections = [charset + b"''"]
    for octet in octets:
        if len(sections[-1]) + len(octet) > room:
            sections.append(b"")
        sections[-1] += octet
    return b";\n\t".join(b"%s*%d*=%s" % (name, number, section) for number, section in enumerate(sections))
