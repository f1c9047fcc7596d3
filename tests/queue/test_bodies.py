"""Large bodies in a shared folder: no death loses one, no damage goes unseen, and what nobody needs is removed."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.queue.harness import (
    DAY,
    NOON,
    FolderHarness,
    PostgresHarness,
    attempts,
    claim,
    content_of,
    ended,
    findings,
    lease_of,
    new,
    play,
    rows,
    swept,
    there,
)
from tests.support.postgres import cluster, needs_postgres

from zsmtp.errors import Conflict, ContentUnavailable, QueueError, QueueFull, QueueUnavailable
from zsmtp.queue.filter import Filter
from zsmtp.queue.limits import CHUNK, PART_RECIPIENTS, UPLOAD_WAIT
from zsmtp.queue.operators import Change
from zsmtp.queue.postgres import bodies, bodyfiles, folder
from zsmtp.queue.postgres.bodies import ABOVE, LEAST, configure, divided, setting_of
from zsmtp.queue.postgres.caller import submit_in
from zsmtp.queue.postgres.folder import MARKER, BodyFolder, NewBody, OpenBody, new_name
from zsmtp.queue.postgres.schema import meta_of
from zsmtp.queue.postgres.store import PostgresStore
from zsmtp.queue.programs import named_release

pytestmark = needs_postgres

LARGE = bytes(range(256)) * (13 << 10) + b"the end"  # 3.25 MiB
Scenario = Callable[[FolderHarness], Awaitable[None]]


def played(scenario: Scenario, tmp_path: Path) -> None:
    play(FolderHarness(tmp_path), scenario)  # type: ignore[arg-type]


def files(queue: FolderHarness) -> list[Path]:
    """The bodies in the folder."""
    return [path for path in queue.bodies.iterdir() if path.name != MARKER]


async def read_back(store: PostgresStore) -> list[bytes]:
    """The contents of all messages."""
    messages = {row.message.id: row.message for row in await rows(store)}
    return [await content_of(store, message) for message in messages.values()]


async def at_the_end(queue: FolderHarness) -> None:
    """End all that is there, and sweep."""
    _ = [number async for number in queue.store.change(Filter(), Change(end="dropped"))]
    await swept(queue.store, queue.now())


# --------------------------------------------------------------------- the rule


@given(st.integers(0, 40), st.one_of(st.none(), st.integers(4, 40)), st.integers(0, 40))
def test_the_rule_divides_a_content_once(start: int, first: int | None, number: int) -> None:
    chunks = [(place, bytes([place])) for place in range(start, start + number)]
    in_rows, rest = divided(chunks, first)
    assert [data for _, data in in_rows] + rest == [data for _, data in chunks]
    assert all(first is None or place < first for place, _ in in_rows)
    assert not rest or (first is not None and rest[0][0] >= first)


def test_the_release_that_a_database_names() -> None:
    assert named_release("0.0.1") == "0.0.1"
    assert named_release("99.0") != "99.0"  # this program is none of that release, and must not shut itself out


# ---------------------------------------------------------------- life and death


def test_the_rest_of_a_large_body_is_a_file_until_the_last_end(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        store = queue.store
        owner = (4711, 1147) if os.geteuid() == 0 else (os.getuid(), os.getgid())
        os.chown(queue.bodies, *owner)
        queue.bodies.chmod(0o2770)
        (accepted,) = await store.submit([new("a@example.net", "b@example.org", content=LARGE)])
        (file,) = files(queue)
        assert file.read_bytes() == LARGE[LEAST:]
        assert stat.S_IMODE(file.stat().st_mode) == 0o660  # as the folder, for none but its group
        assert (file.stat().st_uid, file.stat().st_gid) == owner
        assert queue._admin.execute("SELECT count(*) FROM zsmtp_content").fetchone() == (LEAST // CHUNK,)
        assert await read_back(store) == [LARGE]
        await store.join("node")
        for key, left in (("example.net", 1), ("example.org", 0)):
            lease = await lease_of(store, key)
            (claimed,) = await claim(store, lease, NOON)
            assert claimed.content is None
            assert await store.mark(lease, attempts([claimed]))
            assert await store.settle(lease, [ended(claimed.recipient, NOON)], []) == []
            await swept(store, NOON)
            assert len(files(queue)) == left
        assert await store.message(accepted.id) is None

    played(scenario, tmp_path)


def test_sizes_about_the_border(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        for size, number in ((LEAST - 1, 0), (LEAST, 0), (LEAST + 1, 1), (LEAST + CHUNK, 1), (2 * LEAST, 1)):
            content = os.urandom(size)
            await queue.store.submit([new(content=content)])
            upload = await queue.store.upload(new(content=content[:7]))
            await upload.write(content[7:])
            await upload.accept()
            assert await read_back(queue.store) == [content, content]
            assert [file.read_bytes() for file in files(queue)] == [content[LEAST:]] * 2 * number
            await at_the_end(queue)
            assert files(queue) == []

    played(scenario, tmp_path)


def test_many_recipients_and_few_octets_have_no_file(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        many = [f"u{number}@example.net" for number in range(PART_RECIPIENTS + 5)]
        await queue.store.submit([new(*many, content=b"x"), new(*many, content=LARGE)])
        assert len(files(queue)) == 1
        assert sorted(map(len, await read_back(queue.store))) == [1, len(LARGE)]

    played(scenario, tmp_path)


class Killed(BaseException):
    """The process is dead from here on."""


class Disk:
    """``os`` for the folder: it may die at a step, or fail, and knows what a power cut leaves.

    Steps are those of the thread that writes: another one closes what was read, at some time later.
    """

    def __init__(self) -> None:
        self.dies_at = 0
        self.steps = 0
        self.errors: dict[str, int] = {}
        """The error of a call."""
        self.free = -1
        self._names: set[str] = set()
        self._sizes: dict[str, int] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def _step(self, name: str) -> None:
        if threading.current_thread().name.endswith("bodies written"):
            self.steps += 1
            if self.steps == self.dies_at:
                raise Killed
        if name in self.errors:
            raise OSError(self.errors[name], os.strerror(self.errors[name]))

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        self._step("create" if flags & os.O_CREAT else "open")
        return os.open(path, flags, mode, dir_fd=dir_fd)

    def fchmod(self, file: int, mode: int) -> None:
        self._step("fchmod")
        os.fchmod(file, mode)

    def write(self, file: int, data: bytes) -> int:
        self._step("write")
        return os.write(file, data[: CHUNK - 1])  # as much as it likes

    def pread(self, file: int, octets: int, offset: int) -> bytes:
        self._step("pread")
        return os.pread(file, octets, offset)

    def fsync(self, file: int) -> None:
        self._step("fsync")
        if stat.S_ISDIR(os.fstat(file).st_mode):
            self._names = set(os.listdir(file))
        else:
            self._sizes[os.readlink(f"/proc/self/fd/{file}")] = os.fstat(file).st_size

    def close(self, file: int) -> None:
        self._step("close")
        os.close(file)

    def fstatvfs(self, file: int) -> os.statvfs_result:
        found = os.fstatvfs(file)
        return found if self.free < 0 else os.statvfs_result((1, 1, 0, 0, self.free, 0, 0, 0, 0, 0))

    def cut(self, place: Path) -> None:
        """Leave what was on the disk."""
        for path in place.iterdir():
            if path.name == MARKER:
                continue
            if path.name not in self._names:
                path.unlink()
            else:
                os.truncate(path, self._sizes.get(str(path), 0))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk of the folder."""
    made = Disk()
    monkeypatch.setattr(folder, "os", made)
    return made


