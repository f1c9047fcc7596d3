"""One SMTP or LMTP session on one connection: octets in, events out; octets out on request.

The session keeps its work as a queue of steps with two cursors. The send cursor moves on as far as the steps' gates
allow, the receive cursor matches replies to the steps sent, strictly by count. Five methods drive it::

    session.receive_data(data, now)    octets came
    session.receive_eof(now)           the peer closed its side
    session.next_event()               what happened, until None
    session.data_to_send(now)          octets to write next, until empty; then call data_written(count, now)
    session.deadline()                 when to call handle_timer(now) at the latest

``now`` is the caller's monotonic clock in seconds; the session has none. :meth:`Session.command` and
:meth:`Session.transact` add work.

This module enforces the rules that keep verdicts true: a reply counts only if it is complete, well formed, asked for,
of the set its phase allows, and read after the last octet of its command was written (RFC 5321 4.2, 4.3.2; RFC 2920
3.2). Anything else ends the session with one :class:`Lost` event, which names the messages in doubt: those whose last
octet was written and whose final reply is missing. After ``Lost`` the session takes and gives nothing.

If more replies are read together than were due, none of them counts, except a first one that answers content after a
354. The replies to a transaction whose content RSET follows (``Transaction.confirmed``) are given out when RSET has its
reply, and never if RSET is refused: after a surplus reply, the refusal of the content would stand there. A refusal in
the middle of the content is the reply to it; after a 421 the peer has read nothing behind its command.

A caller that must know beforehand that a message may be complete at the peer sets ``asks_before_completion``: from the
last block of its content on (from MAIL on, if the content does not wait for replies) nothing is given out, a
:class:`CompletionDue` event names the transactions, and :meth:`Session.allow_completion` lets them go on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from zsmtp.errors import ConnectionLost, ReplyError, ServiceClosing, WaitTimeout, ZsmtpError
from zsmtp.events import (
    Answered,
    ContentStarted,
    LineReceived,
    LineSent,
    Observer,
    Remark,
    SessionLost,
    ignore,
    is_observed,
)
from zsmtp.proto import command
from zsmtp.proto.contentqueue import ContentQueue
from zsmtp.proto.events import CompletionDue, Finished, Lost, SessionEvent, StepAnswered
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
    ReplyMeaning,
    Timeouts,
    judge,
    reply_times,
)
from zsmtp.proto.plan import Flow, Step, Transaction
from zsmtp.proto.progress import UNKNOWN, Sent, TransactionProgress, drop_pointless, loss, note, too_many
from zsmtp.proto.reply import Reply, ReplyParser

__all__ = ["WRITE_UNIT", "CompletionDue", "Finished", "Lost", "Session", "SessionEvent", "StepAnswered"]

_NOTHING = memoryview(b"")

_RSET = Step(RSET, command.RSET, gated=False)
_SPECIAL = frozenset({MAIL, RSET, CONTENT})  # steps that may need another step before them or in their place

WRITE_UNIT = 64 * 1024  # octets that must be taken within Timeouts.write


class Session:
    """The protocol engine of one connection. ``lmtp`` selects RFC 2033: one final reply per recipient.

    ``last_heard`` is the time of the last octets received, on the caller's clock. With ``asks_before_completion`` it
    asks before it sends octets that may complete a message.
    """

    def __init__(self, *, timeouts: Timeouts, lmtp: bool = False, observer: Observer = ignore) -> None:
        self._timeouts = timeouts
        self._reply_times = reply_times(timeouts)
        self._lmtp = lmtp
        self._observe = observer
        self._quiet = not is_observed(observer)
        self._parser = ReplyParser()
        self._events: deque[SessionEvent] = deque()
        self._unsent: deque[tuple[Step, TransactionProgress | None]] = deque()
        self._awaited: deque[Sent] = deque()
        self._contents = ContentQueue()
        self._before: TransactionProgress | None = (
            None  # the last transaction begun, which may still be open at the server
        )
        self._out = _NOTHING
        self._produced = 0  # octets given out, written or not
        self._written = 0
        self._write_since = 0.0
        self._write_mark = 0
        self._reply_since: float | None = None  # set at the first call of a method with ``now``
        self.last_heard = -math.inf  # when octets were received last
        self.asks_before_completion = False
        self._error: ZsmtpError | None = None
        self._stopped = False
        self._awaited.append(Sent(Step(Phase.GREETING, b""), 0, None))

    # ------------------------------------------------------------------ work

    def command(self, phase: Phase, wire: bytes, *, shown: bytes | None = None) -> None:
        """Queue one command outside a transaction; it waits for the replies to everything before it.

        ``shown`` replaces it in logs, if it holds a secret; the secret is masked in replies that repeat it, too.
        """
        self._quiet = not is_observed(self._observe)
        self.hide(set(wire.split()).difference(shown.split()) if shown is not None else ())
        self._unsent.append((Step(phase, wire, masked=shown), None))

    def hide(self, secrets: Iterable[bytes]) -> None:
        """Mask these in all replies from now on."""
        self._parser.hide(*secrets)

    def clean(self) -> bool:
        """Whether no octets are left over and no reply is due, as required before a handshake."""
        return self._error is None and not self._parser.pending and not self._awaited and not self._events

    @property
    def inside_reply(self) -> bool:
        """Whether an incomplete reply has been received."""
        return self._parser.pending

    def transact(self, transaction: Transaction) -> None:
        """Queue a transaction; each step defines what it waits for (``zsmtp.proto.plan``)."""
        self._quiet = not is_observed(self._observe)
        held: list[StepAnswered] | None = [] if transaction.confirmed else None
        progress = TransactionProgress(transaction, len(transaction.steps), len(transaction.recipients), held)
        self._unsent += [(step, progress) for step in transaction.steps]

    def stop(self) -> None:
        """Send nothing more, not even the rest of what was begun; replies that are due are still read."""
        self._stopped = True

    @property
    def idle(self) -> bool:
        """Whether all queued work is done."""
        return not (self._unsent or self._awaited or self._events or self._out)

    @property
    def lost(self) -> ZsmtpError | None:
        """The error that ended the session; None while it is open."""
        return self._error

    @property
    def final_reply_due(self) -> bool:
        """Whether a message is fully written and its final reply missing: this wait must not be cut short."""
        return any(sent.step.phase in FINAL_PHASES and sent.end <= self._written for sent in self._awaited)

    @property
    def blind(self) -> bool:
        """Whether content is being sent whose MAIL has no reply: after its last octet the message is in doubt."""
        return self._contents.blind

    @property
    def listens(self) -> bool:
        """Whether the session's first content, a chunk, is about to be sent: a surplus reply may still show before."""
        return self._contents.first_chunk_waits(self._written)

    # ----------------------------------------------------------------- input

    def receive_data(self, data: bytes, now: float) -> None:
        """Process octets from the peer. Never raises because of them."""
        if self._error is not None:
            return
        self.last_heard = now
        self._parser.receive_data(data)
        replies, malformed = self._parser.complete_replies()
        if len(replies) > 1 and too_many(replies, self._awaited, self._written, lmtp=self._lmtp):
            self._take_surplus(replies, now)
            return
        for reply in replies:
            if self._error is None:
                self._take_reply(reply, now)
        if malformed is not None:
            self.fail(malformed)

    def _take_surplus(self, replies: list[Reply], now: float) -> None:
        """End the session because of surplus replies: it is unknown which of them is the surplus one.

        Only after a 354 the state is certain: the first of them is then the reply to the content.
        """
        first = self._awaited[0] if self._awaited else None
        if first is not None and first.step.phase is CONTENT and first.end <= self._written:
            self._take_reply(replies.pop(0), now)
        for reply in replies:
            self._report(reply)
        self.fail(ReplyError(f"unsolicited reply: {replies[-1]}"), in_step=False)

    def receive_eof(self, now: float) -> None:
        """The peer closed its side of the connection."""
        if self._error is None:
            inside = " in the middle of a reply" if self._parser.pending else ""
            self.fail(ConnectionLost(f"the peer closed the connection{inside}"))

    def fail(self, error: ZsmtpError, *, in_step: bool = True, unread: bool = False) -> None:
        """End the session: the transport failed, a wait timed out, or this side gives up. Only the first call counts.

        If replies are not ``in_step`` with commands any more, those held back do not count. ``unread``: the peer read
        nothing behind the command to which it replied last.
        """
        if self._error is not None:
            return
        self._error = error
        awaited = self._awaited
        if not self._quiet:
            self._observe(SessionLost(str(error), awaited[0].step.phase if awaited else None))
        begun = [*awaited, *(Sent(step, UNKNOWN, progress) for step, progress in list(self._unsent)[:1])]
        if begun and begun[0].step.phase is RSET and isinstance(error, (ReplyError, WaitTimeout)):
            in_step = False  # RSET did not confirm the replies before it
        if in_step:
            for sent in begun:
                self._release(sent.progress)
        leaving = list(self._contents.leaving)
        lost = loss(error, begun, leaving, self._written, in_step=in_step, unread=unread, lmtp=self._lmtp)
        self._events.append(lost if isinstance(error, ReplyError) else lost._replace(unfinished=self._parser.begun))
        self._unsent.clear()
        awaited.clear()
        self._contents.clear()
        self._out = _NOTHING

    def _release(self, progress: TransactionProgress | None) -> None:
        """Give out the replies to a transaction that were held back."""
        if progress is not None and progress.held is not None:
            self._events += progress.held
            progress.held = None

    def next_event(self) -> SessionEvent | None:
        """What happened next, or None. Call until None after each of the other verbs."""
        return self._events.popleft() if self._events else None

    def _take_reply(self, reply: Reply, now: float) -> None:
        if reply.bare_lf or not self._quiet:
            self._report(reply)
        awaited = self._awaited
        if not awaited or awaited[0].end > self._written:
            self._take_unasked(reply)
            return
        sent = awaited[0]
        step, progress = sent.step, sent.progress
        phase, recipient = step.phase, step.recipient
        result = judge(phase, reply.code)
        transaction = None if progress is None else progress.transaction
        if progress is not None and self._lmtp and phase in FINAL_PHASES:
            sent.replies = sent.replies or max(len(progress.accepted), 1)
            recipient = progress.accepted[-sent.replies] if progress.accepted else -1
        if not self._quiet:
            self._observe(Answered(phase, reply, transaction, recipient))
        if result is DISORDER:
            self.fail(ReplyError(f"unexpected reply when {RULES[phase].words}: {reply}"))
            return
        if phase is LAST and result is SUCCESS and progress is not None and not progress.accepted:
            progress.contradicted = True
            self.fail(ReplyError(f"content taken although no recipient was accepted: {reply}"))
            return
        refused = result is not SUCCESS
        if refused and phase is RSET and reply.code != 421:
            self.fail(ConnectionLost(f"RSET was refused: {reply}"), in_step=False)
            return
        answer = StepAnswered(step, reply, result, transaction, recipient)
        (self._events if progress is None or progress.held is None else progress.held).append(answer)
        self._reply_since = now
        sent.replies -= 1
        if not sent.replies:
            awaited.popleft()
        if refused and reply.code == 421:  # the command has its reply; the transaction is lost, not finished
            if progress is not None:
                note(progress, step, result)
            self._release(progress)
            self.fail(ServiceClosing(f"the peer closes the connection: {reply}"), unread=True)
        elif progress is not None and not sent.replies:
            self._advance(progress, step, result)

    def _take_unasked(self, reply: Reply) -> None:
        """Handle a reply while none is due: the peer closes, refuses content early, or has lost count."""
        if reply.code == 421:
            self.fail(ServiceClosing(f"the peer closes the connection: {reply}"))
            return
        sent = self._awaited[0] if self._awaited else None
        progress = sent.progress if sent is not None else None
        if reply.code < 400 or sent is None or progress is None or not sent.began(self._written):
            self.fail(ReplyError(f"unsolicited reply: {reply}"), in_step=False)
            return
        answer = StepAnswered(sent.step, reply, judge(sent.step.phase, reply.code), progress.transaction, early=True)
        self._release(progress)
        self._events.append(answer)
        if not self._quiet:
            self._observe(Answered(sent.step.phase, reply, progress.transaction, -1))
        self.fail(ReplyError(f"refused in the middle of the content: {reply}"))

    def _report(self, reply: Reply) -> None:
        for line in () if self._quiet else reply.raw_lines:
            self._observe(LineReceived(line))
        if reply.bare_lf:
            self._observe(Remark("reply line ended by a bare LF"))

    def _advance(self, progress: TransactionProgress, step: Step, result: ReplyMeaning) -> None:
        """Account for an answered step of a transaction, and drop the steps it made pointless."""
        progress.unanswered -= 1
        note(progress, step, result)
        wanted = progress.accepted or (progress.mail is SUCCESS and progress.rcpt_unanswered)
        good = result is SUCCESS and wanted  # then nothing can have become pointless
        if not good and self._unsent and self._unsent[0][1] is progress:
            undecided = bool(self._awaited) and self._awaited[-1].progress is progress
            drop_pointless(self._unsent, progress, undecided=undecided)
        if not progress.unanswered:
            if progress is self._before and (progress.concluded or progress.completed):
                self._before = None  # no RSET is due, and its content need not stay in memory
            self._release(progress)
            self._contents.any_answered |= progress.content_begun
            self._events.append(Finished(progress.transaction, progress.completed))

    # ---------------------------------------------------------------- output

    def data_to_send(self, now: float) -> memoryview:
        """The octets to write next, at most one block of content at a time; empty if there is nothing to write now.

        The same octets are returned again until :meth:`data_written` confirms them. May raise what the content raises
        when it cannot be read (:class:`~zsmtp.errors.ContentError`); call :meth:`fail` then.
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
        """Note that the transport took the first ``count`` of the octets that :meth:`data_to_send` returned."""
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
        if self._contents.leaving:
            self._contents.written(self._written, now, None if self._quiet else self._observe)

    def _next_block(self, now: float) -> bytes:
        """The octets that may be sent now, up to the next closed gate or about 64 KiB: commands, content, commands."""
        parts: list[bytes] = []
        position = self._produced
        end = position + WRITE_UNIT
        unsent, awaited = self._unsent, self._awaited
        while position < end:
            if self.asks_before_completion and self._completion_waits():
                break
            if self._contents.reading:
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

    def allow_completion(self, transactions: Iterable[Transaction]) -> None:
        """Answer :class:`CompletionDue`: octets that complete these transactions may be sent; until then they wait."""
        allowed = set(transactions)
        for sent in self._contents.leaving:
            if sent.progress is not None and sent.progress.transaction in allowed:
                sent.progress.completion_allowed = True
        for _, progress in self._unsent:
            if progress is not None and progress.transaction in allowed:
                progress.completion_allowed = True

    def _completion_waits(self) -> bool:
        """Whether the next octets must wait for :meth:`allow_completion`; then the event has been made."""
        if self._contents.reading:
            progress = self._contents.leaving[-1].progress if self._contents.ends_next else None
        elif self._unsent and self._unsent[0][0].phase is MAIL:
            progress = self._unsent[0][1]
            if progress is not None and progress.transaction.flow is not Flow.BLIND:
                return False
        else:
            return False
        if progress is None or progress.completion_allowed:
            return False
        if not progress.completion_asked:
            # Ask at once for those that follow without waiting for a reply.
            behind = [p for step, p in self._unsent if step.phase is MAIL and p is not None and p is not progress]
            blind = [p for p in behind if p.transaction.flow is Flow.BLIND and not p.completion_asked]
            for one in (progress, *blind):
                one.completion_asked = True
            self._events.append(CompletionDue(tuple(one.transaction for one in (progress, *blind))))
        return True

    def _next_step(self, step: Step, progress: TransactionProgress | None, now: float) -> Step:
        """Take ``step`` from the queue and return it, or the step that replaces it, or one that must come before it."""
        if step.phase is MAIL and progress is not None:
            before, self._before, progress.started = self._before, None, now
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

    def _begin_content(self, sent: Sent, progress: TransactionProgress, now: float) -> None:
        """Begin the content of the step ``sent``, at the position where the octets of the step end."""
        step = sent.step
        # After BDAT LAST a server may keep a transaction open whose recipients it refused (RFC 3030 2), and would then
        # take the next message under the last sender. So at least one recipient must be accepted.
        progress.concluded = step.phase is CONTENT or bool(progress.accepted)
        progress.content_begun = True
        if step.wire == command.LONE_DOT:
            return
        form = progress.transaction.content
        progress.content_started, progress.content_position = now, sent.end
        if self._lmtp:
            sent.replies = 0  # known when the first of them comes
        if not self._quiet:
            self._observe(ContentStarted(form.size, progress.transaction))
        self._contents.begin(sent, form.chunk() if step.phase is LAST else form.data())

    def _next_content(self, position: int) -> bytes:
        """The next block of content."""
        block = self._contents.take(position)
        if not self._contents.reading and not self._quiet:
            sent = self._contents.leaving[-1]
            if sent.step.phase is CONTENT:
                self._observe(LineSent(b".", CONTENT, sent.progress.transaction if sent.progress else None))
        return block

    # ----------------------------------------------------------------- waits

    def deadline(self) -> float | None:
        """The end of the present wait, on the caller's clock; None without one."""
        if self._error is not None:
            return None
        writing = self._write_since + self._timeouts.write if self._out and not self._stopped else None
        if not self._awaited or self._awaited[0].end > self._written or self._reply_since is None:
            return writing
        reply = self._reply_since + self._reply_times[self._awaited[0].step.phase]
        return reply if writing is None else min(writing, reply)

    def handle_timer(self, now: float) -> None:
        """Call when :meth:`deadline` has come: a timeout ends the session."""
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
