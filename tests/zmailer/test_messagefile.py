"""Message files: what counts as missing, and for how long a descriptor is held."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from zsmtp.body.encode import KEEP_LIMIT
from zsmtp.errors import SpoolError
from zsmtp.zmailer.messagefile import MessageMissing, open_message


def test_a_message(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"head\nbody\n")
    os.utime(path, ns=(0, 1_672_574_400_000_000_005))
    found = open_message(str(path), 5)
    try:
        assert (found.path, found.size, found.inode) == (str(path), 10, path.stat().st_ino)
        assert found.mtime_ns == 1_672_574_400_000_000_005
        assert found.read(100) == b"body\n"
    finally:
        found.close()
    assert found.closed


@pytest.mark.parametrize("size", [0, 1, KEEP_LIMIT, KEEP_LIMIT + 1, 3 * KEEP_LIMIT])
def test_a_descriptor_is_held_only_while_it_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m"
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    path.write_bytes(b"head\n" + body)
    found = open_message(str(path), 5)
    assert found.holds_descriptor
    for _ in range(3):
        found.seek(5)
        read = b""
        while len(read) < size or not read:
            piece = found.read(100_000)
            read += piece
            if not piece:
                break
            assert found.holds_descriptor == (size > KEEP_LIMIT and len(read) < size)
        assert read == body
        assert not found.holds_descriptor
    found.seek(5 + size // 2)
    assert found.read(10) == body[size // 2 :][:10]
    found.close()
    with pytest.raises(ValueError, match="closed"):
        found.read(1)


@pytest.mark.parametrize("change", ["replaced", "longer", "gone"])
def test_a_long_message_must_be_the_same_when_it_is_read_again(tmp_path: Path, change: str) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"head\n" + b"x" * 2 * KEEP_LIMIT)
    found = open_message(str(path), 5)
    assert len(found.read(3 * KEEP_LIMIT)) == 2 * KEEP_LIMIT
    before = len(os.listdir("/dev/fd"))
    if change == "longer":
        with path.open("ab") as other:
            other.write(b"more")
    else:
        path.unlink()
    if change == "replaced":
        path.write_bytes(b"head\n" + b"y" * 2 * KEEP_LIMIT)
    found.seek(5)
    with pytest.raises(OSError, match="No such file" if change == "gone" else "changed"):
        found.read(10)
    assert len(os.listdir("/dev/fd")) == before
    found.close()


def test_an_empty_body(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"head\n")
    found = open_message(str(path), 5)
    assert found.read(100) == b""
    found.close()


def test_a_body_beyond_the_end_is_not_a_missing_message(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"head\n")
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(SpoolError) as caught:
        open_message(str(path), 6)
    assert not isinstance(caught.value, MessageMissing)
    assert caught.value.offset == 6
    assert len(os.listdir("/dev/fd")) == before


def test_what_is_missing_or_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("fifo", "directory", "socket", "nothing", "A/B/nothing", "fifo/nothing"):
            with pytest.raises(MessageMissing, match="message file is missing"):
                open_message(str(tmp_path / name), 0)
    with pytest.raises(MessageMissing, match="regular"):
        open_message("/dev/null", 0)


def test_other_trouble_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(SpoolError, match="Too many open files") as caught:
        open_message(str(tmp_path / "m"), 0)
    assert not isinstance(caught.value, MessageMissing)
