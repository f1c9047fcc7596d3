"""``zsmtp queue`` on several queues: what all say together, which one an id is of, what one that is down does."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from tests.cli.queueconsole import environment
from tests.queue.harness import DAY, new
from tests.support import virtualtime
from tests.support.postgres import cluster, needs_postgres

from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.main import main
from zsmtp.cli.queueshards import AGAIN, ANSWER, OPENING, Shard, Shards, open_shards, place_of
from zsmtp.cli.queuestore import open_store
from zsmtp.errors import ConfigError, QueueUnavailable
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import to_text
from zsmtp.queue.memory import MemoryStore
from zsmtp.queue.operators import Row
from zsmtp.queue.sqlite.store import SQLiteStore
from zsmtp.queue.store import QueueStore
from zsmtp.server.serviceconfig import service_config


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("ZSMTP_QUEUE", raising=False)
    return environment(monkeypatch)


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


class Fleet:
    """Two queues in files, shards 0 and 1, and the name of one that is down."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.paths = [str(folder / "a.db"), str(folder / "b.db")]
        self.down = f"postgresql:///mail?host={folder}"
        self.down_name = self.down
        self.ids: list[str] = []
        """Of three messages, the oldest first: to ann in shard 0, to ben in shard 1, to cat and dan in shard 0."""
        self._capsys = capsys
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        now = time.time() - 10
        self.stores = [await SQLiteStore.open(path, shard=n, clock=lambda: now) for n, path in enumerate(self.paths)]
        for shard, names in ((0, ["ann"]), (1, ["ben"]), (0, ["cat", "dan"])):
            some = [f"{name}@{name}.example" for name in names]
            (accepted,) = await self.stores[shard].submit([new(*some, due=now, expires=now + 5 * DAY)])
            self.ids.append(to_text(accepted.id, shard))
            now += 1
        for store in self.stores:
            await store.close()

    def run(self, text: str, *, down: bool = False) -> Ran:
        """Run ``zsmtp queue TEXT`` on both, and with ``down`` also on the one that does not answer."""
        verb, *words = text.split()
        queues = [f"--queue={path}" for path in [*self.paths, *([self.down] if down else [])]]
        self._capsys.readouterr()
        status = main(["queue", verb, *queues, *words])
        return Ran(status, *self._capsys.readouterr())

    def listed(self, text: str = "list", *, down: bool = False) -> list[str]:
        """Whom a list has."""
        found = self.run(f"{text} --json", down=down)
        return [json.loads(line)["recipient"].partition("@")[0] for line in found.out.splitlines()]

    def held(self) -> list[str]:
        """Who is held."""
        return self.listed("list --state held")


@pytest.fixture
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fleet:
    return Fleet(tmp_path, capsys)


# -------------------------------------------------------------------- together


