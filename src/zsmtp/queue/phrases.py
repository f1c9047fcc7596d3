"""The phrases of notices: files by language, read strictly, and filled in by plain substitution.

A file has sections, paragraphs with ``{names}`` and the meanings of status codes (RFC 3463); ``templates/en.txt``
begins with its description. :meth:`Phrases.parse` reads one and refuses invalid content with the name of the file and
the line, so that a mistake is found when the files are loaded and never when a notice is due. :meth:`Phrases.text`
returns the lines of a section with values substituted, wrapped; values are substituted once and are never read as a
template themselves.

:func:`choose_language` picks the language for one message by its header: ``Accept-Language`` (RFC 3282), else
``Content-Language``, by the lookup of RFC 4647 3.4.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from zsmtp.body.fields import split_fields
from zsmtp.errors import ConfigError
from zsmtp.proto.status import EnhancedStatus
from zsmtp.queue.states import NoticeKind

MAX_FILE = 256 * 1024  # octets of a file
MAX_COLUMNS = 72
MAX_RANGES = 20  # languages read from a field

_ALWAYS = frozenset({"host", "contact", "sender", "recipient"})
COMMON = _ALWAYS | {"subject", "date"}
"""The names allowed in every section. Those in :data:`OF_RECIPIENT` are allowed in sections about one recipient."""
OF_RECIPIENT = frozenset({"original", "explanation", "server", "reply", "problem", "status", "tried", "last", "until"})
SUBJECTS = tuple(f"subject {word}" for word in (*(kind.value for kind in NoticeKind), "several"))
SECTIONS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(SUBJECTS, COMMON),
    "opening": COMMON,
    **{
        f"{kind.value}{part}": COMMON | OF_RECIPIENT if part == " recipient" else COMMON
        for kind in NoticeKind
        for part in ("", " recipient", " end")
    },
    "original whole": COMMON,
    "original header": COMMON,
    "closing": COMMON,
}
"""The sections of a file, each with the names allowed in it; the section ``reasons`` comes in addition."""

_HEADING = re.compile(r"\[([^\[\]]*)\]\s*")
_PIECE = re.compile(r"\{\{|\}\}|\{([a-z]+)\}|[{}]")
_REASON = re.compile(r"([X45])\.(\d{1,3}\.\d{1,3})\s+(\S.*)")
_FALLBACK = "X.0.0"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One line of a section: plain texts and names alternately, beginning with a text that may be empty."""

    pieces: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names in it."""
        return self.pieces[1::2]

    def fill(self, values: Mapping[str, str]) -> str | None:
        """The line with values substituted; None if one is missing or empty."""
        filled = list(self.pieces)
        for index in range(1, len(filled), 2):
            value = values.get(filled[index], "")
            if not value:
                return None
            filled[index] = value
        return "".join(filled)


@dataclass(frozen=True, slots=True)
class Phrases:
    """The phrases of notices in one language."""

    language: str
    """Its tag (RFC 5646), in lower case."""
    sections: Mapping[str, tuple[Paragraph, ...]]
    reasons: Mapping[str, str]
    """Meanings by status, as ``X.1.1``, ``4.1.1`` or ``5.1.1``."""

    @classmethod
    def parse(cls, data: bytes, name: str, language: str, base: Phrases | None = None) -> Phrases:
        """Read the file ``name``. Missing phrases are taken from ``base``; without one the file must be complete.

        Raises :class:`~zsmtp.errors.ConfigError` that names the file and the line.
        """
        reader = _PhraseReader(name)
        reader.read(data)
        sections = {**(base.sections if base is not None else {}), **reader.sections}
        reasons = {**(base.reasons if base is not None else {}), **reader.reasons}
        for section in SECTIONS:
            if section not in sections:
                raise ConfigError(f"{name}: the section [{section}] is missing")
        if _FALLBACK not in reasons:
            raise ConfigError(f"{name}: the section [reasons] has no {_FALLBACK}, which all other codes fall back to")
        return cls(language.lower(), sections, reasons)

    def subject(self, kinds: Collection[NoticeKind], values: Mapping[str, str]) -> str:
        """The subject of a notice of these kinds: the first line in which no value is missing."""
        word = next(iter(kinds)).value if len(kinds) == 1 else "several"
        filled = (line.fill(values) for line in self.sections[f"subject {word}"])
        return next(text.strip() for text in filled if text is not None)

    def text(self, section: str, values: Mapping[str, str]) -> list[str]:
        """The lines of a section, wrapped, without those in which a value is missing."""
        lines: list[str] = []
        for paragraph in self.sections[section]:
            filled = paragraph.fill(values)
            if filled is not None and (filled.strip() or (lines and lines[-1])):
                lines += wrapped(filled)
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def reason(self, status: str) -> str:
        """The meaning of a status code: its own entry, that of any class, or that of its subject."""
        try:
            cls, subject, detail = EnhancedStatus.parse(status)
        except ValueError:
            return self.reasons[_FALLBACK]
        for key in (f"{cls}.{subject}.{detail}", f"X.{subject}.{detail}", f"{cls}.{subject}.0", f"X.{subject}.0"):
            if key in self.reasons:
                return self.reasons[key]
        return self.reasons[_FALLBACK]


def wrapped(line: str) -> list[str]:
    """A line in pieces of at most 72 columns that keep its indentation; a word is never cut."""
    text = line.strip()
    if not text:
        return [""]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        text,
        MAX_COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


# --------------------------------------------------------------------- reading


class _PhraseReader:
    """Reads one file; every problem is an error with its line."""

    def __init__(self, name: str) -> None:
        self.sections: dict[str, tuple[Paragraph, ...]] = {}
        self.reasons: dict[str, str] = {}
        self._name = name
        self._number = 0
        self._section = ""
        self._lines: list[Paragraph] = []
        self._text_line = 0  # where the last of them stands

    def read(self, data: bytes) -> None:
        """Read the whole file."""
        if len(data) > MAX_FILE:
            raise ConfigError(f"{self._name}: {len(data)} octets; {MAX_FILE} are the limit")
        for self._number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            try:
                line = raw.removesuffix(b"\r").decode("utf-8").replace("\t", "    ").rstrip()
            except UnicodeDecodeError:
                raise self._error("the line is not UTF-8") from None
            if not line.isprintable():
                raise self._error("a control or format character is in the line")
            self._take(line)
        self._end_section()

    def _take(self, line: str) -> None:
        if line.startswith("#"):
            return
        if line.startswith("["):
            self._begin_section(line)
        elif self._section == "reasons":
            self._take_reason(line)
        elif self._section:
            self._lines.append(self._paragraph(line))
            self._text_line = self._number if line else self._text_line
        elif line:
            raise self._error("text before the first section, such as [opening]")

    def _begin_section(self, line: str) -> None:
        heading = _HEADING.fullmatch(line)
        if heading is None:
            raise self._error("a section is written [name], with nothing behind it")
        self._end_section()
        self._section = " ".join(heading[1].split())
        self._text_line = self._number
        if self._section != "reasons" and self._section not in SECTIONS:
            raise self._error(f"there is no section [{self._section[:80]}]; known: {', '.join([*SECTIONS, 'reasons'])}")
        if self._section in self.sections or (self._section == "reasons" and self.reasons):
            raise self._error(f"the section [{self._section}] is here a second time")

    def _end_section(self) -> None:
        if self._section and self._section != "reasons":
            lines = self._lines
            while lines and lines[-1].pieces == ("",):
                lines.pop()
            if self._section in SUBJECTS:
                lines = [line for line in lines if line.pieces != ("",)]
                if not lines or not _ALWAYS.issuperset(lines[-1].names):
                    names = ", ".join(f"{{{name}}}" for name in sorted(_ALWAYS))
                    self._number = self._text_line
                    raise self._error(
                        f"the last line of [{self._section}] must be one that can always be filled in: of {names} only"
                    )
            self.sections[self._section] = tuple(lines)
        self._lines = []

    def _paragraph(self, line: str) -> Paragraph:
        pieces = [""]
        done = 0
        for match in _PIECE.finditer(line):
            pieces[-1] += line[done : match.start()]
            done = match.end()
            name = match[1]
            if name is not None:
                if name not in SECTIONS[self._section]:
                    known = ", ".join(f"{{{one}}}" for one in sorted(SECTIONS[self._section]))
                    raise self._error(f"{{{name}}} cannot stand in [{self._section}]; what can: {known}")
                pieces += [name, ""]
            elif len(match[0]) == 2:
                pieces[-1] += match[0][0]
            else:
                raise self._error(f"a single {match[0]}; a name is written {{name}}, a brace {match[0] * 2}")
        pieces[-1] += line[done:]
        return Paragraph(tuple(pieces))

    def _take_reason(self, line: str) -> None:
        if not line:
            return
        match = _REASON.fullmatch(line)
        if match is None:
            raise self._error("a status code and its meaning are expected, such as 'X.1.1 There is no such mailbox.'")
        key = f"{match[1]}.{match[2]}"
        if key in self.reasons:
            raise self._error(f"the status code {key} is here a second time")
        self.reasons[key] = match[3]

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(f"{self._name}, line {self._number}: {problem}")


# -------------------------------------------------------------------- language

_RANGE = re.compile(rb"\s*([A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8}){0,5})\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?))?\s*")


def choose_language(header: bytes, available: Collection[str], default: str) -> str:
    """The language for the sender of a message with this header block (lines ended by LF)."""
    values: dict[bytes, bytes] = {}
    for name, _, value, end in split_fields(header):
        if name in (b"accept-language", b"content-language"):
            values.setdefault(name, header[value:end])
    for name in (b"accept-language", b"content-language"):
        for wanted in _ranges(values.get(name, b"")):
            tag = wanted
            while tag:
                if tag in available:
                    return tag
                tag = tag.rpartition("-")[0]
    return default


def _ranges(value: bytes) -> Iterable[str]:
    """The languages of a field, the most preferred first; unreadable ones are skipped."""
    found = []
    for word in value.split(b",", MAX_RANGES)[:MAX_RANGES]:
        match = _RANGE.fullmatch(word)
        quality = float(match[2] or 1) if match is not None else 0.0
        if match is not None and quality > 0:
            found.append((-quality, match[1].decode("ascii").lower()))
    return [tag for _, tag in sorted(found, key=lambda one: one[0])]
