"""Trace files: whole or not there, and a trouble told once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.support.network import message
from tests.support.traces import TracedWorld

from zsmtp.errors import ConfigError
from zsmtp.net.script import Script
from zsmtp.observers import files
from zsmtp.observers.codec import load_trace
from zsmtp.observers.document import Trace
from zsmtp.observers.files import TraceDirectory, TraceFile, write_trace
from zsmtp.observers.trace import Handle


@pytest.fixture
def trace() -> Trace:
    return TracedWorld(Script()).deliver(message())[0]


def test_a_file_is_its_owners_and_replaces_an_old_one(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "trace.json"
    path.write_text("old")
    write_trace(str(path), trace)
    assert load_trace(path) == trace
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["trace.json"]


def test_what_a_killed_process_left_behind_does_not_matter(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "trace.json"
    (tmp_path / f".trace.json.{os.getpid()}.new").write_text("half")
    write_trace(str(path), trace)
    assert load_trace(path) == trace


def test_a_link_in_the_way_is_not_followed(tmp_path: Path, trace: Trace) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "trace.json").symlink_to(target)
    (tmp_path / f".trace.json.{os.getpid()}.new").symlink_to(target)
    write_trace(str(tmp_path / "trace.json"), trace)
    assert target.read_text() == "precious"
    assert load_trace(tmp_path / "trace.json") == trace


def test_names_are_by_message_process_and_number(tmp_path: Path, trace: Trace) -> None:
    keep = TraceDirectory(str(tmp_path), 4711, lambda text: None)
    keep(Handle(1, "S12=x-"), trace)
    keep(Handle(2, "../../etc/pass wd\x1b"), trace)
    keep(Handle(3, ""), trace)
    assert sorted(os.listdir(tmp_path)) == ["S12=x--4711-1.json", "_.._etc_pass_wd_-4711-2.json", "message-4711-3.json"]


@pytest.mark.parametrize("directory", ["missing", "file"])
def test_a_directory_that_is_none(tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a directory"):
        TraceDirectory(str(tmp_path / directory), 1, lambda text: None)


def test_a_full_disk_is_told_once_and_leaves_nothing(
    tmp_path: Path, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[str] = []
    keep = TraceDirectory(str(tmp_path), 1, complaints.append)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "rename", full)
        keep(Handle(1, "a"), trace)
        keep(Handle(2, "b"), trace)
    assert complaints == [f"no trace in {tmp_path}/a-1-1.json: No space left on device"]
    assert os.listdir(tmp_path) == []
    keep(Handle(3, "c"), trace)
    assert os.listdir(tmp_path) == ["c-1-3.json"]
    assert len(complaints) == 1


def test_a_directory_that_goes_away_is_no_trouble_for_deliveries(tmp_path: Path, trace: Trace) -> None:
    complaints: list[str] = []
    keep = TraceFile(str(tmp_path / "gone" / "trace.json"), complaints.append)
    keep(Handle(1, ""), trace)
    assert complaints == [f"no trace in {tmp_path}/gone/trace.json: No such file or directory"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path, trace: Trace) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for place in (pipe, link, Path("/dev/null"), Path("/dev/stdout")):
        with pytest.raises(ConfigError, match=f"^no traces: {place} is not a regular file$"):
            TraceFile(str(place), lambda text: None)
    for place in (pipe, link):
        with pytest.raises(OSError, match="not a regular file"):
            write_trace(str(place), trace)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