def test_lists_are_merged_by_age_and_cut_as_one(fleet: Fleet) -> None:
    assert fleet.listed() == ["ann", "ben", "cat", "dan"]
    assert fleet.listed("list --limit 3") == ["ann", "ben", "cat"]
    ran = fleet.run("list")
    assert (ran.status, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["ID", *fleet.ids[:2], fleet.ids[2], fleet.ids[2]]
    assert [text[:2] for text in fleet.ids] == ["00", "01", "00"]


def test_counts_are_added(fleet: Fleet) -> None:
    assert fleet.run("count").out == "4\n"
    assert fleet.run("count --by state").out == "4  due\n"
    assert fleet.run("count --by shard").out.split("\n")[:2] == [f"3  0 {fleet.paths[0]}", f"1  1 {fleet.paths[1]}"]
    document = json.loads(fleet.run("count --by site --json").out)
    assert document["groups"] == {f"{name}.example": 1 for name in ("ann", "ben", "cat", "dan")}
    assert (document["total"], document["unanswered"]) == (4, [])


def test_tables_are_of_all(fleet: Fleet) -> None:
    lines = fleet.run("shape").out.splitlines()
    assert lines[1].split()[:2] == ["(all)", "4"]
    assert len(lines) == 6
    top = json.loads(fleet.run("top --json").out)
    assert (top["states"], top["counters"]["accepted"], top["problem"]) == ({"due": 4}, 4, "")
    assert sorted(one["site"] for one in top["sites"]) == ["ann.example", "ben.example", "cat.example", "dan.example"]
    assert "4 recipients" in fleet.run("top").out


def test_messages_are_told_from_each_other(fleet: Fleet) -> None:
    shown = json.loads(fleet.run("show *@*.example --json").out)["messages"]
    assert [one["id"] for one in shown] == fleet.ids
    assert [len(one["queued"]) for one in shown] == [1, 1, 2]
    assert fleet.run("show *@*.example --limit 2").out.count("in the queue") == 2
    why = json.loads(fleet.run("why *@*.example --json").out)["recipients"]
    assert [one["id"] for one in why] == [*fleet.ids, fleet.ids[2]]
    assert {one["constraint"] for one in why} == {"no node"}
    assert fleet.run("why *@*.example --limit 1").err == (
        "zsmtp queue why: only the first 1 are shown; --limit shows more\n"
    )
    assert [
        line.split()[0] for line in fleet.run("attempts *@*.example").out.splitlines() if line[:1] == "0"
    ] == fleet.ids


def test_what_one_queue_alone_finds_is_told_with_its_name(fleet: Fleet) -> None:
    assert fleet.run("check").out == "nothing is wrong with the queue\n"
    file = sqlite3.connect(fleet.paths[1])
    file.execute("DELETE FROM zsmtp_content")
    file.commit()
    file.close()
    ran = fleet.run("check")
    assert (ran.status, ran.out) == (1, f"shard 1 ({fleet.paths[1]}): message {fleet.ids[1]} has no content\n")


def test_addresses_are_suppressed_in_all(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "suppress", f"--queue={fleet.paths[1]}", "add", "x@x.example"]) == 0
    assert "2 addresses suppressed" in fleet.run("suppress add x@x.example y@y.example").out
    listed = fleet.run("suppress list --json").out.splitlines()
    assert [json.loads(line)["address"] for line in listed] == ["x@x.example", "y@y.example"]
    assert fleet.run("suppress remove x@x.example y@y.example").out == "2 addresses no longer suppressed\n"
    capsys.readouterr()
    for path in fleet.paths:
        assert main(["queue", "suppress", f"--queue={path}", "list"]) == 0
    assert capsys.readouterr().out == ""


# -------------------------------------------------------------------- changing


def test_a_change_is_made_in_all(fleet: Fleet, log: list[str]) -> None:
    ran = fleet.run("hold --all --dry-run")
    assert ran.out.splitlines()[0] == "4 recipients would be held"
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == [*fleet.ids, fleet.ids[2]]
    assert fleet.held() == []
    assert fleet.run("hold --all --yes").out == "4 recipients held\n"
    assert fleet.held() == ["ann", "ben", "cat", "dan"]
    assert log == ["queue hold: 4 recipients held (state!=held), by ann (uid 1000)"]
    assert json.loads(fleet.run("release ben.example --yes --json").out)["changed"] == 1
    assert fleet.held() == ["ann", "cat", "dan"]
    assert fleet.run("drop ben.example cat.example --yes").status == 1  # no recipient has both domains
    assert fleet.run("drop --domain ben.example,cat.example --yes").out == "2 recipients dropped\n"
    assert fleet.listed() == ["ann", "dan"]
    assert fleet.listed("ends") in (["ben", "cat"], ["cat", "ben"])


