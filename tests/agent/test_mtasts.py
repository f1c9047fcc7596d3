"""MTA-STS through the whole agent: name server, policy host and mail server are real, on loopback addresses."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.agent import Agent, Result
from tests.support.nameserver import NameServer
from tests.support.policyhost import PolicyHost
from tests.support.postoffice import PostOffice, Rcpt
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.tls.certificates import Issued, issue

ADDRESS = "127.4.1.1"
STARTTLS = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
ZONE = {
    "example.org": {"MX": ("10 mx.example.org.",)},
    "mx.example.org": {"A": (ADDRESS,)},
    "_mta-sts.example.org": {"TXT": ('"v=STSv1; id=20260101;"',)},
    "mta-sts.example.org": {"A": ("127.0.0.1",)},
}


def policy(mode: str = "enforce", mx: str = "mx.example.org") -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n".encode()


def context(folder: Path, shown: Issued) -> ssl.SSLContext:
    pem = folder / f"{shown.certificate.serial_number}.pem"
    pem.write_bytes(shown.pem)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pem)
    return made


@dataclass
class Site:
    """A post office whose agent finds example.org, and whom it trusts."""

    folder: Path
    office: PostOffice
    names: NameServer
    root: Issued
    policies: PolicyHost

    def write_conf(self, *lines: str) -> str:
        roots = self.folder / "roots.pem"
        roots.write_bytes(self.root.pem.partition(b"-----BEGIN PRIVATE")[0])
        path = self.folder / "tls.conf"
        path.write_text("\n".join([f"tls-CAfile {roots}", *lines, ""]))
        return str(path)

    def server(self, name: str) -> ssl.SSLContext:
        return context(self.folder, issue("mx", by=self.root, names=[name], now=time.time()))

    def deliver(self, sink: Sink, *flags: str) -> tuple[str, Result]:
        """One message to example.org at the sink's port: its mark, and the run."""
        job = self.office.post([Rcpt("a@example.org", "example.org")], body="secret words\n")
        flags = ("-h", "me.example", "-p", str(sink.port), *flags)
        with Agent(self.office, *flags, environment=self.policies.environment(self.folder)) as agent:
            agent.feed(job.line("example.org"))
            result = agent.finish()
        assert result.status == 0
        assert not self.office.locked()
        return self.office.marks(job), result


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = issue("Root", ca=True, now=time.time())
    web = issue("web", by=root, names=["mta-sts.example.org"], now=time.time())
    office = PostOffice(tmp_path / "office")
    with NameServer(ZONE) as names, PolicyHost(context(tmp_path, web), policy()) as policies:
        office.write_zenv(RESOLVER=names.address)
        yield Site(tmp_path, office, names, root, policies)


def verbs(sink: Sink) -> list[str]:
    return [verb for connection in sink.connections for verb in connection.verbs]


def test_a_policy_is_fetched_kept_below_postoffice_and_obeyed(site: Site) -> None:
    conf = site.write_conf("tls-mta-sts on")
    with Sink(STARTTLS, tls=site.server("mx.example.org"), host=ADDRESS) as sink:
        assert site.deliver(sink, "-S", conf)[0] == "+"
        assert site.deliver(sink, "-S", conf)[0] == "+"
        assert len(sink.transactions) == 2
    assert site.policies.asked == ["mta-sts.example.org/.well-known/mta-sts.txt"], "the second agent remembers"
    assert (site.office.root / "mta-sts.db").is_file()


def test_a_server_that_fails_the_policy_gets_nothing(site: Site) -> None:
    conf = site.write_conf("tls-mta-sts on", f"tls-mta-sts-cache {site.folder / 'elsewhere.db'}")
    with Sink(STARTTLS, tls=site.server("other.example"), host=ADDRESS) as sink:
        mark, result = site.deliver(sink, "-S", conf)
        assert mark == " "
        assert "MAIL" not in verbs(sink)
    assert b"MTA-STS policy, mode enforce" in b"\n".join(result.stdout)
    assert (site.folder / "elsewhere.db").is_file()
    assert not (site.office.root / "mta-sts.db").exists()


