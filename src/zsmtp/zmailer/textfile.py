"""Writes metrics of the agent to a file for the textfile collector of Prometheus's node exporter.

Agents are short-lived, and several run at a time: each adds its counts to one file shared by all (``METRICS_FILE`` in
ZENV), under a lock beside it, and replaces the file atomically. So totals only grow, and a reader sees whole files.
That is done when a control file is finished, every ``PERIOD`` seconds at most, and when the agent ends; a killed agent
loses the counts that it had not added. Names, labels and meanings are those of the library's metrics
(``zsmtp.observers.prometheus``), but only totals.

Metrics never stop mail: a failure to write causes one warning, and the counts are kept for the next time.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator

from zsmtp import events
from zsmtp.events import Event
from zsmtp.proto.phase import Phase

PERIOD = 15.0  # seconds
MAX_FILE = 1 << 20  # octets that are read of the file

MEANINGS = {
    "zsmtp_recipients": "Recipients by result.",
    "zsmtp_connections": "Connection attempts by outcome.",
    "zsmtp_sessions": "Sessions by outcome.",
    "zsmtp_tls_handshakes": "TLS handshakes by outcome.",
    "zsmtp_dns_lookups": "DNS questions by type and status.",
    "zsmtp_replies": "Replies by phase and class.",
    "zsmtp_content_bytes": "Octets of message content sent to their end.",
    "zsmtp_transactions": "Transactions by whether they rode on others.",
}
"""Each total by its name without ``_total``."""

_SAMPLE = re.compile(r'(zsmtp_[a-z_]+)_total(\{(?:[a-z_]+="[A-Za-z0-9_. ]*",?)*\})? ([0-9]{1,18})(?:\.0)?')
_PROTOCOLS = ("TLSv1.2", "TLSv1.3")

Sample = tuple[str, str]
"""A total and its labels in the form of the file: ``("zsmtp_recipients", '{fate="delivered"}')``."""


class MetricsFile:
    """Counts the events of one agent. ``clock`` returns seconds; ``warn`` is called once if writing fails."""

    def __init__(self, path: str, clock: Callable[[], float], warn: Callable[[str], None]) -> None:
        self._path = path
        self._clock = clock
        self._warn: Callable[[str], None] | None = warn
        self._counted: Counter[Sample] = Counter()
        self._written = clock()

    def __call__(self, event: Event) -> None:
        """Count an event."""
        for name, labels, number in _counts(event):
            shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
            self._counted[f"zsmtp_{name}", f"{{{shown}}}" if shown else ""] += number

    def end_of_file(self) -> None:
        """Write the counts after a control file, if ``PERIOD`` has passed since the last time."""
        if self._clock() - self._written >= PERIOD:
            self.write()

    def write(self) -> None:
        """Add the counts to the file."""
        self._written = self._clock()
        if not self._counted:
            return
        try:
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._replace(_read(self._path) + self._counted)
            finally:
                os.close(lock)
        except OSError as error:
            if self._warn is not None:
                self._warn(f"METRICS_FILE {self._path}: {error.strerror or error}")
                self._warn = None
            return
        self._counted.clear()

    def _replace(self, totals: Counter[Sample]) -> None:
        unfinished = f"{self._path}.{os.getpid()}.tmp"
        try:
            with open(unfinished, "w", encoding="ascii") as file:
                file.writelines(_lines(totals))
            os.replace(unfinished, self._path)
        except OSError:
            if os.path.lexists(unfinished):
                os.unlink(unfinished)
            raise


def _read(path: str) -> Counter[Sample]:
    """The totals in the file; foreign lines are skipped."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(MAX_FILE)
    except FileNotFoundError:
        return Counter()
    found: Counter[Sample] = Counter()
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is not None and match[1] in MEANINGS:
            found[match[1], match[2] or ""] += int(match[3])
    return found


def _lines(totals: Counter[Sample]) -> Iterator[str]:
    """The file: the text format of Prometheus."""
    for name, meaning in MEANINGS.items():
        samples = sorted((labels, number) for (found, labels), number in totals.items() if found == name)
        if samples:
            yield f"# HELP {name}_total {meaning}\n# TYPE {name}_total counter\n"
        for labels, number in samples:
            yield f"{name}_total{labels} {number}\n"


def _counts(event: Event) -> Iterator[tuple[str, dict[str, str], int]]:
    """The totals that an event increases, each with its labels and amount."""
    match event:
        case events.Settled(verdict=verdict):
            yield "recipients", {"fate": "in_doubt" if verdict.in_doubt else verdict.fate.value}, 1
        case events.Connected():
            yield "connections", {"outcome": "connected"}, 1
        case events.ConnectFailed():
            yield "connections", {"outcome": "failed"}, 1
        case events.SessionOpened():
            yield "sessions", {"outcome": "opened"}, 1
        case events.SessionRefused():
            yield "sessions", {"outcome": "refused"}, 1
        case events.SessionLost(phase=phase) if phase is not None and phase is not Phase.QUIT:
            yield "sessions", {"outcome": "lost"}, 1
        case events.HandshakeDone(facts=facts):
            protocol = "none" if facts is None else facts.protocol if facts.protocol in _PROTOCOLS else "other"
            resumed = str(facts is not None and facts.resumed).lower()
            outcome = "failed" if facts is None else "done"
            yield "tls_handshakes", {"protocol": protocol, "resumed": resumed, "outcome": outcome}, 1
        case events.LookupDone(answer=answer):
            yield "dns_lookups", {"type": answer.query.type.value, "status": answer.status.name.lower()}, 1
        case events.Answered(phase=phase, reply=reply):
            yield "replies", {"phase": phase.value, "class": f"{reply.code // 100}xx"}, 1
        case events.ContentSent(octets=octets):
            yield "content_bytes", {}, octets
        case events.TransactionStarted(riding=riding):
            yield "transactions", {"riding": str(riding).lower()}, 1
