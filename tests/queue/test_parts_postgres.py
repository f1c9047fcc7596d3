"""Parts of sites in PostgreSQL: two nodes' transactions interleaved, plans of claims, and programs of before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import psycopg
import pytest
from tests.queue.contract_parts import HIGH, KEY, LOW, leased, shared, submitted, within
from tests.queue.harness import NOON, PostgresHarness, attempts, claim, ended, findings, in_doubt, lease_of, play
from tests.support.postgres import needs_postgres

from zsmtp.errors import QueueError
from zsmtp.queue.filter import Filter
from zsmtp.queue.operators import Change
from zsmtp.queue.postgres import claims
from zsmtp.queue.postgres.leases import NODES, PARTS_SINCE, SERVE_PARTS
from zsmtp.queue.postgres.pulse import PulseAnswer
from zsmtp.queue.slots import ALL
from zsmtp.queue.states import START
from zsmtp.queue.store import Lease, QueueStore

pytestmark = needs_postgres


def on_postgres(scenario: Callable[[PostgresHarness], Awaitable[None]]) -> None:
    play(PostgresHarness(), scenario)  # type: ignore[arg-type]


async def blocked(admin: psycopg.Connection[tuple[object, ...]], number: int = 1) -> None:
    """Wait until so many transactions wait for a lock."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(60):
        while (admin.execute(sql.encode()).fetchone() or (0,))[0] < number:  # type: ignore[operator]
            await asyncio.sleep(0.01)


def test_a_mark_that_waits_for_a_shed_of_its_slot_is_refused() -> None:
    """The owner's mark is behind a transaction that takes the slot away: it is judged after that."""

    async def scenario(queue: PostgresHarness) -> None:
        store, lease = await leased(queue)
        gone = within(HIGH, await claim(store, lease, NOON))[0].recipient
        with psycopg.connect(queue._url) as other:
            other.execute("UPDATE zsmtp_lease SET slots = slots & ~%s", (HIGH,))
            marking = asyncio.create_task(store.mark(lease, [gone.next_attempt]))
            await blocked(queue._admin)
            other.commit()
        assert not await marking

    on_postgres(scenario)


def test_a_mark_before_the_shed_forbids_it() -> None:
    """Both are asked for at once: whichever comes first, no slot with a mark is another node's."""

    async def scenario(queue: PostgresHarness) -> None:
        store, lease = await leased(queue)
        some = within(HIGH, await claim(store, lease, NOON))[:5]
        other = await queue.another()
        await other.join("second")
        marked, left = await asyncio.gather(
            store.mark(lease, attempts(some)), store.shed(lease, HIGH), return_exceptions=True
        )
        taken = await other.take([KEY], limit=1)
        if marked is True:
            assert isinstance(left, Exception)
            assert taken == []
        else:
            assert [one.slots for one in taken] == [HIGH]
        await other.close()

    on_postgres(scenario)


def test_a_doubt_settled_while_slots_are_given_up_is_no_doubt_any_more() -> None:
    """The lease that comes back was read before the result was written."""

    async def scenario(queue: PostgresHarness) -> None:
        await queue.store.join("dead")
        await submitted(queue.store, number=20)
        lease = await lease_of(queue.store, KEY)
        sent = within(LOW, await claim(queue.store, lease, NOON))[0].recipient
        assert await queue.store.mark(lease, [sent.next_attempt])
        store = await queue.crash()
        await store.join("next")
        lease = await lease_of(store, KEY)
        (doubt,) = lease.doubts
        left, conflicts = await asyncio.gather(
            store.shed(lease, HIGH), store.settle(lease, [in_doubt(doubt.recipient, NOON, NOON + 9)], [])
        )
        assert left is not None
        assert conflicts == []
        (head,) = await store.heads([left])
        some, _ = await store.claim(left, head.sub_queue, START, NOON, limit=100, octets=1 << 20)
        after = some[-1].recipient.position
        assert await store.claim(left, head.sub_queue, after, NOON, limit=100, octets=1 << 20) == ([], NOON + 9)

    on_postgres(scenario)


