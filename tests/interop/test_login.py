"""Logins (RFC 4954) at Postfix, judged by Dovecot: every mechanism they offer, and all the ways to be turned away.

Nobody gets mail into these listeners without a login, and Postfix counts at the end of each connection what it heard.
Whatever can be read afterwards, in logs, reports, standard output and syslog, must not hold the secret in any form in
which it was sent.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import time
from pathlib import Path

import pytest
from tests.interop.exchange import Exchange
from tests.interop.servers import LOGINS, Farm, Listener
from tests.support.agent import SOURCE, Result
from tests.support.postoffice import Job, PostOffice

pytestmark = pytest.mark.interop

USER = b"login@interop.test"
PASSWORD = "It's 1 secret, =ly ours (Grüße)".encode()  # as in conf/logins
BOX = "user060"

MECHANISMS = {
    "login-plain": "PLAIN",
    "login-login": "LOGIN",
    "login-cram": "CRAM-MD5",
    "login-scram": "SCRAM-SHA-256",
    "login-xoauth2": "XOAUTH2",
    "login-oauthbearer": "OAUTHBEARER",
    "login": "SCRAM-SHA-256",
}
BEARERS = {"login-xoauth2", "login-oauthbearer"}

# syslog(3) of the agent's interpreter, led into a file
_SYSLOG = """
import syslog
def told(priority, message):
    with open({path!r}, "a") as file:
        file.write(message + "\\n")
