"""A temporary post office: control and message files as ZMailer's router leaves them, and what agents made of them.

:meth:`PostOffice.post` writes one message with its recipients; :meth:`PostOffice.marks` reads the state tags back,
:meth:`PostOffice.diagnostics` the ``d`` records. :class:`Report` is one report line of an agent, taken apart by the
strict rules of the scheduler's protocol::

    office = PostOffice(tmp_path)
    job = office.post(["a@example.com", Rcpt("b@example.com", words="NOTIFY=NEVER")])
    with Agent(office, "-p", str(sink.port)) as agent:
        agent.feed(job.line("[127.0.0.1]"))
    assert office.marks(job) == "++"
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HEADER = "From: sender@example.org\nTo: rcpt@example.com\nSubject: test\nMessage-Id: <m1@example.org>\n"
BODY = "Hello,\n.leading dot\n..two dots\nend line\n"

_ENVELOPE = "external\nrcvdfrom STDIN\nfrom <sender@example.org>\nenv-end\n"
_RECIPIENT = re.compile(rb"^r([ ~+-])(.{6})", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rcpt:
    """One recipient to be written: its record, and the words of its ``N`` record (none if empty)."""

    address: str
    host: str = "[127.0.0.1]"
    channel: str = "smtp"
    words: str = ""
    state: str = " "
    lock: str = "      "

    def record(self) -> str:
        line = f"r{self.state}{self.lock}    {self.channel} {self.host} {self.address} 99\n"
        return line + (f"N {self.words}\n" if self.words else "")


@dataclass(frozen=True, slots=True)
class Job:
    """One message in the spool: its path as the scheduler writes it, and the offsets of its recipients."""

    path: str
    offsets: tuple[int, ...]

    @property
    def id(self) -> bytes:
        match = re.match(r"\d*", self.path.rsplit("/", 1)[-1])
        assert match is not None
        return match[0].encode()

    def line(self, host: str | None = None) -> bytes:
        """The job line for this host (without one: the agent's command line has it)."""
        return f"{self.path}\n".encode() if host is None else f"{self.path}\t{host}\n".encode()


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One ``d`` record."""

    offset: int
    header_offset: int
    dsn_offset: int
    epoch: int
    notary: tuple[bytes, ...]
    message: bytes

    _FORM = re.compile(rb"d (\d+):(\d+):(-?\d+)::(\d+)\t([^\t]*)\t([^\t]*)")

    @classmethod
    def parse(cls, line: bytes) -> Diagnostic:
        match = cls._FORM.fullmatch(line)
        assert match is not None, f"not a diagnostic record: {line!r}"
        offset, header_offset, dsn_offset, epoch = (int(match[n]) for n in range(1, 5))
        return cls(offset, header_offset, dsn_offset, epoch, tuple(match[5].split(b"\x01")), match[6])


@dataclass(frozen=True, slots=True)
class Report:
    """One report line: ``id/offset<TAB>notary<TAB>word message``."""

    id: bytes
    offset: int
    notary: tuple[bytes, ...]
    word: str
    message: bytes

    _FORM = re.compile(
        rb"(\d+)/(\d+)\t([^\t]*)\t"
        rb"(ok|ok2|ok3|error|error2|deferred|deferall|deferback|retryat(?= \+?\d+(?: |$)))(?: ([^\t\x01]*))?"
    )
    _CONTROL = re.compile(rb"[\x00\x02-\x08\n\x0b\x0c\x0e-\x1f\x7f]")

    @classmethod
    def parse(cls, line: bytes) -> Report:
        """Take a line apart; an AssertionError names what is wrong with it."""
        match = cls._FORM.fullmatch(line)
        assert match is not None, f"not a report: {line!r}"
        assert not cls._CONTROL.search(line), f"control characters in {line!r}"
        notary = tuple(match[3].split(b"\x01")) if match[3] else ()
        assert len(notary) in {0, 5, 6}, f"{len(notary)} notary fields in {line!r}"
        if notary:
            address, action, status, diagnostic, _mta, *_agent = notary
            assert b"\r" not in match[3], f"a line break in the notary data of {line!r}"
            assert action in {b"delivered", b"relayed", b"failed", b"expanded"}, line
            assert re.match(rb"[245]\.\d{1,3}\.\d{1,3}(?: \(|$)", status), f"no status code in {line!r}"
            assert address, line
            assert diagnostic == b"" or re.match(rb"[a-z-]+; ", diagnostic), line
        return cls(match[1], int(match[2]), notary, match[4].decode(), match[5] or b"")

    @property
    def fate(self) -> str:
        """``ok``, ``error`` or ``deferred``: the family of the word."""
        if self.word.startswith("ok"):
            return "ok"
        return "error" if self.word.startswith("error") else "deferred"


class PostOffice:
    """``$POSTOFFICE`` below ``root``: ``transport`` for control files, ``queue`` for message files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.transport = root / "transport"
        self.queue = root / "queue"
        self.zenv = root / "zmailer.conf"
        self.log = root / "dialogue.log"
        for directory in (self.transport, self.queue):
            directory.mkdir(parents=True)
        self.write_zenv()

    def write_zenv(self, **settings: str) -> None:
        """Write the ZENV file with these settings; syslog stays out of it unless asked for."""
        settings = {"POSTOFFICE": str(self.root), "SYSLOGFLG": "none", **settings}
        self.zenv.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def post(
        self,
        recipients: Iterable[Rcpt | str],
        *,
        name: str = "1001",
        sender: str = "local - sender@example.org 99",
        header: str = HEADER,
        body: bytes | str = BODY,
        extra: str = "",
    ) -> Job:
        """Put a message into the spool.

        ``name`` may have hash directories in front (``A/B/1001-1``). ``extra`` are further records, with their line
        ends, that stand before the sender (``n envid\\n``, ``v /path\\n``).
        """
        directory, _, base = name.rpartition("/")
        for top in (self.transport, self.queue):
            (top / directory).mkdir(parents=True, exist_ok=True)
        body = body.encode() if isinstance(body, str) else body
        head = f"{_ENVELOPE}{header}\n".encode("latin-1")
        (self.queue / name).write_bytes(head + body)
        text = f"@ 0x00000007\ni {base}\no {len(head)}\nl <m1@example.org>\ne <sender@example.org>\n{extra}s {sender}\n"
        offsets = []
        for rcpt in recipients:
            offsets.append(len(text.encode("latin-1")))
            text += (rcpt if isinstance(rcpt, Rcpt) else Rcpt(rcpt)).record()
        (self.transport / name).write_bytes(f"{text}m\n{header}\n".encode("latin-1"))
        return Job(name, tuple(offsets))

    def control(self, job: Job) -> bytes:
        """The octets of the control file."""
        return (self.transport / job.path).read_bytes()

    def marks(self, job: Job) -> str:
        """The state tags of the recipients that were posted, in file order; asserts that no lock field is odd."""
        data = self.control(job)
        marks = ""
        for offset in job.offsets:
            match = _RECIPIENT.match(data, offset)
            assert match is not None, f"no recipient record at {offset}"
            assert match[1] == b"~" or match[2] == b"      ", f"a lock field was left: {match[0]!r}"
            marks += match[1].decode()
        return marks

    def diagnostics(self, job: Job) -> list[Diagnostic]:
        """The ``d`` records of the control file."""
        return [Diagnostic.parse(line) for line in self.control(job).split(b"\n") if line.startswith(b"d")]

    def notary(self, report: Report) -> tuple[bytes, ...]:
        """The notary data of a report: its own, or those of the ``d`` record of its recipient."""
        if report.notary:
            return report.notary
        files = [Job(str(path.relative_to(self.transport)), ()) for path in self.transport.rglob("[0-9]*")]
        records = [record for job in files if job.id == report.id for record in self.diagnostics(job)]
        return next((record.notary for record in records if record.offset == report.offset), ())

    def locked(self) -> list[str]:
        """The control files in which a recipient is locked."""
        return sorted(
            str(path.relative_to(self.transport))
            for path in self.transport.rglob("*")
            if path.is_file() and re.search(rb"^r~", path.read_bytes(), re.MULTILINE)
        )


def wire_content(header: str | bytes, body: str | bytes, *, stuffed: bool = True) -> bytes:
    """What a message must look like on the wire: the definition, line by line (RFC 5321 4.5.2 and 2.3.8)."""
    octets = [part.encode("latin-1") if isinstance(part, str) else part for part in (header, body)]
    lines = re.split(rb"\r\n|\r|\n", b"\n".join(octets))
    if lines[-1] == b"":
        lines.pop()
    if stuffed:
        lines = [b"." + line if line.startswith(b".") else line for line in lines]
    return b"".join(line + b"\r\n" for line in lines)
