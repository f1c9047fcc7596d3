"""All failure policy in one place: maps replies and failures to verdicts on recipients.

The rest of the program reports what happened: a reply in a phase, a broken session, a plan without candidates, an
address that cannot be sent. Only this module decides what that means: {delivered, failed, deferred}, the scope
(recipient, message, host, session), the enhanced status code (RFC 3463) and the text.

Two rules govern the tables. "Delivered" comes only from a well-formed 2xx to the end of the content; "failed for
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

HOST_REST = 60  # seconds of backoff of a host after no session with it could be opened


class Disposition(Enum):
    """The result of an attempt for a recipient."""

    __hash__ = object.__hash__

    DELIVERED = "delivered"  # the server's final reply was 2xx
    FAILED = "failed"  # for good
    DEFERRED = "deferred"  # to be tried again


_DELIVERED = Disposition.DELIVERED  # an enum's attribute takes ten times as long to read


class Scope(Enum):
    """The scope of a failure."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    HOST = "host"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Peer:
    """The peer of a session: its endpoint, and this side's ``(address, port)``, None for UNIX sockets.

    ``protection`` is the TLS of the session, None in clear, and ``in_clear`` is the reason why there is none ("" if
    unknown): ``STARTTLS is not offered``.
    """

    endpoint: Endpoint
    local: tuple[str, int] | None = None
    protection: Protection | None = None
    in_clear: str = ""


class Verdict(NamedTuple):
    """The result of an attempt for one recipient.

    ``status`` is the enhanced status code, ``comment`` a remark on it for people ("" if none). ``diagnostic`` is the
    text for delivery status notifications: ``smtp; 550 (5.1.1 no such user)``. ``text`` is for people: the end of the
    dialogue or the reason, lines separated by CR, free of other control characters. ``reasons`` are the sentences of
    ``zsmtp.delivery.reasons``, () if they are in ``reply`` and ``text``: with several hosts, the reply of each.
    ``level`` is the scope of the failure; with HOST, ``retry_after`` is the backoff of the host in seconds (0: none).
    ``at_final_dot``: the content was sent before the verdict; ``in_doubt``: the server may have taken the message
    although no reply said so. ``passed_on``: the server took over the DSN request. ``reply`` is the reply that decided,
    None without one. ``tls_decided``: a TLS requirement was among the reasons, so mail without it may succeed.
    ``attempted`` is false if nothing was tried for this mail, because of a backoff of its destination.
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
    """One connection attempt that failed, and why; ``own``: the failure was on this side."""

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
    """An endpoint for people: ``mx.example.org [192.0.2.1]:25``."""
    if endpoint.family is Family.UNIX:
        return endpoint.address
    name = "" if endpoint.host == endpoint.address else f"{endpoint.host} "
    return f"{name}[{endpoint.address}]:{endpoint.port}"


def _failure_reasons(failures: Sequence[ConnectFailure]) -> tuple[str, ...]:
    found = gathered([(_place(failure.endpoint), failure.reason) for failure in failures])
    return tuple(f"connect to {one}" for one in found)


def _refusal_reasons(refusals: Sequence[Verdict]) -> tuple[str, ...]:
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
    """The verdict of a well-formed reply in its phase.

    ``enhanced``: the server offered ENHANCEDSTATUSCODES; without it, a code in the text counts for a refusal only.
    ``text`` is the end of the dialogue; ``early``: the content was refused before all of it was sent.
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
    """Whether a 5xx does not concern the mail, so that it must not bounce.

    503 anywhere, and 500 to 504 to a greeting command: commands were out of order, or the protocol is wrong. 530
    (RFC 3207 4, RFC 4954 6), or 5.7.10: the session lacks TLS or a login, which concerns the two hosts only. Too many
    recipients for one transaction (RFC 5321 4.5.3.1.10): there can be another transaction.
    """
    code = reply.code
    if code == 503 or (500 <= code <= 504 and phase in (Phase.EHLO, Phase.HELO, Phase.LHLO)):
        return True
    return _asks_for_security(reply, given) or (phase is Phase.RCPT and _means_too_many(reply, given))


def _asks_for_security(reply: Reply, given: EnhancedStatus | None) -> bool:
    return reply.code == 530 or (given is not None and (given.subject, given.detail) == (7, 10))


def _means_too_many(reply: Reply, given: EnhancedStatus | None) -> bool:
    """Whether a refused RCPT means too many recipients, by its status code, or for 552 by its text."""
    kind = (given.subject, given.detail) if given is not None else (0, 0)
    return kind == (5, 3) or (
        reply.code == 552 and kind in _NOT_THE_MAILBOX and b"too many" in b" ".join(reply.lines).lower()
    )


_NOT_THE_MAILBOX = ((5, 3), (3, 1), (0, 0), (5, 0))  # status codes that a server gives with "too many recipients"


def asks_for_another_transaction(reply: Reply, *, accepted: int) -> bool:
    """Whether a refused RCPT only says "too many recipients" (RFC 5321 4.5.3.1.10), so that the others go first.

    A 452, or a 552 from older servers, counts as such once some recipients were accepted, unless its status code refers
    to the mailbox.
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
    """The verdict when no candidate accepted a connection: it names every attempt.

    If all failed on this side (no descriptor, no local address), there is no backoff of a host.
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
            reasons=_failure_reasons(failures),
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
        reasons=_failure_reasons(failures),
    )


