"""The control file's word REQUIRETLS and the header field TLS-Required, through the whole agent."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
from tests.support.agent import run
from tests.support.postoffice import HEADER, Job, PostOffice, Rcpt
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.tls.certificates import Issued, issue

ADDRESS = "127.4.3.1"
TLS = {"STARTTLS": (Step("220 go", Then.TLS),)}
STRICT = Script(caps=("STARTTLS", "REQUIRETLS", "PIPELINING"), replies=TLS)
GOOD = Script(caps=("STARTTLS", "PIPELINING"), replies=TLS)


@pytest.fixture(scope="module")
def root() -> Issued:
    return issue("Root", ca=True, now=time.time())


def context(folder: Path, shown: Issued) -> ssl.SSLContext:
    (folder / "server.pem").write_bytes(shown.pem)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "server.pem")
    return made


def conf(folder: Path, root: Issued, *lines: str) -> str:
    (folder / "roots.pem").write_bytes(root.pem.partition(b"-----BEGIN PRIVATE")[0])
    (folder / "tls.conf").write_text("\n".join([f"tls-CAfile {folder / 'roots.pem'}", *lines, ""]))
    return str(folder / "tls.conf")


def wire(sink: Sink, verb: str) -> list[str]:
    """The command lines with this verb."""
    lines = [
        line.decode("latin-1")
        for connection in sink.connections
        for s in connection.wire
        for line in s.data.split(b"\r\n")
    ]
    return [line for line in lines if line.startswith(verb)]


@pytest.mark.parametrize(
    ("script", "name", "mark"),
    [(STRICT, ADDRESS, "+"), (GOOD, ADDRESS, "-"), (STRICT, "elsewhere.example", " "), (Script(), ADDRESS, " ")],
    ids=["offered", "not offered", "wrong certificate", "no STARTTLS"],
)
def test_what_becomes_of_requiretls(script: Script, name: str, mark: str, root: Issued, tmp_path: Path) -> None:
    office = PostOffice(tmp_path / "office")
    shown = issue("mx", by=root, names=[name], now=time.time())
    with Sink(script, tls=context(tmp_path, shown), host=ADDRESS) as sink:
        host = f"[{ADDRESS}]:{sink.port}"
        job = office.post([Rcpt("a@example.com", host, words="REQUIRETLS"), Rcpt("b@example.com", host)])
        result = run(office, "-h", "me.example", "-S", conf(tmp_path, root), stdin=job.line(host))
        assert office.marks(job) == mark + "+"
        mails = wire(sink, "MAIL")
    assert ("MAIL FROM:<sender@example.org> REQUIRETLS" in mails) is (mark == "+")
    assert "MAIL FROM:<sender@example.org>" in mails, "the other recipient asks for nothing, and gets it"
    if mark == "-":
        assert office.notary(result.reports[0])[2].startswith(b"5.7.30")


def test_without_tls_it_waits(root: Issued, tmp_path: Path) -> None:
    office = PostOffice(tmp_path / "office")
    with Sink(STRICT, tls=None, host=ADDRESS) as sink:
        host = f"[{ADDRESS}]:{sink.port}"
        job = office.post([Rcpt("a@example.com", host, words="REQUIRETLS")])
        result = run(office, "-h", "me.example", stdin=job.line(host))
        assert office.marks(job) == " "
        assert not sink.connections
    assert office.notary(result.reports[0])[2].startswith(b"4.7.10")


def test_messages_that_ride_stop_at_one_that_requires_tls(root: Issued, tmp_path: Path) -> None:
    """All are at hand at once; the one in the middle may not go where the others go."""
    office = PostOffice(tmp_path / "office")
    shown = issue("mx", by=root, names=[ADDRESS], now=time.time())
    with Sink(GOOD, tls=context(tmp_path, shown), host=ADDRESS) as sink:
        host = f"[{ADDRESS}]:{sink.port}"

        def post(number: int) -> Job:
            words = "REQUIRETLS" if number == 2 else ""
            return office.post([Rcpt("a@example.com", host, words=words)], name=f"{1000 + number}")

        jobs = [post(number) for number in range(5)]
        lines = b"".join(job.line(host) for job in jobs)
        result = run(office, "-h", "me.example", "-S", conf(tmp_path, root), stdin=lines)
        assert "".join(office.marks(job) for job in jobs) == "++-++"
        assert len(sink.transactions) == 4
    assert result.hungry == 6
    assert not office.locked()


@pytest.mark.parametrize(("field", "mark"), [("TLS-Required: No\n", "+"), ("", " ")])
def test_the_header_field_silences_the_policy_of_the_destination(
    field: str, mark: str, root: Issued, tmp_path: Path
) -> None:
    """The remembered MTA-STS policy asks for a certificate that the server does not have."""
    from tests.support.nameserver import NameServer

    from zsmtp.net.policycache import PolicyCache
    from zsmtp.tls.mtasts import CachedPolicy

    office = PostOffice(tmp_path / "office")
    text = b"version: STSv1\nmode: enforce\nmx: *.example.org\nmax_age: 604800\n"
    cache = PolicyCache(str(office.root / "mta-sts.db"), print)
    cache.put(CachedPolicy("example.org", "1", text, fetched=time.time()), time.time())
    cache.close()
    zone = {"example.org": {"MX": ("10 mx.example.org.",)}, "mx.example.org": {"A": (ADDRESS,)}}
    shown = issue("mx", by=root, names=["elsewhere.example"], now=time.time())
    with NameServer(zone) as names, Sink(GOOD, tls=context(tmp_path, shown), host=ADDRESS) as sink:
        office.write_zenv(RESOLVER=names.address, TLS_MTA_STS="on")
        job = office.post([Rcpt("a@example.org", "example.org")], header=HEADER + field)
        run(office, "-h", "me.example", "-p", str(sink.port), stdin=job.line("example.org"))
        assert office.marks(job) == mark
        if mark == "+":
            assert b"TLS-Required: No" in sink.transactions[0].content
