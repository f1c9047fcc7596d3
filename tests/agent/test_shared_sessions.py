"""Mail of another host over a session that stands (-e): only if it is as safe as that mail must be."""

from __future__ import annotations

import fcntl
import ssl
import time
from pathlib import Path

import pytest
from tests.support.agent import run
from tests.support.nameserver import NameServer
from tests.support.postoffice import PostOffice, Rcpt
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.tls.certificates import issue

ADDRESS = "127.4.5.1"
ZONE = {
    "one.example": {"MX": ("10 mx.example.org.",)},
    "two.example": {"MX": ("10 mx.example.org.",)},
    "mx.example.org": {"A": (ADDRESS,)},
}


@pytest.mark.parametrize(
    ("line", "names", "mark"),
    [
        ("two.example may", ["other.example"], "+"),
        ("two.example encrypt", ["other.example"], " "),
        ("two.example secure match=mx.example.org", ["other.example"], " "),
        ("two.example secure match=mx.example.org", ["mx.example.org"], " "),
        ("two.example broken", ["mx.example.org"], " "),
        ("* verify", ["mx.example.org"], "+"),
    ],
)
def test_which_mail_may_share_a_session(line: str, names: list[str], mark: str, tmp_path: Path) -> None:
    """What does not share it is left alone: the scheduler gives it a job of its own."""
    office = PostOffice(tmp_path / "office")
    root = issue("Root", ca=True, now=time.time())
    (tmp_path / "roots.pem").write_bytes(root.pem.partition(b"-----BEGIN PRIVATE")[0])
    (tmp_path / "server.pem").write_bytes(issue("mx", by=root, names=names, now=time.time()).pem)
    (tmp_path / "table").write_text(f"{line}\n")
    (tmp_path / "tls.conf").write_text(f"tls-CAfile {tmp_path}/roots.pem\ntls-policy-file {tmp_path}/table\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    script = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
    with NameServer(ZONE) as dns, Sink(script, tls=context, host=ADDRESS) as sink:
        office.write_zenv(RESOLVER=dns.address)
        job = office.post([Rcpt("a@one.example", "one.example"), Rcpt("b@two.example", "two.example")])
        flags = ("-e", "-h", "me.example", "-p", str(sink.port), "-S", str(tmp_path / "tls.conf"))
        result = run(office, *flags, stdin=job.line("one.example"))
        assert office.marks(job) == "+" + mark
        assert not office.locked()
        assert len(sink.connections) == 1
    assert result.status == 0


@pytest.mark.parametrize(("names", "mark"), [(["one.example"], " "), (["one.example", "two.example"], " ")])
def test_mail_that_requires_tls_asks_for_its_own_name(names: list[str], mark: str, tmp_path: Path) -> None:
    """No answer here is secure, so a certificate has to name the destination itself (RFC 8689 4.2.1)."""
    office = PostOffice(tmp_path / "office")
    root = issue("Root", ca=True, now=time.time())
    (tmp_path / "roots.pem").write_bytes(root.pem.partition(b"-----BEGIN PRIVATE")[0])
    (tmp_path / "server.pem").write_bytes(issue("mx", by=root, names=names, now=time.time()).pem)
    (tmp_path / "tls.conf").write_text(f"tls-CAfile {tmp_path}/roots.pem\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    script = Script(caps=("STARTTLS", "REQUIRETLS"), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
    with NameServer(ZONE) as dns, Sink(script, tls=context, host=ADDRESS) as sink:
        office.write_zenv(RESOLVER=dns.address)
        job = office.post(
            [
                Rcpt("a@one.example", "one.example", words="REQUIRETLS"),
                Rcpt("b@two.example", "two.example", words="REQUIRETLS"),
            ]
        )
        flags = ("-e", "-h", "me.example", "-p", str(sink.port), "-S", str(tmp_path / "tls.conf"))
        result = run(office, *flags, stdin=job.line("one.example"))
        assert office.marks(job) == "+" + mark
        assert not office.locked()
    assert result.status == 0


@pytest.mark.parametrize(
    ("logins", "mark"),
    [
        ("* =one.example plain:me plain:s3cret", " "),
        ("* =two.example plain:me plain:s3cret", " "),
        ("* mx.example.org plain:me plain:s3cret", "+"),
        ("* =one.example plain:me plain:s3cret\n* =two.example plain:me", " "),
    ],
)
def test_mail_of_another_login_does_not_share_a_session(logins: str, mark: str, tmp_path: Path) -> None:
    office = PostOffice(tmp_path / "office")
    (tmp_path / "logins").write_text(f"allow-cleartext\n{logins}\n")
    (tmp_path / "logins").chmod(0o600)
    script = Script(caps=("AUTH PLAIN",), replies={"AUTH": (Step("235 welcome"),)})
    with NameServer(ZONE) as dns, Sink(script, host=ADDRESS) as sink:
        office.write_zenv(RESOLVER=dns.address)
        job = office.post([Rcpt("a@one.example", "one.example"), Rcpt("b@two.example", "two.example")])
        flags = ("-e", "-h", "me.example", "-p", str(sink.port), "-A", str(tmp_path / "logins"))
        result = run(office, *flags, stdin=job.line("one.example"))
        assert office.marks(job) == "+" + mark, result.stderr
    assert result.status == 0


def test_a_lock_that_somebody_sits_on_costs_other_hosts_only(tmp_path: Path) -> None:
    """The recipient at the other host is left to another job, and the agent goes on."""
    office = PostOffice(tmp_path / "office")
    with NameServer(ZONE) as dns, Sink(Script(), host=ADDRESS) as sink:
        office.write_zenv(RESOLVER=dns.address)
        job = office.post([Rcpt("a@one.example", "one.example"), Rcpt("b@two.example", "two.example")])
        flags = ("-e", "-h", "me.example", "-p", str(sink.port))
        with open(office.transport / job.path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 20, job.offsets[1])
            result = run(office, *flags, stdin=job.line("one.example"))
        assert office.marks(job) == "+ "
        assert not office.locked()
    assert (result.status, result.hungry) == (0, 2)
    assert [report.offset for report in result.reports] == [job.offsets[0]]


NAMES = ZONE | {
    "three.example": {"MX": ("10 mx.three.example.", "20 mx2.three.example.")},
    "mx.three.example": {"A": ("127.4.5.9",)},
    "mx2.three.example": {"A": (ADDRESS, "127.4.5.8")},
    "four.example": {"A": (ADDRESS,)},
    "five.example": {"MX": ("10 mx.five.example.",)},
    "mx.five.example": {"A": ("127.4.5.9",)},
}


@pytest.mark.parametrize("flags", [(), ("-F", f"[{ADDRESS}]"), ("-F", "mx.three.example")], ids=" ".join)
def test_the_connected_host_is_known_by_its_address(flags: tuple[str, ...], tmp_path: Path) -> None:
    """It may be an exchanger under another name, or be connected to by its address."""
    office = PostOffice(tmp_path / "office")
    hosts = ["one.example", "two.example", "three.example", "four.example", "five.example"]
    zone = NAMES | {"mx.three.example": {"A": (ADDRESS,)}} if "mx.three.example" in flags else NAMES
    with NameServer(zone) as dns, Sink(Script(), host=ADDRESS) as sink:
        office.write_zenv(RESOLVER=dns.address)
        job = office.post([Rcpt(f"x@{host}", host) for host in hosts])
        run(office, "-e", "-h", "me.example", "-p", str(sink.port), *flags, stdin=job.line("one.example"))
        assert office.marks(job) == "++++ "
        assert len(sink.connections) == 1


@pytest.mark.parametrize(
    ("login", "mark"),
    [("* mx.three.example plain:me plain:s3cret", " "), ("* mx.four.example plain:me plain:s3cret", "+")],
)
def test_a_login_under_another_name_is_another_login(login: str, mark: str, tmp_path: Path) -> None:
    office = PostOffice(tmp_path / "office")
    (tmp_path / "logins").write_text(f"allow-cleartext\n{login}\n")
    (tmp_path / "logins").chmod(0o600)
    zone = NAMES | {"mx.three.example": {"A": (ADDRESS,)}}
    with NameServer(zone) as dns, Sink(Script(caps=("AUTH PLAIN",)), host=ADDRESS) as sink:
        office.write_zenv(RESOLVER=dns.address)
        job = office.post([Rcpt("a@one.example", "one.example"), Rcpt("b@three.example", "three.example")])
        flags = ("-e", "-h", "me.example", "-p", str(sink.port), "-A", str(tmp_path / "logins"))
        run(office, *flags, stdin=job.line("one.example"))
        assert office.marks(job) == "+" + mark
