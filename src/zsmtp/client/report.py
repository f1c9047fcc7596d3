"""The results of a message as values: one :class:`Result` for each recipient, all of a message's in a :class:`Report`.

:meth:`.Result.as_dict` and :meth:`.Report.as_dict` turn them into plain values for JSON; the keys are the names of the
fields, ``fate`` is its word. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """The result for a recipient."""

    DELIVERED = "delivered"
    """The server accepted the message with its final reply."""
    DEFERRED = "deferred"
    """No server has the message; it may be sent again later."""
    FAILED = "failed"
    """Permanently refused."""
    IN_DOUBT = "in doubt"
    """The message was sent to its last octet without a final reply: sent again, it may arrive twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server of the session; ``local`` is this side's address and port, ("", 0) on a UNIX socket."""

    host: str
    address: str
    port: int
    local: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        return f"{self.host} [{self.address}]:{self.port}" if self.port else self.address


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSSummary:
    """The protection of a message: the handshake's result, the requirement, and the verdict on the peer."""

    protocol: str
    cipher: str
    key_exchange: str
    required: str
    verdict: str
    certificate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One address that was tried for this message; ``problem`` is "" if a connection was made.

    ``reused``: the connection was open already, from an earlier message.
    """

    host: str
    address: str
    port: int
    problem: str = ""
    reused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The final result for a recipient.

    ``message`` is its given name, else its Message-ID, else its path, ``status`` the enhanced status code (RFC 3463),
    ``code`` and ``reply`` the deciding reply of the server (0 and "" if none decided). ``reason`` is the reason in one
    line for people: the reply, additions of this side, and if no host opened a session, the reason of each of them.
    ``text`` is the end of the dialogue, ``C:`` before sent lines and ``S:`` before received ones, and the reasons; its
    lines are separated by LF. ``waited`` is the time until a connection took the message, ``seconds`` the time until
    this result.

    ``attempted`` is false if nothing was tried for it: a message that cannot be read, or a destination that had failed
    as a whole shortly before; no server is named then. ``retry_after`` is the number of seconds from now for which mail
    to this destination is not tried (0 without a backoff): all of it if this result began it, or the remaining time.

    For a message with ``dsn=``: ``dsn_passed_on`` is true if the server has the request, too, and sends all further
    notifications. ``dsn_action`` is the notification that the sender requested and only this side can send, in the word
    of RFC 3464 2.3.3 ("" if there is none): "relayed" to a server without DSN, "delivered" by LMTP to one, "failed",
    "delayed". There is none for a message with the null sender.

    ``submission`` is the object given to a stream, with the message in it; None for ``deliver``. It is not part of
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
        """The result as plain values, for JSON."""
        from dataclasses import asdict

        values = asdict(self if self.submission is None else replace(self, submission=None))
        del values["submission"]
        return {**values, "fate": self.fate.value}

    def __str__(self) -> str:
        where = f" by {self.server}" if self.names_server else ""
        return f"{self.recipient or self.message}: {self.fate.value}{where} ({self.status}): {self.reason}"

    @property
    def names_server(self) -> bool:
        """Whether there is a server to name that ``reason`` does not name already."""
        return self.server is not None and str(self.server) not in self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Completing:
    """A message whose last octet is about to be sent: from now on ``recipients`` may have it in any case.

    ``message`` is its name in results, ``submission`` the object given to a stream (None for ``deliver``).
    """

    message: str
    recipients: tuple[str, ...]
    submission: Submission | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results of one message, in the order of its recipients. A report is true if it is :attr:`ok`."""

    message: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether all recipients have it."""
        return all(result.ok for result in self.results)

    def with_fate(self, fate: Fate) -> tuple[Result, ...]:
        """The results with this fate."""
        return tuple(result for result in self.results if result.fate is fate)

    def raise_for_failures(self) -> None:
        """Raise :class:`~zsmtp.errors.NotDelivered`, which has this report, unless all recipients have the message."""
        if not self.ok:
            raise NotDelivered(self)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
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
    """The result for a verdict of the engine."""
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
