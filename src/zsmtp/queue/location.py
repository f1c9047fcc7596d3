"""The location of a queue, as a program or an environment variable gives it: a URL, or the path of a file.

``sqlite:///var/lib/app/mail.db`` and ``/var/lib/app/mail.db`` are the same file; in a URL the path is absolute and
percent-encoded. ``postgresql://user@host/database`` is a database, in any form of URL that libpq accepts; passwords are
better stored in ``~/.pgpass`` or ``PGPASSFILE``. ``memory:`` is a queue that ends with the process, for tests and
documentation.
"""

from __future__ import annotations

import os
import re
from os import PathLike
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from zsmtp.errors import ConfigError
from zsmtp.escape import escape

VARIABLE = "ZSMTP_QUEUE"
"""The environment variable that names the queue of commands."""
DEFAULT = "/var/lib/zsmtp/queue.db"
"""The default queue of commands."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_POSTGRESQL = ("postgres:", "postgresql:")


class Location(NamedTuple):
    """A queue: ``path`` is its file, ``url`` its database; both are "" for a queue in memory."""

    path: str
    url: str = ""

    @property
    def in_memory(self) -> bool:
        """Whether it ends with the process."""
        return not self.path and not self.url

    @property
    def given(self) -> str:
        """The text from which :func:`locate` makes this."""
        return self.path or self.url or "memory:"

    @property
    def name(self) -> str:
        """It for display and for other commands: a URL without user, password and options.

        It has the host and the port wherever they stand in the URL; the folder of a socket stands behind ``?``.
        """
        if not self.url:
            return self.given
        parts = urlsplit(self.url)
        query = dict(parse_qsl(parts.query.replace("+", "%2B")))
        host, port = query.get("host", ""), query.get("port", "")
        where = parts.netloc.rpartition("@")[2]
        if where or not host.startswith("/"):
            where = where or host + f":{port}" * bool(port)
            return f"postgresql://{where}{parts.path}"
        at = "&port=" + port if port else ""
        return f"postgresql://{parts.path}?host={quote(host)}{at}"

    @property
    def full_name(self) -> str:
        """It for display in any folder: with an absolute path."""
        return os.path.abspath(self.path) if self.path else self.name


def locate(url: str | PathLike[str]) -> Location:
    """Read a URL or a path. Raises ConfigError."""
    if not isinstance(url, str | PathLike):
        raise ConfigError(f"queue: a URL or a path is expected, not {type(url).__name__}")
    text = os.fspath(url)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigError("queue: no URL and no path")
    scheme = _SCHEME.match(text) if isinstance(url, str) else None
    if scheme is None:
        if text == ":memory:":
            raise ConfigError("queue: a queue in memory is called memory:")
        return Location(text)
    word = scheme[0].lower()
    if word == "memory:" and text[len(word) :] == "":
        return Location("")
    if word in _POSTGRESQL:
        return Location("", _database(text))
    if word != "sqlite:":
        raise ConfigError(
            f"queue: {escape(text[:100])} is none of sqlite:///path, postgresql://host/database, memory: "
            "or the path of a file"
        )
    return Location(_path(text))


def _database(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ConfigError("queue: the URL of the database cannot be read") from None
    if not text.partition(":")[2].startswith("//") or not parts.path.strip("/"):
        raise ConfigError("queue: the URL names no database; postgresql://host/database is expected")
    return text


def _path(text: str) -> str:
    shown = escape(text[:100])
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ConfigError(f"queue: {shown} is no URL") from None
    if parts.netloc or not text[len("sqlite:") :].startswith("///"):
        raise ConfigError(f"queue: {shown} is no local file; sqlite:///path is expected, with three slashes")
    if parts.query or parts.fragment:
        raise ConfigError(f"queue: nothing may follow the path in {shown}; ? and # in a path are %3F and %23")
    path = unquote(parts.path)
    if path.strip("/") == "" or "\0" in path:
        raise ConfigError(f"queue: there is no path in {shown}")
    return "/" + path.lstrip("/")


def making(path: str) -> str:
    """The command that makes the queue of a file, for messages about a missing one."""
    return f"zsmtp serve --queue {escape(path)} makes it, and so does zsmtp.Queue.open"


def usual_location() -> Location:
    """The queue that the environment names, else the one of the system. Raises ConfigError."""
    return locate(os.environ.get(VARIABLE) or DEFAULT)
