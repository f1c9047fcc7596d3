"""Connects a session engine to the intake: each event becomes a call of the intake, whose result becomes the reply.

If the intake, or the check of a password, takes time, the session gets the result later, and ``wake`` is called so that
the connection writes the reply. An exception of the intake goes to the loop's exception handler, and the client gets
the reply 451.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from zsmtp.proto import server_replies as replies
from zsmtp.proto.reply import Reply
from zsmtp.proto.server import ServerSession
from zsmtp.proto.server_events import (
    Greeted,
    LoginAttempt,
    MailFrom,
    MessageData,
    MessageEnd,
    MessageStart,
    Opened,
    RcptTo,
    SessionEnded,
    TransactionAborted,
)
from zsmtp.server.intake import IncomingMessage, Outcome, ReceivedEnvelope, SessionInfo

if TYPE_CHECKING:
    from zsmtp.server.listener import Listener


class IntakeSession:
    """Handles the events of ``session``. ``info`` describes the session to the intake."""

    def __init__(self, listener: Listener, session: ServerSession, info: SessionInfo, wake: Callable[[], None]) -> None:
        self._listener = listener
        self._loop = listener.loop
        self._intake = listener.intake
        self._session = session
        self._info = info
        self._wake = wake
        self._failures = 0  # of logins
        self._envelope: ReceivedEnvelope | None = None
        self._message: IncomingMessage | None = None

    def take(self, event: object) -> None:
        """Call the intake for one event. Exceptions of the intake are not raised."""
        try:
            _TAKERS[type(event)](self, event)
        except Exception as error:
            self._fail(error, event)

    def _fail(self, error: Exception, event: object) -> None:
        """Report an exception of the intake, and reply to the event."""
        message = f"the intake failed on {type(event).__name__}"
        self._loop.call_exception_handler({"message": message, "exception": error})
        if isinstance(event, MessageEnd):
            self._answer_all(event, replies.LOCAL_ERROR)
        elif isinstance(event, MessageData):
            self._refuse_message(replies.LOCAL_ERROR)
        elif isinstance(event, Opened):
            self._answer(event.slot, replies.SERVICE_ERROR)
        elif isinstance(event, MailFrom | RcptTo | MessageStart | LoginAttempt):
            self._answer(event.slot, replies.LOCAL_ERROR)

    def _answer(self, slot: int, reply: Reply) -> None:
        self._session.answer(slot, reply, self._loop.time())

    def _take_opened(self, event: Opened) -> None:
        refusal = self._intake.connected(self._info)
        self._answer(event.slot, refusal or self._listener.greeting)

    def _take_greeted(self, event: Greeted) -> None:
        self._info.helo = event.name

    def _take_mail(self, event: MailFrom) -> None:
        self._info.protocol = self._session.protocol
        envelope = ReceivedEnvelope(event.path, event.parameters)
        reply = self._intake.sender(self._info, envelope) or replies.SENDER_OK
        if reply.code < 300:
            self._envelope = envelope
        self._answer(event.slot, reply)

    def _take_rcpt(self, event: RcptTo) -> None:
        envelope = self._envelope
        assert envelope is not None
        reply = self._intake.recipient(self._info, envelope, event.recipient) or replies.RECIPIENT_OK
        if reply.code < 300:
            envelope.recipients.append(event.recipient)
        self._answer(event.slot, reply)

    def _take_start(self, event: MessageStart) -> None:
        assert self._envelope is not None
        message = self._intake.begin(self._info, self._envelope)
        if isinstance(message, Reply):
            self._answer(event.slot, message)
        else:
            self._message = message
            self._answer(event.slot, replies.GO_AHEAD)

    def _take_data(self, event: MessageData) -> None:
        assert self._message is not None
        pause = self._message.write(event.data)
        if pause is not None:
            future = asyncio.ensure_future(pause)
            self._session.pause(self._loop.time())
            future.add_done_callback(partial(self._go_on, self._message))

    def _go_on(self, message: IncomingMessage, pause: asyncio.Future[Any]) -> None:
        """Continue after a pause that a message requested."""
        error = _error_of(pause)
        self._session.resume(self._loop.time())
        if error is not None and message is self._message:
            self._fail(error, MessageData(b""))
        self._wake()

    def _refuse_message(self, reply: Reply) -> None:
        if not self._session.ended and self._message is not None:
            self._session.refuse_message(reply)

    def _take_end(self, event: MessageEnd) -> None:
        message, self._message, self._envelope = self._message, None, None
        assert message is not None
        outcome = message.commit()
        if not isinstance(outcome, Reply) and isinstance(outcome, Awaitable):
            asyncio.ensure_future(outcome).add_done_callback(partial(self._committed, event))
        else:
            self._answer_all(event, outcome)

    def _committed(self, event: MessageEnd, outcome: asyncio.Future[Outcome]) -> None:
        error = _error_of(outcome)
        if error is None:
            try:
                self._answer_all(event, outcome.result())
            except Exception as raised:
                error = raised
        if error is not None:
            self._fail(error, event)
        self._wake()

    def _answer_all(self, event: MessageEnd, outcome: Outcome) -> None:
        given = [outcome] * event.replies if isinstance(outcome, Reply) else list(outcome)
        if len(given) != event.replies or not all(isinstance(reply, Reply) for reply in given):
            raise ValueError(f"{len(given)} replies for a message that needs {event.replies}")
        for slot, reply in enumerate(given, event.slot):
            self._answer(slot, reply)

    def _take_aborted(self, event: TransactionAborted) -> None:
        message, self._message, self._envelope = self._message, None, None
        if message is not None:
            message.abort(event.reason)

    def _take_ended(self, event: SessionEnded) -> None:
        self._intake.disconnected(self._info, event.reason)

    # ------------------------------------------------------------------ logins

    def _take_login(self, event: LoginAttempt) -> None:
        if event.slow:
            checked = self._loop.run_in_executor(self._listener.threads(), event.check)
            checked.add_done_callback(partial(self._checked, event))
        else:
            self._decide_login(event, good=event.check())

    def _checked(self, event: LoginAttempt, checked: asyncio.Future[bool]) -> None:
        error = _error_of(checked)
        if error is None:
            try:
                self._decide_login(event, good=checked.result())
            except Exception as raised:
                error = raised
        if error is not None:
            self._fail(error, event)
        self._wake()

    def _decide_login(self, event: LoginAttempt, *, good: bool) -> None:
        if not good:
            self._failures += 1
            delay = self._listener.settings.login_delay * self._failures
            self._intake.login_failed(self._info, event.mechanism, event.user)
            self._loop.call_later(delay, self._answer_late, event.slot, replies.LOGIN_REFUSED)
            return
        self._info.user = event.user
        refusal = self._intake.logged_in(self._info)
        if refusal is not None:
            self._info.user = None
        self._answer(event.slot, refusal or replies.LOGIN_OK)

    def _answer_late(self, slot: int, reply: Reply) -> None:
        self._answer(slot, reply)
        self._wake()


def _error_of(future: asyncio.Future[Any]) -> Exception | None:
    """The exception of a future; a cancelled one counts as failed."""
    if future.cancelled():
        return asyncio.InvalidStateError("cancelled")
    error = future.exception()
    return error if isinstance(error, Exception) or error is None else RuntimeError(repr(error))


_TAKERS: dict[type, Callable[[IntakeSession, Any], None]] = {
    Opened: IntakeSession._take_opened,
    Greeted: IntakeSession._take_greeted,
    MailFrom: IntakeSession._take_mail,
    RcptTo: IntakeSession._take_rcpt,
    MessageStart: IntakeSession._take_start,
    MessageData: IntakeSession._take_data,
    MessageEnd: IntakeSession._take_end,
    TransactionAborted: IntakeSession._take_aborted,
    LoginAttempt: IntakeSession._take_login,
    SessionEnded: IntakeSession._take_ended,
}