def test_an_operator_waits_for_the_marks_of_every_part() -> None:
    async def scenario(queue: PostgresHarness) -> None:
        first, second, _, high = await shared(queue)
        one = (await claim(second, high, NOON))[0]
        with psycopg.connect(queue._url) as other:
            other.execute("SELECT 1 FROM zsmtp_lease WHERE number = %s FOR NO KEY UPDATE", (high.number,))

            async def change() -> int:
                return sum([number async for number in first.change(Filter(), Change(end="dropped"))])

            changing = asyncio.create_task(change())
            await blocked(queue._admin)
            other.execute(
                "INSERT INTO zsmtp_mark (lease, mark, messages, numbers, attempts) VALUES (%s, 99, %s, '{0}', '{1}')",
                (high.number, [one.message.id]),
            )
            other.commit()
        assert await changing == 39
        assert await second.settle(high, [ended(one.recipient, NOON)], []) == []
        await second.close()

    on_postgres(scenario)


def test_nodes_that_ask_at_once_never_share_a_slot() -> None:
    """Three nodes take, shed and give back at the same time; a fourth process looks at the table."""

    async def live(store: QueueStore, chance: random.Random) -> int:
        lease: Lease | None = None
        changes = steps = 0
        while steps < 30 or (changes <= 5 and steps < 3000):  # others may have all slots for long
            steps += 1
            step = chance.random()
            if lease is None or step < 0.4:
                for found in await store.take([KEY], limit=1):
                    lease = found
                    changes += 1
            elif step < 0.8:
                slots = chance.choice([LOW, HIGH, 0x0F0F, chance.randrange(1 << 16)])
                if lease.slots & ~slots:
                    lease = await store.shed(lease, slots)
                    changes += 1
            else:
                await store.give_back([lease])
                lease = None
        if lease is not None:
            await store.give_back([lease])
        return changes

    async def scenario(queue: PostgresHarness) -> None:
        await submitted(queue.store)
        stores = [queue.store, await queue.another(), await queue.another()]
        for number, store in enumerate(stores):
            await store.join(f"node {number}")
        lives = asyncio.gather(*(live(store, random.Random(number)) for number, store in enumerate(stores)))
        while not lives.done():
            assert [line for line in await findings(queue.store) if "same slots" in line] == []
            await asyncio.sleep(0)
        assert all(changes > 5 for changes in lives.result())
        for store in stores[1:]:
            await store.close()

    on_postgres(scenario)


def test_a_check_finds_leases_with_the_same_slots() -> None:
    async def scenario(queue: PostgresHarness) -> None:
        _, second, _, high = await shared(queue)
        queue._admin.execute("UPDATE zsmtp_lease SET slots = %s WHERE number = %s", (HIGH | 1, high.number))
        assert await findings(queue.store) == [f"leases of {KEY} have the same slots"]
        await second.close()

    on_postgres(scenario)


def nodes_of(plan: Mapping[str, Any]) -> list[str]:
    """The kinds of the nodes of a plan, with their indexes."""
    mine = f"{plan['Node Type']} {plan.get('Index Name', '')} {plan.get('Index Cond', '')}"
    return [mine, *(line for part in plan.get("Plans", ()) for line in nodes_of(part))]


@pytest.mark.parametrize("statement", [claims._CLAIM, claims._NEXT], ids=["claim", "next"])
def test_the_claims_of_a_part_walk_the_same_index(statement: str) -> None:
    async def scenario(queue: PostgresHarness) -> None:
        await submitted(queue.store, number=2000)
        queue._admin.execute("ANALYZE")
        values: tuple[object, ...] = (KEY, "", 0, 0, 0, 0)
        if statement is claims._CLAIM:
            values += (round(NOON * 1000), 100)
        plans = []
        for slots in (ALL, LOW):
            sql = b"EXPLAIN (FORMAT JSON) " + claims._of(statement, slots)
            row = queue._admin.execute(sql, values).fetchone()
            assert row is not None
            plans.append(nodes_of(row[0][0]["Plan"]))  # type: ignore[index]
        assert plans[0] == plans[1]
        assert any("zsmtp_work" in line and "due" in line for line in plans[0]), plans

    on_postgres(scenario)