syslog.syslog = told
"""


def at(*names: str) -> pytest.MarkDecorator:
    chosen = [listener for listener in LOGINS if listener.name in names]
    assert len(chosen) == len(names)
    return pytest.mark.parametrize("listener", chosen, ids=lambda listener: listener.name)


@pytest.fixture(scope="module")
def signing_key(farm: Farm) -> bytes:
    """The key that Dovecot believes tokens by, where it looks for it."""
    key = os.urandom(32)
    path = farm.directory / "root/etc/dovecot/keys/default/HS256/default"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64encode(key))
    return key


@pytest.fixture(autouse=True)
def judge(farm: Farm, signing_key: bytes) -> None:
    """Dovecot runs, knowing the key."""
    farm.server("dovecot")


def token(key: bytes, user: bytes, *, expires: float = 300.0) -> bytes:
    """A bearer token for ``user`` (RFC 7519) for so many seconds."""

    def part(octets: bytes) -> bytes:
        return base64.urlsafe_b64encode(octets).rstrip(b"=")

    now = time.time()
    claims = {"sub": user.decode(), "iat": int(now - 600), "exp": int(now + expires)}
    signed = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return signed + b"." + part(hmac.digest(key, signed, "sha256"))


class Login:
    """A message through a listener with the login that the file of -A gives, and what can be read afterwards."""

    def __init__(self, exchange: Exchange, tmp_path: Path) -> None:
        self.exchange = exchange
        self._folder = tmp_path
        self._syslog = tmp_path / "syslog"
        self._verbose = exchange.office.root / "verbose"
        self.secrets: list[bytes] = []
        exchange.office.write_zenv(SYSLOGFLG="RsST")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(_SYSLOG.format(path=str(self._syslog)))

    def file(self, user: bytes, secret: bytes, *, bearer: bool = False) -> str:
        """The file, in the two ways in which it can be written."""
        self.secrets += [secret, base64.b64encode(secret), base64.b64encode(b"\0" + user + b"\0" + secret)]
        words = b"oauth:" + secret if bearer else base64.b64encode(secret)
        path = self._folder / "logins"
        path.write_bytes(b"# channel host user secret\nsmtp 127.0.0.1 plain:" + user + b" " + words + b"\n")
        path.chmod(0o600)
        return str(path)

    def run(self, *flags: str) -> tuple[Job, Result]:
        message = self.exchange.post([BOX], b"after a login\n", extra=f"v {self._verbose}\n")
        environment = {"PYTHONPATH": os.pathsep.join([str(self._folder / "site"), str(SOURCE)])}
        return message.job, self.exchange.run([message], "-d", "-v", "-v", *flags, environment=environment)

    def assert_nothing_told(self, job: Job, result: Result) -> None:
        office: PostOffice = self.exchange.office
        places = {
            "standard output": b"\n".join(result.stdout),
            "standard error": b"\n".join(result.stderr),
            "dialogue": office.log.read_bytes(),
            "sender's log": self._verbose.read_bytes(),
            "syslog": self._syslog.read_bytes(),
            "control file": (office.transport / job.path).read_bytes(),
        }
        for name, octets in places.items():
            assert octets or name == "standard error", f"nothing in {name}"
            for secret in self.secrets:
                assert secret not in octets, f"the secret stands in {name}"
        assert b"***secret***" in places["dialogue"]

    def heard(self) -> dict[str, str]:
        """What the server counted on the one connection there was: commands by name, accepted/given."""
        (found,) = self.exchange.await_log(r": disconnect from \S+ (.*)$")
        return dict(word.split("=", 1) for word in found[1].split())


@pytest.fixture
def login(exchange: Exchange, tmp_path: Path) -> Login:
    return Login(exchange, tmp_path)


def flags_for(login: Login, way: str) -> list[str]:
    return ["-S", str(login.exchange.tls_file("verify"))] if way == "STARTTLS" else []


EITHER_WAY = pytest.mark.parametrize("way", ["on this machine", "STARTTLS"])


@EITHER_WAY
@at(*MECHANISMS)
def test_the_right_secret(login: Login, listener: Listener, way: str, signing_key: bytes) -> None:
    bearer = listener.name in BEARERS
    file = login.file(USER, token(signing_key, USER) if bearer else PASSWORD, bearer=bearer)
    job, result = login.run("-A", file, *flags_for(login, way))
    assert login.exchange.office.marks(job) == "+", result.reports
    login.exchange.server.await_stored(1)
    heard = login.heard()
    assert (heard["auth"], heard["mail"]) == ("1", "1")
    assert f"logged in with {MECHANISMS[listener.name]}" in login.exchange.office.log.read_text()
    login.assert_nothing_told(job, result)


WRONG = {
    "wrong secret": (USER, b"another secret of ours"),
    "unknown user": (b"nobody@interop.test", PASSWORD),
    "another's prefix": (USER, PASSWORD[:-1]),
}


@pytest.mark.parametrize(
    ("what", "way"), [*((what, "on this machine") for what in WRONG), ("wrong secret", "STARTTLS")]
)
@at(*MECHANISMS)
def test_a_refused_login_waits(login: Login, listener: Listener, way: str, what: str, signing_key: bytes) -> None:
    """No mail leaves, not even an envelope; where all mechanisms are listed, two are given a proof or the secret.

    Dovecot refuses SCRAM of a user it does not know before it asks for the proof.
    """
    bearer = listener.name in BEARERS
    user, secret = WRONG[what]
    if bearer:
        secret = {
            "wrong secret": token(b"x" * 32, USER),
            "unknown user": token(signing_key, b"somebody@interop.test"),
            "another's prefix": token(signing_key, USER, expires=-60),
        }[what]
    job, result = login.run("-A", login.file(user, secret, bearer=bearer), *flags_for(login, way))
    (report,) = result.reports
    assert login.exchange.office.marks(job) == " "
    assert report.notary[1] == b"failed"
    assert report.notary[2].startswith(b"4.7.")
    heard = login.heard()
    tries = 1 if listener.name != "login" else 3 if what == "unknown user" else 2
    assert heard["auth"] == f"0/{tries}"
    assert not heard.keys() & {"mail", "rcpt", "data", "bdat"}
    login.assert_nothing_told(job, result)


@EITHER_WAY
@at("login-others")
def test_mechanisms_that_are_not_known_here(login: Login, way: str) -> None:
    job, result = login.run("-A", login.file(USER, PASSWORD), *flags_for(login, way))
    (report,) = result.reports
    assert login.exchange.office.marks(job) == " "
    assert report.notary[2].startswith(b"4.7.8")
    assert not login.heard().keys() & {"auth", "mail"}


@at("login-tls")
def test_a_login_that_is_offered_behind_tls_only(login: Login) -> None:
    job, result = login.run("-A", login.file(USER, PASSWORD), *flags_for(login, "STARTTLS"))
    assert login.exchange.office.marks(job) == "+"
    assert login.heard()["ehlo"] == "2"
    login.assert_nothing_told(job, result)


@at("login-plain", "login-scram")
def test_a_token_where_passwords_are_wanted(login: Login, signing_key: bytes) -> None:
    """A bearer token never goes out as a password."""
    secret = token(signing_key, USER)
    job, _ = login.run("-A", login.file(USER, secret, bearer=True))
    assert login.exchange.office.marks(job) == " "
    assert not login.heard().keys() & {"auth", "mail"}


@at("login")
def test_a_hundred_messages_after_one_login(login: Login, exchange: Exchange) -> None:
    messages = [exchange.post([f"user{n:03}"], b"Message %d\n.\n" % n) for n in range(100)]
    exchange.deliver(messages, "-A", login.file(USER, PASSWORD), *flags_for(login, "STARTTLS"))
    exchange.server.await_stored(100)
    heard = login.heard()
    assert (heard["auth"], heard["mail"]) == ("1", "100")