@pytest.mark.parametrize("machine", [False, True], ids=["killed", "power cut"])
def test_a_death_at_any_step_of_an_upload(machine: bool, tmp_path: Path, disk: Disk) -> None:
    content = LARGE[: LEAST + CHUNK]  # a few steps are enough

    async def scenario(queue: FolderHarness) -> None:
        await queue.store.submit([new("before@example.net", content=content)])
        step, accepted = 0, False
        while not accepted:
            step += 3 if machine else 1  # to restart the database takes long
            disk.steps, disk.dies_at = 0, step
            upload = await queue.store.upload(new(f"u{step}@example.net", content=content[:5]))
            with suppress(QueueUnavailable):
                await upload.write(content[5:LEAST])
                await upload.write(content[LEAST:])
                await upload.accept()
                accepted = True
            assert accepted is (disk.steps < step)
            disk.dies_at = 0
            if machine:
                disk.cut(queue.bodies)
            store = await queue.crash(machine=machine)
            expected = ["before@example.net", *[f"u{step}@example.net"] * accepted]
            assert await there(store) == expected
            assert await read_back(store) == [content] * len(expected)
        assert step > 9
        assert machine or len(files(queue)) > 3
        for _ in range(2):
            queue.clock.advance(UPLOAD_WAIT + 1)
            await swept(queue.store, queue.now())
        assert len(files(queue)) == 2

    played(scenario, tmp_path)


