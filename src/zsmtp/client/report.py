"""What came of a message, as values: one :class:`Result` for each recipient, all of a message's in a :class:`Report`.

All of them turn into plain values for JSON by :meth:`.Result.as_dict` and :meth:`.Report.as_dict`; the names of keys
are those of the fields, ``fate`` is its word. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Any

from zsmtp.client.dsn import DSN, due
from zsmtp.delivery.outcome import Disposition as VerdictFate
from zsmtp.delivery.outcome import Verdict, dsn_action
from zsmtp.delivery.reasons import account_of, reason_of
from zsmtp.errors import NotDelivered
from zsmtp.records import dataclass, field, replace

if TYPE_CHECKING:
    from zsmtp.client.client import Submission


class Fate(Enum):
    """What became of a recipient."""

    DELIVERED = "delivered"
    """The server's last word was that it has the message."""
    DEFERRED = "deferred"
    """Nobody has the message; it may be sent again later."""
    FAILED = "failed"
    """Refused for good."""
    IN_DOUBT = "in doubt"
    """The message was sent to its last octet, and no word came of what became of it: sent again, it may come twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Who was talked to; ``local`` is this side's address and port, ("", 0) on a UNIX socket."""

    host: str
    address: str
    port: int
    local: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        return f"{self.host} [{self.address}]:{self.port}" if self.port else self.address


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSSummary:
    """The protection a message had: what the handshake agreed on, what was required, and the verdict on the peer."""

    protocol: str
    cipher: str
    key_exchange: str
    required: str
    verdict: str
    certificate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One address that was tried for this message; ``problem`` is "" if a connection was made.

    ``reused`` tells that the connection was there already, from a message before.
    """

    host: str
    address: str
    port: int
    problem: str = ""
    reused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The one final word on a recipient.

    ``message`` is the name it was given, else its Message-ID, else its path, ``status`` the enhanced status code (RFC
    3463), ``code`` and ``reply`` what the server said that decided (0 and "" if none did). ``reason`` is why, in one
    line for people: the reply, what this side adds, and where no host opened a session, the words of each of them.
    ``text`` is the end of the dialogue, ``C:`` before what was sent and ``S:`` before what came back, and the reasons;
    its lines are separated by LF. ``waited`` is the time until a connection took the message, ``seconds`` the time
    until this result.

    ``attempted`` is false if nothing was tried for it: a message that cannot be read, or a destination that had
    failed as a whole a moment ago; no server is named then. ``retry_after`` is for how many seconds from now mail
    to this destination is not tried (0 if nothing is in its way): for all of it, if this one found out, or what is
    left of that time.

    Of a message with ``dsn=``: ``dsn_passed_on`` tells that the server has the request too, and notifies the sender of
    what becomes of the message from there on. ``dsn_action`` is the notification that the sender asked for and nobody
    but this side can give, in the word of RFC 3464 2.3.3 ("" if there is none): "relayed" to a server that offers no
    DSN, "delivered" by LMTP to one, "failed", "delayed". There is none for a message with the null sender.

    ``submission`` is what a stream was given, with the message in it; None for ``deliver``. It is no part of
    :meth:`as_dict`.
    """

    message: str
    recipient: str
    fate: Fate
    status: str
    code: int = 0
    reply: str = ""
    reason: str = ""
    text: str = ""
    server: Server | None = None
    tls: TLSSummary | None = None
    attempts: tuple[Attempt, ...] = ()
    waited: float = 0.0
    seconds: float = 0.0
    dsn_passed_on: bool = False
    dsn_action: str = ""
    attempted: bool = True
    retry_after: float = 0.0
    submission: Submission | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the message was delivered."""
        return self.fate is Fate.DELIVERED

    def raise_for_failure(self) -> None:
        """Raise :class:`~zsmtp.errors.NotDelivered` with a report of this result alone, unless it was delivered."""
        if not self.ok:
            raise NotDelivered(Report(message=self.message, results=(self,)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = asdict(self if self.submission is None else replace(self, submission=None))
        del values["submission"]
        return {**values, "fate": self.fate.value}

    def __str__(self) -> str:
        where = f" by {self.server}" if self.names_server else ""
        return f"{self.recipient or self.message}: {self.fate.value}{where} ({self.status}): {self.reason}"

    @property
    def names_server(self) -> bool:
        """Whether there is a server to name, and the reason does not name it itself."""
        return self.server is not None and str(self.server) not in self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Completing:
    """A message whose last octet is about to be sent: from now on ``recipients`` may have it, whatever happens.

    ``message`` is its name in results, ``submission`` what a stream was given (None for ``deliver``).
    """

    message: str
    recipients: tuple[str, ...]
    submission: Submission | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of one message: the results in the order of its recipients. A report is true if it is :attr:`ok`."""

    message: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether it was delivered to everybody."""
        return all(result.ok for result in self.results)

    def with_fate(self, fate: Fate) -> tuple[Result, ...]:
        """The results that ended so."""
        return tuple(result for result in self.results if result.fate is fate)

    def raise_for_failures(self) -> None:
        """Raise :class:`~zsmtp.errors.NotDelivered`, which has this report, unless it was delivered to everybody."""
        if not self.ok:
            raise NotDelivered(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"message": self.message, "ok": self.ok, "results": [result.as_dict() for result in self.results]}

    def __bool__(self) -> bool:
        return self.ok

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __str__(self) -> str:
        return "\n".join(str(result) for result in self.results)


def result_of(
    verdict: Verdict,
    message: str,
    recipient: str,
    attempts: tuple[Attempt, ...],
    waited: float,
    seconds: float,
    *,
    dsn: DSN | None,
    null_sender: bool,
    lmtp: bool,
    submission: Submission | None = None,
) -> Result:
    """The result that a verdict of the engine means."""
    fate = Fate.IN_DOUBT if verdict.in_doubt else _FATES[verdict.fate]
    reply = verdict.reply
    return Result(
        message=message,
        recipient=recipient,
        fate=fate,
        status=str(verdict.status),
        code=reply.code if reply is not None else 0,
        reply=str(reply) if reply is not None else "",
        reason=reason_of(verdict),
        text=account_of(verdict),
        server=_server(verdict) if verdict.attempted else None,
        tls=_tls(verdict) if verdict.attempted else None,
        attempts=attempts,
        waited=waited,
        seconds=seconds,
        dsn_passed_on=dsn is not None and verdict.passed_on,
        dsn_action=due(dsn, dsn_action(verdict, success_requested=True, lmtp=lmtp), null_sender=null_sender),
        attempted=verdict.attempted,
        retry_after=float(verdict.retry_after),
        submission=submission,
    )


_FATES = {
    VerdictFate.DELIVERED: Fate.DELIVERED,
    VerdictFate.DEFERRED: Fate.DEFERRED,
    VerdictFate.FAILED: Fate.FAILED,
}


def _server(verdict: Verdict) -> Server | None:
    peer = verdict.peer
    if peer is None:
        return None
    endpoint = peer.endpoint
    return Server(host=endpoint.host, address=endpoint.address, port=endpoint.port, local=peer.local or ("", 0))


def _tls(verdict: Verdict) -> TLSSummary | None:
    protection = verdict.peer.protection if verdict.peer is not None else None
    if protection is None:
        return None
    facts = protection.facts
    return TLSSummary(
        protocol=facts.protocol,
        cipher=facts.cipher,
        key_exchange=facts.key_exchange,
        required=protection.requirement.level.value,
        verdict=protection.judgement.text,
        certificate=facts.peer,
    )
