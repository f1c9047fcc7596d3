"""The ledger of a delivery, which ensures that every recipient gets exactly one verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zsmtp.delivery.outcome import Verdict
from zsmtp.errors import LocalError


class Ledger:
    """The recipients 0..``count``-1 of one message; ``on_verdict`` is called once for each, at once."""

    def __init__(self, count: int, on_verdict: Callable[[int, Verdict], None]) -> None:
        self._open = dict.fromkeys(range(count))
        self._on_verdict = on_verdict

    def listen(self, on_verdict: Callable[[int, Verdict], None]) -> None:
        """Call ``on_verdict`` for each further verdict too, after the earlier callbacks."""
        before = self._on_verdict

        def call_both(recipient: int, verdict: Verdict) -> None:
            before(recipient, verdict)
            on_verdict(recipient, verdict)

        self._on_verdict = call_both

    @property
    def unsettled(self) -> list[int]:
        """The recipients without a verdict, in order."""
        return list(self._open)

    @property
    def settled(self) -> bool:
        """Whether every recipient has a verdict."""
        return not self._open

    def settle(self, recipient: int, verdict: Verdict) -> None:
        """Give ``recipient`` its verdict; raises :class:`~zsmtp.errors.LocalError` if it has one already."""
        if recipient not in self._open:
            raise LocalError(f"recipient {recipient} was settled before")
        del self._open[recipient]
        self._on_verdict(recipient, verdict)

    def settle_all(self, recipients: Iterable[int], verdict: Verdict) -> None:
        """Give each of ``recipients`` that is still open the same verdict."""
        for recipient in list(recipients):
            if recipient in self._open:
                self.settle(recipient, verdict)
