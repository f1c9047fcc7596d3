"""Taking and releasing recipients on real files: races, rivals, full disks, and things that are no files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zsmtp
from zsmtp.errors import SpoolError
from zsmtp.zmailer import locks
from zsmtp.zmailer.locks import (
    OpenControl,
    StateTag,
    SystemTrouble,
    open_control,
    read_control,
)

SOURCE = Path(zsmtp.__file__).parent.parent
TOP = b"@ 0x7\ni 1-2\no 5\ns smtp - a@example.org 1\n"
TAIL = b"m\nSubject: x\n\n"
RECORD = b"r           smtp h u%d@example.net 1\n"
DIAGNOSTIC = b"d 40:80:-1::1700000000\t\ttext\n"


def control_file(path: Path, recipients: int = 2) -> bytes:
    data = TOP + b"".join(RECORD % number for number in range(recipients)) + TAIL
    path.write_bytes(data)
    return data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "1-2"
    control_file(path)
    return path


@pytest.fixture
def spool(path: Path) -> Iterator[OpenControl]:
    with open_control(str(path), patience=0.05) as opened:
        yield opened


@pytest.fixture(scope="module")
def python() -> Callable[..., subprocess.Popen[bytes]]:
    def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(SOURCE)},
        )

    return start


class TestTake:
    def test_the_bytes_that_change(self, path: Path, spool: OpenControl) -> None:
        before = path.read_bytes()
        first, second = spool.control.recipients
        assert spool.take(first, pid=321)
        data = path.read_bytes()
        assert data[first.offset : first.offset + 12] == b"r~   321    "
        assert len(data) == len(before)
        assert data[: first.offset] + data[first.offset + 8 :] == before[: first.offset] + before[first.offset + 8 :]
        assert data[second.offset : second.offset + 12] == b"r           "

    @pytest.mark.parametrize(("pid", "column"), [
        (1, b"     1"), (32768, b" 32768"), (999999, b"999999"), (4194304, b"194304"), (1000042, b"000042"),
    ])  # fmt: skip
    def test_process_ids(self, path: Path, spool: OpenControl, pid: int, column: bytes) -> None:
        one = spool.control.recipients[0]
        assert spool.take(one, pid=pid)
        assert path.read_bytes()[one.offset + 1 : one.offset + 8] == b"~" + column
        assert spool.release(one, StateTag.DELIVERED)

    @pytest.mark.parametrize("pid", [0, -1])
    def test_what_is_no_process_id(self, spool: OpenControl, pid: int) -> None:
        with pytest.raises(ValueError, match="process id"):
            spool.take(spool.control.recipients[0], pid=pid)

    @pytest.mark.parametrize("there", [b"~ 12345", b"+      ", b"-      ", b"~   321"])
    def test_only_a_blank_tag_is_taken(self, path: Path, there: bytes) -> None:
        with open_control(str(path)) as late:
            one = late.control.recipients[0]
            with path.open("r+b") as other:
                other.seek(one.offset + 1)
                other.write(there)
            data = path.read_bytes()
            assert not late.take(one, pid=321)
        assert path.read_bytes() == data

    def test_not_twice(self, spool: OpenControl) -> None:
        one = spool.control.recipients[0]
        assert spool.take(one, pid=321)
        assert not spool.take(one, pid=321)
        assert spool.release(one, StateTag.TODO)
        assert spool.take(one, pid=321)

    def test_a_record_without_lock_field(self, tmp_path: Path) -> None:
        path = tmp_path / "3"
        data = TOP.replace(b"0x7", b"0x0") + b"r smtp h u@example.net 1\n" + TAIL
        path.write_bytes(data)
        with open_control(str(path)) as spool:
            (one,) = spool.control.recipients
            assert spool.take(one, pid=321)
            assert path.read_bytes() == data.replace(b"r smtp h", b"r~smtp h")
            assert spool.release(one, StateTag.FAILED)
        assert path.read_bytes() == data.replace(b"r smtp h", b"r-smtp h")

    def test_a_rival_that_ignores_record_locks(
        self, path: Path, spool: OpenControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has read the blank tag before, and writes its own lock over ours: what is read back tells."""
        one = spool.control.recipients[0]
        write = os.pwrite

        def overtaken(fd: int, data: bytes, at: int) -> int:
            written = write(fd, data, at)
            write(fd, b"~   999", at)
            return written

        monkeypatch.setattr(os, "pwrite", overtaken)
        assert not spool.take(one, pid=321)
        monkeypatch.undo()
        spool.close()
        assert path.read_bytes()[one.offset : one.offset + 8] == b"r~   999"

    def test_a_record_lock_that_is_never_given_up(
        self, path: Path, spool: OpenControl, python: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        program = (
            "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX);"
            "print(flush=True); sys.stdin.read()"
        )
        before = path.read_bytes()
        with python(program, str(path)) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"\n"
            with pytest.raises(SpoolError, match="record lock"):
                spool.take(spool.control.recipients[0], pid=321)
            holder.communicate()
        assert path.read_bytes() == before
        assert spool.take(spool.control.recipients[0], pid=321)

    def test_no_record_lock_stays(
        self, path: Path, spool: OpenControl, python: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        first, second = spool.control.recipients
        assert spool.take(first, pid=321)
        assert not spool.take(first, pid=321)
        assert spool.take(second, pid=321)
        program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        with python(program, str(path)) as other:
            other.communicate()
        assert other.returncode == 0

    def test_a_file_system_without_record_locks(self, spool: OpenControl, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "lockf", refuse)
        with pytest.raises(SpoolError, match="No locks available"):
            spool.take(spool.control.recipients[0], pid=321)

    def test_a_file_that_was_cut_off_since(self, path: Path, spool: OpenControl) -> None:
        second = spool.control.recipients[1]
        os.truncate(path, second.offset + 5)
        with pytest.raises(SpoolError, match="shorter"):
            spool.take(second, pid=321)
        assert path.stat().st_size == second.offset + 5


class TestTakeAll:
    """Many recipients of one file: one record lock, each decided by its own bytes."""

    def test_the_bytes_that_change(self, path: Path) -> None:
        before = control_file(path, 3)
        with open_control(str(path)) as spool:
            first, second, third = spool.control.recipients
            with path.open("r+b") as other:
                other.seek(second.offset + 1)
                other.write(b"~   999")
            assert spool.take_all([first, second, third], pid=321) == [first, third]
            data = path.read_bytes()
            assert data.count(b"\nr~   321    smtp") == 2
            assert data.replace(b"~   321", b"       ").replace(b"~   999", b"       ") == before
            assert spool.take_all([first, second, third], pid=321) == []
            assert spool.release(third, StateTag.DELIVERED)
        assert path.read_bytes().count(b"\nr~   999") == 1, "what another process locked stays so"
        assert path.read_bytes().count(b"\nr+      ") == 1

    def test_nobody(self, path: Path, spool: OpenControl) -> None:
        assert spool.take_all([], pid=321) == []

    def test_the_same_one_is_taken_once(self, spool: OpenControl) -> None:
        one = spool.control.recipients[0]
        assert spool.take_all([one, one], pid=321) == [one]

    def test_any_order_and_any_distance(self, path: Path) -> None:
        far = b"m\n" + b"X-Long: x\n" * (locks.STRETCH // 5) + b"\n"
        path.write_bytes(TOP + RECORD % 0 + RECORD % 1 + far + RECORD % 2 + TAIL)
        before = path.read_bytes()
        with open_control(str(path)) as spool:
            mixed = [spool.control.recipients[i] for i in (1, 0, 2)]
            assert spool.take_all(mixed, pid=321) == mixed
            assert path.read_bytes().count(b"\nr~   321    smtp") == 3
        assert path.read_bytes() == before

    def test_a_rival_that_ignores_record_locks_between_our_writes(
        self, path: Path, spool: OpenControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It takes the second recipient, which we had read as blank, before and after we write over it."""
        first, second = spool.control.recipients
        write = os.pwrite

        def overtaken(fd: int, data: bytes, at: int) -> int:
            written = write(fd, data, at)
            write(fd, b"~   999", second.offset + 1)
            return written

        monkeypatch.setattr(os, "pwrite", overtaken)
        assert spool.take_all([first, second], pid=321) == [first]
        monkeypatch.undo()
        assert path.read_bytes()[first.offset : first.offset + 8] == b"r~   321"
        spool.close()
        assert path.read_bytes()[second.offset : second.offset + 8] == b"r~   999"
        assert path.read_bytes()[first.offset : first.offset + 8] == b"r       "

    def test_a_disk_that_fills_up_between_two_locks(
        self, path: Path, spool: OpenControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = os.pwrite
        room = iter([write])

        def full(fd: int, data: bytes, at: int) -> int:
            for function in room:
                return function(fd, data, at)
            raise OSError(errno.ENOSPC, "No space left on device")

        before = path.read_bytes()
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(SpoolError, match="No space left"):
            spool.take_all(spool.control.recipients, pid=321)
        monkeypatch.undo()
        spool.close()
        assert path.read_bytes() == before, "nothing stays locked"

    def test_the_record_lock_is_given_up(
        self, path: Path, spool: OpenControl, python: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        assert len(spool.take_all(spool.control.recipients, pid=321)) == 2
        program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        with python(program, str(path)) as other:
            other.communicate()
        assert other.returncode == 0


class TestFailingDisk:
    def test_a_lock_that_cannot_be_written(
        self, path: Path, spool: OpenControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        before = path.read_bytes()
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(SpoolError, match="No space left") as caught:
            spool.take(spool.control.recipients[0], pid=321)
        assert caught.value.path == str(path)
        assert path.read_bytes() == before

    def test_half_a_lock_is_taken_back(self, path: Path, spool: OpenControl, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.pwrite

        def short(fd: int, data: bytes, at: int) -> int:
            monkeypatch.undo()
            return write(fd, data[:3], at)

        before = path.read_bytes()
        monkeypatch.setattr(os, "pwrite", short)
        with pytest.raises(SpoolError, match="only 3 of 7"):
            spool.take(spool.control.recipients[0], pid=321)
        assert path.read_bytes() == before

    def test_a_lock_that_cannot_be_read_back_does_not_stay(
        self, path: Path, spool: OpenControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = os.pread
        reads = iter([read])

        def once(fd: int, length: int, at: int) -> bytes:
            for function in reads:
                return function(fd, length, at)
            raise OSError(errno.EIO, "Input/output error")

        before = path.read_bytes()
        monkeypatch.setattr(os, "pread", once)
        with pytest.raises(SpoolError, match="Input/output"):
            spool.take(spool.control.recipients[0], pid=321)
        monkeypatch.undo()
        spool.close()
        assert path.read_bytes() == before

    @pytest.mark.parametrize(("recovers", "left"), [(True, b"r+      "), (False, b"r~   321")])
    def test_a_delivered_mark_that_cannot_be_written_never_becomes_to_do(
        self, path: Path, spool: OpenControl, monkeypatch: pytest.MonkeyPatch, recovers: bool, left: bytes
    ) -> None:
        def broken(*_: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

        one = spool.control.recipients[0]
        assert spool.take(one, pid=321)
        monkeypatch.setattr(os, "pwrite", broken)
        with pytest.raises(SpoolError, match="Input/output"):
            spool.release(one, StateTag.DELIVERED)
        if recovers:
            monkeypatch.undo()
        spool.close()
        assert path.read_bytes()[one.offset : one.offset + 8] == left


class TestRelease:
    @pytest.mark.parametrize("mark", list(StateTag))
    def test_marks(self, path: Path, spool: OpenControl, mark: StateTag) -> None:
        one = spool.control.recipients[1]
        before = path.read_bytes()
        assert spool.take(one, pid=321)
        assert spool.release(one, mark)
        expected = before[: one.offset + 1] + mark.value + b" " * 6 + before[one.offset + 8 :]
        assert path.read_bytes() == expected

    def test_only_over_the_own_lock(self, path: Path, spool: OpenControl) -> None:
        one = spool.control.recipients[0]
        assert spool.take(one, pid=321)
        with path.open("r+b") as other:
            other.seek(one.offset + 1)
            other.write(b"~   999")
        data = path.read_bytes()
        assert not spool.release(one, StateTag.DELIVERED)
        spool.close()
        assert path.read_bytes() == data

    def test_what_was_not_taken(self, spool: OpenControl) -> None:
        one = spool.control.recipients[0]
        with pytest.raises(ValueError, match="not taken"):
            spool.release(one, StateTag.TODO)
        assert spool.take(one, pid=321)
        assert spool.release(one, StateTag.DELIVERED)
        with pytest.raises(ValueError, match="not taken"):
            spool.release(one, StateTag.TODO)

    def test_closing_blanks_what_is_left(self, path: Path) -> None:
        before = path.read_bytes()
        with contextlib.suppress(KeyError), open_control(str(path)) as spool:
            first, second = spool.control.recipients
            assert spool.take(first, pid=321)
            assert spool.take(second, pid=321)
            assert spool.release(second, StateTag.FAILED)
            raise KeyError
        assert path.read_bytes() == before.replace(b"r           smtp h u1", b"r-          smtp h u1")
        spool.close()


RACER = """
import sys
from zsmtp.zmailer.locks import open_control
with open_control(sys.argv[1], patience=60.0) as spool:
    print(flush=True)
    sys.stdin.readline()
    wanted, step = spool.control.recipients, int(sys.argv[3])
    taken = [r for i in range(0, len(wanted), step) for r in spool.take_all(wanted[i : i + step], pid=int(sys.argv[2]))]
    print(*(r.offset for r in taken), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("step", [1, 7, 3000])
def test_agents_that_race_share_the_recipients(
    tmp_path: Path, python: Callable[..., subprocess.Popen[bytes]], step: int
) -> None:
    path = tmp_path / "1-2"
    data = control_file(path, 3000)
    racers = [python(RACER, str(path), str(pid), str(step)) for pid in (111, 222, 333)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"\n"
    taken: list[list[int]] = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"\n")
        racer.stdin.flush()
    for racer in racers:
        assert racer.stdout is not None
        taken.append([int(offset) for offset in racer.stdout.readline().split()])
    locked = path.read_bytes()
    for racer in racers:
        racer.communicate(b"\n")
        assert racer.returncode == 0
    with open_control(str(path)) as spool:
        offsets = [one.offset for one in spool.control.recipients]
    assert sorted(offset for mine in taken for offset in mine) == offsets
    for pid, mine in zip((111, 222, 333), taken, strict=True):
        assert all(locked[offset : offset + 8] == b"r~%6d" % pid for offset in mine)
    assert path.read_bytes() == data


class TestAppend:
    def test_records_go_to_the_end(self, path: Path, spool: OpenControl) -> None:
        before = path.read_bytes()
        one = spool.control.recipients[0]
        assert spool.take(one, pid=321)
        spool.append(DIAGNOSTIC)
        assert spool.release(one, StateTag.FAILED)
        spool.append(DIAGNOSTIC)
        assert path.read_bytes() == before.replace(b"r           smtp h u0", b"r-          smtp h u0") + DIAGNOSTIC * 2
        with open_control(str(path)) as again:
            assert again.control.remarks == ()

    def test_an_unfinished_line_is_ended_first(self, path: Path, spool: OpenControl) -> None:
        with path.open("ab") as other:
            other.write(b"d half")
        before = path.read_bytes()
        spool.append(DIAGNOSTIC)
        assert path.read_bytes() == before + b"\n" + DIAGNOSTIC

    def test_what_others_appended_stays(self, path: Path, spool: OpenControl) -> None:
        spool.append(DIAGNOSTIC)
        with path.open("ab") as other:
            other.write(b"d of another\n")
        spool.append(DIAGNOSTIC)
        assert path.read_bytes().endswith(DIAGNOSTIC + b"d of another\n" + DIAGNOSTIC)

    @pytest.mark.parametrize("record", [b"", b"\n", b"d", b"d x", b"d x\n\n", b"d x\nr+\n", b"x 1\n", b"d \0\n"])
    def test_what_is_no_record(self, path: Path, spool: OpenControl, record: bytes) -> None:
        before = path.read_bytes()
        with pytest.raises(ValueError, match="d record"):
            spool.append(record)
        assert path.read_bytes() == before

    def test_it_is_on_the_disk(self, spool: OpenControl, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[str] = []
        write, sync = os.write, os.fsync

        def writing(fd: int, data: bytes) -> int:
            calls.append("write")
            return write(fd, data)

        def syncing(fd: int) -> None:
            calls.append("fsync")
            sync(fd)

        monkeypatch.setattr(os, "write", writing)
        monkeypatch.setattr(os, "fsync", syncing)
        spool.append(DIAGNOSTIC)
        spool.append(DIAGNOSTIC)
        spool.sync()
        assert calls == ["write", "write", "fsync"]

    def test_marks_are_written_in_place_after_a_record(self, path: Path, spool: OpenControl) -> None:
        """No second descriptor is needed, and append mode is off again."""
        one, two = spool.control.recipients
        assert spool.take_all([one, two], pid=321) == [one, two]
        before = len(os.listdir("/dev/fd"))
        spool.append(DIAGNOSTIC)
        assert len(os.listdir("/dev/fd")) == before
        assert spool.release(one, StateTag.FAILED)
        spool.append(DIAGNOSTIC)
        assert spool.release(two, StateTag.DELIVERED)
        data = path.read_bytes()
        assert data.endswith(TAIL + DIAGNOSTIC * 2)
        assert [data[r.offset : r.offset + 3] for r in (one, two)] == [b"r- ", b"r+ "]

    def test_what_does_not_get_to_the_disk(self, spool: OpenControl, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        spool.append(DIAGNOSTIC)
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(SystemTrouble, match="to the disk of it: Input/output error"):
            spool.sync()

    @pytest.mark.parametrize(("room", "problem"), [(10, "only 10 of 29"), (0, "File too large")])
    def test_no_room(self, path: Path, spool: OpenControl, room: int, problem: str) -> None:
        before = path.read_bytes()
        assert len(DIAGNOSTIC) == 29
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, hard))
        try:
            with pytest.raises(SpoolError, match=problem):
                spool.append(DIAGNOSTIC)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        # What there is of the record is none: whoever reads the file must not take it for one.
        assert path.read_bytes() == before + (b"d-" + DIAGNOSTIC[2:room] if room else b"")
        spool.append(DIAGNOSTIC)
        assert path.read_bytes().endswith(b"\n" + DIAGNOSTIC)
        with open_control(str(path)) as again:
            assert again.control.recipients == spool.control.recipients
            assert again.control.recorded == ()

    @pytest.mark.parametrize("room", range(4))
    def test_of_a_record_cut_off_at_its_tag_nothing_is_left_to_be_read(
        self, path: Path, spool: OpenControl, room: int
    ) -> None:
        with path.open("ab") as other:
            other.write(b"d half")
        before = path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, hard))
        try:
            with pytest.raises(SystemTrouble):
                spool.append(DIAGNOSTIC)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        left = path.read_bytes().removeprefix(before)
        assert left in (b"", b"\n", b"\nd", b"\nd-")
        spool.append(DIAGNOSTIC)
        assert path.read_bytes().endswith(b"\n" + DIAGNOSTIC)

    def test_a_file_that_was_moved(self, path: Path, spool: OpenControl) -> None:
        """The scheduler moves files into hash directories: they stay the same ones."""
        moved = path.with_name("moved")
        before = path.read_bytes()
        path.rename(moved)
        other = control_file(path, 1)
        spool.append(DIAGNOSTIC)
        assert (path.read_bytes(), moved.read_bytes()) == (other, before + DIAGNOSTIC)

    @pytest.mark.parametrize("replaced", [False, True])
    def test_a_file_that_is_gone(self, path: Path, spool: OpenControl, replaced: bool) -> None:
        if replaced:
            control_file(path.with_name("other"), 1)
            path.with_name("other").rename(path)
        else:
            path.unlink()
        with pytest.raises(SystemTrouble, match="removed, or replaced"):
            spool.append(DIAGNOSTIC)


class TestOpenControl:
    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "1")
        (tmp_path / "2").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "3"))
            for name in ("1", "2", "3", "4", "5\0", "2/6", "1/7"):
                with pytest.raises(SpoolError) as caught:
                    open_control(str(tmp_path / name))
                assert caught.value.path == str(tmp_path / name)

    def test_what_is_no_control_file(self, tmp_path: Path) -> None:
        path = tmp_path / "1"
        path.write_bytes(b"")
        with pytest.raises(SpoolError, match="no i record"):
            open_control(str(path))
        with path.open("wb") as sparse:
            sparse.truncate(2**40)
        with pytest.raises(SpoolError, match="longer than"):
            open_control(str(path))

    def test_what_no_later_try_makes_better_and_what_one_may(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("nothing", "1-2/x", "x" * 300):
            with pytest.raises(SpoolError) as caught:
                open_control(str(path.parent / name))
            assert not isinstance(caught.value, SystemTrouble), name
        for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EIO, errno.EROFS, errno.ENOSPC):

            def refuse(*_: object, code: int = code) -> int:
                raise OSError(code, os.strerror(code))

            with monkeypatch.context() as patched:
                patched.setattr(os, "open", refuse)
                with pytest.raises(SystemTrouble, match=os.strerror(code)):
                    open_control(str(path))

    def test_reading_alone(self, path: Path) -> None:
        before = len(os.listdir("/dev/fd"))
        data = path.read_bytes()
        assert [r.user for r in read_control(str(path)).recipients] == [b"u0@example.net", b"u1@example.net"]
        path.write_bytes(data[:-3])
        with pytest.raises(SpoolError, match="cut off"):
            read_control(str(path))
        assert len(os.listdir("/dev/fd")) == before

    def test_a_refused_file_is_closed_and_unchanged(self, path: Path) -> None:
        data = path.read_bytes()[:-3]
        path.write_bytes(data)
        before = len(os.listdir("/dev/fd"))
        with pytest.raises(SpoolError, match="cut off"):
            open_control(str(path))
        assert len(os.listdir("/dev/fd")) == before
        assert path.read_bytes() == data

    def test_no_descriptor_stays(self, path: Path) -> None:
        before = len(os.listdir("/dev/fd"))
        with open_control(str(path)) as spool:
            spool.append(DIAGNOSTIC)
        spool.close()
        assert len(os.listdir("/dev/fd")) == before

    def test_a_read_error(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "read", broken)
        with pytest.raises(SpoolError, match="cannot read it: Input/output error"):
            open_control(str(path))

    def test_a_file_that_grows_while_it_is_read(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = path.read_bytes()
        parts = iter([data[:20], data[20:], DIAGNOSTIC, b""])
        monkeypatch.setattr(os, "read", lambda fd, size: next(parts))
        with open_control(str(path)) as spool:
            assert len(spool.control.recipients) == 2
        grown = iter([b"d" * 50] * 10)
        monkeypatch.setattr(locks, "FILE_LIMIT", 300)
        monkeypatch.setattr(os, "read", lambda fd, size: next(grown))
        with pytest.raises(SpoolError, match="longer than"):
            open_control(str(path))
