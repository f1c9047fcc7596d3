"""What the verbs of ``zsmtp queue`` that change something change, print, ask and record, at every store."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.cli.queueconsole import Console, environment, on
from tests.queue import harness
from tests.queue.harness import NOON, STORES, Make, new, rows, there
from tests.support.patience import LIMIT

from zsmtp.cli import queuechanging
from zsmtp.queue.limits import BY_COMMAND
from zsmtp.queue.states import NoticeKind, Outcome

LATER = NOON + 60


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return environment(monkeypatch)


@pytest.fixture(params=STORES.values(), ids=STORES)
def make(request: pytest.FixtureRequest) -> Make:
    store: Make = request.param
    return store


async def one(console: Console, address: str) -> harness.QueuedRecipient:
    """The recipient of an address."""
    (row,) = await rows(console.queue.store, f"to={address}")
    return row.recipient


def test_now_at_and_priority(make: Make, log: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run("now example.com --yes --because 'they called'")
        assert (ran.status, ran.out, ran.err) == (0, "2 recipients to be tried now\n", "")
        assert (await one(console, "dave@example.com")).due == LATER
        assert (await one(console, "bob@example.net")).due == NOON + 330
        ran = await console.run("at 14:30 bob@example.net --yes")
        assert ran.out == "1 recipient to be tried at 2025-11-28 14:30:00\n"
        assert (await one(console, "bob@example.net")).due == NOON + 2.5 * 3600
        await console.run("at +2h bob@example.net --yes")
        assert (await one(console, "bob@example.net")).due == LATER + 7200
        await console.run("priority -2 bob@example.net --yes")
        assert (await one(console, "bob@example.net")).rank == 2
        assert log[-4:] == [
            "queue now: 2 recipients to be tried now (domain=example.com), by ann (uid 1000): they called",
            "queue at: 1 recipient to be tried at 2025-11-28 14:30:00 (to=bob@example.net), by ann (uid 1000)",
            "queue at: 1 recipient to be tried at 2025-11-28 14:01:00 (to=bob@example.net), by ann (uid 1000)",
            "queue priority: 1 recipient of priority -2 (to=bob@example.net), by ann (uid 1000)",
        ]

    on(make, tmp_path, capsys, scenario)


def test_hold_and_release(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run("hold --all --yes")
        assert ran.out == "2 recipients held\n"  # erin is held already
        assert {row.recipient.hold for row in await rows(console.queue.store)} == {BY_COMMAND}
        ran = await console.run("hold --all --yes")
        assert (ran.status, ran.err) == (1, "zsmtp queue hold: no recipient matches\n")
        ran = await console.run("release example.com --yes")
        assert (ran.out, ran.err) == ("2 recipients released\n", "")
        assert [row.recipient.hold for row in await rows(console.queue.store)] == [BY_COMMAND, 0, 0]
        ran = await console.run("release example.com --yes")
        assert (ran.status, ran.err) == (1, "zsmtp queue release: nothing that matches is held\n")

    on(make, tmp_path, capsys, scenario)


def test_a_standing_hold(make: Make, log: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        store = console.queue.store
        ran = await console.run("hold bob@example.net --for 2h --yes --because 'spam run'")
        assert ran.lines == [
            "1 recipient held",
            "rule 1 applies to later mail; zsmtp queue rules --delete 1 ends it",
        ]
        (rule,) = await store.rules()
        assert (rule.action, rule.filter, rule.until) == ("hold", "to=bob@example.net", LATER + 7200)
        assert (rule.by, rule.reason) == ("ann (uid 1000)", "spam run")
        assert (await one(console, "bob@example.net")).hold == 1
        assert (await console.run("why bob@example.net")).lines[0] == "held by rule 1 of ann (uid 1000): spam run"
        assert (await console.run("rules")).lines == [
            "1 hold: to=bob@example.net",
            "   by       ann (uid 1000), 2025-11-28 12:01:00, until 2025-11-28 14:01:00 (in",
            "              2h)",
            "   because  spam run",
        ]
        ran = await console.run("release bob@example.net --yes")
        assert ran.err == (
            "zsmtp queue release: 1 recipient held by a rule: it holds them again until it is deleted"
            " (zsmtp queue rules --delete)\n"
        )
        await console.run("hold bob@example.net --yes --standing")
        ran = await console.run("rules --delete 2 --yes")
        assert (ran.status, ran.lines[-1]) == (0, "1 rule deleted")
        assert (await one(console, "bob@example.net")).hold == 0
        assert [rule.number for rule in await store.rules()] == [1]
        assert log[-1] == "queue rules: deleted rule 2 (hold to=bob@example.net), by ann (uid 1000)"
        ran = await console.run("rules --delete 2 --yes")
        assert (ran.status, ran.out) == (1, "")

    on(make, tmp_path, capsys, scenario)


def test_suspend_and_resume(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run("suspend example.net --until 15:00 --yes --because 'they asked for it'")
        assert ran.lines == [
            "1 recipient suspended, and later mail until 2025-11-28 15:00:00",
            "zsmtp queue resume --number 1 ends it",
        ]
        await console.run("suspend --tenant nobody --yes")
        await console.run("suspend --all --yes")
        lines = (await console.run("why bob@example.net")).lines
        assert lines[0] == "suspended by rule 1 until 2025-11-28 15:00:00 (in 2h59m)"
        assert [rule["number"] for rule in json.loads((await console.run("rules --json")).out)["rules"]] == [1, 2, 3]
        assert (await console.run("resume")).status == 64
        ran = await console.run("resume tenant=nobody --yes")
        assert (ran.status, ran.lines[-1]) == (0, "1 rule deleted")
        assert (await console.run("resume --number 9 --yes")).status == 1
        assert (await console.run("resume --number 1 --dry-run")).lines[-1] == "1 rule would be deleted"
        ran = await console.run("resume --number 1 --yes --json")
        assert json.loads(ran.out) == {"schema": "zsmtp.queue-resume/1", "deleted": [1], "dry_run": False}
        assert (await console.run("resume --all --yes")).lines[-1] == "1 rule deleted"
        assert await console.queue.store.rules() == []
        assert (await console.run("rules")).err == "zsmtp queue rules: there are no rules\n"

    on(make, tmp_path, capsys, scenario)


def test_reroute(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run("reroute BÜCHER.example bob@example.net --yes --standing")
        assert ran.lines[0] == "1 recipient rerouted to xn--bcher-kva.example"
        assert (await one(console, "bob@example.net")).key == "xn--bcher-kva.example"
        (rule,) = await console.queue.store.rules()
        assert (rule.action, rule.argument) == ("reroute", "xn--bcher-kva.example")
        await console.run("reroute relay:backup.example example.com --yes")
        assert (await one(console, "dave@example.com")).key == "relay:backup.example"
        for key in ("nowhere at all", "relay:", "a..b", "relay:a b"):
            ran = await console.run(f"reroute '{key}' example.com --yes")
            assert (ran.status, ran.err) == (64, f"zsmtp queue: {key} is no domain, and not relay:NAME\n")

    on(make, tmp_path, capsys, scenario)


def test_fail_and_drop(make: Make, log: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        store = console.queue.store
        ran = await console.run("fail bob@example.net --yes --because 'spam run' --text 'The account is closed.'")
        assert (ran.status, ran.out) == (0, "1 recipient failed\n")
        ran = await console.run("drop example.com --yes --because 'test mail'")
        assert ran.out == "2 recipients dropped\n"
        assert await there(store) == []
        entries = [entry async for entry in store.ends(harness.Filter.parse("attempts=0"))]
        assert sorted(
            (entry.outcome, entry.reason, entry.by) for entry in entries if entry.outcome is Outcome.FAILED
        ) == [(Outcome.FAILED, "The account is closed.", "ann (uid 1000): spam run")]
        assert {(entry.reason, entry.by) for entry in entries if entry.outcome is Outcome.DROPPED} == {
            ("test mail", "ann (uid 1000)")
        }
        owed = [notice for _, notices in await store.owed(LATER, limit=10) for notice in notices]
        assert {(notice.address, notice.kind) for notice in owed} == {
            (b"bob@example.net", NoticeKind.FAILED),
            (b"carol@example.org", NoticeKind.FAILED),
        }
        lines = (await console.run("why bob@example.net")).lines
        assert lines[0] == "failed at 2025-11-28 12:01:00 (now) by ann (uid 1000): spam run"
        assert len(log) == 3

    on(make, tmp_path, capsys, scenario)


def test_a_standing_failure_says_nothing_of_its_reason_to_senders(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(console: Console) -> None:
        await console.run("fail example.net --yes --standing --because 'customer does not pay'")
        (rule,) = await console.queue.store.rules()
        assert rule.argument == "refused by the operator of this system"
        assert rule.reason == "customer does not pay"

    on(make, tmp_path, capsys, scenario)


@pytest.mark.parametrize(
    "verb", ["now", "at +2h", "priority 1", "hold", "release", "reroute a.example", "fail", "drop"]
)
def test_dry_runs_change_nothing(
    verb: str, make: Make, log: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(console: Console) -> None:
        before = await rows(console.queue.store)
        number = {"hold": 2, "release": 1}.get(verb, 3)
        ran = await console.run(f"{verb} --all --dry-run")
        assert ran.status == 0
        assert ran.lines[0].startswith(f"{number} recipient{'s' * (number > 1)} would be ")
        assert len(ran.lines) == 1 + number
        document = json.loads((await console.run(f"{verb} --all --dry-run --json")).out)
        assert document["schema"] == f"zsmtp.queue-{verb.split()[0]}/1"
        assert (document["matching"], document["changed"], document["dry_run"]) == (number, 0, True)
        assert await rows(console.queue.store) == before
        assert len(log) == 1  # of what filled the queue

    on(make, tmp_path, capsys, scenario)


def test_json_of_a_change(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        document = json.loads((await console.run("hold bob@example.net --yes --json --standing")).out)
        rule = document.pop("rule")
        assert (rule["number"], rule["action"], rule["until"], rule["by"]) == (1, "hold", None, "ann (uid 1000)")
        assert document == {
            "schema": "zsmtp.queue-hold/1",
            "matching": 1,
            "changed": 1,
            "dry_run": False,
            "filter": "to=bob@example.net state!=held",
        }
        ran = await console.run("drop nobody@example.net --yes --json")
        assert ran.status == 1
        assert json.loads(ran.out)["matching"] == 0

    on(make, tmp_path, capsys, scenario)


REFUSED = [
    ("drop", "which recipients? Give a filter, or --all"),
    ("drop --all bob@example.net --yes", "--all does not go with a filter"),
    ("drop bob@example.net", "there is no terminal to confirm on; --yes confirms it"),
    ("hold state=due --standing --yes", "state cannot be asked here"),
    ("suspend due<5 --yes", "due cannot be asked here"),
    ("suspend --site example.net --yes", "site cannot be asked here"),
    ("fail --site example.net --yes --for 1h", "site cannot be asked here"),
    ("at yesterday bob@example.net --yes", "not a time: yesterday"),
    ("at 2020-01-01 bob@example.net --yes", "this time is in the past"),
    ("at 25:00 bob@example.net --yes", "not a time: 25:00"),
    ("at +1000000000000h bob@example.net --yes", "not a time"),
    ("hold bob@example.net --for 0s --yes", "not a duration that passes"),
    ("hold bob@example.net --for 1h --until 14:00 --yes", "not allowed with argument"),
    ("priority 10 bob@example.net --yes", "not a priority from -9 to 9"),
    ("drop bob@example.net --yes --because 'a\nb'", "--because: at most 250 characters on one line"),
    ("fail bob@example.net --yes --text '" + "x" * 251 + "'", "--text: at most 250 characters on one line"),
]


@pytest.mark.parametrize(("words", "error"), REFUSED, ids=[words[:40] for words, _ in REFUSED])
def test_what_is_refused_changes_nothing(
    words: str, error: str, log: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(console: Console) -> None:
        before = await rows(console.queue.store)
        ran = await console.run(words)
        assert (ran.status, ran.out) == (64, "")
        assert error in ran.err
        assert await rows(console.queue.store) == before
        assert await console.queue.store.rules() == []
        assert len(log) == 1

    on(STORES["memory"], tmp_path, capsys, scenario)


def test_what_a_server_may_have_is_left(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        store = console.queue.store
        await store.submit([new("zoe@example.org", due=NOON)])
        (lease,) = await harness.take(store, "example.org")
        claimed = await harness.claim(store, lease, LATER)
        assert await store.mark(lease, harness.attempts(claimed))
        ran = await console.run("drop zoe@example.org --yes")
        assert (ran.status, ran.out) == (0, "0 recipients dropped\n")
        assert ran.err == "zsmtp queue drop: 1 recipient not changed: being delivered, or no longer in the queue\n"
        assert (await console.run("why zoe@example.org")).lines[0] == "being delivered, or next"

    on(make, tmp_path, capsys, scenario)


def test_a_large_change_is_made_in_pieces(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Between two pieces others write: here a message is submitted in the middle."""

    async def scenario(console: Console) -> None:
        store = console.queue.store
        await store.submit([new(*(f"u{n}@example.net" for n in range(1000))) for _ in range(3)])
        pieces: list[int] = []
        original = store.change

        async def change(*arguments: object) -> AsyncIterator[int]:
            async for number in original(*arguments):  # type: ignore[arg-type]
                pieces.append(number)
                await store.submit([new("late@example.com")])
                yield number

        store.change = change  # type: ignore[method-assign, assignment]
        ran = await console.run("hold example.net --yes")
        assert ran.out == "3,000 recipients held\n"
        assert sum(pieces) == 3000
        assert max(pieces) <= 1000
        assert await there(store, "to=late@example.com state=due") == ["late@example.com"] * len(pieces)

    on(make, tmp_path, capsys, scenario, fill=False)


