"""Plans a transaction: a pure function from an envelope and a server's capabilities to groups of commands.

Commands of one group may leave in one segment; the next group waits for the replies to all commands before it (RFC 2920
3.1, command pipelining). With PIPELINING a transaction is ``MAIL RCPT... DATA`` and then the content; without it each
command is a group of its own. With CHUNKING (RFC 3030) the content follows ``BDAT n LAST`` without a go-ahead, so one
round trip less is needed. Without the go-ahead no reply is unmistakable, so RSET follows the content in the same group,
and the replies count only once RSET has its reply (``Transaction.confirmed``). This module also decides which
recipients fit into one transaction: RFC 5321 4.5.3.1.8 promises 100, LIMITS (RFC 9422) or X-RCPTLIMIT may say
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from zsmtp.errors import CommandError
from zsmtp.proto import command
from zsmtp.proto.address import MAX_ORCPT, domain_of, downgrade, mapped, original_recipient, path_problem
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.datetimes import date_time
from zsmtp.proto.mailoptions import NO_OPTIONS, MailOptions, instant
from zsmtp.proto.phase import CONTENT, DATA, LAST, MAIL, RCPT, RSET, Phase
from zsmtp.proto.status import EnhancedStatus
from zsmtp.records import NamedTuple, dataclass

MAX_RECIPIENTS = 100  # in one transaction (RFC 5321 4.5.3.1.8)

_BAD_SENDER, _BAD_RECIPIENT = EnhancedStatus(5, 1, 7), EnhancedStatus(5, 1, 3)
_NOT_CAPABLE = EnhancedStatus(5, 3, 3)
_NOTHING_ASKED = (None, None, None)


class Flow(Enum):
    """How far the commands of a transaction run ahead of the replies."""

    STEPWISE = "the transaction starts when everything before it is answered, and nothing is sent behind its content"
    RIDING = "it starts right behind the content of the message before (RFC 2920 3.1)"
    BLIND = "its content, too, follows without waiting for an answer (RFC 3030)"


class EnvelopeRecipient(NamedTuple):
    """A forward-path with its DSN parameters (RFC 3461): ``notify`` as in NOTIFY=, ``orcpt`` as in ORCPT= (or None).

    ``deliver_by`` is the RFC 2852 pair of seconds left and mode (``b"R"`` or ``b"N"``, perhaps with ``T``).
    """

    address: bytes
    notify: bytes | None = None
    orcpt: bytes | None = None
    deliver_by: tuple[int, bytes] | None = None


class TLSDemand(Enum):
    """What the sender demands of TLS for the message (RFC 8689)."""

    NONE = "none"
    REQUIRETLS = "requiretls"  # the SMTP extension: authenticated TLS on every hop, or no delivery
    TLS_OPTIONAL = "tls-required: no"  # the header field: delivery matters more than the destination's policies

    def is_met_by(self, other: TLSDemand) -> bool:
        """Whether a session that was opened for the demand ``other`` also meets this one."""
        return _STRICTNESS[other] >= _STRICTNESS[self]


_REQUIRETLS = TLSDemand.REQUIRETLS  # a module's name is read faster than an enum's attribute
_STRICTNESS = {TLSDemand.TLS_OPTIONAL: 0, TLSDemand.NONE: 1, TLSDemand.REQUIRETLS: 2}


def sender_wish(options: MailOptions, *, tls_optional: bool) -> TLSDemand:
    """The TLS demand of a message; ``tls_optional``: its header has ``TLS-Required: No``.

    REQUIRETLS overrides the field (RFC 8689 5).
    """
    if options.require_tls:
        return _REQUIRETLS
    return TLSDemand.TLS_OPTIONAL if tls_optional else TLSDemand.NONE


class Envelope(NamedTuple):
    """Reverse-path (empty: the null one), recipients, the message's DSN parameters, and its demands on sessions.

    ``options`` are its further options, as :func:`~zsmtp.proto.mailoptions.checked` returns them; ``wish`` follows from
    them and from the header (:func:`sender_wish`).
    """

    sender: bytes
    recipients: tuple[EnvelopeRecipient, ...]
    ret: bytes | None = None
    envid: bytes | None = None
    wish: TLSDemand = TLSDemand.NONE
    options: MailOptions = NO_OPTIONS

    @property
    def internationalised(self) -> bool:
        """Whether an address needs SMTPUTF8, or must be converted to ASCII (RFC 6531)."""
        if not self.sender.isascii():
            return True
        for recipient in self.recipients:  # noqa: SIM110 - a generator would cost more than all the rest
            if not recipient.address.isascii():
                return True
        return False


class ContentForm(NamedTuple):
    """The content as the commands need it: its exact size in octets (RFC 1870), its BODY= value, and its octets.

    ``body`` is b"8BITMIME" or b"BINARYMIME" where the content needs it (RFC 6152, RFC 3030), else None; ``smtputf8``:
    its headers need SMTPUTF8 (RFC 6531). ``data`` yields it for DATA: dot-stuffed, ending with the final dot. ``chunk``
    yields it for BDAT: exactly ``size`` octets. Either may be called again for another transaction.
    """

    size: int
    header_size: int
    body: bytes | None
    data: Callable[[], Iterator[bytes]]
    chunk: Callable[[], Iterator[bytes]]
    smtputf8: bool = False


class Step(NamedTuple):
    """One command of a transaction: its phase, its octets, and for RCPT the index of the recipient that it names.

    ``gated`` steps wait for the replies to everything sent before. ``masked`` replaces a line with a secret in logs.
    """

    phase: Phase
    wire: bytes
    gated: bool = True
    recipient: int = -1
    masked: bytes | None = None

    @property
    def shown(self) -> bytes:
        """The command line for logs and reports."""
        if self.masked is not None:
            return self.masked
        return self.wire[:-2] if self.wire else b"."


_STEPWISE, _BLIND = Flow.STEPWISE, Flow.BLIND
_DATA_GATED = (Step(DATA, command.DATA), Step(CONTENT, b""))
_DATA_PIPELINED = (Step(DATA, command.DATA, gated=False), Step(CONTENT, b""))
_RSET = Step(RSET, command.RSET, gated=False)


@dataclass(frozen=True, slots=True, eq=False)
class Transaction:
    """The planned transaction: steps in order, for ``recipients`` (indexes into these are ``Step.recipient``)."""

    steps: tuple[Step, ...]
    recipients: tuple[EnvelopeRecipient, ...]
    content: ContentForm
    flow: Flow = Flow.STEPWISE

    @property
    def confirmed(self) -> bool:
        """Whether RSET follows the content at once: the replies count only if the last one, to RSET, is positive."""
        return self.steps[-1].phase is RSET

    @property
    def groups(self) -> tuple[tuple[Step, ...], ...]:
        """The steps as the command groups they leave in."""
        groups: list[list[Step]] = []
        for step in self.steps:
            if step.gated or not groups:
                groups.append([])
            groups[-1].append(step)
        return tuple(tuple(group) for group in groups)


@dataclass(frozen=True, slots=True)
class LocalRefusal:
    """The reason why this side refuses an address or a message, before anything is sent."""

    status: EnhancedStatus
    text: str


def capacity(recipients: Sequence[EnvelopeRecipient], capabilities: Capabilities) -> int:
    """The number of ``recipients``, from the first on, that go into one transaction.

    BY= is a parameter of MAIL (RFC 2852 4), so where it is used only recipients with the same value share a
    transaction.
    """
    if len(recipients) == 1:
        return 1
    limit = min(capabilities.rcpt_max or MAX_RECIPIENTS, MAX_RECIPIENTS)
    if capabilities.deliver_by is not None and recipients:
        first = recipients[0].deliver_by
        together = next((i for i, r in enumerate(recipients[:limit]) if r.deliver_by != first), limit)
        limit = min(limit, together)
    if capabilities.rcpt_domain_max is None:
        return min(limit, len(recipients))
    domains: set[bytes] = set()
    for count, recipient in enumerate(recipients[:limit]):
        domains.add(domain_of(recipient.address).lower())
        if len(domains) > capabilities.rcpt_domain_max:
            return count
    return min(limit, len(recipients))


def sender_refusal(envelope: Envelope, capabilities: Capabilities) -> LocalRefusal | None:
    """The reason why the reverse-path cannot be sent to a server with these capabilities; None if it can."""
    return _address_refusal(envelope.sender, capabilities, _BAD_SENDER)


def recipient_refusal(recipient: EnvelopeRecipient, capabilities: Capabilities) -> LocalRefusal | None:
    """The reason why the forward-path cannot be sent to a server with these capabilities; None if it can."""
    if not recipient.address:
        return LocalRefusal(_BAD_RECIPIENT, "empty recipient address")
    return _address_refusal(recipient.address, capabilities, _BAD_RECIPIENT)


def options_refusal(options: MailOptions, capabilities: Capabilities) -> LocalRefusal | None:
    """The reason why a message must not go to a server with these capabilities because of its options, or None.

    A message with a time of release would arrive too early at a server that does not hold it (RFC 4865).
    """
    if options is NO_OPTIONS or (options.hold_for is None and options.hold_until is None):
        return None
    limit = capabilities.future_release
    if limit is None:
        text = "the message is to be held back (FUTURERELEASE), which the remote system does not offer"
    elif options.hold_for is not None and options.hold_for > limit.seconds:
        text = f"the message is to be held back for {options.hold_for:.0f} seconds; the remote system holds it for "
        text += f"{limit.seconds} at most"
    elif (until := instant(options.hold_until, "hold_until")) is not None and until > limit.until:
        text = f"the message is to be held back until {date_time(until).decode()}; the remote system holds it until "
        text += f"{date_time(limit.until).decode()} at most"
    else:
        return None
    return LocalRefusal(_NOT_CAPABLE, text)


def left_out(options: MailOptions, capabilities: Capabilities) -> tuple[str, ...]:
    """The options that a server with these capabilities does not get, although it gets the message, in words.

    A server without MT-PRIORITY gives all mail the same priority (RFC 6710).
    """
    if options.priority is None or capabilities.priority_profile is not None:
        return ()
    return (f"its priority {options.priority} is left out: no MT-PRIORITY",)


def size_refusal(content: ContentForm, capabilities: Capabilities) -> LocalRefusal | None:
    """The refusal of a message that is larger than the server accepts (RFC 1870 6.1); None for others."""
    if not capabilities.size or content.size <= capabilities.size:
        return None
    text = f"Message of {content.size} octets exceeds the limit given by the remote system: {capabilities.size}"
    return LocalRefusal(EnhancedStatus(5, 3, 4), text)


def _address_refusal(address: bytes, capabilities: Capabilities, bad_syntax: EnhancedStatus) -> LocalRefusal | None:
    problem = path_problem(address)
    if problem is not None:
        return LocalRefusal(bad_syntax, problem)
    if address.isascii() or capabilities.smtputf8:
        return None
    ascii_form = downgrade(address)
    if ascii_form is None:
        text = "the address needs SMTPUTF8, which the remote system does not offer"
        return LocalRefusal(EnhancedStatus(5, 6, 7), text)
    problem = path_problem(ascii_form)  # A-labels are longer than their U-labels
    return None if problem is None else LocalRefusal(bad_syntax, f"in A-labels: {problem}")


def plan_transaction(
    envelope: Envelope,
    content: ContentForm,
    capabilities: Capabilities,
    flow: Flow = Flow.STEPWISE,
) -> Transaction:
    """Plan one transaction for all recipients of ``envelope``, running ahead as far as ``flow`` allows.

    ``capabilities`` are the extensions to be used: the caller has removed the others (``Capabilities.without``). Sender
    and recipients must have passed :func:`sender_refusal` and :func:`recipient_refusal`; raises
    :class:`~zsmtp.errors.CommandError` otherwise.
    """
    internationalised = envelope.internationalised
    smtputf8 = capabilities.smtputf8 and (internationalised or content.smtputf8)
    in_ascii = internationalised and not smtputf8
    gated = not capabilities.pipelining
    wire = _mail(envelope, content, capabilities, smtputf8=smtputf8, in_ascii=in_ascii)
    steps = [Step(MAIL, wire, flow is _STEPWISE)]
    for index, recipient in enumerate(envelope.recipients):
        steps.append(Step(RCPT, _rcpt(recipient, capabilities, in_ascii=in_ascii), gated, index))
    if capabilities.chunking:
        steps.append(Step(LAST, command.bdat(content.size, last=True), flow is not _BLIND))
        if flow is not _STEPWISE and not gated:
            steps.append(_RSET)
    else:
        steps += _DATA_GATED if gated else _DATA_PIPELINED
    return Transaction(tuple(steps), envelope.recipients, content, flow)


def _mail(
    envelope: Envelope, content: ContentForm, capabilities: Capabilities, *, smtputf8: bool, in_ascii: bool
) -> bytes:
    sender, body, options = envelope.sender, content.body, envelope.options
    priority, hold_for, hold_until = _NOTHING_ASKED if options is NO_OPTIONS else _parameters(options, capabilities)
    return command.mail(
        _ascii_form(sender) if in_ascii else mapped(sender),
        size=content.size if capabilities.size is not None else None,
        body=body if body is not None and _body_is_known(body, capabilities) else None,
        ret=envelope.ret if capabilities.dsn else None,
        envid=envelope.envid if capabilities.dsn else None,
        by=_deliver_by(envelope, capabilities.deliver_by) if capabilities.deliver_by is not None else None,
        smtputf8=smtputf8,
        require_tls=envelope.wish is _REQUIRETLS and _require_tls(capabilities),
        priority=priority,
        hold_for=hold_for,
        hold_until=hold_until,
    )


def _parameters(options: MailOptions, capabilities: Capabilities) -> tuple[int | None, int | None, int | None]:
    """The options that become parameters of MAIL besides REQUIRETLS: ``priority``, ``hold_for``, ``hold_until``."""
    refusal = options_refusal(options, capabilities)
    if refusal is not None:
        raise CommandError(refusal.text)
    hold_for, until = options.hold_for, instant(options.hold_until, "hold_until")
    return (
        options.priority if capabilities.priority_profile is not None else None,
        None if hold_for is None else int(hold_for),
        None if until is None else int(until),
    )


def _require_tls(capabilities: Capabilities) -> bool:
    """True, for REQUIRETLS with MAIL: a server without it must not get the message (RFC 8689 4.2.1)."""
    if not capabilities.require_tls:
        raise CommandError("REQUIRETLS was requested, and the server does not offer it")
    return True


def _body_is_known(body: bytes, capabilities: Capabilities) -> bool:
    return capabilities.binary_mime if body == b"BINARYMIME" else capabilities.eight_bit_mime


def _rcpt(recipient: EnvelopeRecipient, capabilities: Capabilities, *, in_ascii: bool) -> bytes:
    address = _ascii_form(recipient.address) if in_ascii else mapped(recipient.address)
    if not capabilities.dsn:
        return command.rcpt(address)
    return command.rcpt(address, notify=recipient.notify, orcpt=_orcpt(recipient, capabilities))


def _orcpt(recipient: EnvelopeRecipient, capabilities: Capabilities) -> bytes | None:
    """The value of ORCPT=; None where the server might refuse the recipient for it: too long, or of an unknown type.

    The type utf-8 belongs to internationalised mail (RFC 6533); some servers without it refuse the recipient.
    """
    orcpt = original_recipient(recipient.orcpt, recipient.address)
    if orcpt is None or len(orcpt) > MAX_ORCPT:
        return None
    return None if orcpt[:6].lower() == b"utf-8;" and not capabilities.smtputf8 else orcpt


def _ascii_form(address: bytes) -> bytes:
    ascii_form = downgrade(address)
    if ascii_form is None:
        raise CommandError("address needs SMTPUTF8")
    return ascii_form


def _deliver_by(envelope: Envelope, least: int) -> bytes | None:
    """BY= if the time has not run out, and is not shorter than ``least``, the server's minimum in seconds."""
    wish = envelope.recipients[0].deliver_by if envelope.recipients else None
    if wish is None:
        return None
    seconds, mode = wish
    if seconds <= 0 or seconds < least:
        return None
    return b"%d;%s" % (seconds, mode)
