"""Turns of tenants."""

from __future__ import annotations

from collections import Counter

from zsmtp.queue.fairness import QUANTUM, RoundRobin


def served(turns: RoundRobin[str], backlog: dict[str, int], messages: int) -> list[str]:
    order = []
    for tenant in backlog:
        turns.add(tenant)
    for _ in range(messages):
        tenant = turns.turn()
        if tenant is None:
            break
        order.append(tenant)
        turns.spent(tenant)
        backlog[tenant] -= 1
        if not backlog[tenant]:
            turns.remove(tenant)
    return order


def test_a_million_messages_delay_a_single_one_by_one_round() -> None:
    turns: RoundRobin[str] = RoundRobin()
    assert served(turns, {"big": 1_000_000}, 35)
    turns.add("small")
    order = served(turns, {"small": 1, "big": 1_000_000}, 2 * QUANTUM)
    assert "small" in order[: QUANTUM + 1]


def test_shares_go_by_weight() -> None:
    weights = {"a": 3.0, "b": 1.0, "c": 0.5}
    turns = RoundRobin(weights.__getitem__)
    share = Counter(served(turns, dict.fromkeys(weights, 10_000), 4500))
    assert [round(share[tenant] / 500, 1) for tenant in "abc"] == [6.0, 2.0, 1.0]


def test_nobody_with_work_is_left_out_and_nobody_without_is_asked() -> None:
    backlog = {str(n): n + 1 for n in range(50)}
    turns: RoundRobin[str] = RoundRobin()
    order = served(turns, dict(backlog), 10_000)
    assert Counter(order) == Counter(backlog)
    assert turns.turn() is None
    assert len(turns) == 0


def test_a_tenant_that_cannot_use_its_turn_lets_others_go_on() -> None:
    turns: RoundRobin[str] = RoundRobin()
    for tenant in "ab":
        turns.add(tenant)
    assert turns.turn() == "a"
    turns.passed("a")
    assert turns.turn() == "b"
    assert "a" in turns
