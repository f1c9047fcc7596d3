"""How addresses are compared, and who is held to the list, through the library and by the rules alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.queue.harness import NOON, new

import zsmtp
from zsmtp.errors import SubmissionError
from zsmtp.queue import intake
from zsmtp.queue.changes import Suppressible, suppressed_places
from zsmtp.queue.settlement import suppressed
from zsmtp.queue.states import End, NoticeKind, Outcome, QueuedMessage, QueuedRecipient
from zsmtp.queue.store import Ended
from zsmtp.queue.suppression import OVERRIDE, Suppression, folded, holds, is_subject

NOTE = b"From: news@example.org\nTo: bob@example.net\n\nHi\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bob@example.net", "BOB@Example.NET"),
        ("bob@bücher.example", "Bob@XN--bcher-kva.example"),
        ("käthe@example.net", "KÄTHE@example.net"),
        ("ka\u0308the@example.net", "k\u00e4the@example.net"),
        ('"bob"@example.net', "bob@example.net"),
        ('"bo\\\\b"@example.net', '"BO\\\\B"@example.net'),
    ],
)
def test_forms_of_one_address(one: str, other: str) -> None:
    assert folded(one.encode()) == folded(other.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bob@example.net", "bob@example.org"),
        ("bob@example.net", "bob+x@example.net"),
        ('"b@b"@example.net', "b@b@example.net"),
        ('"b b"@example.net', "bb@example.net"),
    ],
)
def test_different_addresses(one: str, other: str) -> None:
    assert folded(one.encode()) != folded(other.encode())


@given(st.binary(max_size=60))
def test_whatever_is_folded_stays_as_it_is(address: bytes) -> None:
    assert folded(folded(address)) == folded(address)


def test_a_suppression_holds_until_its_end() -> None:
    ending = Suppression(address=b"a@b.example", at=NOON, until=NOON + 1)
    assert [holds(ending, NOON + 0.9), holds(ending, NOON + 1), holds(None, NOON)] == [True, False, False]
    assert holds(Suppression(address=b"a@b.example", at=NOON), NOON + 1e9)


def test_notices_and_those_with_the_right_go_past_the_list() -> None:
    assert is_subject("library", None)
    assert is_subject("library", {OVERRIDE: False})
    assert not is_subject("library", {OVERRIDE: True})
    assert not is_subject("notice", None)


def test_which_places_are_suppressed() -> None:
    bob = Suppression(address=b"bob@example.net", at=NOON)
    eve = Suppression(tenant="shop", address=b"eve@example.net", at=NOON, until=NOON + 1)
    kept = {("", b"bob@example.net"): bob, ("shop", b"eve@example.net"): eve}
    asked: list[Suppressible] = []

    def find(keys: Sequence[Suppressible]) -> dict[Suppressible, Suppression]:
        asked.extend(keys)
        return {key: kept[key] for key in keys if key in kept}

    inserted = [
        (1, 0, "Bob@Example.net", ""),
        (1, 1, "ann@example.net", ""),
        (2, 0, "bob@example.net", ""),
        (2, 1, "EVE@example.net", "shop"),
        (3, 0, "bob@example.net", "shop"),
    ]
    assert suppressed_places(inserted, find, NOON) == {(1, 0): bob, (2, 0): bob, (2, 1): eve}
    assert len(asked) == len(set(asked)) == 4
    assert suppressed_places(inserted, find, NOON + 1) == {(1, 0): bob, (2, 0): bob}
    assert suppressed_places([], find, NOON) == {}


def queued(**values: object) -> tuple[QueuedRecipient, QueuedMessage]:
    made = new("bob@example.net", **values)
    message = intake.message_of(made, 1 << 40, NOON, size=9, recipients=1)
    return intake.recipient_of(made, made.recipients[0], message.id, 0, hold=0), message


def ending(**values: object) -> Ended:
    one = Suppression(address=b"bob@example.net", reason="no such user", source="bounce", at=NOON - 9)
    return suppressed(*queued(**values), one, NOON)


def test_the_end_of_a_suppressed_recipient() -> None:
    found = ending()
    entry = found.entry
    assert (entry.outcome, entry.attempt, entry.status, entry.at) == (Outcome.FAILED, 0, "5.7.1", NOON)
    assert (entry.reason, entry.by) == ("suppressed: no such user", "suppression by bounce")
    assert found.notice is not None
    assert (found.notice.kind, found.notice.reason) == (NoticeKind.FAILED, "suppressed: no such user")


def test_nobody_is_notified_who_would_not_be_of_another_failure() -> None:
    assert ending(sender=b"").notice is None
    assert ending(options={"automatic": "auto-replied"}).notice is None


def test_the_library_suppresses_submits_and_overrides() -> None:
    async def main() -> None:
        async with zsmtp.aio.Queue.open("memory:") as queue:
            assert await queue.suppress(["Bob@Example.net", "eve@example.net"], reason="unsubscribed") == 2
            (end,) = await queue.wait(await queue.submit(NOTE))
            assert (end.outcome.end, end.reason) == (End.FAILED, "suppressed: unsubscribed")
            (again,) = (await queue.status(await queue.submit(NOTE, override_suppression=True))).waiting
            assert again.recipient.address == b"bob@example.net"
            assert (await queue.status(await queue.submit(NOTE, tenant="other"))).waiting
            (found,) = await queue.suppressions("BOB@example.net", tenant="")
            assert (found.address, found.source) == (b"bob@example.net", "library")
            assert await queue.unsuppress("BOB@example.net") == 1
            assert [one.address for one in await queue.suppressions()] == [b"eve@example.net"]
            with pytest.raises(SubmissionError, match="address"):
                await queue.suppress("no address at all")

    asyncio.run(main())


def test_programs_without_a_loop_have_the_same() -> None:
    with zsmtp.Queue.open("memory:") as queue:
        assert queue.suppress("bob@example.net", until=4e9) == 1
        assert queue.suppressions()[0].until == 4e9
        assert not queue.status(queue.submit(NOTE)).waiting
        assert queue.status(queue.submit(NOTE, override_suppression=True)).waiting
        assert queue.unsuppress("bob@example.net") == 1
