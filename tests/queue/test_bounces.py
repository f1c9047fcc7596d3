"""Mail that came back, taken in: whose event it becomes, what is suppressed, and what is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.queue import reports
from tests.queue.harness import DAY, NOON, new

from zsmtp.errors import ConfigError
from zsmtp.queue import bounces
from zsmtp.queue.bouncekeys import OCTETS
from zsmtp.queue.bounces import BounceTaker, Taken
from zsmtp.queue.filter import Filter
from zsmtp.queue.memory import MemoryStore
from zsmtp.queue.operators import Change
from zsmtp.queue.returnpath import BounceConfig, ReturnPath
from zsmtp.queue.states import HistoryEntry, Outcome

FBL = "loop@example.org"


class Bouncing:
    """A store with a message to several, all of whom have their end but ``waiting``; and what takes in."""

    def __init__(self, template: str = "b+{id}@example.org", **values: Any) -> None:
        self.now = NOON
        self.store = MemoryStore(clock=lambda: self.now)
        config = BounceConfig(return_path=template, key_file="-", complaints=(FBL,), **values)
        self.returns = ReturnPath(config, [b"k" * OCTETS], 0)
        self.taker = BounceTaker(self.store, self.returns, lambda: self.now)
        self.message = 0
        self.senders: list[bytes] = []

    async def begin(self, *addresses: str, waiting: str = "", **values: Any) -> None:
        (accepted,) = await self.store.submit([new(*addresses, tenant="news", **values)])
        self.message = accepted.id
        rows = [row async for row in self.store.select(Filter())]
        self.senders = [self.returns.sender_of(row.message, [row.recipient], NOON) for row in rows]
        wanted = Filter.parse(f"to!={waiting}" if waiting else "")
        async for _ in self.store.change(wanted, Change(end="dropped")):
            pass
        self.now += 1

    async def take(self, octets: bytes, number: int = 0) -> Taken:
        return await self.taker.take([self.senders[number]], octets)

    async def events(self) -> list[HistoryEntry]:
        return [one for one in await self.store.history(self.message) if one.outcome.end is None]

    async def suppressed(self) -> list[bytes]:
        return [one.address async for one in self.store.suppressions("news")]


def play(scene: Callable[[Bouncing], Awaitable[None]], *given: str, **values: Any) -> None:
    asyncio.run(scene(Bouncing(*given, **values)))  # type: ignore[arg-type]


def test_a_bounce_is_an_event_and_suppresses_a_dead_address() -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("Bob@example.net", "eve@example.net")
        assert await it.take(reports.postfix("bob@EXAMPLE.net")) is Taken.RECORDED
        (event,) = await it.events()
        assert (event.outcome, event.number, event.attempt, event.at) == (Outcome.BOUNCED, 0, 0, NOON + 1)
        assert (event.status, event.code, event.server, event.tenant) == ("5.1.1", 550, "store.example.net", "news")
        assert "no such mailbox here" in event.reason
        (found,) = [one async for one in it.store.suppressions()]
        assert (found.tenant, found.address, found.source) == ("news", b"bob@example.net", "bounce")
        assert found.reason.startswith("5.1.1 550 5.1.1 ")
        ends = [one.outcome async for one in it.store.ends(Filter())]
        assert ends == [Outcome.DROPPED] * 2

    play(scene)


def test_a_report_that_comes_again_changes_nothing() -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("bob@example.net")
        assert await it.take(reports.exim()) is Taken.RECORDED
        await it.store.unsuppress("news", [b"bob@example.net"])
        it.now += 10
        assert await it.take(reports.exim()) is Taken.RECORDED
        assert len(await it.events()) == 1
        assert await it.suppressed() == []

    play(scene)


def test_a_death_between_the_suppression_and_the_event() -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("bob@example.net")
        it.store.fail("record", OSError("killed"))
        with pytest.raises(OSError, match="killed"):
            await it.take(reports.exim())
        assert await it.suppressed() == [b"bob@example.net"]
        assert await it.take(reports.exim()) is Taken.RECORDED
        assert len(await it.events()) == 1

    play(scene)


@pytest.mark.parametrize(
    ("patterns", "octets", "left"),
    [
        (None, reports.full(), []),
        (("5.*",), reports.full(), [b"bob@example.net"]),
        ((), reports.exim(), []),
        (("5.*",), reports.full().replace(b"5.2.2", b"4.4.7"), []),
    ],
)
def test_what_suppresses_is_configured(patterns: tuple[str, ...] | None, octets: bytes, left: list[bytes]) -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("bob@example.net")
        assert await it.take(octets) is Taken.RECORDED
        assert await it.suppressed() == left

    play(scene, **({} if patterns is None else {"suppress": patterns}))


def test_delays_and_other_mail_are_ignored() -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("bob@example.net")
        for octets in (reports.delayed(), b"Subject: I am away\r\n\r\nhello\r\n", b""):
            assert await it.take(octets) is Taken.IGNORED
        assert await it.events() == []
        assert it.taker.taken == {Taken.IGNORED: 3}

    play(scene)


def test_what_is_not_proven_is_not_believed() -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("bob@example.net")
        first = it.senders[0]
        forged = first[:-13] + (b"0" if first[-13:-12] != b"0" else b"1") + first[-12:]
        for address in (forged, b"b+@example.org", b"ann@example.org"):
            assert await it.taker.take([address], reports.exim()) is Taken.UNPROVEN
        it.now += 40 * DAY
        assert await it.take(reports.exim()) is Taken.UNPROVEN
        assert await it.events() == []
        assert await it.suppressed() == []

    play(scene)


def test_what_is_not_known_any_more() -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("bob@example.net")
        it.store = MemoryStore()
        taker = BounceTaker(it.store, it.returns, lambda: it.now)
        assert await taker.take(it.senders, reports.exim()) is Taken.UNKNOWN

    play(scene)


def test_who_is_meant() -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("a@example.net", "b@example.net", "c@example.net", waiting="c@example.net")
        assert await it.take(reports.exim("B@example.net")) is Taken.RECORDED
        assert await it.take(reports.exim("elsewhere@example.com")) is Taken.EARLY
        assert await it.take(reports.exim("c@example.net")) is Taken.EARLY
        assert [one.number for one in await it.events()] == [1]

    async def by_recipient(it: Bouncing) -> None:
        await it.begin("a@example.net", "b@example.net", "c@example.net", waiting="c@example.net")
        assert await it.take(reports.exim("elsewhere@example.com"), 1) is Taken.RECORDED
        assert await it.take(reports.exim("a@example.net"), 2) is Taken.EARLY
        assert [(one.number, one.address) for one in await it.events()] == [(1, b"b@example.net")]
        assert await it.suppressed() == [b"b@example.net"]

    async def forwarded(it: Bouncing) -> None:
        await it.begin("a@example.net")
        assert await it.take(reports.exim("elsewhere@example.com")) is Taken.RECORDED
        assert await it.suppressed() == [b"a@example.net"]

    play(scene)
    play(by_recipient, "b+{id}.{recipient}@example.org")
    play(forwarded)


@pytest.mark.parametrize("template", ["b+{id}@example.org", "b+{id}.{recipient}@example.org"])
def test_of_a_large_message_no_more_is_read_than_a_piece_at_a_time(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Bounded(MemoryStore):
        async def history(self, message: int, *, number: int | None = None) -> list[HistoryEntry]:
            assert number is not None, "the whole history is read"
            found = await super().history(message, number=number)
            read.append(len(found))
            return found

        async def ended(self, message: int, *, after: int = -1, limit: int) -> list[tuple[int, bytes]]:
            found = await super().ended(message, after=after, limit=limit)
            read.append(len(found))
            return found

    async def scene(it: Bouncing) -> None:
        await it.begin(*(f"u{number}@example.net" for number in range(10)), waiting="u8@example.net")
        assert await it.take(reports.exim("u9@example.net"), 9) is Taken.RECORDED
        (event,) = [one for one in await MemoryStore.history(it.store, it.message) if one.outcome.end is None]
        assert (event.number, event.outcome) == (9, Outcome.BOUNCED)
        assert read
        assert max(read) <= 3
        assert await it.take(reports.exim("u8@example.net"), 8) is Taken.EARLY
        assert max(read) <= 3

    monkeypatch.setattr(bounces, "PIECE", 3)
    bouncing = Bouncing(template)
    bouncing.store = Bounded(clock=lambda: bouncing.now)
    bouncing.taker = BounceTaker(bouncing.store, bouncing.returns, lambda: bouncing.now)
    asyncio.run(scene(bouncing))


@pytest.mark.parametrize(("kind", "on", "left"), [("abuse", True, 1), ("abuse", False, 0), ("not-spam", True, 0)])
def test_complaints(kind: str, on: bool, left: int) -> None:
    async def scene(it: Bouncing) -> None:
        await it.begin("a@example.net", "b@example.net")
        octets = reports.complaint(it.senders[0].decode(), kind, "b@example.net")
        taken = await it.taker.take([FBL.encode()], octets)
        assert taken is (Taken.IGNORED if kind == "not-spam" else Taken.RECORDED)
        assert [(one.outcome, one.number) for one in await it.events()] == (
            [] if kind == "not-spam" else [(Outcome.COMPLAINED, 1)]
        )
        assert len(await it.suppressed()) == left
        assert await it.taker.take([FBL.encode()], reports.complaint("ann@example.org", kind)) is Taken.UNPROVEN

    play(scene, suppress_complaints=on)


def test_a_configuration_that_cannot_be_meant() -> None:
    for wrong, words in (
        ({"suppress": ("4.2.2",)}, "suppress: '4.2.2'"),
        ({"suppress": ("*",)}, "suppress: "),
        ({"complaints": ("loop",)}, "complaints: 'loop'"),
        ({"complaints": (FBL,)}, "complaints: no effect"),
    ):
        with pytest.raises(ConfigError) as caught:
            BounceConfig(**wrong)  # type: ignore[arg-type]
        assert str(caught.value).startswith(words)
