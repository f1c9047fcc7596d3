"""Receives mail to return paths: it is not queued, but processed as a report (``zsmtp.queue.bounces``).

The beginning of the content is kept, up to the limit for reports; the rest is discarded. The reply follows when the
event is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from zsmtp.errors import QueueError
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_events import Abort
from zsmtp.proto.server_replies import make_reply
from zsmtp.queue.bouncereport import MAX_OCTETS
from zsmtp.queue.bounces import BounceTaker, Taken
from zsmtp.server.intake import Outcome, ReceivedEnvelope

TAKEN_IN = make_reply(250, "2.0.0", "taken in")
NO_RETURN_PATH = make_reply(550, "5.1.1", "nothing was sent under this address, or not lately")
OF_ITS_OWN = make_reply(452, "4.5.3", "mail to this address needs a transaction of its own")
_TOO_EARLY = make_reply(450, "4.3.0", "the message it is about is not done with here; try again later")

_REPLIES = {Taken.UNKNOWN: NO_RETURN_PATH, Taken.EARLY: _TOO_EARLY}
"""A complaint without a verified return path is accepted: reporters of complaints stop if they are refused."""


class BounceContent:
    """The content of a returned message."""

    __slots__ = ("_addresses", "_failed", "_kept", "_run", "_taker")

    def __init__(
        self,
        taker: BounceTaker,
        envelope: ReceivedEnvelope,
        run: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        failed: Callable[[QueueError], Reply],
    ) -> None:
        self._taker = taker
        self._addresses = [one.address for one in envelope.recipients]
        self._run = run
        self._failed = failed
        self._kept = bytearray()

    def write(self, data: bytes) -> Awaitable[object] | None:
        """Keep the beginning of a report."""
        self._kept += data[: MAX_OCTETS - len(self._kept)]
        return None

    def commit(self) -> Outcome | Awaitable[Outcome]:
        """Process the report."""
        return self._run(self._take())

    async def _take(self) -> Outcome:
        try:
            return _REPLIES.get(await self._taker.take(self._addresses, bytes(self._kept)), TAKEN_IN)
        except QueueError as error:
            return self._failed(error)

    def abort(self, reason: Abort) -> None:
        """Discard the upload."""
        self._kept.clear()
