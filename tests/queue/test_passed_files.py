"""Files that are passed to another process: each process reads at a position of its own."""

from __future__ import annotations

import os
import tempfile

from zsmtp.queue.workers.passing import PassedFile, descriptor_of


def test_a_passed_file_has_a_position_of_its_own() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        first, second = (PassedFile(descriptor_of(file)) for _ in range(2))
    assert first.read(4) == b"0123"
    assert second.read(2) == b"01"
    assert first.read() == b"456789"
    assert first.read(1) == b""
    assert (second.seek(-3, os.SEEK_END), second.read(2)) == (7, b"78")
    assert (second.seek(-1, os.SEEK_CUR), second.read(), second.seekable(), second.readable()) == (8, b"89", True, True)
    for one in (first, second):
        one.close()
        one.close()
