"""All failure policy in one place: from what happened to what becomes of the recipients.

The rest of the program knows what happened: a reply in a phase, a broken session, a plan without candidates, an address
that cannot be sent. This module alone says what that means: {delivered, failed, deferred}, for how much of the work
(recipient, message, host, session), with which enhanced status code (RFC 3463) and which words.

Two rules stand over the tables. "Delivered" comes only from a well-formed 2xx to the end of the content; "failed for
good" only from a well-formed 5xx or a check on this side. Everything else is deferred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from zsmtp.delivery.reasons import gathered, reasons_of
from zsmtp.dns.candidates import Endpoint, Family, NoRoute
from zsmtp.dns.destination import SUBMISSIONS_PORT
from zsmtp.errors import (
    ConnectionLost,
    ContentError,
    Interrupted,
    ReplyError,
    ServiceClosing,
    WaitTimeout,
    ZsmtpError,
)
from zsmtp.proto.phase import FINAL_PHASES, SUCCESS, Phase, ReplyMeaning
from zsmtp.proto.plan import LocalRefusal
from zsmtp.proto.reply import Reply, printable
from zsmtp.proto.status import EnhancedStatus, default_status, given_status, without_status
from zsmtp.records import NamedTuple, dataclass

if TYPE_CHECKING:
    from zsmtp.delivery.protection import Protection

HOST_REST = 60  # seconds a host is left alone after no session with it could be opened


class Disposition(Enum):
    """What became of a recipient."""

    __hash__ = object.__hash__

    DELIVERED = "delivered"  # the server's final word was 2xx
    FAILED = "failed"  # for good
    DEFERRED = "deferred"  # to be tried again


_DELIVERED = Disposition.DELIVERED  # asked of the class, a constant costs ten times as much


class Scope(Enum):
    """How much of the work a failure concerns."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    HOST = "host"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who was talked to: the endpoint, and this side's ``(address, port)``, None where there is none (UNIX sockets).

    ``protection`` is the TLS of the session, None in clear, and ``in_clear`` is why it is not there ("" if nobody
    knows): ``STARTTLS is not offered``.
    """

    endpoint: Endpoint
    local: tuple[str, int] | None = None
    protection: Protection | None = None
    in_clear: str = ""


class Verdict(NamedTuple):
    """The one final word on a recipient of this attempt.

    ``status`` is the enhanced status code, ``comment`` a remark on it for people ("" if none). ``diagnostic`` is what a
    delivery status notification shows: ``smtp; 550 (5.1.1 no such user)``. ``text`` is for people: the end of the
    dialogue or the reason, lines separated by CR, free of other control characters. ``reasons`` are the sentences that
    ``zsmtp.delivery.reasons`` gives, () where it finds them in ``reply`` and ``text``: with several hosts, what each of
    them said. ``level`` tells whether more than this recipient is concerned; with HOST, ``retry_after`` seconds is how
    long to leave the host alone (0: no wish). ``at_final_dot`` tells that the content was out when the verdict fell;
    ``in_doubt`` that the server may have taken the message although no reply said so. ``passed_on`` tells that a DSN
    request travelled on with the message. ``reply`` is the server's word that decided, None if there was none.
    ``tls_decided`` tells that the protection a session had to have was among the reasons: mail that may do without it
    may fare better. ``attempted`` is false if nothing was tried for this mail, because its destination is left alone.
    """

    fate: Disposition
    status: EnhancedStatus
    diagnostic: str
    text: str
    comment: str = ""
    level: Scope = Scope.RECIPIENT
    retry_after: int = 0
    at_final_dot: bool = False
    in_doubt: bool = False
    passed_on: bool = False
    peer: Peer | None = None
    reply: Reply | None = None
    tls_decided: bool = False
    attempted: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectFailure:
    """One connection attempt that failed, and why; ``own`` tells that it was this side's trouble, not the peer's."""

    endpoint: Endpoint
    reason: str
    own: bool = False

    @property
    def where(self) -> str:
        """The endpoint, in words."""
        e = self.endpoint
        return f"UNIX:{e.address}" if e.family is Family.UNIX else f"{e.host} [{e.address}|{e.port}]"

    def __str__(self) -> str:
        return f"connect to {self.where}: {self.reason}"


def _place(endpoint: Endpoint) -> str:
    """An endpoint as people write it: ``mx.example.org [192.0.2.1]:25``."""
    if endpoint.family is Family.UNIX:
        return endpoint.address
    name = "" if endpoint.host == endpoint.address else f"{endpoint.host} "
    return f"{name}[{endpoint.address}]:{endpoint.port}"


def _failures_told(failures: Sequence[ConnectFailure]) -> tuple[str, ...]:
    found = gathered([(_place(failure.endpoint), failure.reason) for failure in failures])
    return tuple(f"connect to {one}" for one in found)


def _refusals_told(refusals: Sequence[Verdict]) -> tuple[str, ...]:
    return gathered(
        [
            (_place(refusal.peer.endpoint) if refusal.peer is not None else "", "; ".join(reasons_of(refusal)))
            for refusal in refusals
        ]
    )


_LEVELS = {
    Phase.GREETING: Scope.HOST,
    Phase.EHLO: Scope.HOST,
    Phase.HELO: Scope.HOST,
    Phase.LHLO: Scope.HOST,
    Phase.MAIL: Scope.MESSAGE,
    Phase.RCPT: Scope.RECIPIENT,
    Phase.DATA: Scope.MESSAGE,
    Phase.CONTENT: Scope.MESSAGE,
    Phase.LAST: Scope.MESSAGE,
}


def from_reply(
    phase: Phase,
    reply: Reply,
    result: ReplyMeaning,
    text: str,
    *,
    enhanced: bool,
    peer: Peer,
    passed_on: bool = False,
    early: bool = False,
) -> Verdict:
    """The verdict that a well-formed reply of its phase brings on those it concerns.

    ``enhanced`` tells whether the server offered ENHANCEDSTATUSCODES: without, a code in the text counts for a refusal
    only, which it explains. ``text`` is the end of the dialogue; ``early`` tells that the content was refused before
    it was sent to its end.
    """
    last = reply.lines[-1]
    given = given_status(reply.code, reply.lines) if enhanced or reply.code >= 400 else None
    status = given or default_status(reply.code, phase)
    if given is not None and enhanced:
        last = without_status(last)
    if result is SUCCESS:
        fate = _DELIVERED
    elif result is ReplyMeaning.PERMANENT and not _is_temporary(phase, reply, given):
        fate = Disposition.FAILED
    else:
        fate = Disposition.DEFERRED
        status = status._replace(cls=4)
        if _asks_for_security(reply, given) and peer.protection is None and peer.in_clear:
            text = f"{text}\rin clear: {printable(peer.in_clear.encode(), 300)}"
    level = _LEVELS[phase]
    return Verdict(
        fate,
        status,
        _diagnostic("smtp", reply.code, last),
        text,
        level=level,
        retry_after=0 if fate is _DELIVERED or level is not Scope.HOST or fate is Disposition.FAILED else HOST_REST,
        at_final_dot=phase in FINAL_PHASES and not early,
        passed_on=passed_on,
        peer=peer,
        reply=reply,
    )


def _is_temporary(phase: Phase, reply: Reply, given: EnhancedStatus | None) -> bool:
    """Whether a 5xx refuses something else than the mail, so that it must not bounce.

    503 anywhere, and 500 to 504 to a greeting command: somebody is confused, or the wrong protocol is spoken. 530
    (RFC 3207 4, RFC 4954 6), or 5.7.10: the session lacks TLS or a login, which is a matter between the two hosts.
    Too many recipients for one transaction (RFC 5321 4.5.3.1.10): there can be another transaction.
    """
    code = reply.code
    if code == 503 or (500 <= code <= 504 and phase in (Phase.EHLO, Phase.HELO, Phase.LHLO)):
        return True
    return _asks_for_security(reply, given) or (phase is Phase.RCPT and _says_too_many(reply, given))


def _asks_for_security(reply: Reply, given: EnhancedStatus | None) -> bool:
    return reply.code == 530 or (given is not None and (given.subject, given.detail) == (7, 10))


def _says_too_many(reply: Reply, given: EnhancedStatus | None) -> bool:
    """Whether a refused RCPT says that the recipients are too many, by its status code, or 552 by its words."""
    kind = (given.subject, given.detail) if given is not None else (0, 0)
    return kind == (5, 3) or (
        reply.code == 552 and kind in _NOT_THE_MAILBOX and b"too many" in b" ".join(reply.lines).lower()
    )


_NOT_THE_MAILBOX = ((5, 3), (3, 1), (0, 0), (5, 0))  # status codes that a server gives with "too many recipients"


def asks_for_another_transaction(reply: Reply, *, accepted: int) -> bool:
    """Whether a refused RCPT only says "too many recipients" (RFC 5321 4.5.3.1.10), so that the others go first.

    A 452, or a 552 from servers of old, counts as such once some recipients were accepted, unless its status code says
    that it means the mailbox.
    """
    if reply.code not in (452, 552) or accepted == 0:
        return False
    given = given_status(reply.code, reply.lines)
    return given is None or (given.subject, given.detail) in _NOT_THE_MAILBOX


def from_refusal(refusal: LocalRefusal, peer: Peer | None, *, level: Scope = Scope.RECIPIENT) -> Verdict:
    """The verdict of a check on this side."""
    code = {"5.3.4": 552, "5.1.3": 501, "5.1.7": 501, "5.6.3": 554, "5.6.7": 553}.get(str(refusal.status), 550)
    diagnostic = _diagnostic("smtp", code, refusal.text.encode())
    return Verdict(Disposition.FAILED, refusal.status, diagnostic, refusal.text, level=level, peer=peer)


def from_no_route(failure: NoRoute) -> Verdict:
    """The verdict of a plan that has no candidates."""
    status = EnhancedStatus.parse(failure.status)
    code = 500 if failure.permanent else 466
    diagnostic = _diagnostic("smtp", code, failure.text.encode())
    fate = Disposition.FAILED if failure.permanent else Disposition.DEFERRED
    rest = 0 if failure.permanent else HOST_REST
    return Verdict(
        fate, status, diagnostic, failure.text, comment="DNS lookup report", level=Scope.HOST, retry_after=rest
    )


def from_connect_failures(failures: Sequence[ConnectFailure]) -> Verdict:
    """The verdict when no candidate took a connection: every attempt is named.

    If none got as far as to ask a peer (no descriptor, no local address), no host is left alone for it.
    """
    words = "\r".join(str(failure) for failure in failures) or "no address left to try"
    last = failures[-1] if failures else None
    if last is not None and all(failure.own for failure in failures):
        diagnostic = _diagnostic("local", 450, str(last).encode())
        return Verdict(
            Disposition.DEFERRED,
            EnhancedStatus(4, 3, 0),
            diagnostic,
            words,
            level=Scope.MESSAGE,
            reasons=_failures_told(failures),
        )
    return Verdict(
        Disposition.DEFERRED,
        EnhancedStatus(4, 4, 1),
        _diagnostic("smtp", 466, str(last or words).encode()),
        words,
        comment="TCP/IP-connection failure",
        level=Scope.HOST,
        retry_after=HOST_REST,
        peer=Peer(last.endpoint) if last is not None else None,
        reasons=_failures_told(failures),
    )


def combine_host_failures(failures: Sequence[ConnectFailure], refusals: Sequence[Verdict]) -> Verdict:
    """The verdict when no candidate opened a session: an error only if every one of them refused for good."""
    if not refusals:
        return from_connect_failures(failures)
    words = [str(failure) for failure in failures] + [refusal.text.lstrip("\r") for refusal in refusals]
    text = "".join(f"\r{word}" for word in words)
    temporary = next((r for r in refusals if r.fate is not Disposition.FAILED), None)
    verdict = temporary or (from_connect_failures(failures) if failures else refusals[-1])
    reasons: tuple[str, ...] = ()
    if failures or len(refusals) > 1:
        reasons = _refusals_told(refusals) + _failures_told(failures)
    return verdict._replace(text=text, tls_decided=any(one.tls_decided for one in refusals), reasons=reasons)


_TLS_FIRST = (
    "port 465 waits for TLS from the first octet: ask for it with smtps:// in the relay's URL, "
    "or with tls-implicit in zsmtp-tls.conf(5)"
)

_LOST = {
    ServiceClosing: EnhancedStatus(4, 3, 2),
    ReplyError: EnhancedStatus(4, 5, 0),
    WaitTimeout: EnhancedStatus(4, 4, 2),
    ConnectionLost: EnhancedStatus(4, 4, 2),
    Interrupted: EnhancedStatus(4, 3, 2),
    ContentError: EnhancedStatus(4, 3, 0),
}


def from_loss(error: ZsmtpError, dialogue: str, peer: Peer | None, *, level: Scope = Scope.SESSION) -> Verdict:
    """The verdict on those left undecided by a session that ended: deferred, whatever ended it."""
    reason = printable(str(error).encode(), 400)
    return Verdict(
        Disposition.DEFERRED,
        _LOST.get(type(error), EnhancedStatus(4, 4, 2)),
        _diagnostic("smtp", 466, reason.encode()),
        f"{dialogue}\r{reason}",
        level=level,
        retry_after=HOST_REST if level is Scope.HOST else 0,
        peer=peer,
    )


def from_loss_behind(refusal: Verdict, loss: Verdict) -> Verdict:
    """The verdict when a session was lost on the way back from a refused EHLO: the refusal is what was said.

    It is no refusal for good: what came of HELO is not known.
    """
    status = refusal.status._replace(cls=4)
    return loss._replace(status=status, diagnostic=refusal.diagnostic, reply=refusal.reply)


def from_backoff(failure: Verdict, seconds: float) -> Verdict:
    """The verdict on mail for a destination that failed as a whole a moment ago: no attempt is made for it.

    ``failure`` is why, and is left alone for so many ``seconds`` more. No server said anything of this mail.
    """
    rest = math.ceil(seconds)
    told = f"not tried: that was a moment ago, and the next attempt is in {rest} s at the earliest"
    text, reasons = f"{failure.text}\r{told}", (*reasons_of(failure), told)
    return failure._replace(text=text, retry_after=rest, reply=None, attempted=False, reasons=reasons)


def from_silence(error: ZsmtpError, peer: Peer) -> Verdict:
    """The verdict when a connection stood and not an octet of a greeting came over it.

    On port 465 that is what a client sees that does not begin with TLS: the server waits for its handshake, as
    RFC 8314 3.3 has it.
    """
    verdict = from_loss(error, "", peer, level=Scope.HOST)
    if peer.endpoint.port != SUBMISSIONS_PORT or peer.protection is not None:
        return verdict
    return verdict._replace(text=f"{verdict.text}; {_TLS_FIRST}")


def from_security(text: str, peer: Peer | None, *, final: bool) -> Verdict:
    """The verdict when no session was as secure as it must be (RFC 3207, RFC 7672, RFC 8461)."""
    fate = Disposition.FAILED if final else Disposition.DEFERRED
    status = EnhancedStatus(5, 7, 3) if final else EnhancedStatus(4, 7, 5)
    return _local(fate, status, text, "security required", peer)._replace(tls_decided=True)


def from_requiretls(peer: Peer | None) -> Verdict:
    """The verdict when a server that is who it must be does not offer REQUIRETLS (RFC 8689 4.2.1).

    It was said over an authenticated session, so nobody on the way can have made it up: that is for good. Whatever an
    attacker may bring about (no STARTTLS, a certificate that is not good) makes mail with REQUIRETLS wait instead.
    """
    text = "REQUIRETLS was asked for, and the server does not offer it"
    return _local(Disposition.FAILED, EnhancedStatus(5, 7, 30), text, "REQUIRETLS", peer)


def from_no_protection() -> Verdict:
    """The verdict when a message wants REQUIRETLS and this side is not configured to have TLS at all: it waits."""
    text = "REQUIRETLS was asked for, and no TLS is configured"
    return for_requiretls(from_security(text, None, final=False))


def for_requiretls(verdict: Verdict) -> Verdict:
    """The verdict on mail with REQUIRETLS: "encryption needed" is what RFC 8689 4.2.1 calls a lack of security.

    It concerns the message, not the host: others may go there.
    """
    status = verdict.status
    if (status.subject, status.detail) in ((7, 5), (7, 3)):
        status = status._replace(detail=10)
    return verdict._replace(status=status, level=Scope.MESSAGE, retry_after=0)


def from_login(text: str, peer: Peer | None) -> Verdict:
    """The verdict when the login that was asked for did not come about (RFC 4954 6): the mail waits."""
    return _local(Disposition.DEFERRED, EnhancedStatus(4, 7, 8), text, "login", peer)


def _local(fate: Disposition, status: EnhancedStatus, text: str, comment: str, peer: Peer | None) -> Verdict:
    words = printable(text.encode("utf-8", "replace"), 400)
    diagnostic = _diagnostic("local", 550 if fate is Disposition.FAILED else 450, words.encode())
    rest = 0 if fate is Disposition.FAILED else HOST_REST
    return Verdict(fate, status, diagnostic, words, comment=comment, level=Scope.HOST, retry_after=rest, peer=peer)


def in_doubt(verdict: Verdict) -> Verdict:
    """The same for recipients of a message whose last octet was sent and whose final reply is missing."""
    told = "the message was sent to its end, and no reply said whether it was taken"
    text, reasons = f"{verdict.text}\rin doubt: {told}", (*reasons_of(verdict), told)
    return verdict._replace(text=text, comment="in doubt", at_final_dot=True, in_doubt=True, reasons=reasons)


def dsn_action(verdict: Verdict, *, success_requested: bool, lmtp: bool) -> str:
    """What a notification by this side says (RFC 3464 2.3.3); "" where a success needs none.

    A request that travelled on with the message is the next server's to honour. LMTP delivers into the mailbox
    (RFC 2033); over SMTP without DSN the message was ``relayed`` to where no request can follow it (RFC 3461 5.2.2).
    """
    if verdict.fate is Disposition.FAILED:
        return "failed"
    if verdict.fate is Disposition.DEFERRED:
        return "delayed"
    if not success_requested or verdict.passed_on:
        return ""
    return "delivered" if lmtp else "relayed"


def waited_in_vain(error: ZsmtpError) -> str:
    """In words that the peer did not do its part in time, "" if that is not what happened."""
    return str(error) if isinstance(error, WaitTimeout) else ""


def next_candidate_may_help(error: ZsmtpError) -> bool:
    """Whether undecided recipients may be tried at the next candidate at once, rather than be deferred."""
    return isinstance(error, (ServiceClosing, ConnectionLost))


def _diagnostic(kind: str, code: int, text: bytes) -> str:
    """``smtp; 550 (text)``: parentheses in the text become brackets, since it is a comment of RFC 822."""
    words = printable(text, 300).replace("(", "[").replace(")", "]")
    return f"{kind}; {code} ({words})"