def test_rules_stand_in_all_and_each_queue_numbers_its_own(fleet: Fleet, log: list[str]) -> None:
    assert main(["queue", "suspend", f"--queue={fleet.paths[1]}", "z.example", "--yes"]) == 0
    ran = fleet.run("suspend ben.example --yes")
    assert ran.out == (
        "1 recipient suspended, and later mail\n"
        f"zsmtp queue resume --queue {fleet.paths[0]} --number 1 ends it\n"
        f"zsmtp queue resume --queue {fleet.paths[1]} --number 2 ends it\n"
    )
    added = f"added rule 2 of shard 1 ({fleet.paths[1]}) (suspend domain=ben.example)"
    assert log[-1] == f"queue suspend: {added}, by ann (uid 1000)"
    shown = json.loads(fleet.run("rules --json").out)["rules"]
    assert [(one["shard"], one["number"]) for one in shown] == [(0, 1), (1, 1), (1, 2)]
    assert fleet.run("rules").out.count("in  shard 1\n") == 2
    for text in ("rules --delete 1", "resume --number 1", "release --rule 1"):
        ran = fleet.run(f"{text} --yes")
        assert (ran.status, ran.err) == (
            64,
            "zsmtp queue: each queue numbers its own rules; name the one that is meant with --queue URL\n",
        )
    ran = fleet.run("resume ben.example --yes --json")
    assert json.loads(ran.out)["deleted"] == [{"shard": 0, "number": 1}, {"shard": 1, "number": 2}]
    assert len(json.loads(fleet.run("rules --json").out)["rules"]) == 1
    assert len(json.loads(fleet.run("hold ann.example --for 2h --yes --json").out)["rules"]) == 2


# ---------------------------------------------------------------------- by id


def test_an_id_goes_to_its_shard_and_nobody_waits_for_the_others(fleet: Fleet) -> None:
    for verb in ("why", "show", "attempts", "list", "count"):
        ran = fleet.run(f"{verb} {fleet.ids[1]}", down=True)
        assert (ran.status, ran.err) == (0, ""), verb
    assert fleet.run(f"body {fleet.ids[1]}", down=True).out == "Subject: x\r\n\r\nhello\r\n"
    assert fleet.run(f"hold {fleet.ids[1]} --yes", down=True).out == "1 recipient held\n"
    assert fleet.held() == ["ben"]
    assert fleet.listed(f"list --id {fleet.ids[0]},{fleet.ids[1]}", down=True) == ["ann", "ben"]


def test_an_id_of_no_shard_that_is_known(fleet: Fleet) -> None:
    strange = f"07{fleet.ids[1][2:]}"
    for verb in ("why", "body"):
        ran = fleet.run(f"{verb} {strange}")
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith(f"zsmtp queue {verb}: no queue of these is shard 7\n")
        ran = fleet.run(f"{verb} {strange}", down=True)  # which may be it
        assert (ran.status, ran.out, ran.err) == (75, "", "zsmtp queue: no queue that answers is shard 7\n")
    ran = fleet.run(f"list --id {fleet.ids[1]},{strange}", down=True)
    assert (ran.status, fleet.ids[1] in ran.out) == (69, True)
    assert fleet.run("body nonsense").status == 64


# ------------------------------------------------------------------ what is down


def test_the_answers_of_the_others_count(fleet: Fleet, log: list[str]) -> None:
    ran = fleet.run("count", down=True)
    assert (ran.status, ran.out) == (69, "4\n")
    assert ran.err.startswith(f"zsmtp queue count: {fleet.down_name} is left out: ")
    assert ran.err.count("\n") == 1
    assert ran.err.count(fleet.down_name) == 1
    (lost,) = json.loads(fleet.run("count --json", down=True).out)["unanswered"]
    assert lost["queue"] == fleet.down_name
    assert "No such file" in lost["problem"]
    assert fleet.run("list", down=True).out.count("\n") == 5
    assert "left out" in json.loads(fleet.run("top --json", down=True).out)["problem"]
    assert fleet.run("count nobody.example", down=True).status == 69
    ran = fleet.run("hold --all --yes", down=True)
    assert (ran.status, ran.out) == (69, "4 recipients held\n")
    assert fleet.held() == ["ann", "ben", "cat", "dan"]


