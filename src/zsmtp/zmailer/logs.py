"""The logs of a delivery for people: dialogue log, sender's verbose log, process title, syslog, debug remarks.

Each is an adapter from the events of :mod:`zsmtp.events` to lines, and each is an ``Observer``: call it with an event.
None of them may affect a delivery: a log that cannot be written is switched off with one warning, and nothing here
waits or raises.

Peers choose parts of the logged text. :func:`zsmtp.escape.escape` converts all octets to text: characters that could
move a cursor, end a line or hide a letter become ``\\r``, ``\\x1b`` or ``\\u202e``, and octets that are not UTF-8
become ``\\xff``. The session has masked secrets in its events; message content is never logged, only its size.

The lines have the formats of ZMailer's own agent, so that its administrators' tools keep working.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from zsmtp import events
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.escape import escape
from zsmtp.records import dataclass

if TYPE_CHECKING:
    from zsmtp.zmailer.diagnostics import RecipientReport

Warn = Callable[[str], None]
Clock = Callable[[], float]

LOG_MODE = 0o644  # of a new log, less the umask
_LINE_LIMIT = 8192  # characters; a reply line may be 64 KiB, and octets grow fourfold when escaped


def socket_name(endpoint: Endpoint) -> str:
    """``192.0.2.1|25``, ``ipv6 2001:db8::1|25`` or ``UNIX:/path``."""
    if endpoint.family is Family.UNIX:
        return f"UNIX:{endpoint.address}"
    prefix = "ipv6 " if endpoint.family is Family.INET6 else ""
    return f"{prefix}{endpoint.address}|{endpoint.port}"


def _host_name(endpoint: Endpoint) -> str:
    return f"UNIX:{endpoint.host}" if endpoint.family is Family.UNIX else endpoint.host


def _remark_text(event: events.Event, now: float) -> str | None:
    """The text for an event that is neither a line of dialogue nor progress; it still needs :func:`escape`."""
    match event:
        case events.Remark(text) | events.Detail(text):
            return text
        case events.Connecting(endpoint):
            return f"(Connecting to `{_host_name(endpoint)}' [{socket_name(endpoint)}] {time.ctime(now)})"
        case events.ConnectFailed(endpoint, reason):
            return f"; 500 (connect to {_host_name(endpoint)} [{socket_name(endpoint)}]: {reason})"
        case events.Connected(endpoint, local):
            here = f"|{local[0]}|{local[1]}" if local else ""
            return f"(Connected to `{_host_name(endpoint)}' [{socket_name(endpoint)}{here}])"
        case events.ContentSent():
            return (
                f"{event.octets} bytes, {event.header_octets} in header, {event.recipients} recipients, "
                f"{int(event.envelope_seconds)} secs for envelope, {int(event.content_seconds)} secs for body xfer"
            )
        case events.Secured(_, facts, judgement):
            return f"TLS {facts.session}; peer {facts.peer}; {judgement.summary}"
        case events.Closed(reason):
            return f"(closed SMTP channel - {reason})"
    return None


class _AppendedFile:
    """A file that grows by whole lines, each one ``write``; the first failure closes it with one warning."""

    def __init__(self, path: str | bytes, flags: int, mode: int, warn: Warn, *, plain: bool) -> None:
        self._path = path
        self._warn = warn
        self._fd: int | None = None
        try:
            # A FIFO without a reader must not block the delivery, neither on opening nor on writing.
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | flags, mode)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return
        self._fd = fd
        if plain and not _is_plain(fd):
            self.close()
            self._give_up("not a regular file with one name")

    def write(self, line: str) -> None:
        """Append ``line``, which is escaped text, and a line end."""
        if self._fd is None:
            return
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            complete = os.write(self._fd, data) == len(data)
        except OSError as error:
            self.close()
            self._give_up(error)
            return
        if not complete:
            self.close()
            self._give_up("no room for a whole line")

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _give_up(self, reason: object) -> None:
        why = reason.strerror if isinstance(reason, OSError) else reason
        self._warn(f"no log to {escape(self._path)}: {why}")


def _is_plain(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _cut(text: str) -> str:
    """Escaped text of bounded length; a cut is marked."""
    # Escaping never shortens text, so characters beyond the limit cannot be part of the result.
    text = escape(text[: _LINE_LIMIT + 1])
    return text if len(text) <= _LINE_LIMIT else text[:_LINE_LIMIT] + "..."


def _line_text(line: bytes) -> str:
    return _cut(line[: 4 * _LINE_LIMIT + 4].decode("utf-8", "surrogateescape"))


class DialogueLog:
    """The log of ``-l``: ``PPPPPHHHH-NNNN-SSSSx<TAB>text``, many agents to one file.

    ``PPPPP`` is the process id, ``HHHH`` the low 16 bits of the start time, ``NNNN`` the running number of the line and
    ``SSSS`` the seconds since the start (both begin again at 10000), ``x`` one of ``r`` received, ``w`` written and
    ``#`` remark. ``clock`` returns the time in seconds since 1970; ``warn`` is called once with the reason if the log
    cannot be written. With ``verbose`` above 0 the details are logged too.
    """

    def __init__(self, path: str, pid: int, start_epoch: float, *, clock: Clock, warn: Warn, verbose: int = 0) -> None:
        self._start = int(start_epoch)
        self._tag = f"{pid % 100000:05d}{self._start & 0xFFFF:04X}"
        self._number = 0
        self._clock = clock
        self._verbose = verbose
        self._file = _AppendedFile(path, os.O_CREAT, LOG_MODE, warn, plain=False)
        started = time.strftime("%a, %d %b %Y %H:%M:%S %z", time.localtime(self._start))
        self.remark(f"Start time: {started}")

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.LineReceived(line):
                self._write("r", _line_text(line))
            case events.LineSent(line):
                self._write("w", _line_text(line))
            case events.Detail() | events.Connected() if self._verbose == 0:
                pass
            case _:
                text = _remark_text(event, self._clock())
                if text is not None:
                    self.remark(text)

    def remark(self, text: str) -> None:
        """Write a remark of this program."""
        self._write("#", _cut(text))

    def jobspec(self, line: bytes) -> None:
        """Write the job line from the scheduler, without its line end; the TAB before the host is kept."""
        path, tab, host = line.partition(b"\t")
        self._write("#", f"jobspec: {_line_text(path)}{tab.decode()}{_line_text(host)}")

    def message(self, id: bytes, log_identity: bytes) -> None:
        """Write the present message: the number of its control file, and its name in logs (its Message-ID)."""
        self._write("#", f"{_line_text(id)}: {_line_text(log_identity)}")

    def diag(self, report: RecipientReport) -> None:
        """Write the verdict on a recipient, with all fields of a delivery status notification."""
        self._write("#", _diag_text(report))

    def close(self) -> None:
        """Close the file; later events are discarded."""
        self._file.close()

    def _write(self, kind: str, text: str) -> None:
        elapsed = max(int(self._clock()) - self._start, 0) % 10000
        self._file.write(f"{self._tag}-{self._number:04d}-{elapsed:04d}{kind}\t{text}")
        self._number = (self._number + 1) % 10000


def _diag_text(report: RecipientReport) -> str:
    recipient = report.recipient
    via = escape(report.remote.partition(" (")[0])  # "" for UNIX sockets, which have no name
    through = f" WTT='{via}'" if via else ""
    # "L" was the file offset of the lock, which is unknown here; readers take 0 for "none".
    return (
        f"DIAG: C='{_line_text(recipient.channel)}' H='{_line_text(recipient.host)}' U='{_line_text(recipient.user)}' "
        f"P='{_line_text(recipient.privilege)}' ID={_line_text(report.id)}/{recipient.offset} L=0 "
        f"-- stat='{escape(report.word)}' notary='{_line_text(report.notary)}'{through}  "
        f"MSG='{_line_text(report.message)}'"
    )


class VerboseLog:
    """The log that a sender requested (``mail -v``; the control file's ``v`` record): the dialogue and the reasons.

    The path comes from a spool file, so the log is written only to a regular file with one link, never through a
    symbolic link, or to a FIFO or a device; a missing file is created, readable by its sender. ``warn`` is called once
    with the reason if the log cannot be written.
    """

    def __init__(self, path: str | bytes, *, clock: Clock, warn: Warn) -> None:
        self._clock = clock
        self._file = _AppendedFile(path, os.O_CREAT | os.O_NOFOLLOW, LOG_MODE, warn, plain=True)

    def __call__(self, event: events.Event) -> None:
        line = _plain_line(event, self._clock())
        if line is not None:
            self._file.write(line)

    def diag(self, report: RecipientReport) -> None:
        """Write the verdict on a recipient."""
        self._file.write(_diag_text(report))

    def close(self) -> None:
        """Close the file; later events are discarded."""
        self._file.close()


def _plain_line(event: events.Event, now: float) -> str | None:
    """An event as one line, the dialogue with the arrows of reports: ``<<-`` for commands, ``->>`` for replies."""
    match event:
        case events.LineSent(line):
            return f"<<- {_line_text(line)}"
        case events.LineReceived(line):
            return f"->> {_line_text(line)}"
    text = _remark_text(event, now)
    return None if text is None else _cut(text)


def debug_observer(write: Callable[[bytes], None], *, clock: Clock) -> events.Observer:
    """The observer of ``-d``: each event, progress too, as one line ``# ...`` passed to ``write``.

    An OSError of ``write`` (a closed standard output) ends it.
    """
    silent = False

    def debug(event: events.Event) -> None:
        nonlocal silent
        if silent:
            return
        if isinstance(event, events.ContentProgress):
            line: str | None = f"content: {event.octets} of {event.total} octets"
        else:
            line = _plain_line(event, clock())
        try:
            if line is not None:
                write(f"# {line}\n".encode("utf-8", "backslashreplace"))
        except OSError:
            silent = True

    return debug


_VERBS = frozenset(b"EHLO HELO LHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY EXPN HELP ETRN".split())


class ProcessTitle:
    """Progress for ps(1), switched on by ``-s``: ``>192.0.2.1|25 mx.example DATA 34567/120000 (29%)``.

    ``setter`` takes the title; without one it is setproctitle's, imported now; without that package nothing is shown.
    Content progress is shown only when its percentage changes.
    """

    def __init__(self, setter: Callable[[str], object] | None = None) -> None:
        self._set = setter or _system_setter()
        self._peer = ""
        self._state = ""
        self._percentage = -1

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Connecting(endpoint):
                self._peer = f"{socket_name(endpoint)} {_host_name(endpoint)} "
                self.state("connecting")
            case events.Connected():
                self.state("greeting wait")
            case events.LineSent(line):
                verb = line[:9].split(b" ", 1)[0].upper()
                if verb in _VERBS:  # never an AUTH response
                    self.state(f"{verb.decode('ascii')} wait")
            case events.ContentProgress(octets, total):
                self._progress(octets, total)
            case events.ContentSent():
                self.state("dot wait")
            case events.ConnectFailed() | events.Closed():
                self._peer = ""
                self.state("closed")

    def state(self, text: str) -> None:
        """Show ``text`` as the state (``#hungry``, ``#idle``)."""
        self._percentage = -1
        self._show(text)

    def _progress(self, octets: int, total: int) -> None:
        percentage = min(octets * 100 // total, 100) if total > 0 else 100
        if percentage != self._percentage:
            self._percentage = percentage
            self._show(f"DATA {octets}/{total} ({percentage}%)")

    def _show(self, state: str) -> None:
        if state == self._state or self._set is None:
            return
        self._state = state
        try:
            self._set(escape(f">{self._peer}{state}"[:200]))
        except Exception:  # no error of a title setter may stop a delivery
            self._set = None


def _system_setter() -> Callable[[str], object] | None:
    try:
        from setproctitle import setproctitle
    except ImportError:
        return None
    return setproctitle


class LoggedConversion(Enum):
    """How the content was changed for the server; the value is the word in syslog."""

    NONE = "NONE"  # sent as stored
    QP = "QP"  # to quoted-printable
    EIGHT_BIT = "8BIT"  # decoded to 8-bit
    MULTIPART_QP = "MPQP"  # parts of a multipart to quoted-printable
    UNKNOWN = "UNKNOWN"  # the content was not made


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """The attempt of a syslog line: age of the message and duration of the attempt are in seconds."""

    spool_id: str
    delay: float
    xdelay: float
    conversion: LoggedConversion = LoggedConversion.NONE


def syslog_line(report: RecipientReport, attempt: LoggedAttempt, *, separator: str = ", ") -> str:
    """``SPOOLID: to=<address>, delay=HH:MM:SS, xdelay=HH:MM:SS, mailer=channel, relay=host ([ip|port|...]), stat=...``.

    ``separator`` is ", " or a TAB. ``relay`` has the host and both ends of the connection, like the remote MTA of a
    notification; there is none for UNIX sockets. The text after the status is the last line of the dialogue, at most
    400 characters of it, 200 where there is no relay.
    """
    recipient = report.recipient
    fields = [
        f"to=<{_line_text(recipient.user)[:200]}>",
        f"delay={_clock_form(attempt.delay)}",
        f"xdelay={_clock_form(attempt.xdelay)}",
        f"mailer={_line_text(recipient.channel)[:80]}",
    ]
    host, _, ends = report.remote.partition("; ")[2].partition(" (")
    if host:
        fields.append(f"relay={escape(host)[:200]} ([{escape(ends.removesuffix(')'))[:80]}])")
    fields.append(f"stat={escape(report.word)}")
    text = _line_text(report.message.rpartition(b"\r")[2].strip())[: 400 if host else 200]
    first, before_text = ("\t", "\t") if separator == "\t" else (" ", " ")
    ending = f"{before_text}{text}" if text else ""
    return f"{attempt.spool_id}:{first}{separator.join(fields)}{ending} cvt={attempt.conversion.value}"


def _clock_form(seconds: float) -> str:
    """``HH:MM:SS``; more than 99 hours take more digits."""
    whole = max(int(seconds), 0)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class SyslogBackend(Protocol):
    """The functions of the standard library's ``syslog`` that are used."""

    LOG_PID: int
    LOG_MAIL: int
    LOG_INFO: int

    def openlog(self, ident: str, logoption: int, facility: int) -> None: ...

    def syslog(self, priority: int, message: str) -> None: ...


class Syslog:
    """One line per recipient to syslog: facility mail, ``smtp[pid]``.

    ``flags`` is ZENV's ``SYSLOGFLG``, ``T`` if it is not set: ``T`` means lines with commas, ``t`` lines with TABs (the
    first of the two counts); without either there are no lines. ``backend`` is the standard library's module, imported
    when the first line is written.
    """

    def __init__(self, flags: str, backend: SyslogBackend | None = None) -> None:
        letters = [letter for letter in flags if letter in "Tt"]
        self.enabled = bool(letters)
        self._separator = "\t" if letters[:1] == ["t"] else ", "
        self._backend = backend
        self._open = False

    def report(self, report: RecipientReport, attempt: LoggedAttempt) -> None:
        """Write one recipient to syslog."""
        if not self.enabled:
            return
        line = syslog_line(report, attempt, separator=self._separator)
        if self._backend is None:
            import syslog

            self._backend = syslog
        if not self._open:
            self._backend.openlog("smtp", self._backend.LOG_PID, self._backend.LOG_MAIL)
            self._open = True
        self._backend.syslog(self._backend.LOG_INFO, line)