OLD_TAKE = (
    "INSERT INTO zsmtp_lease (site, number, node) VALUES ('old.example', 900, 901)",
    "INSERT INTO zsmtp_lease_key (key, lease) SELECT * FROM unnest('{old.example}'::text[], '{900}'::bigint[]) "
    "ON CONFLICT (key) DO NOTHING",
)
"""How a program of the release before takes a site; its node is one that says nothing of parts."""


def test_a_node_of_the_release_before_has_whole_sites() -> None:
    async def scenario(queue: PostgresHarness) -> None:
        store, admin = queue.store, queue._admin
        admin.execute(
            "INSERT INTO zsmtp_node (id, name, host, pid, joined, valid_until, incarnation) "
            "VALUES (901, 'old', 'host', 1, 0, zsmtp_clock() + interval '20 s', zsmtp_incarnation())"
        )
        for statement in OLD_TAKE:
            admin.execute(statement.encode())
        await store.join("new")
        await submitted(store, "old.example", 3)
        assert await store.take(["old.example"], limit=9) == []
        rows = admin.execute("SELECT slots FROM zsmtp_lease").fetchall()
        assert rows == [(ALL,)]
        row = admin.execute(f"SELECT ({NODES}), {SERVE_PARTS}".encode()).fetchone()
        assert row is not None
        answer = PulseAnswer(False, True, 0, 1, *row)  # type: ignore[arg-type]
        assert (answer.nodes, answer.sharing) == (2, 1), "no site is divided beside it"
        await submitted(store)
        mine = await lease_of(store, KEY)
        with pytest.raises(QueueError, match="earlier release"):
            await store.shed(mine, HIGH)
        queue.clock.advance(21)
        store.beat()
        (lease,) = await store.take(["old.example"], limit=9)
        assert lease.slots == ALL

    on_postgres(scenario)


def test_a_divided_queue_names_the_release_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(queue: PostgresHarness) -> None:
        store, lease = await leased(queue)
        named = "SELECT value FROM zsmtp_meta WHERE name = 'min_program'"
        assert queue._admin.execute(named).fetchone() == ("0.1.0",)
        monkeypatch.setattr("zsmtp.queue.programs.__version__", "0.3.0")
        assert await store.shed(lease, HIGH) is not None
        assert queue._admin.execute(named).fetchone() == (PARTS_SINCE,)
        monkeypatch.setattr("zsmtp.queue.programs.__version__", "0.1.0")
        with pytest.raises(QueueError, match=r"needs zsmtp 0\.2\.0 or later"):
            await queue.another()

    on_postgres(scenario)


def test_a_program_of_the_release_before_leaves_the_keys_of_other_parts() -> None:
    """It ends the lease of a dead node with the rows that name it."""

    async def scenario(queue: PostgresHarness) -> None:
        first, second, low, high = await shared(queue)
        admin = queue._admin
        admin.execute("DELETE FROM zsmtp_lease_key WHERE lease = %s", (low.number,))
        admin.execute("DELETE FROM zsmtp_lease WHERE number = %s", (low.number,))
        assert admin.execute("SELECT key, site FROM zsmtp_lease_key").fetchall() == [(KEY, KEY)]
        await first.learn({KEY: "provider"})
        (part,) = await first.take([KEY], limit=1)
        assert (part.site, part.slots) == (KEY, LOW)
        await second.give_back([high])
        await first.give_back([part])
        (lease,) = await first.take([KEY], limit=1)
        assert (lease.site, lease.slots) == ("provider", ALL)
        await second.close()

    on_postgres(scenario)
