"""Probes a candidate: connect, greeting, EHLO, STARTTLS, EHLO, QUIT; optionally MAIL and RCPT, and never content.

``zsmtp.delivery.sessionopener`` opens the session as for a delivery, so that the result is the same: the same
deadlines, the same verdict on certificates, the same second attempt after opportunistic TLS failed. TLS reports do not
count it: a probe is no mail. Without a recipient there is no login; with one (:class:`RecipientQuestion`) there is,
since the answer depends on it, and RSET aborts the transaction. The events of each step give its duration::

    probe = driver.run(probe_candidate(plan, candidate, settings, recorder))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Verdict, from_loss, from_refusal, from_reply
from zsmtp.delivery.reasons import reason_of
from zsmtp.delivery.sessionopener import OpenSession, SessionOpener, next_reply, say_quit
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.candidates import Candidate
from zsmtp.effects import Close
from zsmtp.escape import escape
from zsmtp.events import (
    Answered,
    Closed,
    Connected,
    ConnectFailed,
    Connecting,
    Event,
    HandshakeDone,
    LookupDone,
    Observer,
    Remark,
    Secured,
)
from zsmtp.proto import command
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase, ReplyMeaning
from zsmtp.proto.plan import (
    ContentForm,
    Envelope,
    EnvelopeRecipient,
    LocalRefusal,
    plan_transaction,
    recipient_refusal,
    sender_refusal,
)
from zsmtp.proto.session import Lost
from zsmtp.proto.status import EnhancedStatus

if TYPE_CHECKING:
    from zsmtp.proto.sasl import Credentials
    from zsmtp.tls.facts import TLSFacts
    from zsmtp.tls.judgement import Judgement

MAX_STEPS = 100
MAX_REMARKS = 10
MAX_TEXT = 400  # characters shown of one reply


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One step: its name, its duration in seconds, and its result."""

    name: str
    seconds: float
    text: str


class RecipientQuestion(NamedTuple):
    """The question whether a recipient is accepted for mail from a sender (b"": the null one)."""

    sender: bytes
    recipient: bytes


class AskedCommand(NamedTuple):
    """A command and its reply, as text."""

    command: str
    reply: str


@dataclass(frozen=True, slots=True)
class RecipientAnswer:
    """The replies to MAIL and RCPT; ``verdict`` is their meaning for mail, None if the recipient was accepted."""

    recipient: str
    commands: tuple[AskedCommand, ...]
    verdict: Verdict | None

    @property
    def words(self) -> str:
        """The replies, in a few words."""
        if self.commands or self.verdict is None:
            return self.commands[-1].reply
        return f"{escape(reason_of(self.verdict))} ({self.verdict.status})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The result of probing a candidate.

    ``verdict`` is None if a session was opened, else the meaning of the failure for mail. ``keywords`` are the lines of
    the last EHLO reply, ``facts`` and ``judgement`` those of the last TLS handshake. ``remarks`` are decisions about
    TLS, and oddities. ``answer`` is about a recipient, None without a question or a session.
    """

    steps: tuple[ProbeStep, ...] = ()
    verdict: Verdict | None = None
    keywords: tuple[str, ...] = ()
    facts: TLSFacts | None = None
    judgement: Judgement | None = None
    local: tuple[str, int] | None = None
    remarks: tuple[str, ...] = ()
    answer: RecipientAnswer | None = None

    @property
    def reason(self) -> str:
        """Why no session was opened, in a few words, the server's own if it sent any; "" if one was."""
        if self.verdict is None:
            return ""
        if self.unconnected:
            return self.steps[-1].text
        return escape(reason_of(self.verdict))[:MAX_TEXT] or str(self.verdict.status)

    @property
    def unconnected(self) -> bool:
        """Whether no connection was made at all."""
        return bool(self.steps) and all(step.name == "connect" and step.text for step in self.steps)

    @property
    def seconds(self) -> float:
        """The duration of the whole probe."""
        return sum(step.seconds for step in self.steps)