@pytest.mark.parametrize("conf", ["tls-mta-sts testing", "tls-mta-sts off"])
def test_testing_and_off_keep_nothing_back(conf: str, site: Site) -> None:
    with Sink(STARTTLS, tls=site.server("other.example"), host=ADDRESS) as sink:
        assert site.deliver(sink, "-S", site.write_conf(conf))[0] == "+"
    assert bool(site.policies.asked) is (conf == "tls-mta-sts testing")


@pytest.mark.parametrize(("word", "mark"), [("on", " "), ("testing", "+"), ("of", " "), ("off", "+")])
def test_zenv_switches_policies_on_without_a_file(word: str, mark: str, site: Site) -> None:
    """The server is unknown to the system's authorities; so is the policy host, but the policy is remembered."""
    site.office.write_zenv(RESOLVER=site.names.address, TLS_MTA_STS="on")
    site.policies.environment(site.folder)
    conf = site.write_conf("tls-mta-sts on")
    with Sink(STARTTLS, tls=site.server("mx.example.org"), host=ADDRESS) as sink:
        assert site.deliver(sink, "-S", conf)[0] == "+"
    site.office.write_zenv(RESOLVER=site.names.address, TLS_MTA_STS=word)
    with Sink(STARTTLS, tls=site.server("mx.example.org"), host=ADDRESS) as sink:
        got, result = site.deliver(sink)
        assert got == mark
        assert ("STARTTLS" in verbs(sink)) is (word != "off"), "no STARTTLS unless a policy is switched on"
    assert (b"taken as on" in b"\n".join(result.stderr)) is (word == "of")


def test_the_file_of_s_goes_before_zenv(site: Site) -> None:
    site.office.write_zenv(RESOLVER=site.names.address, TLS_MTA_STS="on")
    with Sink(STARTTLS, tls=site.server("other.example"), host=ADDRESS) as sink:
        assert site.deliver(sink, "-S", site.write_conf("tls-mta-sts off"))[0] == "+"
    assert not site.policies.asked


def test_a_policy_host_that_fails_keeps_no_mail_back(site: Site) -> None:
    site.policies.text = None
    with Sink(STARTTLS, tls=site.server("other.example"), host=ADDRESS) as sink:
        assert site.deliver(sink, "-S", site.write_conf("tls-mta-sts on"))[0] == "+"


def test_a_cache_that_cannot_be_written_is_complained_of_and_mail_goes(site: Site) -> None:
    conf = site.write_conf("tls-mta-sts on", "tls-mta-sts-cache /nowhere/at/all.db")
    with Sink(STARTTLS, tls=site.server("mx.example.org"), host=ADDRESS) as sink:
        mark, result = site.deliver(sink, "-S", conf)
    assert mark == "+"
    assert any(b"/nowhere/at/all.db" in line for line in result.stderr)


def test_address_literals_have_no_policy(site: Site) -> None:
    conf = site.write_conf("tls-mta-sts on")
    with Sink(STARTTLS, tls=site.server("other.example"), host=ADDRESS) as sink:
        host = f"[{ADDRESS}]:{sink.port}"
        job = site.office.post([Rcpt("a@example.org", host)])
        with Agent(site.office, "-h", "me.example", "-S", conf) as agent:
            agent.feed(job.line(host))
            agent.finish()
        assert site.office.marks(job) == "+"
    assert not site.names.queries


def test_a_stop_ends_the_wait_for_a_policy(site: Site) -> None:
    """The policy host takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent, Sink(STARTTLS, host=ADDRESS) as sink:
        site.policies.port = silent.getsockname()[1]
        environment = site.policies.environment(site.folder)
        job = site.office.post([Rcpt("a@example.org", "example.org")])
        flags = ("-h", "me.example", "-p", str(sink.port), "-S", site.write_conf("tls-mta-sts on"))
        with Agent(site.office, *flags, environment=environment) as agent:
            agent.feed(job.line("example.org"))
            waiting, _ = silent.accept()
            with waiting:
                waiting.recv(1)  # the handshake is on its way
                agent.signal(signal.SIGTERM)
                assert agent.wait().status == 0
        assert site.office.marks(job) == " "
        assert not site.office.locked()
        assert not sink.connections
