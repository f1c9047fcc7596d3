"""Parses the words of a control file's ``N`` records, and the values beside them.

``NOTIFY=`` and ``ORCPT=`` are the RCPT TO parameters of RFC 3461 4.1 and 4.2, ``BY=`` is the by-time of RFC 2852 4,
``REQUIRETLS`` the MAIL FROM parameter of RFC 8689; ``INRCPT=`` and ``INFROM=`` name the local list or alias that made
the recipient, ``EZMLM=`` requests a separate sender address (see ``zsmtp.zmailer.spoolid.verp``). A server would refuse
a recipient with a malformed word, so that word is omitted, with a remark; unknown words are skipped.
:class:`DsnWordsReader` collects the words of one recipient's records into :class:`DsnWords`.
"""

from __future__ import annotations

from zsmtp.patterns import pattern
from zsmtp.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class By:
    """``BY=seconds;flags`` (RFC 2852 4): ``seconds`` may be negative; ``flags`` are N, R, NT or RT."""

    seconds: int
    flags: bytes


@dataclass(frozen=True, slots=True)
class DsnWords:
    """The words of a recipient's ``N`` records; None where a word is absent or malformed.

    ``notify`` is ``NEVER`` or a comma list of ``SUCCESS``, ``FAILURE``, ``DELAY``, in upper case; ``orcpt`` is
    ``addr-type;xtext``, still encoded. ``ezmlm`` is the VERP tag. No value holds blanks or control characters.
    """

    notify: bytes | None = None
    orcpt: bytes | None = None
    inrcpt: bytes | None = None
    infrom: bytes | None = None
    by: By | None = None
    ezmlm: bytes | None = None
    requiretls: bool = False


NO_DSN_WORDS = DsnWords()

_XTEXT = rb"(?:[!-*,-<>-~\x80-\xff]|\+[0-9A-F]{2})"
_ENVID = pattern(_XTEXT + rb"{1,100}")
_ORCPT = pattern(rb"[0-9A-Za-z.-]{1,63};" + _XTEXT + rb"{1,500}")
_NOTIFY = pattern(rb"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2}")
_BY = pattern(rb"([+-]?[0-9]{1,9});([NR]T?)")
_WORD = pattern(rb"[^ \t]++")
_CONTROLS = pattern(rb"[\x00-\x20\x7f]")


def valid_envid(value: bytes) -> bool:
    """Whether ``value`` is valid in ``ENVID=``: xtext of at most 100 octets (RFC 3461 4.4)."""
    return _ENVID.fullmatch(value) is not None


class DsnWordsReader:
    """Adds words to ``words``, one record after the other; ``remarks`` name omitted ones. The first value counts."""

    __slots__ = ("remarks", "words")

    def __init__(self, words: DsnWords = NO_DSN_WORDS) -> None:
        self.words = words
        self.remarks: list[str] = []

    def read(self, content: bytes) -> None:
        """Read the content of one record: words separated by blanks or tabs. Raises nothing."""
        texts: dict[str, bytes] = {}
        by, requiretls = self.words.by, self.words.requiretls
        for match in _WORD.finditer(content):
            word, _, value = match[0].partition(b"=")
            key = word.upper()
            if key == b"REQUIRETLS":
                requiretls = True
            elif key == b"BY":
                by = self._by(value, by)
            elif (name := _TEXTS.get(key)) is not None:
                known = texts.get(name) or getattr(self.words, name)
                if known is None and (text := _text(name, value)) is not None:
                    texts[name] = text
                else:
                    self._leave_out(name)
        self.words = replace(self.words, by=by, requiretls=requiretls, **texts)

    def _by(self, value: bytes, known: By | None) -> By | None:
        match = _BY.fullmatch(value.upper())
        if match is None or known is not None:
            self._leave_out("by")
            return known
        return By(int(match[1]), match[2])

    def _leave_out(self, name: str) -> None:
        self.remarks.append(f"a malformed or repeated {name.upper()} is left out")


_TEXTS = {b"NOTIFY": "notify", b"ORCPT": "orcpt", b"INRCPT": "inrcpt", b"INFROM": "infrom", b"EZMLM": "ezmlm"}


def _text(name: str, value: bytes) -> bytes | None:
    """The value to keep, or None if it is malformed."""
    if name == "notify":
        value = value.upper()
        good = _NOTIFY.fullmatch(value) is not None
    elif name == "orcpt":
        good = _ORCPT.fullmatch(value) is not None
    else:
        good = bool(value) and _CONTROLS.search(value) is None
    return value if good else None
