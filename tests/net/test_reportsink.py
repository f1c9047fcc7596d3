"""Results of TLS sessions on their way out: a file for each day, or a collector's socket."""

from __future__ import annotations

import json
import os
import resource
import socket
from pathlib import Path

import pytest

from zsmtp.net.reportsink import ReportSink
from zsmtp.tls.tlsrpt import AppliedPolicy, PolicyType, SessionResult, decode_result, encode_result

NEW_YEAR = 1_767_225_600  # 2026-01-01, 00:00 UTC
RESULT = SessionResult("example.org", "v=TLSRPTv1; rua=mailto:a@b", AppliedPolicy(PolicyType.NONE, "example.org"))


@pytest.fixture
def complaints() -> list[str]:
    return []


def test_each_day_has_its_file(tmp_path: Path, complaints: list[str]) -> None:
    sink = ReportSink(str(tmp_path / "tlsrpt"), complaints.append)
    other = ReportSink(str(tmp_path / "tlsrpt"), complaints.append)
    sink.record(RESULT, NEW_YEAR - 1)
    sink.record(RESULT, NEW_YEAR)
    other.record(RESULT, NEW_YEAR + 1.5)
    last, first = tmp_path / "tlsrpt.2025-12-31", tmp_path / "tlsrpt.2026-01-01"
    assert [decode_result(line) for line in last.read_bytes().splitlines()] == [(RESULT, NEW_YEAR - 1)]
    assert [decode_result(line)[1] for line in first.read_bytes().splitlines()] == [NEW_YEAR, NEW_YEAR + 1]
    assert complaints == []


def test_a_socket_gets_datagrams(tmp_path: Path, complaints: list[str]) -> None:
    path = str(tmp_path / "collector")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector:
        collector.bind(path)
        collector.settimeout(30)
        ReportSink(path, complaints.append).record(RESULT, NEW_YEAR)
        assert json.loads(collector.recv(65536))["d"] == "example.org"
    assert complaints == []


def test_a_collector_that_is_gone_or_slow_holds_nobody_up(tmp_path: Path, complaints: list[str]) -> None:
    path = str(tmp_path / "collector")
    sink = ReportSink(path, complaints.append)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector:
        collector.bind(path)
        for _ in range(2000):  # more than any queue takes
            sink.record(RESULT, NEW_YEAR)
    sink.record(RESULT, NEW_YEAR)
    assert len(complaints) == 1


@pytest.mark.parametrize("name", ["none/tlsrpt", "\0", "x" * 300])
def test_a_place_that_cannot_be_written_is_told_once(tmp_path: Path, complaints: list[str], name: str) -> None:
    sink = ReportSink(f"{tmp_path}/{name}", complaints.append)
    sink.record(RESULT, NEW_YEAR)
    sink.record(RESULT, NEW_YEAR)
    assert len(complaints) == 1


def test_a_fifo_holds_nobody_up(tmp_path: Path, complaints: list[str]) -> None:
    os.mkfifo(tmp_path / "tlsrpt.2026-01-01")
    ReportSink(str(tmp_path / "tlsrpt"), complaints.append).record(RESULT, NEW_YEAR)
    assert len(complaints) == 1


def test_a_line_that_was_cut_short_is_told(tmp_path: Path, complaints: list[str]) -> None:
    line = len(encode_result(RESULT, NEW_YEAR))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sink = ReportSink(str(tmp_path / "tlsrpt"), complaints.append)
    resource.setrlimit(resource.RLIMIT_FSIZE, (line + 10, hard))
    try:
        sink.record(RESULT, NEW_YEAR)
        assert not complaints
        sink.record(RESULT, NEW_YEAR)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(complaints) == 1
