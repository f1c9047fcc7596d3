"""``zsmtp queue`` on SQLite files, from the command line: which file, what is no queue, help, and long lists."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.queueconsole import environment
from tests.queue.harness import DAY, SQLiteStore, new, to

from zsmtp.cli.main import main
from zsmtp.cli.queue import VERBS, verb_parser


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch)
    monkeypatch.delenv("ZSMTP_QUEUE", raising=False)


def make_queue(path: Path, recipients: int = 1) -> None:
    """A queue of one message."""

    async def fill() -> None:
        store = await SQLiteStore.open(path)
        now = time.time()
        some = [to(f"user{n}@example.net") for n in range(recipients)]
        await store.submit([new(*some, due=now, expires=now + 5 * DAY)])
        await store.close()

    asyncio.run(fill())


def test_the_configuration_names_the_queue_and_its_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = tmp_path / "queue.db", tmp_path / "serve.toml"
    make_queue(path)
    file.write_text(f"[queue]\npath = '{path}'\n[queue.retry.schedules]\nother = '7m then 1h'\n")
    for words in (["why", "--config", str(file)], [f"--config={file}", "why"]):
        assert main(["queue", *words, "example.net"]) == 0
        assert "attempt 2 follows after 7m" in capsys.readouterr().out.replace("\n               ", "")
    assert main(["queue", "count", "--config", str(file), "--queue", str(tmp_path / "other.db")]) == 66
    assert main(["queue", "count", "--config", str(tmp_path / "missing.toml")]) == 66
    file.write_text("[queue.retry]\nexpires = '5d'\n")
    assert main(["queue", "count", "--config", str(file)]) == 78
    assert "queue.retry.expires: there is no such key; is expire meant?" in capsys.readouterr().err


def test_the_queue_is_named_in_four_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue.db"
    make_queue(path)
    for words in (["--queue", str(path)], ["--queue", f"sqlite://{path}"]):
        assert main(["queue", "count", *words]) == 0
        assert capsys.readouterr().out == "1\n"
    for before in (["--queue", str(path), "count"], [f"--queue={path}", "count"]):
        assert main(["queue", *before]) == 0
        assert capsys.readouterr().out == "1\n"
    monkeypatch.setenv("ZSMTP_QUEUE", str(path))
    assert main(["queue", "count"]) == 0
    assert capsys.readouterr().out == "1\n"
    monkeypatch.delenv("ZSMTP_QUEUE")
    monkeypatch.setattr("zsmtp.queue.location.DEFAULT", str(path))
    assert main(["queue", "count"]) == 0
    assert capsys.readouterr().out == "1\n"


def _directory(path: Path) -> None:
    path.mkdir()


def _text(path: Path) -> None:
    path.write_text("not a database, but longer than its header")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _damaged(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda path: None, 66, "No such file or directory"),
        (_directory, 65, "not a queue"),
        (_text, 65, "not a queue"),
        (_empty, 65, "not a queue"),
        (_other, 65, "not a queue"),
        (_pipe, 65, "not a queue"),
        (_damaged, 65, "not a queue"),
    ],
)
@pytest.mark.parametrize("verb", ["list", "why a@example.net", "hold --all --yes", "check", "top"])
def test_what_is_no_queue_is_left_alone(
    make: Callable[[Path], None], status: int, words: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil\x1b[2J.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    assert main(["queue", *verb.split(), "--queue", str(path)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("zsmtp queue: ")
    assert words in err
    assert "evil\\x1b[2J.db" in err
    assert (path.read_bytes() if path.is_file() else None) == before
    assert len(list(tmp_path.iterdir())) == (before is not None or path.exists())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_queue_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    make_queue(path)
    path.chmod(0)
    assert main(["queue", "list", "--queue", str(path)]) == 77


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("postgresql://host", "names no database"),
        ("sqlite://relative.db", "with three slashes"),
        ("x:\x1b", "x:\\x1b is none of"),
    ],
)
def test_other_urls_are_refused(where: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "list", "--queue", where]) == 78
    assert words in capsys.readouterr().err


def test_of_a_queue_that_is_not_there_it_is_said_what_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["queue", "list", "--queue", f"{tmp_path}/mail.db"]) == 66
    words = f"zsmtp serve --queue {tmp_path}/mail.db makes it, and so does zsmtp.Queue.open"
    assert capsys.readouterr().err == f"zsmtp queue: {tmp_path}/mail.db: No such file or directory; {words}\n"


def test_a_queue_in_memory_is_nobody_else_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "list", "--queue", "memory:"]) == 64
    assert "nothing to see" in capsys.readouterr().err


def test_import_is_a_verb_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["queue", "import", "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: zsmtp queue import")


def test_help_names_every_verb_and_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["queue", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"{name} " in shown
        assert verb.summary.split()[0] in shown
        with pytest.raises(SystemExit) as ended:
            main(["queue", name, "--help"])
        assert ended.value.code == 0
        assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["eat"], ["--json"]])
def test_no_verb_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["queue", *words])
    assert ended.value.code == 64
    assert capsys.readouterr().err.startswith("zsmtp queue: ")


CHANGING = ("zsmtp.cli.queuechanging", "zsmtp.cli.queuemove")


def test_every_verb_that_changes_asks_and_can_be_tried() -> None:
    for name, verb in VERBS.items():
        options = {option for action in verb_parser(name)._actions for option in action.option_strings}
        assert ({"--yes", "--dry-run", "--because"} <= options) == (verb.module in CHANGING), name


def test_a_long_list_takes_no_more_memory_than_a_short_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue.db"
    make_queue(path, 10_000)

    class Sink:
        encoding = "utf-8"
        lines = 0

        def write(self, text: str) -> int:
            Sink.lines += text.count("\n")
            return len(text)

        def flush(self) -> None:
            """Nothing is kept."""

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stdout", Sink())
    peaks = []
    for limit in ("1000", "1000", "10000"):
        tracemalloc.start()
        assert main(["queue", "list", "--queue", str(path), "--limit", limit]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert Sink.lines == 12_000 + 3
    assert peaks[2] < peaks[1] + 2_000_000, peaks


def test_a_store_that_fails_is_a_temporary_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue.db"
    make_queue(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("ALTER TABLE zsmtp_message RENAME TO zsmtp_gone")
    connection.close()
    assert main(["queue", "list", "--queue", str(path)]) == 75
    assert "no such table" in capsys.readouterr().err


def test_json_goes_through_a_pipe_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "queue.db"
    make_queue(path, 1500)
    assert main(["queue", "list", "--json", "--queue", str(path)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["number"] for row in rows] == list(range(1500))
