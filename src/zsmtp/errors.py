"""The exceptions of zsmtp, in one tree.

A refusal by a mail server is an outcome, not an exception (a 550 is data: see ``zsmtp.proto.reply``). Exceptions are
for unexpected conditions: a misuse of the API, a peer that breaks the protocol, the transport, DNS, a bad spool file::

    ZsmtpError
     ├── LocalError            this side is at fault: a value or a call that cannot be honoured
     │    ├── CommandError     a command that must not reach the wire (control characters, over-long, bad syntax)
     │    ├── ContentError     the message content could not be read to its end
     │    ├── LoopRunning      a call that would block the event loop it is made on; the text names the right one
     │    ├── ConfigError      an option, configuration file or value that cannot be used
     │    └── SubmissionError  a message, a sender or a recipient that cannot be accepted
     │         └── MailLoop    a message in a mail loop
     ├── RemoteError           the peer is at fault
     │    ├── ReplyError       a malformed, unasked-for, contradictory or over-long reply
     │    └── ServiceClosing   the peer replied 421 and closes the connection (RFC 5321 3.8)
     ├── TransportError        the connection is at fault
     │    ├── ConnectError     no connection could be made
     │    ├── ConnectionLost   the connection broke, or the peer closed it
     │    │    └── TLSBroken   the TLS layer under a session broke: cut off without close_notify, or a bad record
     │    ├── TLSError         TLS could not be established: the handshake failed
     │    │    └── UntrustedPeer  the certificate is not good, where the handshake itself verifies it (HTTPS)
     │    ├── WaitTimeout      a wait ran into its deadline
     │    └── Interrupted      a stop was requested
     ├── QueueError            the queue cannot do what was requested
     │    ├── QueueUnavailable the store cannot be read or written now: disk, database, network; try again later
     │    │    └── ContentUnavailable the folder of large bodies cannot be used now; the rest of the queue can
     │    ├── QueueFull        intake has stopped: too little disk left, or a quota is used up
     │    │    └── QuotaExceeded a quota of the tenant is used up; names it, and when there is room again
     │    ├── QueueBusy        another process holds an exclusive resource; names the process
     │    └── Conflict         an idempotency key that was used for another message
     ├── SpoolError            a control or message file is invalid; names the file and the position
     └── NotDelivered          raised on demand for a report with an undelivered recipient
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would cost its import before the agent's first output; type checkers know the name
if TYPE_CHECKING:
    from zsmtp.client.report import Report


class ZsmtpError(Exception):
    """Base of all exceptions that this package raises deliberately."""


class LocalError(ZsmtpError):
    """This side is at fault: a value or a call that cannot be honoured."""


class CommandError(LocalError, ValueError):
    """A command that must not be sent: it has control characters, is too long, or malformed."""


class ContentError(LocalError):
    """The message content could not be read to its end."""


class LoopRunning(LocalError, RuntimeError):
    """A blocking call was made in a running event loop, which it would stop; the text names the right call."""


class ConfigError(LocalError, ValueError):
    """An option, a configuration file or a value that cannot be used."""


class SubmissionError(LocalError, ValueError):
    """A message, a sender or a recipient that cannot be accepted for delivery."""


class MailLoop(SubmissionError):
    """A message that has passed too many servers: it is in a mail loop (RFC 5321 6.3)."""


class RemoteError(ZsmtpError):
    """The peer is at fault."""


class ReplyError(RemoteError):
    """A malformed, unasked-for, contradictory or over-long reply: the session ends (RFC 5321 4.2)."""


class ServiceClosing(RemoteError):
    """The peer answered 421 and closes the connection (RFC 5321 3.8)."""


class TransportError(ZsmtpError):
    """The connection is at fault."""


class ConnectError(TransportError):
    """No connection could be made."""


class ConnectionLost(TransportError):
    """The connection broke, or the peer closed it."""


class TLSBroken(ConnectionLost):
    """The TLS layer under a session broke: the stream was cut off without close_notify, or a record was bad."""


class TLSError(TransportError):
    """TLS could not be established: the handshake was refused, or the peer's octets were no TLS."""


class UntrustedPeer(TLSError):
    """The peer's certificate is not good, where the handshake itself verifies it, as for HTTPS."""


class WaitTimeout(TransportError):
    """A wait ran into its deadline (RFC 5321 4.5.3.2)."""


class Interrupted(TransportError):
    """A stop was requested before the work was done."""


INTERRUPTED = "interrupted"
"""The reason of a stop for which none was given."""


class QueueError(ZsmtpError):
    """The queue cannot do what was requested: an invalid id, an invalid filter, a message that does not exist."""


class QueueUnavailable(QueueError):
    """The store cannot be read or written now (disk, database, network).

    The request was not carried out; with ``undecided`` it may have been: the store was lost during it.
    """

    def __init__(self, *words: str, undecided: bool = False) -> None:
        self.undecided = undecided
        super().__init__(*words)


class ContentUnavailable(QueueUnavailable):
    """The folder that has the large bodies of a queue cannot be used now (not mounted, full, no response).

    Messages without a file in it can be read and written.
    """


class QueueFull(QueueError):
    """Intake has stopped: too little room on the disk, or a tenant's quota is used up. Nothing was taken."""


class QuotaExceeded(QueueFull):
    """A quota of a tenant is used up. Nothing was taken.

    ``quota`` is its name in the configuration, ``limit`` its value, ``used`` the present use. ``frees`` is when there
    is room for the request, if nothing else is taken meanwhile, in seconds since 1970; None if it depends on mail that
    leaves the queue. ``now`` is the time of the check.
    """

    def __init__(self, tenant: str, quota: str, limit: int, used: int, frees: float | None, now: float) -> None:
        self.tenant = tenant
        self.quota = quota
        self.limit = limit
        self.used = used
        self.frees = frees
        self.now = now
        when = "when mail of it has left the queue" if frees is None else f"in {max(frees - now, 1.0):.0f} s"
        whose = f"of tenant {tenant!r}" if tenant else "of mail without a tenant"
        super().__init__(f"the quota {quota} = {limit} {whose} is used up ({used}); try again {when}")


class QueueBusy(QueueError):
    """Another process holds an exclusive resource (the deliverer's lock of a queue); the text names the process."""


class Conflict(QueueError):
    """An idempotency key was used before for a message with other content; nothing was taken."""


class SpoolError(ZsmtpError):
    """A control or message file is invalid.

    ``path`` is the file, ``offset`` the position of the error in octets (None if there is none).
    """

    def __init__(self, path: str, offset: int | None, problem: str) -> None:
        self.path = path
        self.offset = offset
        self.problem = problem
        where = path if offset is None else f"{path}, byte {offset}"
        super().__init__(f"{where}: {problem}")


class NotDelivered(ZsmtpError):
    """At least one recipient did not get the message; ``report`` has the results of all."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__("\n".join(str(result) for result in report if not result.ok))
