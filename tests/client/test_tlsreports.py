"""Results of a program's sessions for TLS reports (RFC 8460): what is kept, and the report that is made of it."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import ssl
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.tls.certificates import issue

import zsmtp
from zsmtp.cli.main import main
from zsmtp.dns.static import StaticResolver
from zsmtp.net import reportsink
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsrpt import SessionResult, decode_result

ADDRESS = "127.4.6.2"
ZONE = f"""
example.net MX 10 mx.example.net
mx.example.net A {ADDRESS}
_smtp._tls.example.net TXT "v=TLSRPTv1; rua=https://reports.example.net/v1"
silent.example MX 10 mx.example.net
"""
LETTER = b"From: ann@example.org\nTo: bob@example.net\nSubject: s\n\nbody\n"
CLEAR = Script()
SAFE = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})


def sink(folder: Path, *scripts: Script) -> Sink:
    (folder / "server.pem").write_bytes(issue("mx", now=time.time()).pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return Sink(*scripts, tls=context, host=ADDRESS)


def config(there: Sink, path: Path) -> zsmtp.Config:
    direct = zsmtp.Direct(
        resolver=StaticResolver(ZONE), port=there.port, mta_sts=zsmtp.STSUse.OFF, tls_report_file=str(path)
    )
    return zsmtp.Config(direct=direct)


def read(folder: Path) -> list[SessionResult]:
    lines = [line for file in sorted(folder.glob("tlsrpt.*")) for line in file.read_bytes().splitlines()]
    return [decode_result(line)[0] for line in lines]


def test_of_what_a_program_delivered_a_report_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    yesterday = time.time() - 86400
    monkeypatch.setattr(reportsink, "time", SimpleNamespace(time=lambda: yesterday))
    with sink(tmp_path, SAFE, CLEAR) as there:
        for _ in range(2):
            assert zsmtp.deliver(LETTER, config=config(there, tmp_path / "tlsrpt")).ok
    good, bad = read(tmp_path)
    assert good.failure is None
    assert bad.failure is not None
    assert (bad.failure.problem, bad.failure.receiving_ip) == (TLSProblem.STARTTLS_NOT_SUPPORTED, ADDRESS)
    assert main(["tlsrpt", "--domain", "example.org", "--output", str(tmp_path), str(tmp_path / "tlsrpt")]) == 0
    domain, address, file = capsys.readouterr().out.rstrip().split("\t")
    assert (domain, address) == ("example.net", "https://reports.example.net/v1")
    (policy,) = json.loads(gzip.decompress(Path(file).read_bytes()))["policies"]
    assert list(policy["summary"].values()) == [1, 1]


def test_there_is_a_result_for_each_session_and_not_for_each_message(tmp_path: Path) -> None:
    with sink(tmp_path, SAFE) as there:

        async def run() -> list[bool]:
            one = zsmtp.Config(direct=config(there, tmp_path / "tlsrpt").direct, limits=zsmtp.Limits(per_destination=1))
            async with zsmtp.aio.Client(one) as client:
                return [result.ok async for result in client.stream([LETTER] * 3)]

        assert zsmtp.aio.run(run()) == [True] * 3
        assert len(there.connections) == 1
    assert [(one.domain, one.failure) for one in read(tmp_path)] == [("example.net", None)]


def test_results_go_to_a_collector(tmp_path: Path) -> None:
    path = tmp_path / "collector"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector, sink(tmp_path, CLEAR) as there:
        collector.bind(str(path))
        collector.settimeout(60)
        assert zsmtp.deliver(LETTER, config=config(there, path)).ok
        assert json.loads(collector.recv(65536))["d"] == "example.net"


@pytest.mark.parametrize("name", ["missing/tlsrpt", "collector"])
def test_a_place_that_cannot_be_written_stops_no_mail_and_is_told_once(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(tmp_path / "collector"))
    with sink(tmp_path, CLEAR) as there, caplog.at_level(logging.WARNING, "zsmtp"):
        for _ in range(3):
            assert zsmtp.deliver(LETTER, config=config(there, tmp_path / name)).ok
    told = [record.getMessage() for record in caplog.records if str(tmp_path / name) in record.getMessage()]
    assert len(told) == 1
    assert told[0].endswith("; results of TLS sessions are lost")


def test_nobody_is_reported_who_does_not_ask_nor_what_a_relay_takes(tmp_path: Path) -> None:
    with sink(tmp_path, CLEAR) as there:
        own = config(there, tmp_path / "tlsrpt")
        assert zsmtp.deliver(LETTER, recipients="a@silent.example", config=own).ok
        assert zsmtp.deliver(LETTER, config=own, relay=f"smtp://{ADDRESS}:{there.port}").ok
        quiet = StaticResolver(ZONE)
        direct = zsmtp.Direct(resolver=quiet, port=there.port, mta_sts=zsmtp.STSUse.OFF)
        assert zsmtp.deliver(LETTER, config=zsmtp.Config(direct=direct)).ok
    assert not read(tmp_path)
    assert not [query for query in quiet.queries if query.name.startswith("_smtp._tls")]


def test_it_is_named_in_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[direct]\ntls_report_file = "/var/spool/tlsrpt"\n')
    assert zsmtp.Config.from_toml(path).direct.tls_report_file == "/var/spool/tlsrpt"
    path.write_text('[direct]\ntls_report_file = "a\\u0000b"\n')
    with pytest.raises(zsmtp.ConfigError, match=r"direct\.tls_report_file: no file name$"):
        zsmtp.Config.from_toml(path)
