"""The contents being sent over one session: the one whose blocks are being read, and those not yet fully written.

Used by :class:`zsmtp.proto.session.Session` only. A content is read two blocks ahead, so that its last block is known
as such before it is given out, and with it the position of the last octet in the stream: once that position is written,
the message is in doubt until its reply comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from zsmtp.events import ContentProgress, ContentSent, Observer
from zsmtp.proto.phase import LAST
from zsmtp.proto.progress import UNKNOWN, Sent


class ContentQueue:
    """Contents in the order they are sent.

    ``leaving`` are the steps whose content is begun and not fully written; ``reading``: the last of them has octets
    left to give out; ``any_answered``: the server has replied to an earlier content of this session.
    """

    __slots__ = ("_ahead", "_behind", "_blocks", "any_answered", "leaving", "reading")

    def __init__(self) -> None:
        self.leaving: deque[Sent] = deque()
        self.reading = False
        self.any_answered = False
        self._blocks: Iterator[bytes] = iter(())
        self._ahead = b""
        self._behind = b""

    @property
    def ends_next(self) -> bool:
        """Whether the next block is the last one of its content."""
        return self.reading and not self._behind

    @property
    def blind(self) -> bool:
        """Whether there is a content whose MAIL has no reply yet."""
        return any(sent.progress is not None and sent.progress.mail is None for sent in self.leaving)

    def first_chunk_waits(self, written: int) -> bool:
        """Whether the first content of the session is a chunk that waited for replies, and is not written yet."""
        if self.any_answered or not self.leaving:
            return False
        first = self.leaving[0]
        return first.step.phase is LAST and first.step.gated and not first.began(written)

    def begin(self, sent: Sent, blocks: Iterator[bytes]) -> None:
        """Begin the content that follows the step ``sent``. Errors of its iterator pass through, as in :meth:`take`."""
        sent.end = UNKNOWN
        self.leaving.append(sent)
        self.reading = True
        self._blocks = blocks
        self._ahead = self._read()
        self._behind = self._read() if self._ahead else b""

    def take(self, position: int) -> bytes:
        """The next block; its first octet is at ``position`` in the stream."""
        block, self._ahead = self._ahead, self._behind
        self._behind = self._read() if self._behind else b""
        if not self._ahead:
            self.leaving[-1].end = position + len(block)
            self.reading = False
        return block

    def _read(self) -> bytes:
        for block in self._blocks:
            if block:
                return block
        return b""  # b"" means the end, so empty blocks before it are skipped

    def written(self, written: int, now: float, observe: Observer | None) -> None:
        """Note that ``written`` octets of the stream are written; ``observe`` (or None) gets contents' progress."""
        while self.leaving:
            sent = self.leaving[0]
            if observe is not None:
                _report(sent, written, now, observe)
            if written < sent.end:
                return
            self.leaving.popleft()

    def clear(self) -> None:
        """Give out nothing more."""
        self.leaving.clear()
        self.reading = False


def _report(sent: Sent, written: int, now: float, observe: Observer) -> None:
    progress = sent.progress
    assert progress is not None
    transaction = progress.transaction
    form = transaction.content
    if written >= sent.end:
        envelope, content = progress.content_started - progress.started, now - progress.content_started
        count = progress.rcpt_unanswered + len(progress.accepted)
        observe(ContentSent(form.size, form.header_size, count, envelope, content, transaction))
    elif written > progress.content_position:
        observe(ContentProgress(min(written - progress.content_position, form.size), form.size))
