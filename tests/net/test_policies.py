"""Policies on a loop, in virtual time: how many are fetched at a time, each of them once, and kept in few commits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from tests.support.patience import LIMIT
from tests.support.virtualtime import VirtualLoop, run

from zsmtp.effects import FetchPolicy, KeepPolicy, Operation, RecallPolicy
from zsmtp.net import policies
from zsmtp.net.policies import MAX_FETCHES, SHARE, TURN_TIME, AsyncPolicies, most_fetches
from zsmtp.net.stspolicies import PolicyKeeper
from zsmtp.tls.mtasts import CachedPolicy, FetchedPolicy, RecalledPolicy
from zsmtp.tls.problem import TLSProblem

TEXT = FetchedPolicy(b"version: STSv1\nmode: none\nmax_age: 60\n")


def request(number: int, policy_id: str = "1") -> FetchPolicy:
    return FetchPolicy(f"mta-sts.d{number}.example", ("192.0.2.1",), policy_id)


def keep(number: int) -> KeepPolicy:
    return KeepPolicy(CachedPolicy(f"d{number}.example"))


class Keeper(PolicyKeeper):
    """Fetches policies from hosts that take their time, and writes when it may."""

    def __init__(self, seconds: float = 20.0) -> None:
        super().__init__("", print)
        self.seconds = seconds
        self.asked: list[FetchPolicy] = []
        self.under_way = self.most = 0
        self.commits: list[list[KeepPolicy]] = []
        self.begun = threading.Semaphore(0)
        self.may_write = threading.Semaphore(0)

    async def fetch(self, effect: FetchPolicy) -> FetchedPolicy:
        self.asked.append(effect)
        return TEXT

    def keep(self, effects: Sequence[KeepPolicy]) -> None:
        self.begun.release()
        assert self.may_write.acquire(timeout=LIMIT)
        self.commits.append(list(effects))

    async def take_time(self, work: Operation[FetchedPolicy]) -> FetchedPolicy:
        """Carry a fetch out; what time it takes is the host's."""
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
            work.send(None)
        except StopIteration as end:
            found: FetchedPolicy = end.value
            return found
        finally:
            work.close()
            self.under_way -= 1
        raise AssertionError


def fetched_by(keeper: Keeper, requests: list[FetchPolicy]) -> tuple[list[FetchedPolicy], float]:
    """What came of fetches that are asked for at once, and when all of them were done."""

    async def main(loop: VirtualLoop) -> tuple[list[FetchedPolicy], float]:
        began = loop.now
        fetches = AsyncPolicies(keeper, keeper.take_time)
        found = await asyncio.gather(*map(fetches.fetch, requests))
        assert fetches.fetches == set()
        await fetches.aclose()
        return found, loop.now - began

    return run(main)


def test_a_thousand_slow_hosts_are_asked_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "most_fetches", lambda: MAX_FETCHES)
    keeper = Keeper()
    found, seconds = fetched_by(keeper, [request(number) for number in range(1000)])
    assert found == [TEXT] * 1000
    assert seconds == 20.0
    assert keeper.most == len(keeper.asked) == 1000


def test_there_is_a_cap_and_others_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "most_fetches", lambda: 10)
    keeper = Keeper()
    found, seconds = fetched_by(keeper, [request(number) for number in range(100)])
    assert found == [TEXT] * 100
    assert seconds == 200.0
    assert keeper.most == 10
    assert sorted(one.host for one in keeper.asked) == sorted(request(number).host for number in range(100))


def test_who_has_no_turn_in_time_has_no_policy_and_it_is_nobodys_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "most_fetches", lambda: 1)
    found, seconds = fetched_by(Keeper(seconds=TURN_TIME + 1), [request(0), request(1)])
    assert found[0] == TEXT
    assert found[1].own
    assert found[1].failure is TLSProblem.STS_POLICY_FETCH_ERROR
    assert seconds == TURN_TIME + 1