def test_a_queue_that_is_not_there_is_left_out_and_wrong_usage_is_not(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no queue\n")
    for name, problem in (("missing.db", "No such file or directory"), ("text", "not a queue")):
        ran = fleet.run(f"count --queue {tmp_path / name}")
        assert (ran.status, ran.out) == (69, "4\n")
        assert ran.err.startswith(f"zsmtp queue count: {tmp_path / name} is left out: {problem}")
    assert fleet.run("count --queue memory:").status == 64
    assert fleet.run("count --queue nonsense:x").status == 78


def test_no_queue_at_all(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing.db")
    assert main(["queue", "count", f"--queue={fleet.down}", f"--queue={missing}"]) == 75
    err = capsys.readouterr().err
    assert err.endswith("zsmtp queue: no queue answers\n")
    assert fleet.down_name in err
    assert missing in err


def test_queues_that_ids_do_not_tell_apart(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_make(tmp_path / "c.db", 1))
    (tmp_path / "d.db").symlink_to(fleet.paths[1])
    for other, words in (
        (fleet.paths[1], "--queue: the same queue is named twice"),
        (
            str(tmp_path / "c.db"),
            f"{fleet.paths[1]} and {tmp_path / 'c.db'} are both shard 1: ids are ambiguous;",
        ),
        (str(tmp_path / "d.db"), f"{fleet.paths[1]} and {tmp_path / 'd.db'} are the same queue"),
    ):
        assert main(["queue", "count", f"--queue={fleet.paths[1]}", f"--queue={other}"]) == 64
        assert words in capsys.readouterr().err


def test_queues_that_are_down_are_told_apart(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    again = [f"--queue={fleet.down}&connect_timeout={seconds}" for seconds in (2, 3)]
    assert main(["queue", "count", f"--queue={fleet.paths[0]}", f"--queue={fleet.down}", *again]) == 69
    ran = capsys.readouterr()
    assert ran.out == "3\n"
    for name in (fleet.down_name, f"{fleet.down_name} (3)", f"{fleet.down_name} (4)"):
        assert f"zsmtp queue count: {name} is left out: " in ran.err


def test_a_queue_that_says_nothing_keeps_nobody(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    says = threading.Event()
    monkeypatch.setattr("zsmtp.cli.queuestore._check_database", lambda url: says.wait())
    try:
        assert fleet.run(f"count {fleet.ids[1]}", down=True) == Ran(0, "1\n", "")
    finally:
        says.set()


def test_queues_are_opened_in_time_or_left_out(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    working = {"a", "b"}  # what is to be done in real time, by threads

    @asynccontextmanager
    async def opening(url: str) -> AsyncIterator[QueueStore]:
        if url == fleet.down:
            await asyncio.Event().wait()
        async with open_store(url) as store:
            working.discard(Path(url).stem)
            yield store

    async def main(loop: virtualtime.VirtualLoop) -> None:
        notes: list[str] = []
        begun = loop.time()
        async with open_shards([*fleet.paths, fleet.down], None, notes.append) as shards:
            assert loop.time() - begun == OPENING
            assert notes == [f"{fleet.down_name} is left out: not open in 15 s"]
            assert [one.name for one in shards.found] == fleet.paths
            working.add("closing")

    monkeypatch.setattr("zsmtp.cli.queueshards.open_store", opening)
    virtualtime.run(main, lambda: bool(working))


async def _make(path: Path, shard: int) -> None:
    await (await SQLiteStore.open(path, shard=shard)).close()


def test_a_move_is_of_one_queue(fleet: Fleet, tmp_path: Path) -> None:
    ran = fleet.run(f"move {tmp_path / 'c.db'} --all --yes")
    assert (ran.status, ran.err) == (64, "zsmtp queue: move is about one queue; name it with --queue URL\n")


# --------------------------------------------------------------- configuration


def test_the_configuration_names_all_shards(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(f"[queue]\nurl = 'sqlite://{fleet.paths[0]}'\nshards = {json.dumps(fleet.paths)}\n")
    assert main(["queue", "count", f"--config={file}"]) == 0
    assert main(["queue", f"--config={file}", "count", f"--queue={fleet.paths[1]}"]) == 0
    assert main(["queue", f"--queue={fleet.paths[0]}", f"--queue={fleet.paths[1]}", "count"]) == 0
    assert capsys.readouterr().out == "4\n1\n4\n"


def test_what_shards_may_be() -> None:
    for table, words in (
        ({"shards": "a.db"}, "queue.shards: a list of URLs is expected"),
        ({"url": "a.db", "shards": ["a.db", 1]}, "queue.shards: a list of URLs is expected"),
        ({"url": "a.db", "shards": ["a.db", "sqlite:x"]}, "queue.shards[1]: queue: "),
        ({"url": "a.db", "shards": ["a.db", "b.db", "a.db"]}, "queue.shards: a queue is named twice"),
        ({"url": "a.db", "shards": ["b.db"]}, "queue.shards: queue.url is to be one of them"),
        ({"shards": ["b.db"]}, "queue.shards: queue.url is to be one of them"),
    ):
        with pytest.raises(ConfigError) as raised:
            service_config({"queue": table})
        assert str(raised.value).startswith(words)
    assert service_config({"queue": {"path": "a.db", "shards": ["b.db", "a.db"]}}).shards == ("b.db", "a.db")


@needs_postgres
def test_databases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urls = [cluster().database(template=False) for _ in range(2)]
    both = [f"--queue={url}" for url in urls]
    assert main(["queue", "migrate", *both, "--shard", "3"]) == 64
    assert "--shard is for one queue" in capsys.readouterr().err
    for number, url in enumerate(urls):
        assert main(["queue", "migrate", "--queue", url, "--shard", str(number)]) == 0
    assert main(["queue", "migrate", *both]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:]] == ["0)", "1)"]
    for number, url in enumerate(urls):
        with psycopg.connect(url) as connection:
            connection.execute(
                "INSERT INTO zsmtp_node VALUES (%s, %s, 'host', 1, 0, now() + '1 hour', false, zsmtp_incarnation())",
                (number, f"node-{number}"),
            )
    assert main(["queue", "nodes", *both]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[-2:] == ["SHARD", "STATE"]
    assert [(line.split()[0], line.split()[-2]) for line in lines] == [("node-0", "0"), ("node-1", "1")]
    assert main(["queue", "nodes", *both, "--json"]) == 0
    assert [node["shard"] for node in json.loads(capsys.readouterr().out)["nodes"]] == [0, 1]
    assert main(["queue", "drain", *both, "node-1"]) == 0
    assert capsys.readouterr().out.startswith("1 node asked to leave")
    assert main(["queue", "drain", *both, "node-7"]) == 1
    assert main(["queue", "drain", *both, f"--queue=postgresql:///mail?host={tmp_path}", "node-7"]) == 69


@needs_postgres
def test_the_folder_of_large_bodies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, folder = cluster().database(template=False), tmp_path / "bodies"

    def migrate(*options: str) -> tuple[int, str]:
        status = main(["queue", "migrate", "--queue", url, *options])
        said = capsys.readouterr()
        return status, said.out + said.err

    assert migrate("--bodies-above", "8M")[0] == 64
    status, words = migrate("--bodies", str(folder))
    assert (status, f"{folder}, cannot be used on this machine" in words) == (75, True)
    folder.mkdir()
    status, words = migrate("--bodies", str(folder))
    assert (status, words.splitlines()[1].partition(": ")[2]) == (
        0,
        f"what exceeds 4194304 octets of a body goes to {folder}",
    )
    assert "what exceeds 8388608 octets" in migrate("--bodies-above", "8M")[1]
    said = json.loads(migrate("--json")[1])
    assert (said["bodies"], said["bodies_above"]) == (str(folder), 8 << 20)
    assert f"no new bodies go to {folder}" in migrate("--bodies-above", "none")[1]
    assert json.loads(migrate("--json")[1])["bodies_above"] is None
    for options, words in (
        (["--bodies", ""], "no folder"),
        (["--bodies", "bodies"], "needs an absolute path"),
        (["--bodies-above", "1000K"], "1M is the least, or none"),
        (["--bodies", str(folder), "--queue", f"{url}&dbname=x"], "--bodies is for one queue"),
    ):
        status, said = migrate(*options)
        assert (status, words in said) == (64, True), said
    for size in ("", "0", "4X", "-1M", "4 M", "4MB", "nothing"):
        with pytest.raises(SystemExit):
            migrate(f"--bodies-above={size}")
        assert "neither a size" in capsys.readouterr().err


# -------------------------------------------------------- those that stand still


class Still(MemoryStore):
    """A store that stops to answer after some of its rows."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.answers = answers

    def select(self, wanted: Filter, **options: object) -> AsyncIterator[Row]:  # type: ignore[override]
        return self._some(super().select(wanted, **options))  # type: ignore[arg-type]

    async def _some(self, rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
        async for row in rows:
            if not self.answers:
                await asyncio.Event().wait()
            self.answers -= 1
            yield row


def shards_of(first: MemoryStore, second: MemoryStore, notes: list[str]) -> Shards:
    return Shards([Shard("a", first), Shard("b", second)], notes.append, several=True)


async def filled(store: MemoryStore, *names: str) -> None:
    for name in names:
        await store.submit([new(f"{name}@example.net")])


async def names_of(shards: Shards) -> list[str]:
    return [
        row.recipient.address.decode().partition("@")[0]
        async for _, row in shards.merged(lambda store: store.select(Filter()), place_of)
    ]


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_queue_that_stands_still_is_left_out_in_time(answers: int) -> None:
    async def main() -> None:
        stores, notes = (Still(answers), MemoryStore()), list[str]()
        for name in ("a1", "b1", "a2", "b2", "a3", "b3"):
            await filled(stores[name[0] == "b"], name)
        shards = shards_of(*stores, notes)
        begun = asyncio.get_running_loop().time()
        wanted = [name for name in ("a1", "b1", "a2", "b2", "a3", "b3") if name[0] == "b" or int(name[1]) <= answers]
        assert sorted(await names_of(shards)) == sorted(wanted)
        assert asyncio.get_running_loop().time() - begun == ANSWER
        assert notes == ["a is left out: no answer in 60 s"]
        assert shards.lost == {"a": "no answer in 60 s"}
        assert await names_of(shards) == ["b1", "b2", "b3"]  # it is not asked again

    virtualtime.run(lambda loop: main())


def test_a_queue_that_was_left_out_counts_again_once_it_answers() -> None:
    class Down(MemoryStore):
        problem = "the server is down"

        async def counters(self) -> Mapping[str, int]:
            if self.problem == "hangs":
                await asyncio.Event().wait()
            if self.problem:
                raise QueueUnavailable(f"queue a: {self.problem}")
            return await super().counters()

    async def main() -> None:
        down, notes = Down(), list[str]()
        shards = shards_of(down, MemoryStore(shard=1), notes)
        rejoining = asyncio.create_task(shards.rejoin())
        assert [one.name for one, _ in await shards.each(lambda one: one.store.counters())] == ["b"]
        await asyncio.sleep(AGAIN + 1)
        down.problem = "hangs"
        await asyncio.sleep(AGAIN + 1)
        assert (shards.lost, [one.name for one in shards.found]) == ({"a": "the server is down"}, ["b"])
        down.problem = ""
        await asyncio.sleep(ANSWER + AGAIN)
        assert (shards.lost, [one.name for one in shards.found]) == ({}, ["a", "b"])
        assert notes == ["a is left out: the server is down", "a answers again"]
        rejoining.cancel()
        await asyncio.wait([rejoining])

    virtualtime.run(lambda loop: main())


def test_queues_are_asked_side_by_side() -> None:
    async def main() -> None:
        notes: list[str] = []
        shards = shards_of(MemoryStore(), MemoryStore(), notes)
        begun, there = asyncio.get_running_loop().time(), asyncio.Barrier(2)

        async def meet(shard: Shard) -> str:
            await there.wait()
            return shard.name

        assert [name for _, name in await shards.each(meet)] == ["a", "b"]

        async def never(shard: Shard) -> None:
            await asyncio.Event().wait()

        with pytest.raises(CommandFailed, match="no queue answers"):
            await shards.each(never)
        assert asyncio.get_running_loop().time() - begun == ANSWER

    virtualtime.run(lambda loop: main())


def test_the_errors_of_one_queue_are_its_own() -> None:
    async def main() -> None:
        notes: list[str] = []
        shards = shards_of(MemoryStore(), MemoryStore(), notes)

        async def fails(shard: Shard) -> str:
            if shard.name == "a":
                raise QueueUnavailable("queue a: counting: the disk is gone")
            return shard.name

        assert [name for _, name in await shards.each(fails)] == ["b"]
        assert notes == ["a is left out: counting: the disk is gone"]
        with pytest.raises(QueueUnavailable):  # of one queue they are those of the command
            await Shards.single(Shard("a", MemoryStore())).each(fails)

    virtualtime.run(lambda loop: main())
