"""Parses ZENV: the settings of all ZMailer programs, in a file of ``NAME=value`` lines that shell scripts read, too.

The file is the one named by the environment variable ``ZCONFIG``, else ``/etc/zmailer.conf`` if there is one::

    # the spool
    POSTOFFICE=/var/spool/postoffice
    MAILVAR="$POSTOFFICE/var"      # or ${POSTOFFICE}
    SYSLOGFLG='RsST'

Quotes, backslashes and comments have their meaning in a shell, ``export`` may stand in front, and ``$NAME`` expands to
the value from earlier lines. No other part of the shell is supported: nothing is run, nothing is evaluated twice, and
the environment gives no values. A line with more is skipped and becomes a remark (file, line, error): a mistake in a
file shared by many programs must not stop the mail.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # instead of typing's; the agent reads this file before its first job, so no slow import
if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PATH = "/etc/zmailer.conf"
FILE_LIMIT = 1 << 20  # octets of a file
VALUE_LIMIT = 1 << 16  # characters of one value, expanded
_TOTAL_LIMIT = 1 << 22  # characters of all values, expanded
_REMARK_LIMIT = 20

_TRUE = frozenset({"1", "y", "yes", "true", "on"})
_FALSE = frozenset({"0", "n", "no", "false", "off"})

# Octets that are not part of a plain shell word.
_OPERATORS = frozenset(";&|<>()`")


class Zenv:
    """The settings read from one file.

    ``name`` is the file's, ``remarks`` are its errors, each with file and line; a getter adds one for an invalid value.
    """

    def __init__(self, name: str, values: Mapping[str, str] | None = None, remarks: list[str] | None = None) -> None:
        self.name = name
        self.remarks: list[str] = remarks if remarks is not None else []
        self._values = dict(values or {})

    def __contains__(self, name: str) -> bool:
        """Whether the file sets ``name``, also to an empty value."""
        return name in self._values

    def get(self, name: str, default: str = "") -> str:
        """The value of ``name``, or ``default`` if the file does not set it."""
        return self._values.get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """The yes or no of ``name``: 1, yes, true, on or 0, no, false, off in any case; else ``default``."""
        word = self._values.get(name, "").lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        if word:
            self._remark(f"{self.name}: {name}={self._values[name]!r} is neither yes nor no")
        return default

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)


def load(environ: Mapping[str, str], *, default_path: str = DEFAULT_PATH) -> Zenv:
    """Read the file that ``ZCONFIG`` in ``environ`` names, else ``default_path`` if it exists.

    Never fails: an error on reading is a remark, and the settings are those that could be read.
    """
    path = environ.get("ZCONFIG", "")
    try:
        # A FIFO must not block the start until it is written to.
        fd = os.open(path or default_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        if not path and isinstance(error, FileNotFoundError):
            return Zenv(default_path)
        return _unread(path or default_path, error)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            # The null device means no settings.
            return Zenv(path) if path == os.devnull else _unread(path or default_path, "not a regular file")
        data = _read(fd)
    except OSError as error:
        return _unread(path or default_path, error)
    finally:
        os.close(fd)
    return parse(data, path or default_path)


def _read(fd: int) -> bytes:
    """The file's octets, one more than the limit at most, so that :func:`parse` sees the excess."""
    parts = []
    room = FILE_LIMIT + 1
    while room > 0 and (part := os.read(fd, min(room, 1 << 16))):
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def _unread(path: str, reason: object) -> Zenv:
    why = reason.strerror if isinstance(reason, OSError) else reason
    return Zenv(path, remarks=[f"{path}: cannot be read: {why}"])


def parse(text: str | bytes, name: str) -> Zenv:
    """The settings in ``text``, the content of the file ``name``. Octets that are not UTF-8 survive as surrogates."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    remarks: list[str] = []
    if len(text) > FILE_LIMIT:
        text = text[:FILE_LIMIT].rpartition("\n")[0]
        remarks.append(f"{name}: longer than {FILE_LIMIT} octets, the rest is not read")
    values: dict[str, str] = {}
    room = _TOTAL_LIMIT
    for number, line in _logical_lines(text):
        try:
            setting = _assignment(line, values)
            if setting is not None:
                room -= len(setting[1])
                if room < 0:
                    raise _BadLine("too much text in all values")
                values[setting[0]] = setting[1]
        except _BadLine as error:
            if len(remarks) < _REMARK_LIMIT:
                remarks.append(f"{name}:{number}: {error}")
            elif len(remarks) == _REMARK_LIMIT:
                remarks.append(f"{name}: more bad lines")
    return Zenv(name, values, remarks)


class _BadLine(Exception):
    """The error in a line."""


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Numbered lines without line end, backslash-newline joined, a CR before the line end dropped."""
    lines = []
    pending, first = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not pending:
            first = number
        if (len(line) - len(line.rstrip("\\"))) % 2 and not line.lstrip().startswith("#"):
            pending += line[:-1]
            continue
        lines.append((first, pending + line))
        pending = ""
    if pending:
        lines.append((first, pending))
    return lines


