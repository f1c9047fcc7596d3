"""One recorded session of the ZMailer 3.0 agent: what it was given, and what it did with it.

Each file under ``captures`` is one session. ``flags``, ``sinks``, ``stdin``, ``control`` and ``message`` are what it
was given (``repeat`` adds a text so many times to a message file); ``stdout``, ``exit``, ``marks`` (one state tag per
recipient), ``diagnostics`` (the ``d`` records) and ``wire`` (command lines and contents of each connection) what it
did. Octets are shown as Latin-1; ``@LOG@`` and ``@WORK@`` stand for paths, 2525 and 2526 for ports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.postoffice import Report

CAPTURES = Path(__file__).parent / "captures"


@dataclass(frozen=True, slots=True)
class Wire:
    """What one connection of the capture carried from the client."""

    commands: tuple[str, ...]
    contents: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Capture:
    """The session, with the names of its files as keys."""

    name: str
    flags: tuple[str, ...]
    sinks: dict[str, Any]
    stdin: str
    control: dict[str, str]
    message: dict[str, str]
    marks: dict[str, str]
    diagnostics: dict[str, tuple[str, ...]]
    stdout: tuple[bytes, ...]
    status: int
    wire: dict[str, tuple[Wire, ...]]

    @property
    def reports(self) -> list[Report]:
        """The report lines; in the capture a success or an ``error2`` of a local check may lack what ours must have."""
        return [_lenient(line) for line in self.stdout if line and not line.startswith(b"#")]

    @property
    def hungry(self) -> int:
        return self.stdout.count(b"#hungry")

    @property
    def resyncs(self) -> list[bytes]:
        return [line.removeprefix(b"#resync ") for line in self.stdout if line.startswith(b"#resync ")]

    def offers(self, keyword: str) -> bool:
        """Whether a server of this session offers the extension."""
        scripts = [script for sink in self.sinks.values() for script in sink.get("scripts", [])]
        return any(keyword in caps.split()[0] for script in scripts for caps in script.get("caps", []))


def names() -> list[str]:
    """The names of all captures."""
    return sorted(path.stem for path in CAPTURES.glob("*.json"))


def load(name: str) -> Capture:
    """Read one capture."""
    data = json.loads((CAPTURES / f"{name}.json").read_text("ascii"))
    message = dict(data["message"])
    for file, (text, times) in data.get("repeat", {}).items():
        message[file] += text * times
    sinks = {"main": {}} if data["sinks"] == "default" else data["sinks"]
    wire: dict[str, tuple[Wire, ...]] = dict.fromkeys(sinks, ())
    for connection, record in data["wire"].items():
        contents = tuple(text.encode("latin-1") for text in record["contents"])
        wire[connection.partition("#")[0]] += (Wire(tuple(record["commands"]), contents),)
    return Capture(
        name=name,
        flags=tuple(data["flags"]),
        sinks=sinks,
        stdin=data["stdin"],
        control=data["control"],
        message=message,
        marks=data["marks"],
        diagnostics={file: tuple(lines) for file, lines in data["diagnostics"].items()},
        stdout=tuple(data["stdout"].encode("latin-1").split(b"\n")),
        status=data["exit"],
        wire=wire,
    )


def recipient_offsets(control: str) -> list[int]:
    """Where the recipient records of a control file begin."""
    records = control[: control.index("\nm\n")]
    return [match.start() for match in re.finditer(r"^r[ ~+-]", records, re.MULTILINE)]


def header_and_body(control: str, message: str) -> tuple[str, str]:
    """The header block of the control file, and the body of the message file."""
    header = control[control.index("\nm\n") + 3 :].partition("\n\n")[0] + "\n"
    match = re.search(r"^o (\d+)$", control, re.MULTILINE)
    assert match is not None
    return header, message[int(match[1]) :]


def normal_commands(commands: tuple[str, ...]) -> Iterator[str]:
    """The command lines as this project writes them: what differs by rule is made equal.

    Letter case of ``MAIL FROM`` and ``RCPT TO``, recipients in file order (the reference goes backwards), the name
    after EHLO, and sizes (which are checked against the content instead).
    """
    waiting: list[str] = []
    for command in commands:
        line = re.sub(r"^(EHLO|HELO|LHLO) .*", r"\1", command)
        line = re.sub(r"^MAIL From:", "MAIL FROM:", line)
        line = re.sub(r" SIZE=\d+", " SIZE=n", line)
        line = re.sub(r"^BDAT \d+", "BDAT n", line)
        if line.startswith("RCPT To:"):
            waiting.insert(0, "RCPT TO:" + line.removeprefix("RCPT To:"))
            continue
        yield from waiting
        waiting.clear()
        yield line


def _lenient(line: bytes) -> Report:
    head, notary, rest = line.split(b"\t")
    number, offset = head.split(b"/")
    word, _, text = rest.partition(b" ")
    return Report(number, int(offset), tuple(notary.split(b"\x01")) if notary else (), word.decode(), text)
