import pytest

from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Verdict, from_loss
from zsmtp.errors import ConnectionLost, LocalError

VERDICT = from_loss(ConnectionLost("gone"), "", None)


def test_every_recipient_is_settled_once_and_heard_at_once() -> None:
    heard: list[tuple[int, Verdict]] = []
    ledger = Ledger(3, lambda index, verdict: heard.append((index, verdict)))
    ledger.settle(1, VERDICT)
    assert heard == [(1, VERDICT)]
    assert ledger.unsettled == [0, 2]
    ledger.settle_all([0, 1, 2], VERDICT)
    assert [index for index, _ in heard] == [1, 0, 2]
    assert ledger.unsettled == []


@pytest.mark.parametrize("recipient", [0, 7, -1])
def test_a_second_verdict_or_one_for_nobody_is_a_misuse(recipient: int) -> None:
    ledger = Ledger(1, lambda index, verdict: None)
    ledger.settle(0, VERDICT)
    with pytest.raises(LocalError):
        ledger.settle(recipient, VERDICT)
