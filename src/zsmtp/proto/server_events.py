"""The events of a server session: values for the application, in the order of the client's commands.

An event with a ``slot`` waits for :meth:`~zsmtp.proto.server.ServerSession.answer`. The session goes on reading behind
:class:`MessageEnd` only; behind the others it waits, because the answer decides what the next command means. Every
:class:`MailFrom` that was answered with 2xx has exactly one end: a :class:`MessageEnd` or a
:class:`TransactionAborted`. No event shows a secret.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from zsmtp.proto.plan import EnvelopeRecipient


class Ending(Enum):
    """Why a session is over."""

    QUIT = "the client said QUIT"
    EOF = "the client closed the connection"
    LOST = "the connection broke"
    REFUSED = "the application refused the client"
    SHUTDOWN = "the server shuts down"
    COMMAND_TIMEOUT = "no command came in time"
    DATA_TIMEOUT = "no content came in time"
    TOO_SLOW = "content came too slowly"
    WRITE_TIMEOUT = "the client read no reply"
    SESSION_TIME = "the session lasted too long"
    ERRORS = "too many errors"
    COMMANDS = "too many commands without a message"
    LOGINS = "too many failed logins"
    MESSAGES = "as many messages as one session may have"
    DISCARDED = "a refused message did not end"
    OUT_OF_STEP = "octets came that had to wait for a reply"
    NOT_SMTP = "what came was not SMTP"
    TLS_FAILED = "the TLS handshake failed"


class Abort(Enum):
    """The reason why a transaction ended without a message. The session itself sends the reply."""

    RESET = "RSET"
    HELLO = "EHLO, HELO or LHLO in a transaction"
    ENDED = "the session is over"
    REFUSED = "the application refused the content"
    NO_RECIPIENTS = "content came, and no recipient was accepted"
    BARE_CR = "a CR that no LF follows"
    BARE_LF = "a LF without CR before it"
    NUL = "a NUL octet"
    LONG_LINE = "a line over the limit"
    TOO_LARGE = "more octets than are taken"


class MailParameters(NamedTuple):
    """The parameters of MAIL, as far as the server offers them; None or False for absent ones."""

    size: int | None = None  # octets, as declared (RFC 1870)
    body: bytes | None = None  # 7BIT, 8BITMIME or BINARYMIME (RFC 6152, RFC 3030)
    smtputf8: bool = False  # RFC 6531
    ret: bytes | None = None  # FULL or HDRS (RFC 3461 4.3)
    envid: bytes | None = None  # xtext as it came (RFC 3461 4.4)
    submitter: bytes | None = None  # AUTH=: who submitted the message; empty for <> (RFC 4954 5)
    require_tls: bool = False  # RFC 8689
    priority: int | None = None  # -9 to 9 (RFC 6710)
    release: float | None = None  # POSIX time before which the message must not be delivered (RFC 4865)
    release_request: bytes | None = None  # the request in its own form: for;SECONDS or until;DATE-TIME (RFC 4865 9.1)


class Opened(NamedTuple):
    """A client has connected. Answer with the greeting: 220, or 554 to refuse the client, or 421 to close."""

    slot: int


class Greeted(NamedTuple):
    """EHLO, HELO or LHLO (``verb``) with the client's ``name``; the session has answered it."""

    verb: bytes
    name: bytes


class MailFrom(NamedTuple):
    """MAIL. ``path`` is the reverse-path without brackets and source route, empty for the null one.

    Answer with 2xx to open the transaction.
    """

    slot: int
    path: bytes
    parameters: MailParameters


class RcptTo(NamedTuple):
    """RCPT; a ``recipient`` without a domain may be any local part, as ``postmaster``. Answer with 2xx to accept."""

    slot: int
    recipient: EnvelopeRecipient


class MessageStart(NamedTuple):
    """DATA, or the first BDAT (``chunked``), with recipients accepted.

    Answer with GO_AHEAD (a code below 400) to receive the content, or with a reply that refuses it.
    """

    slot: int
    chunked: bool


class MessageData(NamedTuple):
    """The next octets of the content, dots unstuffed; never empty, at most ``server_content.MAX_BLOCK``."""

    data: bytes


class MessageEnd(NamedTuple):
    """The content is complete, ``octets`` in all, and the transaction is over.

    Answer ``replies`` slots, from ``slot`` on: one, with LMTP one for each accepted recipient in their order. The
    session reads on meanwhile.
    """

    slot: int
    replies: int
    octets: int


class TransactionAborted(NamedTuple):
    """The transaction is over without a message: forget sender, recipients and what there is of the content."""

    reason: Abort


class LoginAttempt(NamedTuple):
    """AUTH: the client claims to be ``user``.

    ``check`` verifies that; for a password it takes tens of milliseconds, so call it in a thread if ``slow``. It has no
    side effects. Answer with LOGIN_OK, or with LOGIN_REFUSED after a delay that slows guessing down.
    """

    slot: int
    mechanism: str
    user: bytes
    check: Callable[[], bool]
    slow: bool


class TLSRequested(NamedTuple):
    """STARTTLS was answered with 220. Send what is pending, do the handshake, then call ``tls_started`` or ``lose``."""


class SessionEnded(NamedTuple):
    """The session is over: send the pending octets, then close the connection. No event follows."""

    reason: Ending


ServerEvent = (
    Opened
    | Greeted
    | MailFrom
    | RcptTo
    | MessageStart
    | MessageData
    | MessageEnd
    | TransactionAborted
    | LoginAttempt
    | TLSRequested
    | SessionEnded
)
