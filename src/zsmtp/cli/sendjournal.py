"""The lines of a journal of ``zsmtp send``: which recipients have which message, lack it, or are in doubt.

A journal is a file of JSON objects, one a line; the first names the schema::

    {"schema": "zsmtp.journal/1"}
    {"time": "2026-11-29T10:00:00.125Z", "fate": "sending", "message": "9f2c...", "file": "/srv/out/1.eml", ...}
    {"time": "2026-11-29T10:00:00.131Z", "fate": "delivered", "message": "9f2c...", "status": "2.0.0", ...}

A message is identified by the digest of its octets with its sender and recipient, wherever its file is: a moved file is
the same message, a changed one is another. Each of several identical files is a message of its own, with a number
(``copy``). ``sending`` is written before the last octet is sent, so that a recipient whose last line it is, is in
doubt. Everything here is a value; the file is in :mod:`zsmtp.cli.journalfile`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

from zsmtp.client.report import Result
from zsmtp.errors import ConfigError

SCHEMA = "zsmtp.journal/1"
HEADER = json.dumps({"schema": SCHEMA}).encode() + b"\n"
MAX_LINE = 1 << 20  # octets

_KEYS = {"time": str, "fate": str, "message": str, "file": str, "sender": str, "recipient": str}


class Known(Enum):
    """The state of a recipient in a journal; the value is the word in its lines."""

    SENDING = "sending"
    """The message may be complete at the server; no result was written."""
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    IN_DOUBT = "in doubt"


_IN_DOUBT = (Known.SENDING, Known.IN_DOUBT)


class RecipientKey(NamedTuple):
    """One recipient of one message. ``copy`` counts identical messages, from 1."""

    digest: str
    sender: str
    recipient: str
    copy: int = 1


@dataclass(slots=True)
class JournalState:
    """The content of a journal: the last state of each recipient, with its time, and the digests of each file."""

    known: dict[RecipientKey, tuple[Known, str]] = field(default_factory=dict)
    files: dict[str, dict[str, bool]] = field(default_factory=dict)
    """By the path of a file its digests, each with whether any recipient has, may have, or never will have it."""

    def add(self, line: bytes, number: int) -> None:
        """Add one line, without its end. Raises ConfigError for an invalid line."""
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if number == 1:
            if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
                raise ConfigError(f"this is no journal ({SCHEMA})")
            return
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in _KEYS.items()):
            raise ConfigError(f"line {number} is no line of a journal")
        copy = entry.get("copy", 1)
        words = {one.value for one in Known}
        if entry["fate"] not in words or type(copy) is not int or copy < 1:
            raise ConfigError(f"line {number} is no line of a journal")
        fate = Known(entry["fate"])
        key = RecipientKey(entry["message"], entry["sender"], entry["recipient"], copy)
        self.known[key] = fate, entry["time"]
        digests = self.files.setdefault(entry["file"], {})
        digests[key.digest] = digests.get(key.digest, False) or fate is not Known.DEFERRED


def read_lines(lines: Iterable[bytes]) -> tuple[JournalState, int]:
    """The content of the lines of a journal, and the number of valid octets.

    A last line without its end was cut off when its writer was killed; one with NUL octets did not reach the disk
    before the machine stopped. Both are ignored. Raises ConfigError for a file that is no journal.
    """
    state, octets = JournalState(), 0
    torn = False
    for number, line in enumerate(lines, 1):
        if torn:
            raise ConfigError(f"line {number - 1} is no line of a journal")
        torn = not line.endswith(b"\n") or b"\0" in line
        if torn and number == 1 and not HEADER.startswith(line.rstrip(b"\0\n")):
            raise ConfigError(f"this is no journal ({SCHEMA})")
        if not torn:
            state.add(line[:-1], number)
            octets += len(line)
    return state, octets


# --------------------------------------------------------------------- lines


def sending_line(key: RecipientKey, file: str, now: float) -> bytes:
    """The line that records that a recipient may have the message from now on."""
    return _line(key, file, now, {}, Known.SENDING)


def result_line_of(key: RecipientKey, file: str, now: float, result: Result) -> bytes:
    """The line of a result."""
    said = {
        "status": result.status,
        "text": result.reply or result.text,
        "server": str(result.server) if result.server is not None else "",
    }
    return _line(key, file, now, said, Known(result.fate.value))


def _line(key: RecipientKey, file: str, now: float, said: Mapping[str, str], fate: Known) -> bytes:
    time = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry: dict[str, Any] = {
        "time": time,
        "fate": fate.value,
        "message": key.digest,
        "file": file,
        "sender": key.sender,
        "recipient": key.recipient,
    }
    if key.copy > 1:
        entry["copy"] = key.copy
    return json.dumps(entry | dict(said)).encode() + b"\n"


# -------------------------------------------------------------------- choice


class JournalledMessage(NamedTuple):
    """A message to send: the path of its file ("": it has no permanent one), and the facts that identify it."""

    file: str
    digest: str
    sender: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JournalChoice:
    """The recipients of one message to send to now. ``in_doubt`` are left out, each with the time of its last line."""

    send: dict[str, RecipientKey]
    in_doubt: tuple[tuple[str, str], ...] = ()
    delivered: int = 0
    failed: int = 0


def choose(state: JournalState, messages: Iterable[JournalledMessage], *, resend: bool) -> Iterator[JournalChoice]:
    """The choice for each of these messages: recipients without an end, with ``resend`` also those in doubt."""
    copies: Counter[tuple[str, str, str]] = Counter()
    for one in messages:
        send: dict[str, RecipientKey] = {}
        in_doubt = []
        ended: Counter[Known] = Counter()
        for recipient in one.recipients:
            about = one.digest, one.sender, recipient
            copies[about] += 1
            key = RecipientKey(*about, copies[about])
            fate, time = state.known.get(key, (Known.DEFERRED, ""))
            if fate is Known.DEFERRED or (fate in _IN_DOUBT and resend):
                send[recipient] = key
            elif fate in _IN_DOUBT:
                in_doubt.append((recipient, time))
            else:
                ended[fate] += 1
        yield JournalChoice(send, tuple(in_doubt), ended[Known.DELIVERED], ended[Known.FAILED])


def changed(state: JournalState, messages: Iterable[JournalledMessage]) -> list[str]:
    """The files with another message than in the journal, if a recipient may have that former message.

    A file whose former message is still among ``messages`` has been moved, and is not included.
    """
    messages = tuple(messages)
    here = {one.digest for one in messages}
    found = []
    for one in messages:
        before = state.files.get(one.file) if one.file else None
        if before is None or one.digest in before:
            continue
        if any(counts and digest not in here for digest, counts in before.items()):
            found.append(one.file)
    return found
