"""The part of a server session that reads content: DATA (RFC 5321) and BDAT (RFC 3030), up to the last reply.

:class:`ServerTransfer` stands between ``zsmtp.proto.server_stream`` and ``zsmtp.proto.server``. It keeps the stage of
the transaction, and one guarantee for the application: a transaction whose MAIL was accepted ends with one
``MessageEnd`` or one ``TransactionAborted``. A refused chunk is discarded by its length, so nothing in it is parsed as
a command.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from zsmtp.errors import LocalError
from zsmtp.proto import server_replies as replies
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_commands import is_bare, parse_bdat
from zsmtp.proto.server_content import ChunkReader, DataReader
from zsmtp.proto.server_events import (
    Abort,
    Ending,
    MailParameters,
    MessageData,
    MessageEnd,
    MessageStart,
    TransactionAborted,
)
from zsmtp.proto.server_replies import make_reply, reply_octets
from zsmtp.proto.server_settings import ServerSettings
from zsmtp.proto.server_stream import ServerStream


class Stage(IntEnum):
    """The stage of a session, which decides on the commands that are allowed."""

    OPENED = 1
    GREETED = 2
    SENDER = 3  # MAIL is accepted, no recipient yet
    RECIPIENTS = 4
    CHUNKS = 5  # between two chunks of a message
    FAILED = 6  # behind a chunk that was refused (RFC 3030 2)


# As in zsmtp.proto.phase: a name that is read several times for each message is a module's, which is faster.
OPENED, GREETED, SENDER, RECIPIENTS, CHUNKS, FAILED = Stage

_AT_ONCE = frozenset({Abort.REFUSED, Abort.TOO_LARGE})  # these need not wait for the last chunk
_NO_MAIL = MailParameters()


class _Chunk(NamedTuple):
    """A chunk being received: the slots of its replies, and the reason if it is refused unread."""

    octets: int
    last: bool
    slot: int
    replies: int
    refusal: Reply | None


class ServerTransfer(ServerStream):
    """Transactions and their content."""

    def __init__(self, settings: ServerSettings, now: float) -> None:
        super().__init__(settings, now)
        self._stage = OPENED
        self._open = False  # a MAIL was accepted whose transaction has not ended
        self._mail = _NO_MAIL
        self._recipients = 0
        self._content: DataReader | ChunkReader | None = None
        self._chunk: _Chunk | None = None
        self._discarded = 0  # octets of the refused message so far
        self._read_commands = self._read_nothing  # what reads between messages
        self._commands = 0  # that are no part of a transaction, since the last message
        self._refusals = 0  # of commands that are part of one

    def refuse_message(self, reply: Reply) -> None:
        """Refuse the message whose content is being received.

        It is read to its end, or that of its chunk, and then answered with ``reply``. A
        :class:`~zsmtp.proto.server_events.TransactionAborted` follows as well.
        """
        if self._content is None:
            raise LocalError("no content is coming")
        self._content.refuse(reply)
        self._abort(Abort.REFUSED)

    def _decline(self, reply: Reply) -> bool:
        """Refuse a command of a transaction, which may merely be the consequence of one refused before."""
        self._reply(reply)
        self._refusals += 1
        return True

    def _begin_transaction(self) -> None:
        self._stage = SENDER
        self._open = True
        self._recipients = 0
        self._content = None
        self._discarded = 0

    def _abort(self, reason: Abort) -> None:
        if self._open:
            self._open = False
            self._events.append(TransactionAborted(reason))

    def _give_up(self) -> None:
        if self._chunk is not None:  # no answer will fill its slots, though the application may have the event
            self._slots.withdraw(self._chunk.slot + (self._gate == self._chunk.slot))
            self._chunk = None
        super()._give_up()

    def _message_taken(self) -> None:
        super()._message_taken()
        self._commands = self._refusals = 0

    def _content_refusal(self) -> Reply | None:
        """The refusal of content at this stage; None if content may come."""
        if self._stage is RECIPIENTS or self._stage is CHUNKS:
            return None
        if self._stage is FAILED:
            return replies.CHUNK_FAILED
        if self._stage is not SENDER:
            return replies.MAIL_FIRST
        return replies.LMTP_NO_RECIPIENTS if self._settings.lmtp else replies.NO_RECIPIENTS

    def _read_content(self, read: Callable[[], bool]) -> None:
        self._read = read
        self._in_content = True
        self._waits.content_begins(self._now)

    def _back_to_commands(self) -> None:
        self._read = self._read_commands
        self._in_content = False
        self._waits.content_ends(self._now)

    # ------------------------------------------------------------------- DATA

    def _read_data_command(self, line: bytes) -> bool:
        if not is_bare(line, b"DATA"):
            return self._refuse(replies.NO_ARGUMENTS)
        if self._is_out_of_step():
            return True
        refusal = self._content_refusal()
        if refusal is None and (self._stage is CHUNKS or self._mail.body == b"BINARYMIME"):
            refusal = replies.NO_DATA_NOW
        if refusal is not None:
            return self._decline(refusal)
        self._events.append(MessageStart(self._ask(self._decide_data), chunked=False))
        return True

    def _decide_data(self, slot: int, reply: Reply) -> None:
        if reply.code >= 400:
            self._refusals += 1
            self._slots.fill(slot, reply_octets(reply), self._now)
            return
        self._slots.fill(slot, reply_octets(replies.GO_AHEAD), self._now)
        self._content = DataReader(max_size=self._settings.max_size, max_line=self._bounds.line)
        self._read_content(self._read_data)

    def _read_data(self) -> bool:
        reader = self._content
        assert isinstance(reader, DataReader)
        if reader.ended:  # a separate step: the application may pause, or refuse, after the last octets
            self._stage = GREETED
            self._back_to_commands()
            self._end_message(self._open_slots(), self._recipients if self._settings.lmtp else 1)
            return True
        data, rest = reader.read(self._buffer, self._start)
        return self._took(data, rest)

    def _open_slots(self) -> int:
        """Open the slots for the replies to DATA; returns the number of the first."""
        slot = self._slots.open()
        if self._settings.lmtp:
            for _ in range(self._recipients - 1):
                self._slots.open()
        return slot

    def _took(self, data: bytes, rest: int) -> bool:
        """Account for content read up to ``rest``; ``data`` has no fault. Returns whether any octets were read."""
        taken = rest - self._start
        if not taken:
            return False
        self._start = self._searched = rest
        self._waits.content_came(taken, self._now)
        assert self._content is not None
        fault = self._content.fault
        if data:
            self._events.append(MessageData(data))
        elif fault is not None:
            if self._chunk is None or self._chunk.refusal is None:
                self._abort(fault.reason)
            self._discarded += taken
            if self._discarded > self._bounds.discarded:
                self._finish(Ending.DISCARDED, replies.TOO_MUCH_DISCARDED)
        return True

    def _end_message(self, slot: int, count: int) -> None:
        """End the content, and with it the transaction."""
        content = self._content
        assert content is not None
        self._content = None
        if content.fault is not None:
            self._refusals += 1
            self._fill(slot, count, content.fault.reply)
            return
        self._open = False
        self._await_answers(slot, count, content.octets)
        self._events.append(MessageEnd(slot, count, content.octets))

    def _fill(self, slot: int, count: int, reply: Reply) -> None:
        for number in range(slot, slot + count):
            self._slots.fill(number, reply_octets(reply), self._now)

    # ------------------------------------------------------------------- BDAT

    def _read_bdat(self, line: bytes) -> bool:
        found = parse_bdat(line)
        if found is None:
            self._finish(Ending.NOT_SMTP, replies.BAD_CHUNK)
            return True
        refusal = self._content_refusal() if self._settings.chunking else replies.NOT_OFFERED
        begun = refusal is None and self._stage is CHUNKS
        if not begun:
            binary = self._mail.body == b"BINARYMIME"
            bounds = self._bounds
            self._content = ChunkReader(max_size=self._settings.max_size, max_line=bounds.line, binary=binary)
        reader = self._content
        assert isinstance(reader, ChunkReader)
        if refusal is not None:
            reader.refuse(refusal)
        reader.begin(found.octets)
        asked = not begun and reader.fault is None
        slot = self._ask(self._decide_chunk) if asked else self._slots.open()
        # RFC 2033 4.2: one reply for each recipient that was accepted, for the last chunk alone
        count = self._recipients if self._settings.lmtp and found.last and self._stage >= RECIPIENTS else 1
        for _ in range(count - 1):
            self._slots.open()
        self._chunk = _Chunk(found.octets, found.last, slot, count, refusal)
        self._read_content(self._read_chunk)
        if asked:
            self._events.append(MessageStart(slot, chunked=True))
        return True

    def _decide_chunk(self, slot: int, reply: Reply) -> None:
        self._waits.content_begins(self._now)
        if reply.code >= 400:
            self.refuse_message(reply)

    def _read_chunk(self) -> bool:
        reader = self._content
        assert isinstance(reader, ChunkReader)
        if not reader.left:
            self._end_chunk(reader)
            return True
        data, rest = reader.read(self._buffer, self._start)
        return self._took(data, rest)

    def _end_chunk(self, reader: ChunkReader) -> None:
        chunk, self._chunk = self._chunk, None
        assert chunk is not None
        self._back_to_commands()
        if chunk.refusal is None and chunk.last:
            reader.finish()
            if reader.fault is not None:
                self._abort(reader.fault.reason)
            self._stage = GREETED
            self._end_message(chunk.slot, chunk.replies)
        elif chunk.refusal is None and (reader.fault is None or reader.fault.reason not in _AT_ONCE):
            self._stage = CHUNKS
            self._fill(chunk.slot, 1, make_reply(250, "2.0.0", f"{chunk.octets} octets"))
        else:
            self._fail_chunk(chunk, reader)

    def _fail_chunk(self, chunk: _Chunk, reader: ChunkReader) -> None:
        """A chunk is refused; the transaction goes on until its last one, RSET, or the end of the session."""
        assert reader.fault is not None
        self._content = None
        self._refusals += 1
        self._fill(chunk.slot, chunk.replies, chunk.refusal or reader.fault.reply)
        if chunk.last and self._stage > GREETED:
            self._stage = GREETED
            self._abort(Abort.NO_RECIPIENTS)
        elif self._stage >= RECIPIENTS:
            self._stage = FAILED
