"""TLS and logins on real sockets: smtplib, this project's own client, openssl, and clients that cheat."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import smtplib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import trustme
from tests.support.patience import LIMIT
from tests.support.serving import CHUNK, ENVELOPE, LOOPS, SETTINGS, RawClient, serving

import zsmtp
from zsmtp.errors import ConfigError, TLSError
from zsmtp.proto.reply import Reply
from zsmtp.proto.sasl import ChannelBinding
from zsmtp.proto.server_events import Ending
from zsmtp.proto.server_passwords import Passwords, scram_verifier
from zsmtp.proto.server_replies import make_reply
from zsmtp.proto.server_settings import ServerBounds, ServerTimeouts
from zsmtp.server import connection, tlspipe
from zsmtp.server.intake import MemoryIntake, SessionInfo
from zsmtp.server.tls import ServerTLS, server_tls
from zsmtp.server.tlspipe import TLSPipe

SALT = b"0123456789abcdef"
PASSWORDS = Passwords({b"ann": scram_verifier(b"geheim", salt=SALT)}, {}, key=b"k" * 32)
MECHANISMS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")
STARTTLS = replace(SETTINGS, starttls=True, mechanisms=MECHANISMS)
MESSAGE = b"From: a@example.net\nTo: b@example.org\n\nbody\n"


@pytest.fixture(scope="module")
def pem(web_authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    certificate = web_authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="module")
def tls(pem: str) -> ServerTLS:
    return server_tls(pem)


@pytest.fixture(scope="module")
def client_context(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


@pytest.mark.parametrize("loop", LOOPS)
def test_smtplib_by_starttls(
    tls: ServerTLS, client_context: ssl.SSLContext, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with (
        serving(settings=STARTTLS, tls=tls, passwords=PASSWORDS, loop_factory=loop) as server,
        smtplib.SMTP("localhost", server.port) as client,
    ):
        client.ehlo()
        assert client.esmtp_features["auth"].strip() == "SCRAM-SHA-256"
        client.starttls(context=client_context)
        client.login("ann", "geheim")
        client.sendmail("a@example.net", "b@example.org", b"x" * 300_000)
        (message,) = server.intake.messages
        assert message.session.protocol == "ESMTPSA"
        assert message.session.user == b"ann"
        assert message.session.tls.startswith("TLSv1.3 TLS_")
        assert len(message.content) == 300_002
        assert server.errors == []


@pytest.mark.parametrize("loop", LOOPS)
def test_smtplib_by_implicit_tls(
    tls: ServerTLS, client_context: ssl.SSLContext, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with (
        serving(settings=STARTTLS, tls=tls, implicit_tls=True, loop_factory=loop) as server,
        smtplib.SMTP_SSL("localhost", server.port, context=client_context) as client,
    ):
        client.ehlo()
        assert "starttls" not in client.esmtp_features
        client.sendmail("a@example.net", "b@example.org", b"x\r\n")
        assert server.intake.messages[0].session.protocol == "ESMTPS"


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
def test_our_own_client_logs_in_bound_to_the_channel(tls: ServerTLS, ca_file: str, implicit: bool) -> None:
    mechanisms: list[str] = []

    class Watching(MemoryIntake):
        def login_failed(self, session: SessionInfo, mechanism: str, user: bytes) -> None:
            mechanisms.append(mechanism)

    settings = replace(STARTTLS, login_required=True, mechanisms=("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"))
    with serving(Watching(), settings, tls=tls, implicit_tls=implicit, passwords=PASSWORDS) as server:

        def relay(password: str) -> zsmtp.Relay:
            return zsmtp.Relay(
                host="localhost",
                port=server.port,
                implicit=implicit,
                login=zsmtp.Login(user="ann", password=password),
                tls=zsmtp.TLS(level=zsmtp.Level.VERIFY, ca_file=ca_file),
            )

        report = zsmtp.deliver(MESSAGE, relay=relay("geheim"))
        assert report.ok, report
        assert server.intake.messages[0].session.user == b"ann"
        assert not zsmtp.deliver(MESSAGE, relay=relay("falsch")).ok
        assert mechanisms == ["SCRAM-SHA-256-PLUS"]
        assert len(server.intake.messages) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
def test_openssl(tls: ServerTLS, ca_file: str, implicit: bool) -> None:
    with serving(settings=STARTTLS, tls=tls, implicit_tls=implicit) as server:
        words = ["openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", ca_file]
        words += ["-connect", f"127.0.0.1:{server.port}", *([] if implicit else ["-starttls", "smtp"])]
        said = subprocess.run(words, input=b"NOOP\r\nQUIT\r\n", capture_output=True, timeout=LIMIT, check=True).stdout
        assert [line[:3] for line in said.splitlines() if line[3:4] == b" "][-2:] == [b"250", b"221"]
        server.wait_until(lambda: server.intake.endings == [Ending.QUIT])


def test_octets_behind_starttls_are_never_commands(tls: ServerTLS, client_context: ssl.SSLContext) -> None:
    """In the same segment the session ends; in another one they are taken for a handshake, and are none."""
    with serving(settings=STARTTLS, tls=tls) as server:
        with server.client().greet() as client:
            client.send(b"STARTTLS\r\nMAIL FROM:<evil@example.net>\r\n")
            assert client.rest().startswith(b"554 5.5.0 ")
        with server.client().greet() as client:
            assert client.ask(b"STARTTLS")[:3] == b"220"
            client.send(b"MAIL FROM:<evil@example.net>\r\n")
            try:
                heard = client.rest()
            except ConnectionResetError:
                heard = b""
            assert b"250" not in heard
        server.wait_until(lambda: not server.listener.connections)
        assert server.intake.endings == [Ending.OUT_OF_STEP, Ending.TLS_FAILED]


def test_the_client_is_unknown_after_starttls(tls: ServerTLS, client_context: ssl.SSLContext) -> None:
    with serving(settings=STARTTLS, tls=tls) as server, server.client().greet() as client:
        assert client.ask(b"STARTTLS")[:3] == b"220"
        with client_context.wrap_socket(client.sock, server_hostname="localhost") as wrapped:
            secured = RawClient(wrapped)
            assert secured.ask(b"MAIL FROM:<a@b>")[:3] == b"503"
            assert b"STARTTLS" not in secured.ask(b"EHLO me")
            secured.send((ENVELOPE + CHUNK) * 3 + b"QUIT\r\n")
            assert secured.codes(10) == [250] * 9 + [221]
            assert wrapped.recv(1) == b"", "close_notify came"


def test_a_login_in_clear_is_forgotten(tls: ServerTLS, client_context: ssl.SSLContext) -> None:
    settings = replace(STARTTLS, cleartext_logins=True)
    with serving(settings=settings, tls=tls, passwords=PASSWORDS) as server, server.client().greet() as client:
        assert client.ask(b"AUTH PLAIN AGFubgBnZWhlaW0=")[:3] == b"235"
        assert client.ask(b"STARTTLS")[:3] == b"220"
        with client_context.wrap_socket(client.sock, server_hostname="localhost") as wrapped:
            secured = RawClient(wrapped)
            secured.ask(b"EHLO me")
            secured.send(ENVELOPE + CHUNK)
            assert secured.codes(3) == [250, 250, 250]
        session = server.intake.messages[0].session
        assert (session.user, session.protocol) == (None, "ESMTPS")


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
@pytest.mark.parametrize("how", ["silent", "gone", "rubbish"])
def test_handshakes_that_fail(tls: ServerTLS, implicit: bool, how: str) -> None:
    handshake = 0.3 if how == "silent" else LIMIT
    with (
        serving(settings=STARTTLS, tls=tls, implicit_tls=implicit, handshake=handshake) as server,
        server.client() as client,
    ):
        if not implicit:
            client.greet()
            assert client.ask(b"STARTTLS")[:3] == b"220"
        if how == "rubbish":
            client.send(b"EHLO client.example\r\n" * 10)
        if how == "gone":
            client.sock.close()
        elif how == "rubbish":
            with contextlib.suppress(OSError):
                client.rest()
        server.wait_until(lambda: not server.listener.connections)
        endings = server.intake.endings
        assert len(endings) == (0 if implicit else 1), "without a handshake there was no session"
        assert set(endings) <= {Ending.TLS_FAILED, Ending.LOST}
        assert server.errors == []


def test_handshakes_that_do_not_begin_are_counted(tls: ServerTLS) -> None:
    with serving(settings=STARTTLS, tls=tls, implicit_tls=True) as server:
        with server.client():
            server.wait_until(lambda: len(server.listener.connections) == 1)
            server.close(grace=0.2)
        assert not server.listener.connections


def test_a_handshake_is_bounded(tls: ServerTLS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlspipe, "MAX_HANDSHAKE", 1000)
    pipe = TLSPipe(tls.context)
    assert pipe.receive(b"\x16\x03\x01\x40\x00" + bytes(900)) == b""
    with pytest.raises(TLSError, match="more than 1000 octets"):
        pipe.receive(bytes(200))


def test_a_bad_record_ends_the_stream(tls: ServerTLS, client_context: ssl.SSLContext) -> None:
    with (
        serving(settings=STARTTLS, tls=tls, implicit_tls=True) as server,
        server.client() as client,
        client_context.wrap_socket(client.sock, server_hostname="localhost") as wrapped,
    ):
        assert RawClient(wrapped).code() == 220
        with socket.socket(fileno=os.dup(wrapped.fileno())) as raw:
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        server.wait_until(lambda: server.intake.endings == [Ending.LOST])


def test_a_client_under_tls_that_never_reads(tls: ServerTLS, client_context: ssl.SSLContext) -> None:
    settings = replace(STARTTLS, timeouts=ServerTimeouts(write=100.0), bounds=ServerBounds(commands=10_000_000))
    with serving(settings=settings, tls=tls) as server, server.client(receive_buffer=4096).greet() as client:
        client.ask(b"STARTTLS")
        with client_context.wrap_socket(client.sock, server_hostname="localhost") as wrapped:
            (served,) = server.call(lambda: list(server.listener.connections))
            RawClient(wrapped).send_until(lambda: server.call(lambda: not served._reading), b"HELP\r\n" * 1000)
            server.pass_time(100.0)
            server.wait_until(lambda: server.intake.endings == [Ending.WRITE_TIMEOUT])
            server.pass_time(connection.LINGER)
            server.wait_until(lambda: not server.listener.connections)


def test_a_certificate_that_is_replaced(
    tls: ServerTLS, client_context: ssl.SSLContext, web_authority: trustme.CA, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    web_authority.issue_cert("other.example").private_key_and_cert_chain_pem.write_to_path(str(other))
    with serving(settings=STARTTLS, tls=tls, implicit_tls=True) as server:
        server.listener.tls = server_tls(str(other))
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            wrapped = client_context.wrap_socket(sock, server_hostname="other.example")
            assert RawClient(wrapped).reply().startswith(b"220")
            wrapped.close()


# ------------------------------------------------------------------------------------------------------------ logins


def test_a_failed_login_is_answered_late_and_holds_nobody_up(tls: ServerTLS, client_context: ssl.SSLContext) -> None:
    settings = replace(SETTINGS, mechanisms=("PLAIN",), cleartext_logins=True)
    failed: list[tuple[str, bytes]] = []

    class Watching(MemoryIntake):
        def login_failed(self, session: SessionInfo, mechanism: str, user: bytes) -> None:
            failed.append((mechanism, user))

    with (
        serving(Watching(), settings, passwords=PASSWORDS, login_delay=0.2) as server,
        server.client().greet() as client,
        server.client().greet() as other,
    ):
        before = time.monotonic()
        client.send(b"AUTH PLAIN AGFubgBmYWxzY2g=\r\n")
        server.wait_until(lambda: failed)
        assert other.ask(b"NOOP")[:3] == b"250"
        assert client.code() == 535
        assert time.monotonic() - before >= 0.2
        assert failed == [("PLAIN", b"ann")]
        client.send(b"AUTH PLAIN AGFubgBmYWxzY2g=\r\n")
        assert client.code() == 535
        client.send(b"AUTH PLAIN AGFubgBmYWxzY2g=\r\n")
        assert client.codes(2) == [535, 421]
        assert client.rest() == b""


def test_passwords_are_checked_off_the_loop() -> None:
    threads: list[str] = []
    verifier = PASSWORDS.plain(b"ann")

    class Slow(Passwords):
        def plain(self, user: bytes):  # type: ignore[no-untyped-def]
            class Watched:
                def matches(self, password: bytes) -> bool:
                    threads.append(threading.current_thread().name)
                    return verifier.matches(password)

            return Watched()

    settings = replace(SETTINGS, mechanisms=("PLAIN",), cleartext_logins=True)
    with (
        serving(settings=settings, passwords=Slow({b"ann": verifier}, {}, key=b"k" * 32)) as server,  # type: ignore[dict-item]
        server.client().greet() as client,
    ):
        assert client.ask(b"AUTH PLAIN AGFubgBnZWhlaW0=")[:3] == b"235"
        assert threads == ["zsmtp passwords_0"]


def test_a_check_that_fails_is_no_login() -> None:
    class Broken(Passwords):
        def plain(self, user: bytes):  # type: ignore[no-untyped-def]
            class Raising:
                def matches(self, password: bytes) -> bool:
                    raise MemoryError("scrypt")

            return Raising()

    settings = replace(SETTINGS, mechanisms=("PLAIN",), cleartext_logins=True)
    verifier = scram_verifier(b"geheim", salt=SALT)
    with (
        serving(settings=settings, passwords=Broken({b"ann": verifier}, {}, key=b"k" * 32)) as server,
        server.client().greet() as client,
    ):
        assert client.ask(b"AUTH PLAIN AGFubgBnZWhlaW0=")[:3] == b"451"
        assert len(server.errors) == 1


@pytest.mark.parametrize("method", ["logged_in", "login_failed"])
def test_an_intake_that_raises_on_logins(method: str) -> None:
    intake = MemoryIntake()

    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the intake")

    setattr(intake, method, fail)
    password = b"AGFubgBnZWhlaW0=" if method == "logged_in" else b"AGFubgBmYWxzY2g="
    settings = replace(SETTINGS, mechanisms=("PLAIN",), cleartext_logins=True)
    with serving(intake, settings, passwords=PASSWORDS) as server, server.client().greet() as client:
        assert client.ask(b"AUTH PLAIN " + password)[:3] == b"451"
        assert len(server.errors) == 1


def test_a_login_that_the_intake_refuses() -> None:
    class Choosy(MemoryIntake):
        def logged_in(self, session: SessionInfo) -> Reply | None:
            return make_reply(535, "5.7.8", "not now")

    settings = replace(SETTINGS, mechanisms=("PLAIN",), cleartext_logins=True)
    with serving(Choosy(), settings, passwords=PASSWORDS) as server, server.client().greet() as client:
        assert client.ask(b"AUTH PLAIN AGFubgBnZWhlaW0=")[:3] == b"535"
        (connection,) = server.call(lambda: list(server.listener.connections))
        assert connection.info.user is None


# ------------------------------------------------------------------------------------------------------- certificates


def test_the_channel_binding_is_that_of_the_certificate(tls: ServerTLS, pem: str) -> None:
    words = ["openssl", "x509", "-in", pem, "-outform", "DER"]
    der = subprocess.run(words, check=True, capture_output=True).stdout
    assert tls.bindings == (ChannelBinding("tls-server-end-point", sha256(der).digest()),)


def test_a_floor_for_the_protocol(pem: str) -> None:
    assert server_tls(pem, min_protocol="TLSv1.3").context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert server_tls(pem).context.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(ConfigError, match="not a protocol for a server"):
        server_tls(pem, min_protocol="TLSv1.1")


def test_certificates_that_cannot_be_used(pem: str, web_authority: trustme.CA, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    web_authority.issue_cert("other.example").private_key_pem.write_to_path(str(other))
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    encrypted = tmp_path / "encrypted.key"
    make = ["openssl", "genrsa", "-aes128", "-passout", "pass:x", "-out", str(encrypted), "2048"]
    subprocess.run(make, check=True, capture_output=True)
    for certificate, key, problem in (
        (str(tmp_path / "missing"), "", "missing: No such file"),
        (pem, str(tmp_path / "missing"), "missing: No such file"),
        (str(empty), "", "empty.pem"),
        (pem, str(other), "key values mismatch"),
        (pem, str(encrypted), "its key is encrypted"),
    ):
        with pytest.raises(ConfigError) as raised:
            server_tls(certificate, key)
        assert problem.lower() in str(raised.value).replace("_", " ").lower(), problem


def test_tls_needs_a_certificate() -> None:
    with pytest.raises(ConfigError, match="no certificate"), serving(settings=STARTTLS):
        pass
    with pytest.raises(ConfigError, match="no certificate"), serving(implicit_tls=True):
        pass
