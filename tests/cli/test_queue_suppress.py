"""``zsmtp queue suppress``: what it lists, adds, removes and reads from files, at every store."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tests.cli.queueconsole import Console, environment, on
from tests.queue.harness import NOON, STORES, Make, new, there


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return environment(monkeypatch)


@pytest.fixture(params=STORES.values(), ids=STORES)
def make(request: pytest.FixtureRequest) -> Make:
    store: Make = request.param
    return store


def test_add_list_and_remove(make: Make, log: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run("suppress add Bob@Example.net eve@example.net --because 'they called' --for 2h")
        assert (ran.status, ran.out, ran.err) == (0, "2 addresses suppressed\n", "")
        assert log[-1] == "queue suppress: 2 addresses of tenant '' suppressed, by ann (uid 1000): they called"
        await console.run("suppress add --tenant news bob@example.net --until 2025-11-29")
        ran = await console.run("suppress add bob@example.net ann@example.org")
        assert ran.out == "2 addresses suppressed, 1 of them already\n"
        console.queue.clock.now += 3600
        ran = await console.run("suppress list")
        assert ran.lines == [
            "AGO  LEFT TENANT       ADDRESS                       REASON",
            "1h   -    -            ann@example.org               ann (uid 1000)",
            "1h   -    -            bob@example.net               ann (uid 1000)",
            "1h   1h   -            eve@example.net               ann (uid 1000): they called",
            "1h   11h  news         bob@example.net               ann (uid 1000)",
        ]
        assert len((await console.run("suppress list --tenant news")).lines) == 2
        assert len((await console.run("suppress list BOB@example.net")).lines) == 3
        ran = await console.run("suppress list nobody@example.net")
        assert (ran.status, ran.err) == (1, "zsmtp queue suppress: no address of these is suppressed\n")
        assert (
            await console.run("suppress remove bob@example.net x@example.net")
        ).out == "1 address no longer suppressed\n"
        assert log[-1] == "queue suppress: 1 address of tenant '' no longer suppressed, by ann (uid 1000)"
        assert (await console.run("suppress remove bob@example.net")).status == 1
        ran = await console.run("suppress remove --tenant news bob@example.net --json")
        assert json.loads(ran.out) == {"schema": "zsmtp.queue-suppress/1", "tenant": "news", "removed": 1}
        await console.queue.store.submit([new("ANN@example.org")])
        assert await there(console.queue.store, "to=ann@example.org") == []

    on(make, tmp_path, capsys, scenario, fill=False)


def test_lists_are_read_from_files(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "list"
    file.write_bytes(
        b"# unsubscribed\n\nbob@example.net\n eve@example.net , told us, twice\ncarl@example.net\tby letter\r\n"
        b'not an address\n\xff\xfe@example.net\n{"address": 1}\n{"address": "x@example.net"}\n'
        b'{"address": "y@example.net", "at": true}\n{]\n[1]\n'
        b'{"address": "z@example.net", "at": 5, "until": 4e9, "tenant": "t", "reason": "r", "source": "s"}\n'
        + b"x" * 20_000
        + b"@example.net\nlast@example.net"
    )

    async def scenario(console: Console) -> None:
        ran = await console.run(f"suppress import {file} --because usual")
        assert (ran.status, ran.out) == (65, "5 addresses suppressed\n")
        assert [line.partition(": ")[2].partition(", line ")[2].partition(":")[0] for line in ran.err.splitlines()] == [
            "6",
            "7",
            "8",
            "9",
            "10",
            "11",
            "12",
            "14",
        ]
        listed = (await console.run("suppress list --json")).out
        found = [json.loads(line) for line in listed.splitlines()]
        assert [(one["address"], one["reason"], one["source"], one["at"]) for one in found] == [
            ("bob@example.net", "usual", "ann (uid 1000)", NOON),
            ("carl@example.net", "by letter", "ann (uid 1000)", NOON),
            ("eve@example.net", "told us, twice", "ann (uid 1000)", NOON),
            ("last@example.net", "usual", "ann (uid 1000)", NOON),
            ("z@example.net", "r", "s", 5),
        ]
        assert (found[-1]["tenant"], found[-1]["until"]) == ("t", 4e9)
        await console.run("suppress remove bob@example.net carl@example.net eve@example.net")
        monkeypatch.setattr("sys.stdin", io.StringIO(listed))
        ran = await console.run("suppress import - --json")
        facts = {"tenant": "", "suppressed": 5, "new": 3, "not_read": 0}
        assert (ran.status, json.loads(ran.out)) == (0, {"schema": "zsmtp.queue-suppress/1", **facts})
        assert (await console.run("suppress list --json")).out == listed

    on(make, tmp_path, capsys, scenario, fill=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("suppress add", "which address?"),
        ("suppress import", "which file?"),
        ("suppress remove", "which address?"),
        ("suppress add nobody", "address"),
        ("suppress add a@b.example --until 2001-01-01", "this time is in the past"),
        ("suppress list --because x", "for add and import"),
        ("suppress remove a@b.example --for 2h", "for add and import"),
        ("suppress import /nowhere/list", "No such file"),
    ],
)
def test_what_cannot_be_meant(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(console: Console) -> None:
        ran = await console.run(text)
        assert ran.status in (64, 66)
        assert words in ran.err
        assert ran.out == ""

    on(STORES["memory"], tmp_path, capsys, scenario, fill=False)
