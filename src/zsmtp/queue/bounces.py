"""Processes bounces and complaints: verifies the return path, reads the report, and records events of recipients.

An *event* is an entry in the history of an ended recipient: ``bounced``, or ``complained``. It changes no end: the
server took responsibility for the message. A recipient has each event once, even if the report comes repeatedly.

Only a verified return path (``zsmtp.queue.returnpath``) identifies a recipient; only systems that received or
transported the message know it. The configuration decides which events lead to suppressions (:func:`suppresses`)::

    taker = BounceTaker(store, return_path)
    taken = await taker.take([b"bounce+...@example.net"], octets)
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from zsmtp.escape import escape
from zsmtp.queue.bouncereport import Complaint, DeliveryReport, read_report
from zsmtp.queue.filter import glob
from zsmtp.queue.ids import to_text
from zsmtp.queue.returnpath import BounceConfig, ReturnedTo, ReturnPath, Unproven
from zsmtp.queue.states import HistoryEntry, Outcome
from zsmtp.queue.store import QueueStore
from zsmtp.queue.suppression import Suppression, folded

log = logging.getLogger("zsmtp.queue")

PIECE = 1000
"""Recipients that are read together."""
COMPLAINTS = frozenset({"abuse", "fraud", "miscategorized", "opt-out", "opt-out-list", "other", "virus"})
"""Feedback types that count as complaints; ``not-spam`` does not, and ``auth-failure`` (RFC 6591) is on signatures."""


class Taken(Enum):
    """The result of processing a returned message."""

    RECORDED = "recorded"
    """Its recipients have events now, or had them before."""
    IGNORED = "ignored"
    """It is no report, or one without a failure."""
    UNPROVEN = "unproven"
    """It was sent to no return path that can be verified."""
    UNKNOWN = "unknown"
    """The message is unknown, or was dropped by age."""
    EARLY = "early"
    """The recipient has no end yet: the report must be sent again later."""


class ReportedEvent(NamedTuple):
    """The event of one recipient in a report; ``addresses`` are those that the report names."""

    outcome: Outcome
    addresses: tuple[bytes, ...]
    status: str
    code: int
    words: str
    server: str


def events_of(report: DeliveryReport | Complaint) -> Iterator[ReportedEvent]:
    """The events in a report."""
    if isinstance(report, Complaint):
        if report.kind in COMPLAINTS:
            by = f" by {report.words}" if report.words else ""
            yield ReportedEvent(Outcome.COMPLAINED, report.addresses, "", 0, f"{report.kind}{by}", "")
        return
    for one in report.recipients:
        if one.action == "failed":
            yield ReportedEvent(Outcome.BOUNCED, one.addresses, one.status, one.code, one.words, one.server)


def suppresses(config: BounceConfig, event: ReportedEvent) -> bool:
    """Whether an event leads to the suppression of the address: a permanent failure, or a complaint."""
    if event.outcome is Outcome.COMPLAINED:
        return config.suppress_complaints
    return any(glob(pattern).fullmatch(event.status) for pattern in config.suppress)


class RecipientSearch:
    """Finds the recipients of a report's events, among recipients that are given in pieces (:meth:`look`).

    That is the recipient that the return path names (``number``), else one with an address that the event names. A
    single recipient always matches: the message was forwarded, or the report names no recipient.
    """

    def __init__(self, events: Sequence[ReportedEvent], number: int | None = None) -> None:
        self.seen = 0
        """How many recipients were looked at."""
        self._found: list[int | None] = [number] * len(events)
        self._first = 0
        self._wanted: dict[bytes, list[int]] = {}
        for place, event in enumerate(events):
            for address in event.addresses:
                self._wanted.setdefault(folded(address), []).append(place)

    @property
    def is_over(self) -> bool:
        """Whether the recipient of each event is found."""
        return None not in self._found

    @property
    def numbers(self) -> list[int | None]:
        """The recipient of each event."""
        return [self._first if one is None and self.seen == 1 else one for one in self._found]

    def look(self, recipients: Sequence[tuple[int, bytes]]) -> None:
        """Search more recipients, given as numbers and addresses, each only once."""
        if not self.seen and recipients:
            self._first = recipients[0][0]
        self.seen += len(recipients)
        for number, address in recipients:
            for place in self._wanted.get(folded(address), ()):
                if self._found[place] is None:
                    self._found[place] = number


class BounceTaker:
    """Processes mail to the return paths of a queue. ``clock`` gives seconds since 1970."""

    def __init__(self, store: QueueStore, returns: ReturnPath, clock: Callable[[], float] = time.time) -> None:
        self.returns = returns
        self.taken: Counter[Taken] = Counter()
        """How many messages came, by what became of them."""
        self._store = store
        self._clock = clock
        self._complaints = {folded(address.encode()) for address in returns.config.complaints}

    def is_for(self, address: bytes) -> bool | Unproven:
        """Whether mail to an address is accepted: a return path, which may be unverified, or a complaint address."""
        if folded(address) in self._complaints:
            return True
        found = self.returns.recognise(address, self._clock())
        return found if isinstance(found, Unproven) else found is not None

    def refused(self, address: bytes, problem: str) -> None:
        """Count and log a refusal of mail to a return path."""
        self.taken[Taken.UNPROVEN] += 1
        log.info("mail to the return path <%s> is refused: %s", escape(address[:200]), problem)

    async def take(self, addresses: Collection[bytes], octets: bytes) -> Taken:
        """Process a message to these addresses that begins with ``octets``. Raises QueueUnavailable."""
        taken = await self._take(addresses, octets)
        self.taken[taken] += 1
        return taken

    async def _take(self, addresses: Collection[bytes], octets: bytes) -> Taken:
        report = read_report(octets)
        events = [] if report is None else list(events_of(report))
        senders = report.senders if isinstance(report, Complaint) else ()
        now = self._clock()
        found = [self.returns.recognise(one, now) for one in (*addresses, *senders)]
        proven = list(dict.fromkeys(one for one in found if isinstance(one, ReturnedTo)))
        if not proven:
            why = next((one.problem for one in found if isinstance(one, Unproven)), "it names no return path")
            log.info("mail that came back is ignored: %s", why)
            return Taken.UNPROVEN
        if not events:
            what = "it is no report" if report is None else "it reports no failure and no complaint"
            log.info("%s: mail that came back is ignored: %s", self._text(proven[0].message), what)
            return Taken.IGNORED
        return max([await self._record(one, events, now) for one in proven], key=_MATTERS.index)

    def _text(self, message: int) -> str:
        return to_text(message, self._store.shard)

    async def _record(self, returned: ReturnedTo, events: Sequence[ReportedEvent], now: float) -> Taken:
        store, message = self._store, returned.message
        search = RecipientSearch(events, returned.number)
        after = -1
        while not search.is_over and (found := await store.ended(message, after=after, limit=PIECE)):
            search.look(found)
            after = found[-1][0]
        numbers = search.numbers
        histories = {one: await store.history(message, number=one) for one in set(numbers) if one is not None}
        waiting = await store.message(message) is not None
        taken = Taken.IGNORED if search.seen or any(histories.values()) or waiting else Taken.UNKNOWN
        for event, number in zip(events, numbers, strict=True):
            history = [] if number is None else histories[number]
            end = next((one for one in reversed(history) if one.outcome.end is not None), None)
            if end is None:
                if waiting:
                    taken = Taken.EARLY
                log.info("%s: %s, of an unknown recipient", self._text(message), event.outcome.value)
                continue
            if event.outcome not in {one.outcome for one in history}:
                await self._write(end, event, now)
            taken = Taken.RECORDED if taken is not Taken.EARLY else taken
        return taken

    async def _write(self, end: HistoryEntry, event: ReportedEvent, now: float) -> None:
        """Write the suppression first: if this process dies in between, the repeated report finds no event."""
        suppressing = suppresses(self.returns.config, event)
        if suppressing:
            source = "bounce" if event.outcome is Outcome.BOUNCED else "complaint"
            reason = " ".join(word for word in (event.status, event.words) if word) or event.outcome.value
            await self._store.suppress(
                [Suppression(tenant=end.tenant, address=end.address, reason=reason, source=source, at=now)]
            )
        entry = HistoryEntry(
            at=now,
            message=end.message,
            number=end.number,
            attempt=0,
            outcome=event.outcome,
            address=end.address,
            sender=end.sender,
            key=end.key,
            tenant=end.tenant,
            status=event.status,
            code=event.code,
            reason=event.words,
            server=event.server,
        )
        if await self._store.record(entry):
            text = self._text(end.message)
            log.warning(
                "%s: to <%s> %s: %s%s",
                text,
                escape(end.address),
                event.outcome.value,
                escape(" ".join(word for word in (event.status, event.words) if word)),
                "; suppressed" if suppressing else "",
                extra={
                    "queue": {
                        "event": event.outcome.value,
                        "id": text,
                        "recipient": escape(end.address),
                        "status": event.status,
                        "tenant": end.tenant,
                        "suppressed": suppressing,
                    }
                },
            )


_MATTERS = (Taken.UNKNOWN, Taken.IGNORED, Taken.RECORDED, Taken.EARLY)
"""The precedence of the results of a message with several, lowest first."""