def test_an_upload_that_fails_is_over(tmp_path: Path, disk: Disk) -> None:
    async def scenario(queue: FolderHarness) -> None:
        for call, error, words in (
            ("write", errno.ENOSPC, "writing a file in it: No space left on device"),
            ("create", errno.EROFS, "making a file in it: Read-only file system"),
            ("fsync", errno.EIO, "writing a file in it: Input/output error"),
        ):
            disk.errors = {call: error}
            with pytest.raises(ContentUnavailable, match=words):
                await queue.store.submit([new("large@example.net", content=LARGE), new("small@example.net")])
            upload = await queue.store.upload(new(content=b""))
            if call == "fsync":
                await upload.write(LARGE)
            with pytest.raises(ContentUnavailable, match=str(queue.bodies)):
                await (upload.accept() if call == "fsync" else upload.write(LARGE))
            with pytest.raises(QueueError, match="this upload is over"):  # part of it may be in the file
                await upload.write(b"more")
            await upload.discard()
            disk.errors.clear()
        assert await there(queue.store) == []
        await swept(queue.store, queue.now())
        assert files(queue) == []

    played(scenario, tmp_path)


def test_intake_of_large_bodies_stops_while_there_is_room_for_others(tmp_path: Path, disk: Disk) -> None:
    async def scenario(queue: FolderHarness) -> None:
        disk.free = (64 << 20) + 2 * len(LARGE) - 1
        assert (await queue.store.health()).free_octets == disk.free
        await queue.store.submit([new("a@example.net", content=LARGE)])
        disk.free = 64 << 20
        with pytest.raises(QueueFull, match=f"64 MiB are free in {queue.bodies}"):
            await queue.store.submit([new("b@example.net", content=LARGE)])
        await queue.store.submit([new("c@example.net")])
        assert await there(queue.store) == ["a@example.net", "c@example.net"]
        queue.free = 7
        assert (await queue.store.health()).free_octets == 7

    played(scenario, tmp_path)