def combine_host_failures(failures: Sequence[ConnectFailure], refusals: Sequence[Verdict]) -> Verdict:
    """The verdict when no candidate opened a session: failed only if every one of them refused permanently."""
    if not refusals:
        return from_connect_failures(failures)
    words = [str(failure) for failure in failures] + [refusal.text.lstrip("\r") for refusal in refusals]
    text = "".join(f"\r{word}" for word in words)
    temporary = next((r for r in refusals if r.fate is not Disposition.FAILED), None)
    verdict = temporary or (from_connect_failures(failures) if failures else refusals[-1])
    reasons: tuple[str, ...] = ()
    if failures or len(refusals) > 1:
        reasons = _refusal_reasons(refusals) + _failure_reasons(failures)
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
    """The verdict on those left undecided by a session that ended: always deferred."""
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
    """The verdict when the session was lost in the fallback to HELO after a refused EHLO: the refusal's text.

    It is not permanent: the result of HELO is unknown.
    """
    status = refusal.status._replace(cls=4)
    return loss._replace(status=status, diagnostic=refusal.diagnostic, reply=refusal.reply)


def from_backoff(failure: Verdict, seconds: float) -> Verdict:
    """The verdict on mail for a destination that failed as a whole a moment ago: no attempt is made for it.

    ``failure`` is the reason, and ``seconds`` the remaining backoff. No server replied about this mail.
    """
    rest = math.ceil(seconds)
    reason = f"not tried: that was a moment ago, and the next attempt is in {rest} s at the earliest"
    text, reasons = f"{failure.text}\r{reason}", (*reasons_of(failure), reason)
    return failure._replace(text=text, retry_after=rest, reply=None, attempted=False, reasons=reasons)


def from_silence(error: ZsmtpError, peer: Peer) -> Verdict:
    """The verdict when a connection was established and no octet of a greeting came.

    On port 465 a client without TLS sees that: the server waits for the handshake (RFC 8314 3.3).
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
    """The verdict when an authenticated server does not offer REQUIRETLS (RFC 8689 4.2.1).

    The session was authenticated, so no attacker on the path can have forged the reply: the failure is permanent.
    Conditions that an attacker can cause (no STARTTLS, an invalid certificate) make mail with REQUIRETLS wait instead.
    """
    text = "REQUIRETLS was requested, and the server does not offer it"
    return _local(Disposition.FAILED, EnhancedStatus(5, 7, 30), text, "REQUIRETLS", peer)


def from_no_protection() -> Verdict:
    """The verdict when a message has REQUIRETLS and this side has no TLS configured: it waits."""
    text = "REQUIRETLS was requested, and no TLS is configured"
    return for_requiretls(from_security(text, None, final=False))


def for_requiretls(verdict: Verdict) -> Verdict:
    """The verdict on mail with REQUIRETLS: RFC 8689 4.2.1 reports a lack of security as "encryption needed".

    It concerns the message, not the host: other messages may go there.
    """
    status = verdict.status
    if (status.subject, status.detail) in ((7, 5), (7, 3)):
        status = status._replace(detail=10)
    return verdict._replace(status=status, level=Scope.MESSAGE, retry_after=0)


def from_login(text: str, peer: Peer | None) -> Verdict:
    """The verdict when the configured login failed (RFC 4954 6): the mail waits."""
    return _local(Disposition.DEFERRED, EnhancedStatus(4, 7, 8), text, "login", peer)


def _local(fate: Disposition, status: EnhancedStatus, text: str, comment: str, peer: Peer | None) -> Verdict:
    words = printable(text.encode("utf-8", "replace"), 400)
    diagnostic = _diagnostic("local", 550 if fate is Disposition.FAILED else 450, words.encode())
    rest = 0 if fate is Disposition.FAILED else HOST_REST
    return Verdict(fate, status, diagnostic, words, comment=comment, level=Scope.HOST, retry_after=rest, peer=peer)


def in_doubt(verdict: Verdict) -> Verdict:
    """The same for recipients of a message whose last octet was sent and whose final reply is missing."""
    reason = "the message was sent to its end, and no reply said whether it was taken"
    text, reasons = f"{verdict.text}\rin doubt: {reason}", (*reasons_of(verdict), reason)
    return verdict._replace(text=text, comment="in doubt", at_final_dot=True, in_doubt=True, reasons=reasons)


def dsn_action(verdict: Verdict, *, success_requested: bool, lmtp: bool) -> str:
    """The action for a notification by this side (RFC 3464 2.3.3); "" where a success needs none.

    The next server honours a request that it took over. LMTP delivers into the mailbox (RFC 2033); over SMTP without
    DSN the message was ``relayed`` to a server that cannot take the request over (RFC 3461 5.2.2).
    """
    if verdict.fate is Disposition.FAILED:
        return "failed"
    if verdict.fate is Disposition.DEFERRED:
        return "delayed"
    if not success_requested or verdict.passed_on:
        return ""
    return "delivered" if lmtp else "relayed"


def waited_in_vain(error: ZsmtpError) -> str:
    """The timeout of a peer in words; "" for other errors."""
    return str(error) if isinstance(error, WaitTimeout) else ""


def next_candidate_may_help(error: ZsmtpError) -> bool:
    """Whether undecided recipients may be tried at the next candidate at once, rather than be deferred."""
    return isinstance(error, (ServiceClosing, ConnectionLost))


def _diagnostic(kind: str, code: int, text: bytes) -> str:
    """``smtp; 550 (text)``: parentheses in the text become brackets, since it is a comment of RFC 822."""
    words = printable(text, 300).replace("(", "[").replace(")", "]")
    return f"{kind}; {code} ({words})"
