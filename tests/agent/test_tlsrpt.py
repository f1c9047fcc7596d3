"""Results of sessions through the whole agent: into the day's file, or to a collector's socket."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.agent import run
from tests.support.nameserver import NameServer
from tests.support.postoffice import PostOffice, Rcpt
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.tls.certificates import issue

from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsrpt import SessionResult, decode_result

ADDRESS = "127.4.4.1"
RECORD = "v=TLSRPTv1; rua=mailto:tls@example.org"
ZONE = {
    "example.org": {"MX": ("10 mx.example.org.",)},
    "mx.example.org": {"A": (ADDRESS,)},
    "_smtp._tls.example.org": {"TXT": (f'"{RECORD}"',)},
    "silent.example": {"MX": ("10 mx.example.org.",)},
}


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


def deliver(folder: Path, names: NameServer, path: Path, *, tls: bool = True, to: str = "example.org") -> None:
    """One message, with results to ``path``."""
    office = PostOffice(folder / f"office-{tls}")
    office.write_zenv(RESOLVER=names.address)
    (folder / "tls.conf").write_text(f"tls-report-file {path}\n")
    (folder / "server.pem").write_bytes(issue("mx", now=time.time()).pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    script = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)}) if tls else Script()
    with Sink(script, tls=context, host=ADDRESS) as sink:
        job = office.post([Rcpt("a@example.org", to)])
        flags = ("-h", "me.example", "-p", str(sink.port), "-S", str(folder / "tls.conf"))
        run(office, *flags, stdin=job.line(to))
        assert office.marks(job) == "+"


def read(folder: Path) -> list[SessionResult]:
    lines = [line for file in sorted(folder.glob("tlsrpt.*")) for line in file.read_bytes().splitlines()]
    return [decode_result(line)[0] for line in lines]


def test_results_go_into_the_file_of_the_day(tmp_path: Path, names: NameServer) -> None:
    deliver(tmp_path, names, tmp_path / "tlsrpt")
    deliver(tmp_path, names, tmp_path / "tlsrpt", tls=False)
    good, bad = read(tmp_path)
    assert (good.domain, good.record, good.failure) == ("example.org", RECORD, None)
    assert bad.failure is not None
    assert bad.failure.problem is TLSProblem.STARTTLS_NOT_SUPPORTED
    assert bad.failure.mx_host == "mx.example.org"
    assert bad.failure.receiving_ip == ADDRESS
    assert bad.failure.sending_ip.startswith("127.")


def test_who_does_not_ask_is_not_reported(tmp_path: Path, names: NameServer) -> None:
    deliver(tmp_path, names, tmp_path / "tlsrpt", to="silent.example")
    assert not read(tmp_path)


def test_results_go_to_a_collector(tmp_path: Path, names: NameServer) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector:
        collector.bind(str(tmp_path / "collector"))
        collector.settimeout(60)
        deliver(tmp_path, names, tmp_path / "collector", tls=False)
        words = json.loads(collector.recv(65536))
    assert words["d"] == "example.org"
    assert words["policies"][0]["failure-details"][0]["c"] == 201


def test_a_place_that_cannot_be_written_holds_nothing_up(tmp_path: Path, names: NameServer) -> None:
    deliver(tmp_path, names, tmp_path / "missing" / "tlsrpt")
