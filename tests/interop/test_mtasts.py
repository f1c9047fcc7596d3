"""MTA-STS (RFC 8461) as it is: records in the DNS, policies from an HTTPS server on port 443, mail to Postfix.

The agent is the one that everybody has: it finds the policy host by its name and asks it on its usual port. The judges
are Postfix's own count of commands, and what it stored.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme
from tests.interop.exchange import Exchange, Message, trace
from tests.interop.servers import LISTENERS, Farm
from tests.interop.zones import POLICY_HOST, STS, NameServers
from tests.support.agent import Result

from zsmtp.net.policycache import PolicyCache
from zsmtp.tls import mtasts

pytestmark = pytest.mark.interop

BOX = "user080"
PATH = "/.well-known/mta-sts.txt"
WEEK = 7 * 86400


def policy(mode: str = "enforce", mx: str = "*.insecure.test", max_age: int = WEEK) -> bytes:
    return f"version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n".encode()


POLICIES = {
    "other-mx": policy(mx="*.example.net"),
    "other-name": policy(mx="mx.deep.insecure.test"),
    "testing": policy("testing", mx="*.example.net"),
    "none": policy("none"),
    "short-lived": policy(max_age=1),
    "too-large": policy() + b"comment: " + b"x" * 70_000 + b"\r\n",
    "not-a-policy": b"<html><body>welcome</body></html>",
}


class PolicyHost(ThreadingHTTPServer):
    """Serves ``mta-sts.LABEL.ZONE``, each in its own way. ``asked`` are the labels of the requests it has heard."""

    daemon_threads = True

    def __init__(self, farm: Farm) -> None:
        super().__init__((POLICY_HOST, 443), _Handler)
        self.asked: list[str] = []
        self._authority = farm.authority
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._unknown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("mta-sts.unknown-authority.insecure.test").configure_cert(self._unknown)
        outer = farm.authority.context("policies.example")
        outer.sni_callback = self._choose
        self.socket = outer.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def _choose(self, connection: ssl.SSLObject, name: str | None, outer: ssl.SSLContext) -> None:
        if name is None:
            return  # then it is the outer one's
        label = name.split(".")[1]
        if label == "unknown-authority":
            connection.context = self._unknown
        elif label != "wrong-name":
            if name not in self._contexts:
                self._contexts[name] = self._authority.context(name, days=-1 if label == "expired" else 30)
            connection.context = self._contexts[name]

    def handle_error(self, request: object, client_address: object) -> None:
        """Who does not like the certificate hangs up."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 60
    server: PolicyHost

    def do_GET(self) -> None:
        label = str(self.headers["Host"]).split(".")[1]
        self.server.asked.append(label)
        if label == "reset":
            self.connection.close()
            return
        if label == "redirect":
            self.send_response(302)
            self.send_header("Location", f"https://mta-sts.{STS[0]}.insecure.test{PATH}")
            self.end_headers()
            return
        text = POLICIES.get(label, policy())
        self.send_response(404 if label == "missing" or self.path != PATH else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        for octet in (text[i : i + 1] for i in range(len(text))) if label == "slow" else (text,):
            self.wfile.write(octet)
            if label == "slow":
                time.sleep(0.005)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def policies(farm: Farm) -> Iterator[PolicyHost]:
    with PolicyHost(farm) as host:
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield host
        host.shutdown()
        thread.join()


class Site:
    """Deliveries to a domain, one agent each; what they remember lies below the post office."""

    def __init__(self, exchange: Exchange, names: NameServers, policies: PolicyHost) -> None:
        self.exchange = exchange
        self._names = names
        self._policies = policies
        policies.asked.clear()

    def deliver(self, destination: str, *lines: str) -> tuple[Message, Result]:
        self.exchange.route_to(destination, self._names.validating)
        message = self.exchange.post([BOX], b"as the policy says\n")
        conf = self.exchange.tls_file("may", "tls-mta-sts on", *lines)
        return message, self.exchange.run([message], "-S", str(conf))

    def remember(self, domain: str, text: bytes, *, of: str = "0") -> None:
        """Have a policy for ``domain``, fetched under another id than the DNS has now."""
        cache = PolicyCache(str(self.exchange.office.root / "mta-sts.db"), lambda text: None)
        cache.put(mtasts.CachedPolicy(domain, of, text, time.time()), time.time())
        cache.close()

    def assert_delivered(self, message: Message, *, tls: bool) -> None:
        assert self.exchange.office.marks(message.job) == "+"
        self.exchange.server.await_stored(1)
        (stored,) = self.exchange.server.stored(BOX)
        assert bool(re.search(rb"with ESMTPS id ", trace(stored))) is tls

    def assert_waits(self, message: Message, result: Result) -> None:
        (report,) = result.reports
        assert self.exchange.office.marks(message.job) == " "
        assert report.notary[2].startswith(b"4.7.5")
        self.exchange.server.await_rest()
        assert " mail=" not in self.exchange.server.log_since(self.exchange.log_position)
        assert self.exchange.server.count() == 0


@pytest.fixture
def site(exchange: Exchange, names: NameServers, policies: PolicyHost) -> Site:
    return Site(exchange, names, policies)


def at(*names: str) -> pytest.MarkDecorator:
    chosen = [listener for listener in LISTENERS if listener.name in names]
    assert len(chosen) == len(names)
    return pytest.mark.parametrize("listener", chosen, ids=lambda listener: listener.name)


@pytest.mark.parametrize("label", ["enforce", "slow"])
@at("postfix-starttls")
def test_an_exchanger_as_the_policy_wants_it(label: str, site: Site, policies: PolicyHost) -> None:
    message, _ = site.deliver(f"{label}.insecure.test")
    site.assert_delivered(message, tls=True)
    assert "(MTA-STS policy, mode enforce)" in site.exchange.office.log.read_text()
    assert policies.asked == [label]


@pytest.mark.parametrize("label", ["enforce", "other-mx"])
@at("postfix-bare")
def test_enforce_without_tls(label: str, site: Site) -> None:
    site.assert_waits(*site.deliver(f"{label}.insecure.test"))


@pytest.mark.parametrize("label", ["other-mx", "other-name"])
@at("postfix-starttls")
def test_enforce_and_another_exchanger(label: str, site: Site) -> None:
    """One whose name the policy does not have, and one whose name its certificate does not have."""
    site.assert_waits(*site.deliver(f"{label}.insecure.test"))


@pytest.mark.parametrize("label", ["testing", "none"])
@at("postfix-bare")
def test_testing_and_none_keep_nothing_back(label: str, site: Site, policies: PolicyHost) -> None:
    message, _ = site.deliver(f"{label}.insecure.test")
    site.assert_delivered(message, tls=False)
    assert policies.asked == [label]


@at("postfix-starttls")
def test_a_policy_is_fetched_once(site: Site, policies: PolicyHost) -> None:
    for _ in range(3):
        message, _ = site.deliver("enforce.insecure.test")
        site.assert_delivered(message, tls=True)
        site.exchange.server.clear()
    assert policies.asked == ["enforce"]


@at("postfix-starttls")
def test_a_policy_has_its_time(site: Site, policies: PolicyHost) -> None:
    for _ in range(2):
        message, _ = site.deliver("short-lived.insecure.test")
        site.assert_delivered(message, tls=True)
        site.exchange.server.clear()
        time.sleep(1.1)
    assert policies.asked == ["short-lived"] * 2


BROKEN = ("wrong-name", "unknown-authority", "expired", "redirect", "missing", "too-large", "not-a-policy", "reset")


@pytest.mark.parametrize("label", BROKEN)
@at("postfix-bare")
def test_a_policy_that_cannot_be_had_keeps_nothing_back(label: str, site: Site) -> None:
    message, _ = site.deliver(f"{label}.insecure.test")
    site.assert_delivered(message, tls=False)


@pytest.mark.parametrize("label", BROKEN)
@at("postfix-bare")
def test_a_policy_that_cannot_be_had_again_stays_in_force(label: str, site: Site) -> None:
    """An attacker who keeps the new policy away must not get rid of the old one."""
    site.remember(f"{label}.insecure.test", policy())
    site.assert_waits(*site.deliver(f"{label}.insecure.test"))


@at("postfix-bare")
def test_a_new_policy_takes_the_place_of_the_old_one(site: Site) -> None:
    site.remember("none.insecure.test", policy())
    message, _ = site.deliver("none.insecure.test")
    site.assert_delivered(message, tls=False)


@at("postfix-starttls")
def test_dane_goes_before(site: Site) -> None:
    """The policy lists no exchanger of the domain; its TLSA records are right."""
    message, _ = site.deliver(f"{STS[0]}.signed.test", "tls-dane on")
    site.assert_delivered(message, tls=True)
    assert "(TLSA records of mx-ee.signed.test)" in site.exchange.office.log.read_text()


@at("postfix-starttls")
def test_the_same_without_dane(site: Site) -> None:
    site.assert_waits(*site.deliver(f"{STS[0]}.signed.test", "tls-dane off"))
