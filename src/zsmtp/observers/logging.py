"""Events as records of Python's standard ``logging``, with structured fields.

The logger of an event is ``zsmtp.`` and the package that makes it: ``zsmtp.dns`` (lookups, plans), ``zsmtp.net``
(connections), ``zsmtp.tls``, ``zsmtp.proto`` (dialogue), ``zsmtp.body`` and ``zsmtp.delivery`` (verdicts). The levels
are: DEBUG for the dialogue and each lookup; INFO for sessions, decisions, and delivered recipients; WARNING for
deferred recipients, and failing hosts; ERROR for failed recipients.

The message is for people; the fields for machines are attributes of the record, by ``extra``, with the prefix ``smtp_``
(``smtp_event``, ``smtp_host``, ``smtp_recipient``, ``smtp_status``, ...), so that they do not collide with others::

    client = zsmtp.aio.Client(observe=logging_observer)
    logging.getLogger("zsmtp").setLevel(logging.INFO)

Texts from outside are made printable. No text is made for events below a logger's level.

:class:`JSONFormatter` writes a record as one line of JSON, with the fields of the event beside its text; it formats the
records of other loggers, too::

    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zsmtp import events
from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.reasons import reason_of
from zsmtp.escape import escape
from zsmtp.events import About, Event, Observer
from zsmtp.observers.tracebuilder import cut
from zsmtp.observers.wording import record_text

if TYPE_CHECKING:
    from zsmtp.dns.candidates import Endpoint

Fields = dict[str, Any]

_LOGGERS = {about: logging.getLogger(f"zsmtp.{about.value}") for about in About}
_LEVELS = {
    Disposition.DELIVERED: logging.INFO,
    Disposition.DEFERRED: logging.WARNING,
    Disposition.FAILED: logging.ERROR,
}


class JSONFormatter(logging.Formatter):
    """A record as a JSON object in one line.

    It has ``time`` (RFC 3339, UTC), ``level``, ``logger`` and ``text``, then the fields of the event without ``smtp_``,
    or those passed as ``extra={"queue": {...}}``; ``exception`` if there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end. Values that JSON cannot represent are written as their ``str``."""
        line: Fields = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": escape(record.getMessage()),
        }
        given = record.__dict__
        line.update(given.get("queue") or {k.removeprefix(_PREFIX): v for k, v in given.items() if _is_field(k)})
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, default=str)


_PREFIX = "smtp_"


def _is_field(name: str) -> bool:
    return name.startswith(_PREFIX)


def rfc3339(at: float) -> str:
    """A time in seconds since 1970 as ``2026-11-29T14:00:00.250Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"


def logging_observer(destination: str = "") -> Observer:
    """The observer of one connection; ``destination`` is a field of every record ("" omits it)."""

    def log(event: Event) -> None:
        rule = _RULES.get(type(event))
        if rule is None:
            return
        about, level, describe = rule
        if isinstance(event, events.Remark | events.Detail | events.Decision):
            about = event.about
        elif isinstance(event, events.Settled):
            level = _LEVELS[event.verdict.fate]
        logger = _LOGGERS[about]
        if not logger.isEnabledFor(level):
            return
        text, fields = describe(event)
        extra: Fields = {"smtp_event": type(event).__name__}
        if destination:
            extra["smtp_destination"] = destination
        logger.log(level, "%s", text, extra=extra | {f"smtp_{name}": value for name, value in fields.items()})

    return log


def _where(endpoint: Endpoint) -> tuple[str, Fields]:
    fields = {"host": cut(endpoint.host), "address": endpoint.address, "port": endpoint.port}
    return f"{fields['host']} [{cut(endpoint.address)}]:{endpoint.port}", fields


def _lookup(event: events.LookupDone) -> tuple[str, Fields]:
    answer = event.answer
    name, kind = cut(answer.query.name), answer.query.type.value
    records = [cut(record_text(record)) for record in answer.records[:20]]
    fields = {"name": name, "type": kind, "status": answer.status.value, "records": records, "ttl": answer.ttl}
    fields |= {"secure": answer.secure, "source": cut(answer.source)}
    return f"{name} {kind}: {', '.join(records) or cut(answer.problem) or answer.status.value}", fields


def _fetch(event: events.FetchDone) -> tuple[str, Fields]:
    text = f"MTA-STS policy: {cut(event.problem) or f'{event.octets} octets'}"
    return text, {"octets": event.octets, "problem": cut(event.problem)}


def _connect_failed(event: events.ConnectFailed) -> tuple[str, Fields]:
    where, fields = _where(event.endpoint)
    return f"no connection to {where}: {cut(event.reason)}", fields | {"reason": cut(event.reason)}


def _connected(event: events.Connected) -> tuple[str, Fields]:
    where, fields = _where(event.endpoint)
    return f"connected to {where}", fields


def _handshake(event: events.HandshakeDone) -> tuple[str, Fields]:
    facts = event.facts
    if facts is None:
        return f"TLS handshake failed: {cut(event.error)}", {"error": cut(event.error)}
    fields = {"protocol": facts.protocol, "cipher": facts.cipher, "resumed": facts.resumed}
    return f"TLS {cut(facts.session)}; peer {cut(facts.peer)}", fields