@pytest.mark.parametrize(
    ("answer", "status", "left"), [("y\n", 0, []), ("n\n", 1, ["bob@example.net"]), ("\n", 1, ["bob@example.net"])]
)
def test_a_person_is_asked(answer: str, status: int, left: list[str], tmp_path: Path) -> None:
    """On a real terminal, in a process of its own."""

    path = tmp_path / "queue.db"

    async def fill() -> None:
        store = await harness.SQLiteStore.open(path)
        await store.submit([new("bob@example.net")])
        await store.close()

    async def look() -> list[str]:
        store = await harness.SQLiteStore.open(path)
        found = await there(store)
        await store.close()
        return found

    asyncio.run(fill())
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "zsmtp.cli.main", "queue", "drop", "example.net", "--queue", str(path)]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    while b"[y/N] " not in shown:
        shown += os.read(ours, 1000)
    assert b"1 recipient dropped? [y/N] " in shown
    os.write(ours, answer.encode())
    out, _ = process.communicate(timeout=LIMIT)
    os.close(ours)
    assert process.returncode == status
    assert out == ("1 recipient dropped\n" if status == 0 else "")
    assert asyncio.run(look()) == ([] if status == 0 else ["bob@example.net"])


def test_who_runs_it_is_known_without_a_terminal_and_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_terminal() -> str:
        raise OSError("no terminal")

    def account(uid: int) -> SimpleNamespace:
        if uid == 77:
            raise KeyError(uid)
        return SimpleNamespace(pw_name="mail")

    monkeypatch.setattr(queuechanging, "pwd", SimpleNamespace(getpwuid=account))
    for uid, by in ((8, "mail (uid 8)"), (77, "uid 77")):
        monkeypatch.setattr(queuechanging, "os", SimpleNamespace(getlogin=no_terminal, getuid=lambda uid=uid: uid))
        assert queuechanging.operator_name() == by
