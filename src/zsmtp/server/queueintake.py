"""The intake of a queue: queues the messages of a listener, and replies 250 when they are on the disk.

``zsmtp.server.access`` decides who may send, with which addresses. A message gets a ``Received`` field (RFC 5321 4.4,
RFC 3848) and, if it has none, ``Date`` and ``Message-ID`` (RFC 6409 8.2, 8.3); addresses without a domain get the
default one. :class:`~zsmtp.queue.submission.Submitter` decides on everything else (queue keys, loops, times). A small
message is kept in memory until it is complete; a large one is written to the store in parts while it arrives::

    intake = QueueIntake(store, submitter, QueueIntakeSettings(name="mail.example.org"))
    listener = Listener(intake, ListenerSettings(ServerSettings(name=b"mail.example.org")))

If the store is full, the reply is 452 4.3.1, and if it cannot be written 451 4.3.0 (RFC 5321 4.2.2, RFC 3463 3.4): the
client tries again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from zsmtp.body.fields import end_of_header
from zsmtp.body.lines import unified_header
from zsmtp.body.source import Source
from zsmtp.errors import (
    ConfigError,
    MailLoop,
    QueueError,
    QueueFull,
    QueueUnavailable,
    QuotaExceeded,
    SubmissionError,
)
from zsmtp.escape import escape
from zsmtp.proto.mailoptions import MailOptions, checked
from zsmtp.proto.plan import Envelope, EnvelopeRecipient, sender_wish
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_replies import LOCAL_ERROR, LOGIN_FIRST, NO_ROOM, make_reply
from zsmtp.queue.admission import Admission
from zsmtp.queue.bounces import BounceTaker
from zsmtp.queue.deliverystatus import date_text
from zsmtp.queue.ids import to_text
from zsmtp.queue.limits import CHUNK
from zsmtp.queue.quotas import Amount
from zsmtp.queue.returnpath import Unproven
from zsmtp.queue.shaping import Rate
from zsmtp.queue.store import Accepted, NewMessage, QueueStore
from zsmtp.queue.submission import Submitter
from zsmtp.queue.suppression import OVERRIDE
from zsmtp.server.access import Access, Allowance, Rights, granted_domains
from zsmtp.server.bounceintake import NO_RETURN_PATH, OF_ITS_OWN, BounceContent
from zsmtp.server.clientnames import origin_of, shown_client, shown_peer, shown_process, tagged
from zsmtp.server.headerread import HeaderRead, begins_with_a_field
from zsmtp.server.intake import (
    IncomingMessage,
    OpenIntake,
    ReceivedEnvelope,
    SessionInfo,
)
from zsmtp.server.queuedcontent import QueuedContent
from zsmtp.signing.finalform import MessageSigning, SignedMessage, SigningChoice

log = logging.getLogger("zsmtp.queue.intake")

MAX_HEADER = CHUNK  # octets of a header block, and of a message that is kept in memory
FAILED_LOGINS = (Rate(20, 3600.0),)  # from one address, before it is refused for a while

_NOT_ALLOWED = make_reply(554, "5.7.1", "mail from this address is not taken here")
_TOO_MANY_LOGINS = make_reply(421, "4.7.0", "too many failed logins from this address; try again later")
_LONG_HEADER = make_reply(552, "5.3.4", f"the header is longer than {MAX_HEADER} octets")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueIntakeSettings:
    """The settings of a listener for a queue. Raises ConfigError for an invalid domain."""

    name: str
    """The name of this server, for Received and Message-ID."""
    default_domain: str = ""
    """The domain of addresses without one; "" for ``name``."""
    add_missing: bool = True
    """Add Date and Message-ID if they are missing (RFC 6409 8)."""
    logins: bool = False
    """Whether clients can log in, so that refusals of others ask for a login."""
    rates_by_user: tuple[Rate, ...] = ()
    """Rates of messages from one login, or from one user at a UNIX socket."""
    rates_by_address: tuple[Rate, ...] = ()
    """Rates of messages from one client address."""
    failed_logins: tuple[Rate, ...] = FAILED_LOGINS
    """Rates of failed logins from one client address."""

    def __post_init__(self) -> None:
        from zsmtp.dns.literal import domain_problem

        for key, value in (("name", self.name), ("default_domain", self.default_domain or self.name)):
            problem = domain_problem(value)
            if problem is not None:
                raise ConfigError(f"{key}: '{escape(value[:120])}' {problem}")


class QueueIntake(OpenIntake):
    """Queues mail in ``store``. ``clock`` is the wall clock, ``monotonic`` one that never goes back, in seconds."""

    def __init__(
        self,
        store: QueueStore,
        submitter: Submitter,
        settings: QueueIntakeSettings,
        access: Access | None = None,
        *,
        admission: Admission | None = None,
        signing: MessageSigning | None = None,
        bounces: BounceTaker | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.submitter = submitter
        self.settings = settings
        self.access = access or Access()
        self.admission = admission or Admission(store, {})
        self.signing = signing
        self.bounces = bounces
        self.clock = clock
        self._monotonic = monotonic
        self._by_user = Allowance(settings.rates_by_user)
        self._by_address = Allowance(settings.rates_by_address)
        self._logins = Allowance(settings.failed_logins)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._date: tuple[int, str] = (0, "")
        self._domain = b"@" + (settings.default_domain or settings.name).encode()
        self._granted: dict[tuple[str, ...], frozenset[str]] = {}
        self._trouble = ""
        self._exceeded: dict[str, str] = {}  # the quotas that were logged as exceeded, by tenant
        self.accepted = 0
        """Messages queued."""
        self.refused = 0
        """Messages that were complete, or nearly, and were refused."""

    def reconfigure(
        self,
        settings: QueueIntakeSettings,
        access: Access,
        submitter: Submitter,
        signing: MessageSigning | None = None,
    ) -> None:
        """Use other settings from now on; counts against unchanged rates continue."""
        before = self.settings
        self.settings, self.access, self.submitter, self.signing = settings, access, submitter, signing
        self._granted = {}
        self._domain = b"@" + (settings.default_domain or settings.name).encode()
        if settings.rates_by_user != before.rates_by_user:
            self._by_user = Allowance(settings.rates_by_user)
        if settings.rates_by_address != before.rates_by_address:
            self._by_address = Allowance(settings.rates_by_address)
        if settings.failed_logins != before.failed_logins:
            self._logins = Allowance(settings.failed_logins)

    # ---------------------------------------------------------------- policy

    def connected(self, session: SessionInfo) -> Reply | None:
        """Refuse clients with too many failed logins, and clients that could not send in any way."""
        peer = session.peer
        if peer.address and self._logins.wait(peer.address, self._monotonic()):
            return _TOO_MANY_LOGINS
        if self.bounces is None and not self.settings.logins and self.access.rights_of(None, peer) is None:
            log.info("connection from %s refused: not in the networks of this listener", shown_peer(peer))
            return _NOT_ALLOWED
        return None

    def login_failed(self, session: SessionInfo, mechanism: str, user: bytes) -> None:
        """Count a failed login for the address, and log it for tools that block addresses."""
        log.warning("login failed: %s as %s by %s", shown_peer(session.peer), escape(user[:80]), mechanism)
        if session.peer.address:
            self._logins.take(session.peer.address, self._monotonic())

    def sender(self, session: SessionInfo, envelope: ReceivedEnvelope) -> Reply | None:
        """Refuse a client that may not send, or not from this address, or not now."""
        rights = self.access.rights_of(session.user, session.peer)
        if rights is None and self.bounces is None:
            return self._not_allowed()
        if rights is not None and not rights.may_send_as(self._with_domain(envelope.sender)):
            return make_reply(553, "5.7.1", f"{shown_client(session)} may not send as this address")
        now = self._monotonic()
        waits = []
        for allowance, client in self._counted(session):
            waits.append(allowance.wait(client, now))
        longest = max(waits, default=0.0)
        if longest:
            return make_reply(450, "4.7.1", f"too many messages in a short time; try again in {longest:.0f} s")
        for allowance, client in self._counted(session):
            allowance.take(client, now)
        return None

    def _counted(self, session: SessionInfo) -> list[tuple[Allowance, object]]:
        found: list[tuple[Allowance, object]] = []
        peer = session.peer
        if self.settings.rates_by_user and (session.user is not None or not peer.address):
            found.append((self._by_user, session.user if session.user is not None else peer.uid))
        if self.settings.rates_by_address and peer.address:
            found.append((self._by_address, peer.address))
        return found

    def _not_allowed(self) -> Reply:
        return LOGIN_FIRST if self.settings.logins else _NOT_ALLOWED

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        """Accept return paths and complaint addresses for all clients, other recipients for those that may send."""
        if self.bounces is None:
            return None
        comes_back = self.bounces.is_for(recipient.address)
        if isinstance(comes_back, Unproven):
            self.bounces.refused(recipient.address, comes_back.problem)
            return NO_RETURN_PATH
        if not comes_back and self.access.rights_of(session.user, session.peer) is None:
            return self._not_allowed()
        if envelope.recipients and self.bounces.is_for(envelope.recipients[0].address) is not comes_back:
            return OF_ITS_OWN
        return None

    def begin(self, session: SessionInfo, envelope: ReceivedEnvelope) -> IncomingMessage | Reply:
        """Begin to receive the content."""
        if self.bounces is not None and self.bounces.is_for(envelope.recipients[0].address) is True:
            return BounceContent(self.bounces, envelope, self.run, self.failed)
        rights = self.access.rights_of(session.user, session.peer)
        if rights is None:
            return _NOT_ALLOWED
        try:  # refuse before the content, if there is known to be no room for it
            wanted = Amount(1, envelope.parameters.size or 0, len(envelope.recipients))
            exceeded = self.admission.refusal(rights.tenant, wanted)
        except SubmissionError as error:
            return self.beyond(error)
        if exceeded is not None:
            return self.failed(exceeded)
        return QueuedContent(self, session, envelope, rights)

    # ------------------------------------------------------------ the message

    def prepared(
        self, session: SessionInfo, envelope: ReceivedEnvelope, rights: Rights, content: bytes
    ) -> NewMessage | Reply:
        """The message to queue, without a signature; ``content`` is its beginning, with the header, or all of it.

        A reply refuses it.
        """
        read = self._read(session, envelope, rights, content)
        if isinstance(read, Reply):
            return read
        before = read.trace + read.missing
        if not read.header and not content.startswith(b"\r\n"):
            before += b"\r\n"  # the rest is the body
        return self._new(session, envelope, rights, read, before + content)

    def signed_with(self, rights: Rights, content: bytes) -> SigningChoice | None:
        """The keys that sign a message whose beginning, with the header, is ``content``; None: there are none.

        Only those of domains that its client may sign for (:func:`~zsmtp.server.access.granted_domains`).
        """
        if self.signing is None:
            return None
        end = end_of_header(content)
        if end is None or not begins_with_a_field(content):
            return None
        granted = self._granted.get(rights.senders)
        if granted is None:
            default = self._domain[1:].decode()
            granted = granted_domains(rights.senders, self.signing.keyring.domains, default)
            self._granted[rights.senders] = granted
        try:
            choice = self.signing.choose(unified_header(content[: end[0] + 1])[0], granted=granted)
        except SubmissionError as error:  # it stays unsigned, as from a client without a key
            log.info("not signed: %s", error)
            return None
        if choice.keys:
            return choice
        log.debug("not signed: %s", choice.reason)
        return None

    def unsigned(
        self, session: SessionInfo, envelope: ReceivedEnvelope, rights: Rights, content: Source
    ) -> Unsigned | Reply:
        """The parts of a whole message with a header for signing. A reply refuses it.

        Raises ContentError if it cannot be read.
        """
        beginning = next(content.blocks(MAX_HEADER + 4), b"")
        read = self._read(session, envelope, rights, beginning)
        end = end_of_header(beginning)
        if isinstance(read, Reply):
            return read
        assert end is not None  # or no key would be chosen
        header = read.missing.replace(b"\r\n", b"\n") + read.header
        return Unsigned(read, header, content.part(end[1], content.size))

    def signed(
        self,
        session: SessionInfo,
        envelope: ReceivedEnvelope,
        rights: Rights,
        given: Unsigned,
        done: SignedMessage,
    ) -> tuple[NewMessage, Iterator[bytes]] | Reply:
        """The signed message to queue, without its content, and the octets of the content in blocks."""
        new = self._new(session, envelope, rights, given.read, b"")
        if isinstance(new, Reply):
            return new
        head = given.read.trace + done.header.replace(b"\n", b"\r\n") + b"\r\n"
        return new, chain((head,), given.body.blocks() if done.body is None else done.body())

    def _read(
        self, session: SessionInfo, envelope: ReceivedEnvelope, rights: Rights, content: bytes
    ) -> Beginning | Reply:
        """The header of a message, and the fields to prepend; a reply refuses the message."""
        end = end_of_header(content)
        has_header = begins_with_a_field(content)
        if has_header and end is None and len(content) > MAX_HEADER:
            return _LONG_HEADER
        header = unified_header(content if end is None else content[: end[0] + 1])[0] if has_header else b""
        now = self.clock()
        fields = HeaderRead(header)
        if rights.patterns is not None:
            problem = fields.sender_problem(rights)
            if problem:
                return make_reply(553, "5.7.1", f"{shown_client(session)} may not send with {problem}")
        name, missing = self._missing(fields, now) if self.settings.add_missing else (fields.message_id, b"")
        return Beginning(header, name, self._received(session, envelope, now), missing, now)

    def _new(
        self, session: SessionInfo, envelope: ReceivedEnvelope, rights: Rights, read: Beginning, content: bytes
    ) -> NewMessage | Reply:
        parameters = envelope.parameters
        options = checked(MailOptions(require_tls=parameters.require_tls, priority=parameters.priority))
        queued = Envelope(
            self._with_domain(envelope.sender),
            tuple([self._completed(one) for one in envelope.recipients]),
            parameters.ret,
            parameters.envid,
            sender_wish(options, tls_optional=False),
            options,
        )
        try:
            return self.submitter.message(
                queued,
                read.header,
                now=read.now,
                content=content,
                tenant=rights.tenant,
                not_before=parameters.release,
                name=read.name,
                origin=origin_of(session),
                options={OVERRIDE: True} if rights.override_suppression else None,
            )
        except MailLoop as error:
            return make_reply(554, "5.4.6", str(error))
        except SubmissionError as error:
            return make_reply(554, "5.6.0", str(error))

    def _completed(self, recipient: EnvelopeRecipient) -> EnvelopeRecipient:
        return recipient._replace(address=self._with_domain(recipient.address))

    def _with_domain(self, address: bytes) -> bytes:
        """An address with the default domain if it has none; an ``@`` in quotes begins no domain."""
        if not address or (b"@" in address and not address.endswith(b'"')):
            return address
        return address + self._domain

    def _missing(self, read: HeaderRead, now: float) -> tuple[str, bytes]:
        """The Message-ID, and the fields that are missing."""
        name, fields = read.message_id, b""
        if not read.has_date:
            fields += b"Date: %b\r\n" % self._date_text(now).encode()
        if not name:
            name = f"<{os.urandom(12).hex()}@{self.settings.name}>"
            fields += b"Message-ID: %b\r\n" % name.encode()
        return name, fields

    def _received(self, session: SessionInfo, envelope: ReceivedEnvelope, now: float) -> bytes:
        """The trace field (RFC 5321 4.4). With several recipients it names none, for their privacy (7.2)."""
        peer = session.peer
        helo = escape(session.helo[:255]) or "unknown"
        where = f"[{tagged(peer.address)}]" if peer.address else shown_process(peer)
        tls = f"\r\n\t({session.tls})" if session.tls else ""
        only = envelope.recipients[0].address if len(envelope.recipients) == 1 else b""
        target = f"\r\n\tfor <{only.decode('utf-8', 'replace')}>" if only else ""
        return (
            f"Received: from {helo} ({where})\r\n\tby {self.settings.name} with {session.protocol}{tls}{target};"
            f"\r\n\t{self._date_text(now)}\r\n"
        ).encode()

    def _date_text(self, now: float) -> str:
        second = int(now)
        if self._date[0] != second:
            self._date = (second, date_text(second))
        return self._date[1]

    # ------------------------------------------------------------------ replies

    def taken(self, new: NewMessage, accepted: Accepted, octets: int) -> Reply:
        """The reply for a queued message, after logging it."""
        self._trouble = ""
        self._exceeded.pop(new.tenant, None)
        self.accepted += 1
        text = to_text(accepted.id, self.store.shard)
        if log.isEnabledFor(logging.INFO):
            recipients = len(new.recipients)
            log.info(
                "%s: accepted from <%s> for %d recipient%s, %d octets, %s by %s",
                text,
                escape(new.sender),
                recipients,
                "" if recipients == 1 else "s",
                octets,
                new.name or "no Message-ID",
                new.origin,
                extra={
                    "queue": {
                        "event": "accepted",
                        "id": text,
                        "sender": escape(new.sender),
                        "recipients": recipients,
                        "octets": octets,
                        "message_id": new.name,
                        "origin": new.origin,
                        "tenant": new.tenant,
                    }
                },
            )
        return Reply(250, (b"2.0.0 queued as %b" % text.encode(),))

    def failed(self, error: QueueError) -> Reply:
        """The reply for a message that is not queued; a failure of the store is logged when it begins."""
        self.refused += 1
        if isinstance(error, QuotaExceeded):
            if self._exceeded.get(error.tenant) != error.quota:
                log.warning("no mail of this tenant is taken: %s", escape(str(error)))
                self._exceeded[error.tenant] = error.quota
            when = "when some was delivered" if error.frees is None else f"in {max(error.frees - error.now, 1):.0f} s"
            code = "4.3.1" if error.frees is None else "4.7.1"
            return make_reply(452, code, f"the quota {error.quota} of {error.limit} is used up; try again {when}")
        if isinstance(error, QueueFull | QueueUnavailable):
            if str(error) != self._trouble:
                log.error("no mail is taken: %s", error)
                self._trouble = str(error)
            return NO_ROOM if isinstance(error, QueueFull) else LOCAL_ERROR
        return make_reply(554, "5.6.0", str(error))

    def beyond(self, error: SubmissionError) -> Reply:
        """The reply for a message that exceeds a whole quota, and so can never be queued."""
        self.refused += 1
        return make_reply(552, "5.3.4", str(error))

    # -------------------------------------------------------------------- tasks

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task, for which :meth:`settled` waits."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settled(self) -> None:
        """Wait for all tasks, including those of clients that are gone."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))


class Beginning(NamedTuple):
    """The parts of the beginning of a message."""

    header: bytes  # with LF line ends; empty if it has none
    name: str  # its Message-ID, perhaps the added one
    trace: bytes  # the Received field
    missing: bytes  # fields that it lacks
    now: float


class Unsigned(NamedTuple):
    """A message for signing: the header block with LF line ends and added fields, and the body."""

    read: Beginning
    header: bytes
    body: Source