def _secured(event: events.Secured) -> tuple[str, Fields]:
    good = event.judgement.ok
    words = "good enough" if good else "not good enough"
    return f"TLS {words}: {cut(event.judgement.text)}", _where(event.endpoint)[1] | {"good_enough": good}


def _opened(event: events.SessionOpened) -> tuple[str, Fields]:
    where, fields = _where(event.endpoint)
    keywords = [cut(line) for line in event.capabilities.keywords[:40]]
    return f"session with {where}", fields | {"capabilities": keywords}


def _refused(event: events.SessionRefused) -> tuple[str, Fields]:
    where, fields = _where(event.endpoint)
    reason = cut(event.verdict.diagnostic)
    return f"no session with {where}: {reason}", fields | {"status": str(event.verdict.status), "reason": reason}


def _lost(event: events.SessionLost) -> tuple[str, Fields]:
    phase = event.phase.value if event.phase is not None else ""
    return f"session lost: {cut(event.reason)}", {"reason": cut(event.reason), "phase": phase}


def _sent(event: events.LineSent) -> tuple[str, Fields]:
    return f"C: {cut(event.line)}", {"line": cut(event.line)}


def _received(event: events.LineReceived) -> tuple[str, Fields]:
    return f"S: {cut(event.line)}", {"line": cut(event.line)}


def _content(event: events.ContentSent) -> tuple[str, Fields]:
    text = f"{event.octets} octets sent to {event.recipients} recipients in {event.content_seconds:.3f} s"
    return text, {"octets": event.octets, "recipients": event.recipients, "seconds": event.content_seconds}


def _returned(event: events.DeliveryReturned) -> tuple[str, Fields]:
    return f"undecided, to be sent again: {cut(event.reason)}", {"message": cut(event.delivery.name)}


def _settled(event: events.Settled) -> tuple[str, Fields]:
    verdict = event.verdict
    address = cut(event.delivery.message.envelope.recipients[event.recipient].address)
    fate = verdict.fate.value + (" (in doubt)" if verdict.in_doubt else "")
    fields: Fields = {
        "message": cut(event.delivery.name),
        "sender": cut(event.delivery.message.envelope.sender),
        "recipient": address,
        "fate": verdict.fate.value,
        "status": str(verdict.status),
        "diagnostic": cut(verdict.diagnostic),
        "reason": cut(reason_of(verdict)),
        "in_doubt": verdict.in_doubt,
    }
    if verdict.peer is not None:
        fields |= _where(verdict.peer.endpoint)[1]
    return f"<{address}> {fate}: {verdict.status} {fields['reason']}", fields


def _plan(event: events.PlanMade) -> tuple[str, Fields]:
    route = event.plan.route
    destination = cut(route.destination)
    if route.failure is not None:
        return f"no route to {destination}: {cut(route.failure.text)}", {"status": route.failure.status}
    hosts = [cut(candidate.endpoint.host) for candidate in route.candidates]
    return f"{destination}: candidates: {', '.join(dict.fromkeys(hosts))}", {"candidates": hosts}


def _words(event: events.Remark | events.Detail | events.Decision) -> tuple[str, Fields]:
    return cut(event.text), {}


def _closed(event: events.Closed) -> tuple[str, Fields]:
    return f"connection closed: {cut(event.reason)}", {"reason": cut(event.reason)}


_RULES: dict[type[Event], tuple[About, int, Callable[[Any], tuple[str, Fields]]]] = {
    events.LookupDone: (About.ROUTE, logging.DEBUG, _lookup),
    events.FetchDone: (About.SECURITY, logging.INFO, _fetch),
    events.PlanMade: (About.ROUTE, logging.INFO, _plan),
    events.ConnectFailed: (About.CONNECTION, logging.WARNING, _connect_failed),
    events.Connected: (About.CONNECTION, logging.INFO, _connected),
    events.Closed: (About.CONNECTION, logging.INFO, _closed),
    events.HandshakeDone: (About.SECURITY, logging.INFO, _handshake),
    events.Secured: (About.SECURITY, logging.INFO, _secured),
    events.SessionOpened: (About.DIALOGUE, logging.INFO, _opened),
    events.SessionRefused: (About.DIALOGUE, logging.WARNING, _refused),
    events.SessionLost: (About.DIALOGUE, logging.DEBUG, _lost),
    events.LineSent: (About.DIALOGUE, logging.DEBUG, _sent),
    events.LineReceived: (About.DIALOGUE, logging.DEBUG, _received),
    events.ContentSent: (About.CONTENT, logging.DEBUG, _content),
    events.Settled: (About.DELIVERY, logging.INFO, _settled),
    events.DeliveryReturned: (About.DELIVERY, logging.INFO, _returned),
    events.Remark: (About.DIALOGUE, logging.INFO, _words),
    events.Detail: (About.DIALOGUE, logging.DEBUG, _words),
    events.Decision: (About.DELIVERY, logging.INFO, _words),
}
