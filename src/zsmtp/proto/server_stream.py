"""The part of a server session below the commands: octets, lines, the order of replies, waits, and the end.

:class:`ServerStream` is what ``zsmtp.proto.server`` builds on. It buffers input, passes it to one reader after the
other (commands, content, a login), and enforces the bounds: input is read only while the reader may go on, so neither
input nor replies nor events pile up. A session ends in two steps: nothing is read any more, then, when all open replies
have left or their time is over, the last reply and :class:`~zsmtp.proto.server_events.SessionEnded`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort, Ending, ServerEvent, SessionEnded
from zsmtp.proto.server_replies import (
    LINE_TOO_LONG,
    NOT_PLAIN,
    OUT_OF_STEP,
    SESSION_OVER,
    SHUTTING_DOWN,
    TIMED_OUT,
    TOO_MANY_ERRORS,
    TOO_SLOW,
    reply_octets,
)
from zsmtp.proto.server_settings import ServerSettings
from zsmtp.proto.server_slots import ReplySlots
from zsmtp.proto.server_waits import ServerWaits

MAX_UNENDED_LINE = 64 * 1024  # octets without a line end before the session is given up
MAX_UNTAKEN = 256 * 1024  # octets of replies that the transport has not taken before nothing is read any more

HANDSHAKE = 0x16  # the first octet of a TLS handshake, and of no command
_FAREWELLS = {
    Ending.COMMAND_TIMEOUT: TIMED_OUT,
    Ending.DATA_TIMEOUT: TIMED_OUT,
    Ending.TOO_SLOW: TOO_SLOW,
    Ending.SESSION_TIME: SESSION_OVER,
    Ending.SHUTDOWN: SHUTTING_DOWN,
    Ending.ERRORS: TOO_MANY_ERRORS,
}


class ServerStream:
    """Octets in, events out; replies in, octets out; without the commands."""

    def __init__(self, settings: ServerSettings, now: float) -> None:
        self._settings = settings
        self._bounds = settings.bounds
        self._now = now  # the last time given
        self._buffer = b""
        self._start = 0  # of the unread octets
        self._searched = 0  # up to where there is no LF
        self._eof = False
        self._events: deque[ServerEvent] = deque()
        self._slots = ReplySlots()
        self._waits = ServerWaits(settings.timeouts, now)
        self._read: Callable[[], bool] = self._read_nothing  # takes the next unit; returns whether there was one
        self._gate: int | None = None  # the slot whose answer reading waits for
        self._decide: Callable[[int, Reply], None]
        self._unanswered: dict[int, int] = {}  # for the last slot of each message: its octets
        self._unanswered_octets = 0
        self._in_content = False
        self._held = False  # the application asked for a pause
        self._errors = 0
        self._ending: Ending | None = None
        self._ending_since = 0.0
        self._farewell = b""
        self._ended = False

    # ----------------------------------------------------------------- input

    def receive_data(self, data: bytes, now: float) -> None:
        """Take octets that came from the client; events follow from :meth:`next_event`."""
        self._now = now
        if self._ending is None:
            rest = self._buffer[self._start :]
            self._searched -= self._start
            self._start = 0
            self._buffer = rest + data if rest else data

    def receive_eof(self, now: float) -> None:
        """Note that the client closed its side; commands received before are still read and answered."""
        self._now = now
        self._eof = True

    def next_event(self) -> ServerEvent | None:
        """What happened next, or None. Call until None after each of the other verbs."""
        events = self._events
        while not events:
            if not self._may_read():
                return None
            if not self._read() and not events:
                if not self._eof:
                    return None
                self._finish(Ending.EOF)
                if not events:
                    return None
        return events.popleft()

    @property
    def wants_data(self) -> bool:
        """Whether octets from the client can be processed now; if not, do not read from it."""
        return self._may_read() and not self._eof and len(self._buffer) - self._start <= MAX_UNENDED_LINE

    def pause(self, now: float) -> None:
        """Stop events, and stop the clock of the client's waits, until :meth:`resume`: the application is busy."""
        self._held = True
        self._waits.pause(now)

    def resume(self, now: float) -> None:
        """End the pause."""
        self._held = False
        self._now = now
        self._waits.resume(now)

    def _may_read(self) -> bool:
        bounds, slots = self._bounds, self._slots
        return (
            self._gate is None
            and self._ending is None
            and not self._held
            and slots.count < bounds.replies
            and slots.octets <= MAX_UNTAKEN
            and self._unanswered_octets <= bounds.unanswered
        )

    def _read_nothing(self) -> bool:
        return False

    def _next_line(self) -> bytes | None:
        """The next line with its LF, however long; None if it has no end yet."""
        buffer, start = self._buffer, self._start
        end = buffer.find(b"\n", self._searched) + 1
        if end > 0:
            self._start = self._searched = end
            self._waits.turn(self._now)
            return buffer[start:end]
        self._searched = len(buffer)
        if len(buffer) > start and buffer[start] == HANDSHAKE:
            self._finish(Ending.NOT_SMTP, NOT_PLAIN)
        elif len(buffer) - start > MAX_UNENDED_LINE:
            self._finish(Ending.NOT_SMTP, LINE_TOO_LONG)
        return None

    def _is_out_of_step(self, *, always: bool = False) -> bool:
        """End the session, and return True, if the client sent octets that had to wait for a reply (RFC 2920 3.1)."""
        if self._start == len(self._buffer) or not (always or self._settings.strict_pipelining):
            return False
        self._finish(Ending.OUT_OF_STEP, OUT_OF_STEP)
        return True

    # --------------------------------------------------------------- replies

    def answer(self, slot: int, reply: Reply, now: float) -> None:
        """Give the reply to an event that has a slot. A 421 closes the connection behind it.

        Raises :class:`~zsmtp.errors.LocalError` for a slot that is not open; once the session is over, nothing happens.
        """
        if self._ended:
            return
        self._now = now
        if slot == self._gate:
            self._gate = None
            self._decide(slot, reply)
        else:
            self._slots.fill(slot, reply_octets(reply), now)
            octets = self._unanswered.pop(slot, None)
            if octets is not None:
                self._unanswered_octets -= octets
                if reply.code < 300:
                    self._message_taken()
        self._waits.turn(now)
        if reply.code == 421:
            self._finish(Ending.REFUSED)
        if not self._slots.waiting:
            self._all_answered()

    def data_to_send(self) -> bytes:
        """The octets to write next; they are gone from here, and there may be events again.

        Call it when the transport can take more, and only then: replies that are not taken for too long end the
        session, and too many of them stop it from reading.
        """
        return self._slots.take()

    def _reply(self, reply: Reply) -> None:
        self._slots.add(reply_octets(reply), self._now)

    def _refuse(self, reply: Reply) -> bool:
        """Answer an invalid command. Returns True, for readers to return."""
        self._reply(reply)
        self._errors += 1
        if self._errors > self._bounds.errors:
            self._finish(Ending.ERRORS)
        return True

    def _ask(self, decide: Callable[[int, Reply], None]) -> int:
        """Open a slot, and read nothing more until it has its answer."""
        self._gate = slot = self._slots.open()
        self._decide = decide
        return slot

    def _await_answers(self, slot: int, count: int, octets: int) -> None:
        """Note that a message of ``octets`` octets awaits its answers, in ``count`` slots from ``slot`` on."""
        self._unanswered[slot + count - 1] = octets
        self._unanswered_octets += octets

    # ----------------------------------------------------------------- waits

    def deadline(self) -> float | None:
        """When :meth:`handle_timer` must be called at the latest; None once the session is over."""
        return None if self._ended else self._next_end()[0]

    def handle_timer(self, now: float) -> None:
        """Call when :meth:`deadline` has come: a wait that ran out ends the session."""
        if self._ended:
            return
        self._now = now
        end, reason = self._next_end()
        if end > now:
            return
        if self._ending is not None:
            self.lose(self._ending)
        elif reason is Ending.WRITE_TIMEOUT:
            self.lose(reason)
        else:
            self._finish(reason)

    def _next_end(self) -> tuple[float, Ending]:
        slots = self._slots
        return self._waits.next_end(
            turn=(self._in_content or not slots.waiting) and self._may_read(),
            unread=slots.since if slots.octets else None,
            ending=self._ending_since if self._ending is not None else None,
        )

    # --------------------------------------------------------------- the end

    @property
    def ended(self) -> bool:
        """Whether the session is over: it reads nothing more and awaits no answer."""
        return self._ended

    def lose(self, reason: Ending = Ending.LOST) -> None:
        """End the session at once: the connection is lost, or must be closed."""
        if self._ended:
            return
        self._ending = reason
        self._farewell = b""
        self._give_up()
        self._slots.drop()
        self._end()

    def _finish(self, ending: Ending, farewell: Reply | None = None) -> None:
        """Read nothing more; end once all commands have replies, with ``farewell`` as the last one."""
        if self._ending is not None:
            return
        self._ending = ending
        self._ending_since = self._now
        last = farewell or _FAREWELLS.get(ending)
        self._farewell = reply_octets(last) if last is not None else b""
        self._give_up()
        if not self._slots.waiting:
            self._end()

    def _give_up(self) -> None:
        self._abort(Abort.ENDED)
        self._gate = None
        self._buffer = b""
        self._start = self._searched = 0

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if self._farewell:
                self._slots.add(self._farewell, self._now)
            self._events.append(SessionEnded(self._ending or Ending.LOST))

    def _all_answered(self) -> None:
        """Called when no reply is open any more."""
        if self._ending is not None:
            self._end()

    def _abort(self, reason: Abort) -> None:
        """End the open transaction, if there is one, without a message."""

    def _message_taken(self) -> None:
        """Called when a message got a positive reply."""
        self._errors = 0
