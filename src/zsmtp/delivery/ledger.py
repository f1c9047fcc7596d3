"""The books of a delivery: every recipient taken ends with exactly one verdict, and the ledger proves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zsmtp.delivery.outcome import Verdict
from zsmtp.errors import LocalError


class Ledger:
    """The recipients 0..``count``-1 of one message; ``on_verdict`` hears each verdict once, as soon as it is known."""

    def __init__(self, count: int, on_verdict: Callable[[int, Verdict], None]) -> None:
        self._open = dict.fromkeys(range(count))
        self._on_verdict = on_verdict

    def listen(self, heard: Callable[[int, Verdict], None]) -> None:
        """Have ``heard`` told of each further verdict too, after everybody who was told before."""
        before = self._on_verdict

        def tell(recipient: int, verdict: Verdict) -> None:
            before(recipient, verdict)
            heard(recipient, verdict)

        self._on_verdict = tell

    @property
    def unsettled(self) -> list[int]:
        """The recipients without a verdict, in order."""
        return list(self._open)

    @property
    def settled(self) -> bool:
        """Whether everybody has a verdict."""
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