def test_an_upload_whose_row_died_with_the_database_is_not_accepted(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        upload = await queue.store.upload(new(content=b""))
        await upload.write(LARGE)
        queue._admin.execute("DELETE FROM zsmtp_body")
        with pytest.raises(QueueUnavailable, match="parts of this message were lost"):
            await upload.accept()
        await upload.discard()
        await swept(queue.store, queue.now())

    played(scenario, tmp_path)


# -------------------------------------------------------- a folder that is not there


def test_a_folder_that_goes_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(queue: FolderHarness) -> None:
        store = queue.store
        (_, ended_later) = await store.submit([new("a@example.net", content=LARGE), new("b@x.example", content=LARGE)])
        away = queue.bodies.rename(tmp_path / "away")
        for empty in (False, True):
            if empty:
                queue.bodies.mkdir()  # the place where it is mounted
            words = "has no file zsmtp-bodies, so it is not mounted" if empty else "No such file or directory"
            with pytest.raises(ContentUnavailable, match=words):
                await store.submit([new("c@example.net", content=LARGE)])
            with pytest.raises(ContentUnavailable, match=words):
                await read_back(store)
            assert words in (await store.health()).problem
            assert [words in one for one in await findings(store)] == [True]
            await store.submit([new("small@y.example")])
            await swept(store, NOON)
            assert list(queue.bodies.iterdir()) == [] if empty else not queue.bodies.exists()
        _ = [number async for number in store.change(Filter.parse("to=b@*"), Change(end="dropped"))]
        await swept(store, NOON)
        assert await store.message(ended_later.id) is None
        assert len([one for one in caplog.records if "large bodies" in one.getMessage()]) == 2  # each state once
        queue.bodies.rmdir()
        away.rename(queue.bodies)
        assert (await store.health()).problem == ""
        assert len(await read_back(store)) == 3
        assert len(files(queue)) == 2
        await swept(store, NOON)
        assert len(files(queue)) == 1

    played(scenario, tmp_path)


def test_a_folder_that_does_not_respond(tmp_path: Path) -> None:
    """A thread that hangs is left behind, and holds up neither the loop nor the end."""
    goes_on = threading.Event()
    opened = BodyFolder.open

    def hangs(self: BodyFolder) -> int:
        goes_on.wait()
        return opened(self)

    async def scenario(queue: FolderHarness) -> None:
        store = queue.store
        await store.submit([new("a@example.net", content=LARGE)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BodyFolder, "open", hangs)
            for name in ("_LOOK", "_END"):
                patch.setattr(bodyfiles, name, 0.05)
            patch.setattr(bodyfiles.FolderThread.call, "__defaults__", (0.05,))
            with pytest.raises(ContentUnavailable, match="did not respond within"):
                await store.submit([new("b@example.net", content=LARGE)])
            with pytest.raises(ContentUnavailable, match="did not respond within"):
                await read_back(store)
            assert "did not respond" in (await store.health()).problem
            await store.submit([new("small@example.net")])
            await store.close()
        goes_on.set()
        await queue.crash()
        assert await there(queue.store) == ["a@example.net", "small@example.net"]

    try:
        played(scenario, tmp_path)
    finally:
        goes_on.set()


def test_another_queue_and_a_copy_of_this_one_do_not_get_the_folder(tmp_path: Path) -> None:
    place = tmp_path / "bodies"
    place.mkdir()
    mine, foreign = cluster().database(), cluster().database()
    with psycopg.connect(mine) as connection, psycopg.connect(foreign) as other:
        configure(connection, path=str(place))
        copy = BodyFolder(str(place), f"{(place / MARKER).read_text().split()[0]} 7 7")
        with pytest.raises(ContentUnavailable, match="belongs to another copy of this database"):
            copy.free()
        other.execute("UPDATE zsmtp_meta SET value = 'another' WHERE name = 'uid'")
        with pytest.raises(QueueUnavailable, match="it belongs to another queue"):
            configure(other, path=str(place))
        assert setting_of(other) is None
        other.execute("UPDATE zsmtp_meta SET value = %s WHERE name = 'uid'", (meta_of(connection)["uid"],))
        configure(other, path=str(place))  # the copy takes its place, as its operator says
        found = setting_of(connection)
        assert found is not None
        with pytest.raises(ContentUnavailable, match="copy"):
            found.folder.free()
        assert sorted(os.listdir(place)) == [MARKER]


# ----------------------------------------------------------------------- damage


def test_a_damaged_file_is_reported_and_nothing_else_is_read(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        store = queue.store
        await store.submit([new("a@example.net", content=LARGE)])
        (file,) = files(queue)
        whole = file.read_bytes()
        outside = tmp_path / "outside"
        outside.write_bytes(whole)

        async def refused(words: str, finding: str) -> None:
            with pytest.raises(QueueError, match=words) as raised:
                await read_back(store)
            assert not isinstance(raised.value, QueueUnavailable)
            assert [finding in one for one in await findings(store)] == [True]

        file.write_bytes(whole[:-1])
        await refused("is damaged: .* octets, not", f"has {len(whole) - 1} octets, not {len(whole)}")
        file.write_bytes(whole + b"x")
        await refused("is damaged: .* octets, not", f"has {len(whole) + 1} octets, not {len(whole)}")
        file.unlink()
        await refused("is damaged: .* is not there", "is not there")
        file.symlink_to(outside)
        await refused("is damaged: .* is a symbolic link", "is not there")
        file.unlink()
        file.mkdir()
        await refused("is damaged: .* is no regular file", "is not there")
        file.rmdir()
        os.mkfifo(file)
        await refused("is damaged: .* is no regular file", "is not there")
        file.unlink()
        for name in ("../outside", str(outside), f"{file.name}\n"):
            queue._admin.execute("UPDATE zsmtp_body SET name = %s", (name,))
            await refused("has no name of a body", "is not there")
        queue._admin.execute("UPDATE zsmtp_body SET name = %s", (file.name,))
        file.write_bytes(whole)
        assert await read_back(store) == [LARGE]
        queue._admin.execute("UPDATE zsmtp_body SET first = first + 1")
        with pytest.raises(QueueError, match="is not there"):
            await read_back(store)
        queue._admin.execute("UPDATE zsmtp_body SET first = first - 1")
        await at_the_end(queue)
        assert outside.read_bytes() == whole

    played(scenario, tmp_path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    owned = BodyFolder(str(tmp_path), "owner")
    owned.claim({})
    name = new_name("m1")
    body = NewBody(owned, name)
    body.write([bytes(3 * CHUNK)])
    body.finish()
    reading = OpenBody(owned, name, 3 * CHUNK, 7)
    assert len(reading.read()) == CHUNK
    os.truncate(tmp_path / name, 2 * CHUNK - 1)
    with pytest.raises(QueueError, match=r"message 7 is damaged: .* ends at 524287 octets, not 786432"):
        reading.read()
    reading.close()


def test_a_link_in_place_of_a_file_or_of_the_marker(tmp_path: Path) -> None:
    place, outside = tmp_path / "bodies", tmp_path / "outside"
    place.mkdir()
    owned = BodyFolder(str(place), "owner 1")
    owned.claim({})
    assert (place / MARKER).read_text() == "owner 1\n"
    name = new_name("m1")
    (place / name).symlink_to(outside)
    with pytest.raises(ContentUnavailable, match="making a file in it"):
        NewBody(owned, name)
    outside.write_text("owner 1\n")
    (place / "other").write_text("x")
    assert owned.names() == [name]
    assert owned.remove([name, "other", "../outside"]) == 1
    assert outside.exists()
    (place / MARKER).unlink()
    (place / MARKER).symlink_to(outside)
    with pytest.raises(ContentUnavailable, match=f"reading {MARKER} in it"):
        owned.free()
    assert sorted(os.listdir(place)) == ["other", MARKER]


# ---------------------------------------------------------------------- orphans


def test_files_without_a_row_are_removed_after_an_hour_by_any_node(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        await queue.store.submit([new("a@example.net", content=LARGE)])
        other = await queue.another()
        orphan = queue.bodies / new_name("m0000000000001")
        foreign = queue.bodies / "notes.txt"
        for file in (orphan, foreign):
            file.write_bytes(b"x")
            os.utime(file, (0, 0))  # what the file server says does not count
        stores = [queue.store, other]
        for _ in range(5):
            for store in stores:
                await swept(store, queue.now() + DAY)  # nor does the clock of a node
            assert orphan.exists()
            queue.wait(UPLOAD_WAIT / 5)
        await asyncio.gather(*(swept(store, queue.now()) for store in stores))
        assert not orphan.exists()
        assert foreign.exists()
        foreign.unlink()
        assert await read_back(queue.store) == [LARGE]
        assert len(files(queue)) == 1

    played(scenario, tmp_path)


def test_an_upload_that_goes_on_for_hours_keeps_its_file(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        upload = await queue.store.upload(new(content=b""))
        content = os.urandom(LEAST)
        for _ in range(5):
            await upload.write(content)
            queue.wait(0.7 * UPLOAD_WAIT)
            await swept(queue.store, queue.now())
        await upload.accept()
        assert await read_back(queue.store) == [content * 5]
        upload = await queue.store.upload(new(content=b""))
        await upload.write(LARGE)
        assert len(files(queue)) == 2
        queue.wait(UPLOAD_WAIT + 1)
        await swept(queue.store, queue.now())  # it was broken off, for all that is known
        assert len(files(queue)) == 1
        with pytest.raises(QueueError):
            await upload.write(content)
        assert len(files(queue)) == 1

    played(scenario, tmp_path)


def test_what_an_earlier_program_deletes_leaves_no_file(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        await queue.store.submit([new("a@example.net", content=LARGE)])
        _ = [number async for number in queue.store.change(Filter(), Change(end="dropped"))]
        for table, column in (("content", "message"), ("message", "id"), ("maybe_finished", "message")):
            queue._admin.execute(
                f"DELETE FROM zsmtp_{table} WHERE {column} IN (SELECT message FROM zsmtp_body)".encode()
            )
        assert ["has no message" in one for one in await findings(queue.store)] == [True]
        await swept(queue.store, NOON)
        assert files(queue) == []

    played(scenario, tmp_path)


# ------------------------------------------------------- a caller's transaction


def test_a_callers_transaction_has_the_file_if_it_commits(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        uid = queue.store.uid
        large = new("a@example.net", content=LARGE, idempotency_key="1", digest=b"1")
        with psycopg.connect(queue._url) as connection:
            (accepted,) = submit_in(connection, [large, new("s@example.net")], queue=uid)[:1]
            with pytest.raises(Conflict):
                submit_in(
                    connection, [new("b@example.net", content=LARGE, idempotency_key="1", digest=b"2")], queue=uid
                )
            assert len(files(queue)) == 1
            (again,) = submit_in(connection, [large], queue=uid)
            assert again == (accepted.id, True)
            assert len(files(queue)) == 1
            for _ in range(3):  # it stays open as long as it likes
                queue.wait(UPLOAD_WAIT)
                await swept(queue.store, queue.now())
            assert await there(queue.store) == []
            connection.commit()
            assert sorted(map(len, await read_back(queue.store))) == [21, len(LARGE)]
            submit_in(connection, [new("c@example.net", content=LARGE)], queue=uid)
            connection.rollback()
            assert len(files(queue)) == 2
            for _ in range(3):
                queue.wait(UPLOAD_WAIT / 2)
                await swept(queue.store, queue.now())
            assert len(files(queue)) == 1
        await at_the_end(queue)
        assert files(queue) == []

    played(scenario, tmp_path)


def test_a_caller_without_the_folder_is_refused(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        queue.bodies.rename(tmp_path / "away")
        with psycopg.connect(queue._url) as connection:
            with pytest.raises(ContentUnavailable, match="cannot be used on this machine"):
                submit_in(connection, [new("a@example.net", content=LARGE)], queue=queue.store.uid)
            submit_in(connection, [new("b@example.net")], queue=queue.store.uid)
        assert await there(queue.store) == ["b@example.net"]
        (tmp_path / "away").rename(queue.bodies)

    played(scenario, tmp_path)


# ------------------------------------------------------------------ the setting


def test_the_setting(tmp_path: Path) -> None:
    with psycopg.connect(cluster().database()) as connection:
        assert setting_of(connection) is None
        with pytest.raises(QueueError, match="has no folder for large bodies yet"):
            configure(connection, above=LEAST)
        for path in ("bodies", "/a\0b", "/a\udc80"):
            with pytest.raises(QueueError, match="needs an absolute path"):
                configure(connection, path=path)
        with pytest.raises(QueueUnavailable, match="No such file or directory"):
            configure(connection, path=str(tmp_path / "none"))
        (tmp_path / "file").touch()
        with pytest.raises(QueueUnavailable, match="Not a directory"):
            configure(connection, path=str(tmp_path / "file"))
        with pytest.raises(QueueError, match="too low"):
            configure(connection, path=str(tmp_path), above=LEAST - 1)
        assert setting_of(connection) is None
        configure(connection, path=f"{tmp_path}/")
        found = setting_of(connection)
        assert found is not None
        assert (found.folder.path, found.above, found.first) == (str(tmp_path), ABOVE, ABOVE // CHUNK)
        assert configure(connection, above=LEAST + 1).first == LEAST // CHUNK + 1
        assert configure(connection, path=str(tmp_path)).above == LEAST + 1
        assert configure(connection, above=0).first is None
        assert meta_of(connection)["min_program"] == named_release(bodies.SINCE)


def test_another_folder_takes_over_with_all_files(tmp_path: Path) -> None:
    async def scenario(queue: FolderHarness) -> None:
        store, second = queue.store, tmp_path / "second"
        second.mkdir()
        upload = await store.upload(new(content=b""))
        await upload.write(LARGE)
        with pytest.raises(QueueUnavailable, match="1 large messages are arriving"):
            configure(queue._admin, path=str(second))
        await upload.accept()
        with pytest.raises(QueueError, match="1 of 1 files that messages need are not in"):
            configure(queue._admin, path=str(second))
        assert os.listdir(second) == []
        (file,) = files(queue)
        (second / file.name).write_bytes(file.read_bytes())
        slow = await store.upload(new("slow@example.net", content=b""))
        await slow.write(LARGE[:LEAST])
        configure(queue._admin, path=str(second))
        await slow.write(LARGE[LEAST:])  # it asks for the folder when it needs it
        await slow.accept()
        assert len(list(second.iterdir())) == 3
        file.unlink()
        assert await read_back(store) == [LARGE, LARGE]
        configure(queue._admin, above=0)
        await store.submit([new("rows@example.net", content=LARGE)])
        assert len(list(second.iterdir())) == 3
        assert await read_back(store) == [LARGE] * 3
        await at_the_end(queue)
        assert os.listdir(second) == [MARKER]

    played(scenario, tmp_path)


def test_the_folder_changes_between_the_question_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(queue: FolderHarness) -> None:
        second = tmp_path / "second"
        second.mkdir()
        asked = bodyfiles.BodyFiles.setting

        async def changes(self: bodyfiles.BodyFiles) -> bodies.BodySetting | None:
            found = await asked(self)
            configure(queue._admin, path=str(second))
            return found

        monkeypatch.setattr(bodyfiles.BodyFiles, "setting", changes)
        with pytest.raises(QueueUnavailable, match="was changed at this moment"):
            await queue.store.submit([new(content=LARGE)])
        monkeypatch.setattr(bodyfiles.BodyFiles, "setting", asked)
        await queue.store.submit([new(content=LARGE)])
        assert files(queue) == []
        assert len(list(second.iterdir())) == 2

    played(scenario, tmp_path)


def test_a_program_without_a_folder_reads_what_is_in_rows(tmp_path: Path) -> None:
    """A queue that had none before: what is there stays where it is."""

    async def scenario(queue: PostgresHarness) -> None:
        await queue.store.submit([new("a@example.net", content=LARGE)])
        configure(queue._admin, path=str(tmp_path), above=LEAST)
        await queue.store.submit([new("b@example.net", content=LARGE)])
        assert len(list(tmp_path.iterdir())) == 2
        assert await read_back(queue.store) == [LARGE, LARGE]

    play(PostgresHarness(), scenario)  # type: ignore[arg-type]


# ----------------------------------------------------------------------- memory


def test_a_large_body_takes_little_memory_on_both_sides(tmp_path: Path) -> None:
    program = """
import asyncio, sys, zsmtp.aio
from tests.support.memory import peak
from zsmtp.queue.filter import Filter

async def main():
    async with zsmtp.aio.Queue.open(sys.argv[1]) as queue:
        before = peak()
        await queue.submit(sys.argv[2])
        submitted = peak()
        async for row in queue.store.select(Filter()):
            message = row.message
        size = 0
        async for chunk in queue.store.content(message.id, message.size):
            size += len(chunk)
        print(submitted - before, peak() - before, size)

asyncio.run(main())
"""
    url = cluster().database()
    place = tmp_path / "bodies"
    place.mkdir()
    with psycopg.connect(url) as connection:
        configure(connection, path=str(place))
    file = tmp_path / "large.eml"
    with open(file, "wb") as large:
        large.write(b"From: a@example.org\r\nTo: b@example.net\r\n\r\n")
        large.truncate(50 << 20)
    command = [sys.executable, "-c", program, url, str(file)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    submitted, read, size = map(int, done.stdout.split())
    assert size > 49 << 20
    assert max(submitted, read) < 32 << 10  # KiB
    (body,) = (path for path in place.iterdir() if path.name != MARKER)
    assert body.stat().st_size == size - ABOVE
