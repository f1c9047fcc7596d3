"""How far ahead one peer is served: the window grows, halves, and closes for good."""

import pytest

from zsmtp.delivery.pace import BLIND_OCTETS, MAX_MESSAGES, MAX_OCTETS, Pace
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import Flow

PLAIN = Capabilities()
PIPELINING = Capabilities(pipelining=True)
CHUNKING = Capabilities(pipelining=True, chunking=True)
ONLY_CHUNKING = Capabilities(chunking=True)


def window(pace: Pace, capabilities: Capabilities = CHUNKING) -> int:
    """How many messages may be under way."""
    count = 0
    while pace.room(capabilities, count, 0) and count < 1000:
        count += 1
    return count


def test_without_pipelining_one_at_a_time() -> None:
    pace = Pace()
    pace.went_well()
    assert [window(pace, one) for one in (PLAIN, ONLY_CHUNKING)] == [1, 1]
    assert pace.flow(PLAIN, 1) is pace.flow(ONLY_CHUNKING, 1) is Flow.STEPWISE


def test_with_pipelining_one_rides_behind_another() -> None:
    pace = Pace()
    assert window(pace, PIPELINING) == 2
    assert pace.flow(PIPELINING, 1) is Flow.RIDING


def test_the_window_grows_with_each_success_to_its_limit() -> None:
    pace = Pace()
    seen = [window(pace)]
    for _ in range(MAX_MESSAGES + 5):
        pace.went_well()
        seen.append(window(pace))
    assert seen == [min(n, MAX_MESSAGES) for n in range(1, MAX_MESSAGES + 7)]


def test_the_window_halves_and_never_closes() -> None:
    pace = Pace()
    for _ in range(19):
        pace.went_well()
    seen = []
    for _ in range(6):
        seen.append(window(pace))
        pace.was_put_off()
    assert seen == [20, 10, 5, 2, 1, 1]


def test_octets_under_way_are_bounded() -> None:
    pace = Pace()
    for _ in range(5):
        pace.went_well()
    assert pace.room(CHUNKING, 1, MAX_OCTETS - 1)
    assert not pace.room(CHUNKING, 1, MAX_OCTETS)
    assert pace.room(CHUNKING, 0, 10 * MAX_OCTETS), "one message may be as large as it likes"


def test_large_content_waits_until_somebody_wants_it() -> None:
    assert Pace().flow(CHUNKING, BLIND_OCTETS) is Flow.BLIND
    assert Pace().flow(CHUNKING, BLIND_OCTETS + 1) is Flow.RIDING


@pytest.mark.parametrize("capabilities", [PIPELINING, CHUNKING])
def test_who_got_out_of_step_is_served_strictly_from_then_on(capabilities: Capabilities) -> None:
    pace = Pace()
    pace.went_well()
    pace.got_out_of_step()
    pace.went_well()
    assert window(pace, capabilities) == 1
    assert pace.flow(capabilities, 1) is Flow.STEPWISE
    assert pace.strict


def test_a_session_that_broke_shows_how_many_may_be_under_way() -> None:
    pace = Pace()
    for number in range(20):
        pace.went_well(number)
    pace.broke_off(5)
    assert window(pace) == 5
    pace.went_well(0)
    assert window(pace) == 5, "the next one will hardly take more"
    assert pace.flow(CHUNKING, 1) is Flow.BLIND
    pace.broke_off(7)
    assert window(pace) == 5
    pace.went_well(MAX_MESSAGES)
    assert window(pace) == 6, "a session that took as many as there may be shows that it was chance"


@pytest.mark.parametrize("answered", [0, 1])
def test_who_closes_after_each_message_is_sent_none_before_its_recipients_are_taken(answered: int) -> None:
    pace = Pace()
    pace.went_well(0)
    pace.broke_off(answered)
    pace.went_well(0)
    assert window(pace) == 1
    assert pace.flow(CHUNKING, 1) is Flow.RIDING
    assert window(pace, PIPELINING) == 2, "an envelope is never in doubt"
    pace.went_well(MAX_MESSAGES)
    assert pace.flow(CHUNKING, 1) is Flow.BLIND