def test_the_cap_goes_by_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(files: int) -> int:
        monkeypatch.setattr("resource.getrlimit", lambda _: (files, files))
        return most_fetches()

    assert [limited(files) for files in (1, 1024, 1 << 20, -1)] == [1, 1024 // SHARE, MAX_FETCHES, MAX_FETCHES]


def test_a_policy_is_fetched_once_for_all_who_ask() -> None:
    keeper = Keeper()
    found, _ = fetched_by(keeper, [request(0)] * 50)
    assert found == [TEXT] * 50
    assert len(keeper.asked) == 1


def test_what_is_fetched_for_one_id_is_no_answer_for_another() -> None:
    keeper = Keeper()
    fetched_by(keeper, [request(0), request(0, "2"), request(0)])
    assert keeper.asked == [request(0), request(0, "2")]


def test_it_is_fetched_again_when_it_is_asked_for_later() -> None:
    async def main(loop: VirtualLoop) -> None:
        fetches = AsyncPolicies(keeper, keeper.take_time)
        for _ in range(2):
            await fetches.fetch(request(0))

    keeper = Keeper()
    run(main)
    assert len(keeper.asked) == 2


def test_who_does_not_wait_any_more_takes_it_from_nobody() -> None:
    async def main(loop: VirtualLoop) -> FetchedPolicy:
        fetches = AsyncPolicies(keeper, keeper.take_time)
        impatient = asyncio.create_task(asyncio.wait({fetches.fetch(request(0))}))
        patient = fetches.fetch(request(0))
        await asyncio.sleep(1)
        impatient.cancel()
        return await patient

    keeper = Keeper()
    assert run(main) == TEXT


def test_a_fetch_that_is_cancelled_gives_its_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: VirtualLoop) -> FetchedPolicy:
        fetches = AsyncPolicies(keeper, keeper.take_time)
        first, waiting, last = (fetches.fetch(request(number)) for number in range(3))
        await asyncio.sleep(1)
        waiting.cancel()
        first.cancel()
        return await last

    monkeypatch.setattr(policies, "most_fetches", lambda: 1)
    keeper = Keeper()
    assert run(main) == TEXT
    assert keeper.asked == [request(2)]


# ------------------------------------------------------------------------- keeping


def in_real_time(main: Coroutine[Any, Any, None]) -> None:
    before = set(threading.enumerate())
    asyncio.run(main)
    assert set(threading.enumerate()) <= before


def test_what_comes_during_a_commit_is_the_next_one() -> None:
    async def main() -> None:
        kept = AsyncPolicies(keeper, keeper.take_time)
        first = kept.keep(keep(0))
        assert await asyncio.to_thread(keeper.begun.acquire, timeout=LIMIT)
        others = [kept.keep(keep(number)) for number in range(1, 1000)]
        await asyncio.sleep(0)
        assert not first.done()
        keeper.may_write.release()
        await first
        assert not any(one.done() for one in others)
        keeper.may_write.release()
        await asyncio.gather(*others)
        await kept.aclose()

    keeper = Keeper()
    in_real_time(main())
    assert keeper.commits == [[keep(0)], [keep(number) for number in range(1, 1000)]]


def test_the_end_waits_for_what_is_to_be_kept() -> None:
    async def main() -> None:
        kept = AsyncPolicies(keeper, keeper.take_time)
        kept.keep(keep(0))
        assert await asyncio.to_thread(keeper.begun.acquire, timeout=LIMIT)
        kept.keep(keep(1))
        keeper.may_write.release(2)
        await kept.aclose()

    keeper = Keeper()
    in_real_time(main())
    assert keeper.commits == [[keep(0)], [keep(1)]]


def test_what_was_kept_is_recalled_by_the_next_who_asks() -> None:
    async def main() -> None:
        kept = AsyncPolicies(keeper, Keeper().take_time)
        await kept.keep(keep(0))
        recalled = kept.recall(RecallPolicy("D0.example"))
        assert isinstance(recalled, asyncio.Future)
        assert (await recalled).entry == CachedPolicy("d0.example")
        await kept.aclose()

    keeper = PolicyKeeper("", print)
    in_real_time(main())


def test_what_is_on_its_way_to_the_disk_is_recalled_without_waiting_for_it() -> None:
    def recalled(kept: AsyncPolicies, domain: str) -> CachedPolicy | None:
        answer = kept.recall(RecallPolicy(domain))
        assert isinstance(answer, RecalledPolicy)
        return answer.entry

    async def main() -> None:
        kept = AsyncPolicies(keeper, keeper.take_time)
        kept.keep(keep(0))
        assert recalled(kept, "d0.example") == CachedPolicy("d0.example")
        assert await asyncio.to_thread(keeper.begun.acquire, timeout=LIMIT)
        newer = CachedPolicy("D0.example", "2")
        kept.keep(KeepPolicy(newer))
        assert recalled(kept, "d0.EXAMPLE") == newer
        keeper.may_write.release(2)
        await kept.aclose()

    keeper = Keeper()
    in_real_time(main())
