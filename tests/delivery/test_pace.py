"""How far ahead one peer is served: the window grows, halves, and closes for good; what may go blind, and to whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.network import content_form

from zsmtp.delivery.pace import BLIND_OCTETS, MAX_MESSAGES, MAX_OCTETS, Course, PeerPace, SessionStanding
from zsmtp.errors import ContentError
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Flow

PLAIN = Capabilities()
PIPELINING = Capabilities(pipelining=True)
CHUNKING = Capabilities(pipelining=True, chunking=True)
ONLY_CHUNKING = Capabilities(chunking=True)

EARNED, FRESH = SessionStanding(earned=True), SessionStanding()
COMMANDS = content_form(b"Subject: x\r\n\r\nMAIL FROM:<evil@example.org>\r\n")


def window(pace: PeerPace, capabilities: Capabilities = CHUNKING, *, earned: bool = True) -> int:
    """How many messages may be under way."""
    count = 0
    while pace.room(capabilities, count, 0, earned=earned) and count < 1000:
        count += 1
    return count


def course(
    pace: PeerPace,
    capabilities: Capabilities = CHUNKING,
    content: ContentForm | None = None,
    *,
    recipients: int = 1,
    standing: SessionStanding = EARNED,
) -> Course:
    return pace.course(content or content_form(), capabilities, recipients, standing)


def flow(pace: PeerPace, capabilities: Capabilities = CHUNKING, content: ContentForm | None = None) -> Flow:
    return course(pace, capabilities, content).flow


def test_without_pipelining_one_at_a_time() -> None:
    pace = PeerPace()
    pace.went_well()
    assert [window(pace, one) for one in (PLAIN, ONLY_CHUNKING)] == [1, 1]
    assert flow(pace, PLAIN) is flow(pace, ONLY_CHUNKING) is Flow.STEPWISE


def test_with_pipelining_one_rides_behind_another() -> None:
    pace = PeerPace()
    assert window(pace, PIPELINING) == window(pace, PIPELINING, earned=False) == 2
    assert flow(pace, PIPELINING) is Flow.RIDING


def test_the_window_grows_with_each_success_to_its_limit() -> None:
    pace = PeerPace()
    seen = [window(pace)]
    for _ in range(MAX_MESSAGES + 5):
        pace.went_well()
        seen.append(window(pace))
    assert seen == [min(n, MAX_MESSAGES) for n in range(1, MAX_MESSAGES + 7)]
    assert window(pace, earned=False) == 1, "a session that has earned nothing yet has nobody behind its first message"


def test_the_window_halves_and_never_closes() -> None:
    pace = PeerPace()
    for _ in range(19):
        pace.went_well()
    seen = []
    for _ in range(6):
        seen.append(window(pace))
        pace.was_put_off()
    assert seen == [20, 10, 5, 2, 1, 1]


def test_octets_under_way_are_bounded() -> None:
    pace = PeerPace()
    for _ in range(5):
        pace.went_well()
    assert pace.room(CHUNKING, 1, MAX_OCTETS - 1, earned=True)
    assert not pace.room(CHUNKING, 1, MAX_OCTETS, earned=True)
    assert pace.room(CHUNKING, 0, 10 * MAX_OCTETS, earned=True), "one message may be as large as it likes"


@pytest.mark.parametrize("capabilities", [PIPELINING, CHUNKING])
def test_who_got_out_of_step_is_served_strictly_from_then_on(capabilities: Capabilities) -> None:
    pace = PeerPace()
    pace.went_well()
    pace.got_out_of_step()
    pace.went_well()
    assert window(pace, capabilities) == 1
    found = course(pace, capabilities)
    assert (found.flow, found.capabilities) == (Flow.STEPWISE, PIPELINING), "and with the 354 of DATA"
    assert pace.strict
    assert pace.usable(capabilities) is capabilities


def test_who_cannot_take_a_group_in_one_segment_is_served_one_by_one() -> None:
    pace = PeerPace()
    assert pace.usable(CHUNKING) is CHUNKING
    pace.got_out_of_step(within_group=True)
    assert pace.usable(CHUNKING) == ONLY_CHUNKING
    assert pace.usable(PLAIN) is PLAIN
    pace.got_out_of_step()
    assert pace.usable(PIPELINING) == PLAIN, "for good"


def test_a_session_that_broke_shows_how_many_may_be_under_way() -> None:
    pace = PeerPace()
    for number in range(20):
        pace.went_well(number)
    pace.broke_off(5)
    assert window(pace) == 5
    pace.went_well(0)
    assert window(pace) == 5, "the next one will hardly take more"
    assert flow(pace) is Flow.BLIND
    pace.broke_off(7)
    assert window(pace) == 5
    pace.went_well(MAX_MESSAGES)
    assert window(pace) == 6, "a session that took as many as there may be shows that it was chance"


@pytest.mark.parametrize("answered", [0, 1])
def test_who_closes_after_each_message_is_sent_none_before_its_recipients_are_taken(answered: int) -> None:
    pace = PeerPace()
    pace.went_well(0)
    pace.broke_off(answered)
    pace.went_well(0)
    assert window(pace) == 1
    assert flow(pace) is Flow.RIDING
    assert window(pace, PIPELINING) == 2, "an envelope is never in doubt"
    pace.went_well(MAX_MESSAGES)
    assert flow(pace) is Flow.BLIND


# ------------------------------------------------------------------------------- what goes blind


def test_a_session_earns_blind_content() -> None:
    assert course(PeerPace(), standing=FRESH).flow is Flow.RIDING
    assert course(PeerPace(), standing=EARNED).flow is Flow.BLIND


def test_large_content_waits_until_somebody_wants_it() -> None:
    fits, large = (content_form(b"x" * octets) for octets in (BLIND_OCTETS, BLIND_OCTETS + 1))
    assert flow(PeerPace(), content=fits) is Flow.BLIND
    found = course(PeerPace(), content=large)
    assert (found.flow, found.capabilities) == (Flow.RIDING, CHUNKING)
    assert found.content is large, "it is not read beforehand"


def test_lmtp_goes_blind_to_one_recipient() -> None:
    lmtp = SessionStanding(earned=True, lmtp=True)
    assert [course(PeerPace(), recipients=n, standing=lmtp).flow for n in (1, 2)] == [Flow.BLIND, Flow.RIDING]
    assert course(PeerPace(), recipients=2).flow is Flow.BLIND


@pytest.mark.parametrize("standing", [FRESH, EARNED])
@pytest.mark.parametrize("capabilities", [CHUNKING, ONLY_CHUNKING])
def test_content_with_commands_goes_by_data(capabilities: Capabilities, standing: SessionStanding) -> None:
    found = course(PeerPace(), capabilities, COMMANDS, standing=standing)
    assert not found.capabilities.chunking
    assert found.flow is (Flow.RIDING if capabilities.pipelining else Flow.STEPWISE)


def test_it_goes_blind_to_who_discards_what_it_refuses() -> None:
    pace = PeerPace()
    pace.refused_chunk(content_form())
    assert pace.discards
    assert flow(pace, content=COMMANDS) is Flow.BLIND
    assert course(pace, content=COMMANDS, standing=FRESH).flow is Flow.RIDING
    assert course(pace, content=COMMANDS, standing=FRESH).capabilities.chunking


@pytest.mark.parametrize("content", [b"NOOP\r\n\r\n", b"RSET: x\r\n\r\n", b"", b"\r\nno header\r\n"])
def test_a_refused_chunk_whose_first_line_could_be_a_command_shows_nothing(content: bytes) -> None:
    pace = PeerPace()
    pace.refused_chunk(content_form(content))
    assert not pace.discards


def test_binary_content_goes_by_chunks_and_blind_only_to_who_discards() -> None:
    """BINARYMIME has no other way (RFC 3030 3), and its lines may end in any manner."""
    binary = content_form(b"Subject: x\r\n\r\n\0\rMAIL FROM:<x>\r")._replace(body=b"BINARYMIME")
    pace = PeerPace()
    assert course(pace, content=binary)[1:] == (CHUNKING, Flow.RIDING)
    pace.discards = True
    assert course(pace, content=binary)[1:] == (CHUNKING, Flow.BLIND)
    pace.got_out_of_step()
    assert course(pace, content=binary)[1:] == (CHUNKING, Flow.STEPWISE)


def test_what_was_looked_through_is_what_is_sent() -> None:
    reads = []

    def blocks() -> Iterator[bytes]:
        reads.append(len(reads))
        yield b"Subject: x\r\n\r\n"
        yield b"hello\r\n" if len(reads) == 1 else b"DATA\r\n"

    found = course(PeerPace(), content=ContentForm(21, 0, None, blocks, blocks))
    assert found.flow is Flow.BLIND
    assert b"".join(found.content.chunk()) == b"".join(found.content.chunk()) == b"Subject: x\r\n\r\nhello\r\n"
    assert reads == [0]


def test_content_that_cannot_be_read_is_left_to_whoever_sends_it() -> None:
    def broken() -> Iterator[bytes]:
        raise ContentError("gone")
        yield b""

    found = course(PeerPace(), content=ContentForm(21, 0, None, broken, broken))
    assert (found.flow, found.capabilities.chunking) == (Flow.RIDING, False)
    pace = PeerPace()
    pace.refused_chunk(ContentForm(21, 0, None, broken, broken))
    assert not pace.discards
