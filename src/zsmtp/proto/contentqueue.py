"""The contents on their way over one session: the one being given out, and those not yet written to their end.

Used by :class:`zsmtp.proto.session.Session` only. A content is read two blocks ahead: it is known which block is its
last before that is given out, and the position of its last octet in the stream when it is: from then on, once that
position is written, the message is in doubt until its reply comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from zsmtp.events import ContentProgress, ContentSent, Observer
from zsmtp.proto.phase import LAST
from zsmtp.proto.progress import UNKNOWN, Sent


class ContentQueue:
    """Contents in the order they are sent.

    ``leaving`` are the steps whose content is begun and not written to its end; ``reading`` tells that the last one of
    them has octets left to be given out, ``any_answered`` that a content of this session was answered before.
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
        """Whether there is one whose MAIL has no answer."""
        return any(sent.progress is not None and sent.progress.mail is None for sent in self.leaving)

    def first_chunk_waits(self, written: int) -> bool:
        """Whether the first content of the session is a chunk that waited for its turn, and is still to be written."""
        if self.any_answered or not self.leaving:
            return False
        first = self.leaving[0]
        return first.step.phase is LAST and first.step.gated and not first.began(written)

    def begin(self, sent: Sent, blocks: Iterator[bytes]) -> None:
        """The content behind the step ``sent`` comes next. Raises what reading it raises, as :meth:`take` does."""
        sent.end = UNKNOWN
        self.leaving.append(sent)
        self.reading = True
        self._blocks = blocks
        self._ahead = self._read()
        self._behind = self._read() if self._ahead else b""

    def take(self, position: int) -> bytes:
        """The next block, which goes to this position in the stream."""
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
        return b""  # only the end: an empty block on the way must not pass for it

    def written(self, written: int, now: float, observe: Observer | None) -> None:
        """So many octets of the stream are written now; ``observe`` is told how far contents are, None for nobody."""
        while self.leaving:
            sent = self.leaving[0]
            if observe is not None:
                _report(sent, written, now, observe)
            if written < sent.end:
                return
            self.leaving.popleft()

    def clear(self) -> None:
        """Nothing more is given out."""
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