@dataclass(slots=True)
class ProbeRecorder:
    """An observer that turns events into steps; ``clock`` returns seconds."""

    clock: Callable[[], float]
    steps: list[ProbeStep] = field(default_factory=list)
    keywords: tuple[str, ...] = ()
    facts: TLSFacts | None = None
    judgement: Judgement | None = None
    local: tuple[str, int] | None = None
    remarks: list[str] = field(default_factory=list)
    _last: float = 0.0

    def __call__(self, event: Event) -> None:
        """Process an event."""
        if isinstance(event, Connecting | LookupDone):  # the peer does not cause the time for the DNS
            self._last = self.clock()
        elif isinstance(event, Connected):
            self.local = event.local
            self._step("connect", "")
        elif isinstance(event, ConnectFailed):
            self._step("connect", event.reason)
        elif isinstance(event, HandshakeDone):
            self.facts = event.facts
            self._step("TLS handshake", event.facts.session if event.facts is not None else event.error)
        elif isinstance(event, Secured):
            self.judgement = event.judgement
        elif isinstance(event, Remark) and len(self.remarks) < MAX_REMARKS:
            self.remarks.append(escape(event.text)[:MAX_TEXT])
        elif isinstance(event, Answered):
            self._on_answer(event)

    def _on_answer(self, event: Answered) -> None:
        if event.phase in (Phase.EHLO, Phase.LHLO, Phase.HELO):
            self.keywords = tuple(escape(one)[:MAX_TEXT] for one in event.reply.lines[1:] if one)
        self._step(event.phase.value, str(event.reply))

    def _step(self, name: str, text: str) -> None:
        now = self.clock()
        if len(self.steps) < MAX_STEPS:
            self.steps.append(ProbeStep(name, now - self._last, escape(text)[:MAX_TEXT]))
        self._last = now


async def probe_candidate(
    plan: DeliveryPlan,
    candidate: Candidate,
    settings: SessionSettings,
    recorder: ProbeRecorder,
    observer: Observer | None = None,
    question: RecipientQuestion | None = None,
) -> Probe:
    """Open a session with one candidate of a plan, ask the question if there is one, and end it.

    The recorder must also receive the driver's events.

    ``observer`` receives all events and must pass them to the recorder; without one, only the recorder gets them.
    """
    observer = observer or recorder
    security = settings.security
    if security is not None:
        security = security if question is not None else replace(security, credentials_for=_no_credentials)
        settings = replace(settings, security=replace(security, report=None))
    only = replace(plan, route=replace(plan.route, candidates=(candidate,)))
    opened = await SessionOpener(settings, observer).open(only, set())
    verdict = None if isinstance(opened, OpenSession) else opened
    answer = None
    if isinstance(opened, OpenSession):
        if question is not None:
            answer = await _ask(opened, settings.usable(opened.capabilities), question)
        await say_quit(opened.stream, opened.session)
        await Close(opened.stream)
        observer(Closed("tried"))
    return Probe(
        steps=tuple(recorder.steps),
        verdict=verdict,
        keywords=recorder.keywords,
        facts=recorder.facts,
        judgement=recorder.judgement,
        local=recorder.local,
        remarks=tuple(recorder.remarks),
        answer=answer,
    )


async def _ask(link: OpenSession, usable: Capabilities, question: RecipientQuestion) -> RecipientAnswer:
    """Send MAIL and RCPT as a delivery does, but without the size, and RSET."""
    envelope = Envelope(question.sender, (EnvelopeRecipient(question.recipient),))
    shown = escape(question.recipient.decode("utf-8", "replace"))
    refusal = sender_refusal(envelope, usable) or recipient_refusal(envelope.recipients[0], usable)
    if refusal is not None:
        return RecipientAnswer(shown, (), from_refusal(refusal, link.peer))
    nothing = ContentForm(0, 0, None, lambda: iter(()), lambda: iter(()))
    planned = plan_transaction(envelope, nothing, replace(usable, size=None, chunking=False))
    commands: list[AskedCommand] = []
    verdict: Verdict | None = None
    for step in planned.steps[:2]:
        link.session.command(step.phase, step.wire)
        event = await next_reply(link.stream, link.session)
        line = escape(step.wire.removesuffix(b"\r\n"))
        if isinstance(event, Lost):
            commands.append(AskedCommand(line, escape(str(event.error))))
            return RecipientAnswer(shown, tuple(commands), from_loss(event.error, "", link.peer))
        reply = str(event.reply)
        commands.append(AskedCommand(line, escape(reply)[:MAX_TEXT]))
        if event.result is not ReplyMeaning.SUCCESS:
            enhanced = usable.enhanced_status_codes
            verdict = from_reply(step.phase, event.reply, event.result, reply, enhanced=enhanced, peer=link.peer)
            break
    link.session.command(Phase.RSET, command.RSET)
    await next_reply(link.stream, link.session)
    return RecipientAnswer(shown, tuple(commands), verdict)


def nothing_to_send() -> Delivery:
    """The delivery in the events of a probe: one without recipients."""
    refusal = LocalRefusal(EnhancedStatus(5, 3, 0), "there is no message")
    return Delivery(Message(Envelope(b"", ()), lambda capabilities: refusal), Ledger(0, lambda number, verdict: None))


def _no_credentials(server: str, destination: str) -> Credentials | None:
    return None
