"""What ZMailer's scheduler makes of a control file: who is to do, and the notices to the sender.

An independent reader of the file, with the scheduler's own habits where they decide what a sender is told:

- A ``d`` record counts while its state tag is blank, and is told of once: then the tag becomes ``+``.
- The notice is for the recipient at the record's offset, with the NOTIFY and ORCPT of the ``N`` record at the third
  number of the record, whoever it belongs to; without one it is for failures only.
- An action is told only if NOTIFY asks for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_RECORDS = re.compile(rb"^(r)(.)(.{6})....(\S+) (\S+) (\S+) \S+\n(?:(N) (.*)\n)?", re.MULTILINE)
_DIAGNOSTIC = re.compile(rb"^d (\d+):(-?\d+):(-?\d+)::\d+\t([^\t\n]*)\t([^\n]*)\n", re.MULTILINE)
_ASKED = {b"failed": b"FAILURE", b"delivered": b"SUCCESS", b"relayed": b"SUCCESS", b"delayed": b"DELAY"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One recipient of a control file. ``wishes`` is the offset of its ``N`` record's text, -1 without one."""

    offset: int
    tag: bytes
    lock: bytes
    channel: bytes
    host: bytes
    address: bytes
    words: bytes
    wishes: int

    @property
    def notify(self) -> set[bytes]:
        """What the sender wants to be told of."""
        return notify_of(self.words)


@dataclass(frozen=True, slots=True)
class Notice:
    """What a sender is told of one recipient, by whom: ``offset`` says which one, ``final`` is the address named."""

    file: str
    offset: int
    address: bytes
    final: bytes
    action: bytes
    status: bytes
    original: bytes | None


def notify_of(words: bytes) -> set[bytes]:
    """The words of NOTIFY, FAILURE if it is not there."""
    match = re.search(rb"(?:^| )NOTIFY=(\S+)", words)
    return set(match[1].split(b",")) if match else {b"FAILURE"}


def entries(data: bytes) -> list[Entry]:
    """The recipients of a control file, in its order."""
    found = []
    for match in _RECORDS.finditer(data.partition(b"\nm\n")[0] + b"\n"):
        wishes = match.start(8) if match[7] else -1
        found.append(Entry(match.start(), match[2], match[3], match[4], match[5], match[6], match[8] or b"", wishes))
    return found


def alive(lock: bytes) -> bool:
    """Whether the process that a lock field names exists; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{int(lock)}/stat").read_bytes()
    except (ValueError, OSError):
        return False
    return stat.rpartition(b") ")[2][:1] not in b"ZX"


def set_tag(path: Path, offset: int, old: bytes, new: bytes) -> None:
    """Write a state tag, if it is still the old one."""
    with path.open("r+b", buffering=0) as file:
        file.seek(offset + 1)
        if file.read(1) == old:
            file.seek(offset + 1)
            file.write(new)


def append_diagnostic(path: Path, entry: Entry, wishes: int, notary: bytes, message: bytes) -> None:
    """Write a ``d`` record as the scheduler does; ``wishes`` is that of the first recipient it has for the host."""
    header = path.read_bytes().index(b"\nm\n") + 1
    with path.open("ab") as file:
        file.write(b"d %d:%d:%d::1700000000\t%b\t%b\n" % (entry.offset, header, wishes, notary, message))


def tell(path: Path, name: str) -> list[Notice]:
    """The notices that the ``d`` records of a control file call for; the records are used up."""
    data = path.read_bytes()
    recipients = {entry.offset: entry for entry in entries(data)}
    told = []
    for match in _DIAGNOSTIC.finditer(data):
        set_tag(path, match.start(), b" ", b"+")
        offset, wishes, notary = int(match[1]), int(match[3]), match[4].split(b"\x01")
        words = data[wishes : data.index(b"\n", wishes)] if wishes > 0 else b""
        if len(notary) < 4 or not notify_of(words) & {_ASKED.get(notary[1], b"")}:
            continue
        address = recipients[offset].address
        final = address if notary[0] == b"\x03" else notary[0]
        original = re.search(rb"(?:^| )ORCPT=(\S+)", words)
        told.append(Notice(name, offset, address, final, notary[1], notary[2], original[1] if original else None))
    return told
