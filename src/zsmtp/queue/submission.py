"""Makes a queued message from an envelope and a header: the one place where messages enter the queue.

All intakes (library, listeners, ``sendmail``, imports, notices) pass an :class:`~zsmtp.proto.plan.Envelope` of checked
addresses and the header block, and get a :class:`~zsmtp.queue.store.NewMessage`: recipients with their queue keys, the
due and expiry times, and the facts of the header for later decisions (whether it is automatic, RFC 3834; whether it may
be sent without TLS, RFC 8689 5). A message in a loop is refused (RFC 5321 6.3). There are no lookups: a key is the
recipient's domain, or the relay that the configuration routes it to.

The address rules of the configuration (``zsmtp.queue.addressrules``) apply here, too; a second message with the same
idempotency key is compared by the envelope as given.

The caller adds the content: :meth:`Submitter.message` takes it whole, an upload in parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

from zsmtp.body.fields import field_values
from zsmtp.body.tlsrequired import tls_is_optional
from zsmtp.client.destinations import Destination, Destinations
from zsmtp.errors import ConfigError, MailLoop, SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.mailoptions import NO_OPTIONS, MailOptions, from_plain
from zsmtp.proto.plan import Envelope, TLSDemand
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.notices import Automatic, automatic
from zsmtp.queue.store import NewMessage, NewRecipient

RELAY_KEY = "relay:"
REDIRECTED = 10  # original addresses that are stored with a redirected message
MAX_HOPS = 100  # Received fields (RFC 5321 6.3 asks for at least 100)
MAX_DELAY = 366 * 86400.0  # seconds for which a message may be held (RFC 4865 leaves the limit to each server)


def queue_key(destinations: Destinations, address: bytes, sender: bytes = b"") -> str:
    """The queue key of a recipient of mail from ``sender``: its domain, or its relay.

    A domain is in lower case, with A-labels; a relay is ``relay:`` with its user, if there is one, host and port, and a
    hash of its settings if only these distinguish it from another one.
    """
    destination = destinations.of(address, sender)
    relay = destination.relay
    return destination.name if relay is None else f"{RELAY_KEY}{destinations.relay_keys[relay]}"


def destination_of(destinations: Destinations, key: str) -> Destination:
    """The destination of a queue key. Raises ConfigError for a relay that is not configured, or is one of several."""
    if not key.startswith(RELAY_KEY):
        return destinations.of(b"postmaster@" + key.encode())
    found = destinations.relayed(key[len(RELAY_KEY) :])
    if found is None:
        raise ConfigError(f"no relay {key[len(RELAY_KEY) :]} is configured any more")
    return found


def lost_route(destinations: Destinations, key: str) -> str:
    """Why a configuration has no route for a queue key; "" if it has one."""
    try:
        destination_of(destinations, key)
    except ConfigError as error:
        return str(error)
    return ""


class Submitter:
    """Makes queued messages. ``destinations`` are those of the configuration that delivers them.

    Raises ConfigError for relays that a queue cannot distinguish.
    """

    def __init__(self, destinations: Destinations, config: QueueConfig) -> None:
        self._destinations = destinations
        self._config = config
        destinations.check_relays()

    def message(
        self,
        envelope: Envelope,
        header: bytes,
        *,
        now: float,
        content: bytes = b"",
        tenant: str = "",
        not_before: float | None = None,
        expires: float | None = None,
        name: str = "",
        origin: str = "",
        idempotency_key: str = "",
        options: Mapping[str, object] | None = None,
    ) -> NewMessage:
        """The message for a store.

        ``header`` is the header block, ``content`` all octets of the message (empty for an upload). ``not_before`` and
        ``expires`` are POSIX times, ``name`` is the Message-ID. ``options`` are added to those that follow from
        envelope and header. The time of release in an envelope counts as ``not_before``. Raises SubmissionError.
        """
        release = envelope.options.release(now)
        if release is not None and not_before is not None:
            raise SubmissionError("not_before: a time of release is given as well; one of them is expected")
        start = self._start(now, not_before if release is None else release)
        given, envelope = envelope, self._config.addresses.apply(envelope)
        options = {**(options or {}), **self._options(envelope, header)}
        if self._config.addresses.redirect_to:
            options["redirected"] = [escape(one.address) for one in given.recipients[:REDIRECTED]]
        if start > now:
            options["not_before"] = start
        return NewMessage(
            sender=envelope.sender,
            recipients=self._recipients(envelope),
            content=content,
            tenant=tenant,
            priority=envelope.options.priority or 0,
            due=start,
            expires=self._expires(envelope, start, expires, tenant),
            ret=envelope.ret,
            envid=envelope.envid,
            name=name,
            origin=origin,
            options=options or None,
            idempotency_key=idempotency_key,
            digest=digest(given, content) if idempotency_key and content else b"",
            metered=self._config.is_metered(tenant),
        )

    def recipients(self, envelope: Envelope) -> Sequence[NewRecipient]:
        """The recipients of an envelope, with their queue keys."""
        return self._recipients(self._config.addresses.apply(envelope))

    def _recipients(self, envelope: Envelope) -> Sequence[NewRecipient]:
        return [
            NewRecipient(
                address=one.address,
                key=queue_key(self._destinations, one.address, envelope.sender),
                notify=one.notify,
                orcpt=one.orcpt,
            )
            for one in envelope.recipients
        ]

    def _start(self, now: float, not_before: float | None) -> float:
        if not_before is None or not_before <= now:
            return now
        if not_before > now + MAX_DELAY:
            raise SubmissionError(f"the message may be kept back for {MAX_DELAY / 86400:.0f} days at most")
        return not_before

    def _expires(self, envelope: Envelope, start: float, expires: float | None, tenant: str) -> float:
        if expires is not None:
            if expires <= start:
                raise SubmissionError("the message would be given up before it may be sent")
            return expires
        retry, null = self._config.retry, not envelope.sender
        if not retry.overrides:
            return retry.expires(start, null_sender=null)
        keys = {queue_key(self._destinations, one.address, envelope.sender) for one in envelope.recipients}
        lives = (retry.for_recipient(key, tenant).expires(start, null_sender=null) for key in keys)
        return max(lives, default=retry.expires(start, null_sender=null))

    def _options(self, envelope: Envelope, header: bytes) -> dict[str, object]:
        options: dict[str, object] = kept(envelope.options)
        kind = automatic(header)
        if kind is not Automatic.NO:
            options["automatic"] = kind.value
        many = header.count(b"\n") > MAX_HOPS  # a field has a line at least
        hops = sum(name.lower() == b"received" for name, _ in field_values(header)) if many else 0
        if hops > MAX_HOPS:
            raise MailLoop(f"the message has {hops} Received fields: it goes round in circles (RFC 5321 6.3)")
        if envelope.wish is TLSDemand.REQUIRETLS:
            options["require_tls"] = True
        elif envelope.wish is TLSDemand.TLS_OPTIONAL or tls_is_optional(header):
            options["tls_optional"] = True
        return options


def kept(options: MailOptions) -> dict[str, object]:
    """The options to store in a row: without the priority, which has its own column, and the time of release."""
    plain: dict[str, object] = {**options.unheld().given()}
    plain.pop("priority", None)
    return plain


class WithOptions(Protocol):
    """A message with options: see :class:`~zsmtp.queue.states.QueuedMessage`."""

    @property
    def options(self) -> Mapping[str, object] | None:
        """The requested options, as plain values."""

    @property
    def priority(self) -> int:
        """Its priority, 0 if none was requested."""


def restored(message: WithOptions) -> MailOptions:
    """The options of a queued message, for the next server."""
    if not message.options and not message.priority:
        return NO_OPTIONS
    return from_plain({**(message.options or {}), "priority": message.priority or None})


def digest(envelope: Envelope, content: bytes | Iterable[bytes]) -> bytes:
    """The digest for an idempotency key: a hash over envelope and content, equal for the same submission.

    The content is whole, or in blocks of any sizes.
    """
    state = blake2b(digest_size=16)
    for part in (envelope.sender, *(one.address for one in envelope.recipients)):
        state.update(len(part).to_bytes(4, "big") + part)
    for block in (content,) if isinstance(content, bytes) else content:
        state.update(block)
    return state.digest()