def _assignment(line: str, values: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and expanded value of one line, None if it sets nothing."""
    line = line.strip(" \t")
    if not line or line.startswith("#"):
        return None
    exported = line.startswith(("export ", "export\t"))
    if exported:
        line = line[7:].lstrip(" \t")
    name, equals, rest = line.partition("=")
    if not equals and exported:
        return None  # a shell would export variables to its children here; there are none
    if not equals or not _is_name(name):
        raise _BadLine("not NAME=value")
    return name, _ShellWord(rest, values).read()


def _is_name(text: str) -> bool:
    return text.isascii() and text.replace("_", "a").isalnum() and not text[0].isdigit()


class _ShellWord:
    """One shell word: parses ``rest`` up to an unquoted blank and checks that only a comment follows."""

    def __init__(self, rest: str, values: Mapping[str, str]) -> None:
        self._rest = rest
        self._at = 0
        self._values = values
        self._parts: list[str] = []
        self._length = 0

    def read(self) -> str:
        while (character := self._next()) not in ("", " ", "\t"):
            if character == "'":
                self._add(self._until("'"))
            elif character == '"':
                self._double_quoted()
            elif character == "\\":
                self._add(self._next())
            elif character == "$":
                self._expand()
            elif character == ";" and self._ends():
                break
            elif character in _OPERATORS:
                raise _BadLine(f"{character} is not understood here; quote it")
            else:
                self._add(character)
        if not self._ends():
            raise _BadLine("text after the value; a value with blanks needs quotes")
        return "".join(self._parts)

    def _ends(self) -> bool:
        """Whether only a comment follows."""
        following = self._rest[self._at :].lstrip(" \t;")
        return not following or following.startswith("#")

    def _next(self) -> str:
        character = self._rest[self._at : self._at + 1]
        self._at += 1
        return character

    def _add(self, text: str) -> None:
        if "\0" in text:
            raise _BadLine("NUL octet")
        self._length += len(text)
        if self._length > VALUE_LIMIT:
            raise _BadLine(f"value longer than {VALUE_LIMIT} characters")
        self._parts.append(text)

    def _until(self, quote: str) -> str:
        end = self._rest.find(quote, self._at)
        if end < 0:
            raise _BadLine(f"closing {quote} is missing")
        text = self._rest[self._at : end]
        self._at = end + 1
        return text

    def _double_quoted(self) -> None:
        while (character := self._next()) != '"':
            if not character:
                raise _BadLine('closing " is missing')
            if character == "$":
                self._expand()
            elif character == "`":
                raise _BadLine("commands are not run here")
            elif character == "\\":
                escaped = self._next()
                # Between double quotes a backslash is literal unless it escapes a special character (POSIX shell
                # 2.2.3).
                self._add(escaped if escaped in ("$", "`", '"', "\\") else "\\" + escaped)
            else:
                self._add(character)

    def _expand(self) -> None:
        """``$NAME`` or ``${NAME}``, the ``$`` already read; a name without value is empty, a lone ``$`` itself."""
        rest = self._rest
        if rest.startswith("(", self._at):
            raise _BadLine("commands are not run here")
        if rest.startswith("{", self._at):
            self._at += 1
            name = self._until("}")
            if not name or not _is_name(name):
                raise _BadLine("only ${NAME} is understood")
        else:
            end = self._at
            while end < len(rest) and (rest[end] == "_" or (rest[end].isascii() and rest[end].isalnum())):
                end += 1
            name = rest[self._at : end]
            if not name:
                self._add("$")
                return
            if not _is_name(name):
                raise _BadLine(f"${name[0]} has no meaning here")
            self._at = end
        self._add(self._values.get(name, ""))
