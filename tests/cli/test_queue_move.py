"""``zsmtp queue move``: what it moves, prints and records, from every store to a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.queueconsole import Console, environment, on
from tests.queue import harness
from tests.queue.harness import NOON, STORES, Make, MemoryHarness, new, rows, there

from zsmtp.cli.sysexits import Exit
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import to_text
from zsmtp.queue.limits import BY_COMMAND
from zsmtp.queue.moves import Elsewhere
from zsmtp.queue.operators import Change, Rule
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.server.serviceconfig import service_config

EVERYBODY = ["bob@example.net", "dave@example.com", "erin@example.com"]


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("ZSMTP_QUEUE", "/var/lib/old.db")
    return environment(monkeypatch)


@pytest.fixture(params=STORES.values(), ids=STORES)
def make(request: pytest.FixtureRequest) -> Make:
    store: Make = request.param
    return store


async def made(folder: Path) -> str:
    """A queue that is there and empty."""
    await (await SQLiteStore.open(folder / "new.db")).close()
    return str(folder / "new.db")


async def arrived(path: str) -> list[harness.Row]:
    """What is in a queue that is in order."""
    store = await SQLiteStore.open(path)
    found = await rows(store)
    assert await harness.findings(store) == []
    await store.close()
    return found


def says(out: str, words: str) -> bool:
    """Whether words are said, however the lines are wrapped."""
    return "".join(words.split()) in "".join(out.split())


def test_mail_is_moved(make: Make, log: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        target = await made(tmp_path)
        ran = await console.run(f"move {target} example.net --dry-run")
        assert (ran.status, ran.lines[0]) == (0, f"1 recipient would be moved to {target}")
        assert "bob@example.net" in ran.lines[1]
        assert await arrived(target) == []
        ran = await console.run(f"move {target} example.net --yes --because 'the new machine'")
        assert (ran.status, ran.out, ran.err) == (0, f"1 recipient moved to {target}\n", "")
        (row,) = await arrived(target)
        assert row.recipient.address == b"bob@example.net"
        assert (row.recipient.attempts, row.recipient.status, row.recipient.due) == (1, "4.7.1", NOON + 330)
        who = "by ann (uid 1000): the new machine"
        assert log[-1] == f"queue move: 1 recipient moved to {target} (domain=example.net), {who}"

        ran = await console.run("why bob@example.net")
        assert ran.lines[0] == "moved at 2025-11-28 12:01:00 (now) by ann (uid 1000): the new machine"
        assert says(ran.out, f"It went to {console.ids[0]} in {target}; that queue delivers it.")
        ran = await console.run("ends --end moved --json")
        assert json.loads(ran.lines[0])["reason"] == f"to {console.ids[0]} in {target}"
        came = Console(console.queue, capsys)
        came.queue = harness.SQLiteHarness(tmp_path)
        came.queue.store = await SQLiteStore.open(target)
        ran = await came.run("why bob@example.net")
        assert says(ran.out, f"before, it was {console.ids[0]} in /var/lib/old.db")
        await came.queue.store.close()

        ran = await console.run(f"move {target} --all --yes --json")
        document = json.loads(ran.out)
        assert document == {
            "schema": "zsmtp.queue-move/1",
            "to": target,
            "matching": 2,
            "moved": 2,
            "left": 0,
            "dry_run": False,
            "filter": "",
            "problems": [],
            "rules": [],
            "rules_left": [],
            "notices_owed": 1,  # of carol, who is told by this queue that she failed
        }
        assert ran.status == 1
        assert sorted(row.recipient.address.decode() for row in await arrived(target)) == EVERYBODY
        ran = await console.run(f"move {target} --all --yes")
        assert (ran.status, ran.out) == (1, "")
        assert ran.err == (
            "zsmtp queue move: notices for 1 message are still to be made here: a process that delivers this queue "
            "makes them, and so does --config FILE; move again then\n"
        )
        ran = await console.run(f"move {target} to=nobody@example.net --yes")
        assert (ran.status, ran.out, ran.err) == (1, "", "zsmtp queue move: no recipient matches\n")

    on(make, tmp_path, capsys, scenario)


def test_what_is_on_the_way_goes_on(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        target, source = await made(tmp_path), console.queue.store
        there_is = await SQLiteStore.open(target)
        move = await source.begin_move(Elsewhere(there_is.uid, target), by="bob (uid 7)")
        await there_is.close()
        _ = [one async for one in source.change(Filter.parse("domain=example.net"), Change(move=move.number))]
        ran = await console.run("why bob@example.net")
        assert says(ran.out, f"on its way to {target}")
        assert says(ran.out, "which bob (uid 7) began at 2025-11-28 12:01:00")
        assert (await console.run("release bob@example.net --yes")).out == "0 recipients released\n"
        ran = await console.run(f"move {target} to=nobody@example.com --yes")
        assert (ran.status, ran.out) == (0, f"1 recipient moved to {target}\n")
        (row,) = await arrived(target)
        assert row.recipient.hold == 0

    on(make, tmp_path, capsys, scenario)


def test_notices_that_are_owed_are_made_and_moved(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(console: Console) -> None:
        target = await made(tmp_path)
        console.service = service_config({"name": "out.example.org"})
        assert (await console.run(f"move {target} example.com --yes")).status == 0  # a part leaves them alone
        assert len(await console.queue.store.owed(console.queue.now() + 600, limit=10)) == 1
        ran = await console.run(f"move {target} --all --yes")
        assert (ran.status, ran.out, ran.err) == (0, f"2 recipients moved to {target}\n", "")
        (notice,) = [row for row in await arrived(target) if row.recipient.address == b"ann@shop.example"]
        assert notice.message.sender == b""
        assert (await console.run("count")).out == "0\n"
        assert await console.queue.store.owed(console.queue.now() + 600, limit=10) == []

    on(make, tmp_path, capsys, scenario)


def test_rules_are_added_to_the_target_if_asked_for(
    make: Make, log: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(console: Console) -> None:
        target = await made(tmp_path)
        there_is = await SQLiteStore.open(target)
        await there_is.add_rule(Rule(action="drop", filter="domain=spam.example"))
        await console.run("hold bob@example.net --standing --yes --because 'he moves'")
        await console.run("suspend dave@example.com --yes")
        await console.run(f"hold {console.ids[2]} --standing --yes")
        ran = await console.run(f"move {target} bob@example.net --dry-run --rules")
        assert ran.lines[-1] == f"2 rules would be added to {target}"
        left = f"{target} lacks 1 rule of this queue, and delivers without"
        assert ran.err == f"zsmtp queue move: {left}: ids differ there\n"
        assert len(await there_is.rules()) == 1

        ran = await console.run(f"move {target} bob@example.net --yes")
        assert f"{target} lacks 3 rules of this queue" in ran.err
        assert ran.err.endswith("--rules adds rules there\n")
        (bob,) = await arrived(target)
        assert bob.recipient.hold == BY_COMMAND

        await console.queue.store.submit([new("bob@example.net")])
        await console.run("hold bob@example.net --for 2h --yes")
        assert (await console.run("rules --delete 4 --yes")).status == 0  # and releases what it held
        await console.queue.store.submit([new(harness.to("bob@example.net", hold=1))])
        ran = await console.run(f"move {target} bob@example.net --yes --rules")
        assert (ran.status, ran.out) == (0, f"2 recipients moved to {target}\n2 rules added to {target}\n")
        rules = await there_is.rules()
        assert [(one.action, one.filter) for one in rules] == [
            ("drop", "domain=spam.example"),
            ("hold", "to=bob@example.net"),
            ("suspend", "to=dave@example.com"),
        ]
        assert (rules[1].by, rules[1].reason) == ("ann (uid 1000)", "he moves")
        assert log[-3] == f"queue move: rule 2 of {target} added (hold to=bob@example.net), by ann (uid 1000)"
        assert sorted(row.recipient.hold for row in await arrived(target)) == [0, 2, BY_COMMAND]
        ran = await console.run(f"move {target} dave@example.com --yes --rules --json")
        assert json.loads(ran.out)["rules"] == []
        assert [rule["filter"] for rule in json.loads(ran.out)["rules_left"]] == [f"id={console.ids[2]}"]
        assert len(await there_is.rules()) == 3
        await there_is.close()

    on(make, tmp_path, capsys, scenario)


def test_what_somebody_has_in_hand_stays(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        target, store = await made(tmp_path), console.queue.store
        await store.submit([new("a@example.net"), new("b@example.net")])
        await store.join("node")
        lease = await harness.lease_of(store)
        one, _ = await harness.claim(store, lease, NOON)
        assert await store.mark(lease, [one.recipient.next_attempt])
        ran = await console.run(f"move {target} --all --yes")
        assert (ran.status, ran.out) == (0, f"1 recipient moved to {target}\n")
        assert ran.err == (
            "zsmtp queue move: 1 recipient not moved: being delivered, in doubt, in transfer, or queued meanwhile; "
            "move again later\n"
        )
        assert await there(store) == [one.recipient.address.decode()]
        assert await store.settle(lease, [harness.deferred(one.recipient, NOON, NOON + 60)], []) == []
        assert (await console.run(f"move {target} --all --yes")).status == 0
        assert sorted(row.recipient.attempts for row in await arrived(target)) == [0, 1]

    on(make, tmp_path, capsys, scenario, fill=False)


def test_what_cannot_be_read_is_named_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        target, queue = await made(tmp_path), console.queue
        assert isinstance(queue, MemoryHarness)
        broken, _ = await queue.store.submit([new("a@example.net"), new("b@example.net")])
        content = queue.store._data.contents.pop(broken.id)
        ran = await console.run(f"move {target} --all --yes")
        assert (ran.status, ran.out) == (1, f"1 recipient moved to {target}\n")
        assert f"{to_text(broken.id, queue.store.shard)} was not moved: " in ran.err
        queue.store._data.contents[broken.id] = content
        assert (await console.run(f"move {target} --all --yes")).status == 0
        assert len(await arrived(target)) == 2

    on(lambda folder: MemoryHarness(), tmp_path, capsys, scenario, fill=False)


def test_a_target_must_be_another_queue_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        assert (await console.run("move --all --yes")).status == Exit.USAGE
        target = await made(tmp_path)
        assert (await console.run(f"move {target} --yes")).status == Exit.USAGE  # of whom?
        ran = await console.run(f"move {tmp_path}/nowhere.db --all --yes")
        assert (ran.status, ran.out) == (Exit.NO_INPUT, "")
        assert "No such file" in ran.err
        ran = await console.run(f"move {tmp_path}/queue.db --all --yes")
        assert ran.status == Exit.USAGE
        assert "are the same queue" in ran.err
        assert await there(console.queue.store) == EVERYBODY

    on(harness.SQLiteHarness, tmp_path, capsys, scenario)
