"""One SMTP or LMTP session on one connection: octets in, events out; octets out on request.

The session holds what was asked of it as a queue of steps with two cursors. The send cursor moves on as far as the
steps' gates allow, the receive cursor matches replies to what was sent, strictly by count. Five verbs drive it::

    session.receive_data(data, now)    octets came
    session.receive_eof(now)           the peer closed its side
    session.next_event()               what happened, until None
    session.data_to_send(now)          octets to write next, until empty; then tell data_written(count, now)
    session.deadline()                 when to call handle_timer(now) at the latest

``now`` is the caller's monotonic clock in seconds; the session has none. Work is given with :meth:`Session.command` and
:meth:`Session.transact`.

The rules that keep verdicts true are held here: a reply counts only if it is complete, well formed, asked for, of the
set its phase allows, and read after the last octet of its command was written (RFC 5321 4.2, 4.3.2; RFC 2920 3.2).
Anything else ends the session with one :class:`Lost` event, and what was in doubt then, a message whose last octet was
written and whose final reply is missing, is named in it. After ``Lost`` nothing is taken and nothing given out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from zsmtp.errors import ConnectionLost, ContentError, ReplyError, ServiceClosing, WaitTimeout, ZsmtpError
from zsmtp.events import (
    Answered,
    ContentProgress,
    ContentSent,
    ContentStarted,
    LineReceived,
    LineSent,
    Observer,
    Remark,
    SessionLost,
    heard,
    ignore,
)
from zsmtp.proto import command
from zsmtp.proto.phase import (
    CONTENT,
    DISORDER,
    FINAL_PHASES,
    LAST,
    MAIL,
    RSET,
    RULES,
    SUCCESS,
    Phase,
    Result,
    Timeouts,
    judge,
)
from zsmtp.proto.plan import Step, Transaction
from zsmtp.proto.progress import Progress, Sent, in_doubt, note, pointless
from zsmtp.proto.reply import Reply, ReplyParser
from zsmtp.proto.told import Answer, Finished, Lost, SessionEvent

__all__ = ["WRITE_UNIT", "Answer", "Finished", "Lost", "Session", "SessionEvent"]

_NOTHING = memoryview(b"")
_UNKNOWN = 1 << 62  # the end of a step whose last octet is not given out yet

_RSET = Step(RSET, command.RSET, gated=False)
_SPECIAL = frozenset({MAIL, RSET, CONTENT})  # what may need another step before or instead of it

WRITE_UNIT = 64 * 1024  # octets that must be taken within Timeouts.write


class Session:
    """The protocol engine of one connection. ``lmtp`` makes it speak RFC 2033: one final reply per recipient.

    ``last_heard`` is when octets came last, on the caller's clock.
    """

    def __init__(self, *, timeouts: Timeouts, lmtp: bool = False, observer: Observer = ignore) -> None:
        self._timeouts = timeouts
        self._reply_times = {phase: timeouts.of(rule.wait) for phase, rule in RULES.items()}
        self._lmtp = lmtp
        self._observe = observer
        self._quiet = not heard(observer)
        self._parser = ReplyParser()
        self._events: deque[SessionEvent] = deque()
        self._unsent: deque[tuple[Step, Progress | None]] = deque()
        self._awaited: deque[Sent] = deque()
        self._content: Iterator[bytes] | None = None  # what is left of the content being given out
        self._ahead = b""  # its next block
        self._leaving: deque[Sent] = deque()  # steps with content that is not yet written to its end
        self._before: Progress | None = None  # the last transaction begun, which may still be open at the server
        self._out = _NOTHING
        self._produced = 0  # octets given out, written or not
        self._written = 0
        self._write_since = 0.0
        self._write_mark = 0
        self._reply_since: float | None = None  # set when the session is first looked at
        self.last_heard = -math.inf  # when octets came last
        self._error: ZsmtpError | None = None
        self._stopped = False
        self._awaited.append(Sent(Step(Phase.GREETING, b""), 0, None))

    # ------------------------------------------------------------------ work

    def command(self, phase: Phase, wire: bytes, *, shown: bytes | None = None) -> None:
        """Ask for one command outside a transaction; it waits until everything before it is answered.

        ``shown`` stands for it in logs, if it holds a secret; replies that repeat the secret do not show it either.
        """
        self._quiet = not heard(self._observe)
        self.hide(set(wire.split()).difference(shown.split()) if shown is not None else ())
        self._unsent.append((Step(phase, wire, masked=shown), None))

    def hide(self, secrets: Iterable[bytes]) -> None:
        """Mask these in whatever the peer says from now on."""
        self._parser.hide(*secrets)

    def clean(self) -> bool:
        """Whether nothing has come that no reply accounts for, and nothing is due: as it must be before a handshake."""
        return self._error is None and not self._parser.pending and not self._awaited and not self._events

    @property
    def inside_reply(self) -> bool:
        """Whether a reply has begun that has no end yet."""
        return self._parser.pending

    def transact(self, transaction: Transaction) -> None:
        """Ask for a transaction; its steps tell what each of them waits for (``zsmtp.proto.plan``)."""
        self._quiet = not heard(self._observe)
        progress = Progress(transaction, len(transaction.steps), len(transaction.recipients))
        self._unsent += [(step, progress) for step in transaction.steps]

    def stop(self) -> None:
        """Send nothing more, not even the rest of what was begun; replies that are due are still heard."""
        self._stopped = True

    @property
    def idle(self) -> bool:
        """Whether everything asked for is done."""
        return not (self._unsent or self._awaited or self._events or self._out)

    @property
    def lost(self) -> ZsmtpError | None:
        """Why the session is over, or None while it lives."""
        return self._error

    @property
    def final_reply_due(self) -> bool:
        """Whether the last octet of some message is written and its final reply not in: now patience pays."""
        return any(sent.step.phase in FINAL_PHASES and sent.end <= self._written for sent in self._awaited)

    @property
    def blind(self) -> bool:
        """Whether content is on its way whose MAIL has no answer: after its last octet the message is in doubt."""
        return any(sent.progress is not None and sent.progress.mail is None for sent in self._leaving)

    # ----------------------------------------------------------------- input

    def receive_data(self, data: bytes, now: float) -> None:
        """Take octets that came from the peer. Never raises for what they are."""
        if self._error is not None:
            return
        self.last_heard = now
        self._parser.receive_data(data)
        try:
            while self._error is None and (reply := self._parser.next_reply()) is not None:
                self._take_reply(reply, now)
        except ReplyError as error:
            self.fail(error)

    def receive_eof(self, now: float) -> None:
        """The peer closed its side of the connection."""
        if self._error is None:
            inside = " in the middle of a reply" if self._parser.pending else ""
            self.fail(ConnectionLost(f"the peer closed the connection{inside}"))

    def fail(self, error: ZsmtpError) -> None:
        """End the session: the transport broke, a wait ran out, or this side gives up. Only the first call counts."""
        if self._error is not None:
            return
        self._error = error
        if not self._quiet:
            self._observe(SessionLost(str(error), self._awaited[0].step.phase if self._awaited else None))
        step = self._awaited[0].step if self._awaited and self._awaited[0].end <= self._written else None
        self._events.append(Lost(error, step, in_doubt(self._awaited, self._written), self._at_work(error)))
        self._unsent.clear()
        self._awaited.clear()
        self._leaving.clear()
        self._out = _NOTHING
        self._content = None

    def _at_work(self, error: ZsmtpError) -> Transaction | None:
        """The transaction that ``error`` strikes first."""
        if isinstance(error, ContentError) and self._leaving:
            strikes = self._leaving[-1].progress
        else:
            strikes = next((sent.progress for sent in self._awaited if sent.progress is not None), None)
            if strikes is None and self._unsent:
                strikes = self._unsent[0][1]
        return strikes.transaction if strikes is not None else None

    def next_event(self) -> SessionEvent | None:
        """What happened next, or None. Call until None after each of the other verbs."""
        return self._events.popleft() if self._events else None

    def _take_reply(self, reply: Reply, now: float) -> None:
        if reply.bare_lf or not self._quiet:
            self._tell_of(reply)
        awaited = self._awaited
        if not awaited or awaited[0].end > self._written:
            unasked = ReplyError(f"reply that nothing asked for: {reply}")
            self.fail(ServiceClosing(f"the peer closes the connection: {reply}") if reply.code == 421 else unasked)
            return
        sent = awaited[0]
        step, progress = sent.step, sent.progress
        phase, recipient = step.phase, step.recipient
        result = judge(phase, reply.code)
        transaction = None if progress is None else progress.transaction
        if progress is not None and self._lmtp and phase in FINAL_PHASES:
            sent.replies = sent.replies or max(len(progress.accepted), 1)
            if progress.accepted:
                recipient = progress.accepted[len(progress.accepted) - sent.replies]
        if not self._quiet:
            self._observe(Answered(phase, reply, transaction, recipient))
        if result is DISORDER:
            self.fail(ReplyError(f"unexpected reply when {RULES[phase].words}: {reply}"))
            return
        if phase is LAST and result is SUCCESS and progress is not None and not progress.accepted:
            progress.contradicted = True
            self.fail(ReplyError(f"content taken although no recipient was accepted: {reply}"))
            return
        self._events.append(Answer(step, reply, result, transaction, recipient))
        refused = result is not SUCCESS
        if refused and phase is RSET and reply.code != 421:
            self.fail(ConnectionLost(f"RSET was refused: {reply}"))
            return
        self._reply_since = now
        sent.replies -= 1
        if not sent.replies:
            awaited.popleft()
        if refused and reply.code == 421:  # the command is answered, the transaction is not finished but lost
            if progress is not None:
                note(progress, step, result)
            self.fail(ServiceClosing(f"the peer closes the connection: {reply}"))
        elif progress is not None and not sent.replies:
            self._advance(progress, step, result)

    def _tell_of(self, reply: Reply) -> None:
        if not self._quiet:
            for line in reply.raw_lines:
                self._observe(LineReceived(line))
        if reply.bare_lf:
            self._observe(Remark("reply line ended by a bare LF"))

    def _advance(self, progress: Progress, step: Step, result: Result) -> None:
        """Account for an answered step of a transaction, and drop the steps it made pointless."""
        progress.unanswered -= 1
        note(progress, step, result)
        wanted = progress.accepted or (progress.mail is SUCCESS and progress.rcpt_unanswered)
        good = result is SUCCESS and wanted  # then nothing can have become pointless
        if not good and self._unsent and self._unsent[0][1] is progress:
            self._drop_pointless(progress)
        if not progress.unanswered:
            self._events.append(Finished(progress.transaction, progress.completed))

    def _drop_pointless(self, progress: Progress) -> None:
        """Take the unsent steps of a transaction out of the queue once they can no longer lead to a delivery."""
        undecided = bool(self._awaited) and self._awaited[-1].progress is progress
        while self._unsent and self._unsent[0][1] is progress:
            if not pointless(progress, self._unsent[0][0].phase, undecided=undecided):
                return
            self._unsent.popleft()
            progress.unanswered -= 1

    # ---------------------------------------------------------------- output

    def data_to_send(self, now: float) -> memoryview:
        """The octets to write next, at most one block of content at a time; empty if there is nothing to write now.

        The same octets are given again until :meth:`data_written` tells that they are gone. May raise what the content
        raises when it cannot be read (:class:`~zsmtp.errors.ContentError`); the session is then to be failed.
        """
        if self._reply_since is None:
            self._reply_since = now
        if self._stopped:
            return _NOTHING
        if not self._out and self._error is None:
            block = self._next_block(now)
            if block:
                self._out = memoryview(block)
                self._produced += len(block)
                self._write_since = now
                self._write_mark = self._written
        return self._out

    def data_written(self, count: int, now: float) -> None:
        """Tell that the transport took the first ``count`` of the octets that :meth:`data_to_send` gave."""
        if self._error is not None:
            return
        head_was_out = bool(self._awaited) and self._awaited[0].end <= self._written
        self._out = self._out[count:] if count < len(self._out) else _NOTHING
        self._written += count
        if self._written - self._write_mark >= WRITE_UNIT:
            self._write_mark = self._written
            self._write_since = now
        if self._awaited and not head_was_out and self._awaited[0].end <= self._written:
            self._reply_since = now
        while self._leaving and self._report_content(self._leaving[0], now):
            self._leaving.popleft()

    def _report_content(self, sent: Sent, now: float) -> bool:
        """Tell how far a message's content is on its way; whether it is written to its end."""
        progress = sent.progress
        assert progress is not None
        form, done = progress.transaction.content, self._written >= sent.end
        if self._quiet:
            return done
        if done:
            envelope, content = progress.content_started - progress.started, now - progress.content_started
            count = progress.rcpt_unanswered + len(progress.accepted)
            self._observe(ContentSent(form.size, form.header_size, count, envelope, content, progress.transaction))
        elif self._written > progress.content_position:
            self._observe(ContentProgress(min(self._written - progress.content_position, form.size), form.size))
        return done

    def _next_block(self, now: float) -> bytes:
        """The octets that may leave now, up to the next closed gate or about 64 KiB: commands, content, commands."""
        parts: list[bytes] = []
        position = self._produced
        end = position + WRITE_UNIT
        unsent, awaited = self._unsent, self._awaited
        while position < end:
            if self._content is not None:
                part = self._next_content(position)
            elif not unsent:
                break
            else:
                step, progress = unsent[0]
                if step.gated and awaited:
                    break
                if step.phase in _SPECIAL:
                    step = self._next_step(step, progress, now)
                    if self._error is not None:
                        return b""
                else:
                    unsent.popleft()
                part = step.wire
                sent = Sent(step, position + len(part), progress)
                awaited.append(sent)
                if not self._quiet and part:
                    self._observe(LineSent(step.shown, step.phase, None if progress is None else progress.transaction))
                if progress is not None and step.phase in FINAL_PHASES:
                    self._begin_content(sent, progress, now)
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def _next_step(self, step: Step, progress: Progress | None, now: float) -> Step:
        """Take ``step`` from the queue, unless another has to come before it; that one, or what goes instead of it."""
        if step.phase is MAIL and progress is not None:
            before, self._before = self._before, None
            progress.started = now
            if before is not None and not (before.concluded or before.completed):
                progress.unanswered += 1
                return _RSET  # RFC 5321 4.1.1.5
            self._before = progress
        elif step.phase is RSET:
            self._before = None
        self._unsent.popleft()
        if step.phase is CONTENT and progress is not None and not progress.accepted:
            if self._lmtp:
                self.fail(ReplyError("354 to DATA although no recipient was accepted"))
            return Step(CONTENT, command.LONE_DOT)  # RFC 2920 3.1
        return step

    def _begin_content(self, sent: Sent, progress: Progress, now: float) -> None:
        """Account for a step that content follows; it begins where the octets of the step end."""
        step = sent.step
        # Behind BDAT LAST a server may keep a transaction open whose recipients it all refused (RFC 3030 2); it
        # would take the next message in the name of the last sender then. So somebody must be known to be accepted.
        progress.concluded = step.phase is CONTENT or bool(progress.accepted)
        if step.wire == command.LONE_DOT:
            return
        form = progress.transaction.content
        progress.content_started, progress.content_position = now, sent.end
        if self._lmtp:
            sent.replies = 0  # known when the first of them comes
        sent.end = _UNKNOWN
        self._leaving.append(sent)
        self._content = form.chunk() if step.phase is LAST else form.data()
        if not self._quiet:
            self._observe(ContentStarted(form.size, progress.transaction))
        self._ahead = self._read_ahead()

    def _read_ahead(self) -> bytes:
        """The block after the present one; ``b""`` is the end, so an empty block on the way must not pass for it."""
        assert self._content is not None
        for block in self._content:
            if block:
                return block
        return b""

    def _next_content(self, position: int) -> bytes:
        """The next block of content; one more is looked at, so that the position of the last octet is known in time."""
        block = self._ahead
        self._ahead = self._read_ahead()
        if not self._ahead:
            sent = self._leaving[-1]
            self._content = None
            sent.end = position + len(block)
            if sent.step.phase is CONTENT and not self._quiet:
                self._observe(LineSent(b".", CONTENT, sent.progress.transaction if sent.progress else None))
        return block

    # ----------------------------------------------------------------- waits

    def deadline(self) -> float | None:
        """When the present wait is over, on the caller's clock; None if nothing is waited for."""
        if self._error is not None:
            return None
        writing = self._write_since + self._timeouts.write if self._out and not self._stopped else None
        if not self._awaited or self._awaited[0].end > self._written or self._reply_since is None:
            return writing
        reply = self._reply_since + self._reply_times[self._awaited[0].step.phase]
        return reply if writing is None else min(writing, reply)

    def handle_timer(self, now: float) -> None:
        """Call when :meth:`deadline` has come: a wait that ran out ends the session."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return
        if self._out and not self._stopped and now >= self._write_since + self._timeouts.write:
            self.fail(
                WaitTimeout(f"the peer took nothing for {self._timeouts.write:.0f} s while this side was writing")
            )
            return
        phase = self._awaited[0].step.phase
        self.fail(WaitTimeout(f"no reply within {self._reply_times[phase]:.0f} s when {RULES[phase].words}"))
