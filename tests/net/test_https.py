"""The one GET of MTA-STS, by both drivers, against real servers on the loopback: true, false and slow ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme
from tests.support.sink import refusing_port

import zsmtp
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import FetchPolicy, Operation
from zsmtp.net import aio, blocking
from zsmtp.tls.context import WebContextOptions
from zsmtp.tls.https import fetch_policy
from zsmtp.tls.mtasts import FetchedPolicy
from zsmtp.tls.problem import TLSProblem

HOST = "mta-sts.example.org"
POLICY = b"version: STSv1\nmode: none\nmax_age: 60\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(POLICY) + POLICY

Talk = Callable[[ssl.SSLSocket], None]


class Client:
    """Fetches policies with one of the drivers, trusting the authority of the tests."""

    def __init__(self, driver: str, ca_file: str) -> None:
        self._driver = driver
        self._trust = WebContextOptions(ca_file)
        self._stop = blocking.Stop()

    def fetch(self, request: FetchPolicy, port: int, *, seconds: float = 60.0, stopped: bool = False) -> FetchedPolicy:
        work = fetch_policy(request, self._trust, port=port, seconds=seconds)
        if self._driver == "blocking":
            stop = self._stop
            if stopped:
                stop = blocking.Stop()
                stop.request()
            return blocking.BlockingDriver(lambda: StaticResolver(""), stop).run(work)
        return asyncio.run(self._fetch(work, stopped=stopped))

    async def _fetch(self, work: Operation[FetchedPolicy], *, stopped: bool) -> FetchedPolicy:
        stop = aio.Stop()
        if stopped:
            stop.request("interrupted")
        driver = aio.AsyncDriver(lambda: StaticResolver(""))
        try:
            return await driver.run(work, stop=stop)
        finally:
            await driver.aclose()


@pytest.fixture(scope="module", params=["blocking", "asyncio"])
def client(request: pytest.FixtureRequest, ca_file: str) -> Client:
    return Client(request.param, ca_file)


@pytest.fixture(scope="module")
def certified(server_context: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext:
    return server_context(HOST)


class Server:
    """Takes one connection after another on 127.0.0.1 and talks to each; keeps what was asked."""

    def __init__(self, context: ssl.SSLContext | None, talk: Talk | bytes) -> None:
        self._context = context
        self._talk = talk
        self.requests: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(30)
                if self._context is None:
                    assert isinstance(self._talk, bytes)
                    connection.sendall(self._talk)
                    connection.recv(1000)
                    continue
                with self._context.wrap_socket(connection, server_side=True) as stream:
                    self._converse(stream)

    def _converse(self, stream: ssl.SSLSocket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            part = stream.recv(1000)
            if not part:
                return
            request += part
        self.requests.append(request)
        if isinstance(self._talk, bytes):
            stream.sendall(self._talk)
            stream.unwrap()
        else:
            self._talk(stream)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(60)
        assert not self._thread.is_alive()


Serve = Callable[[Talk | bytes], Server]


@pytest.fixture
def serve(certified: ssl.SSLContext) -> Iterator[Serve]:
    servers: list[Server] = []

    def start(talk: Talk | bytes) -> Server:
        servers.append(Server(certified, talk))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def get(server: Server, client: Client, *, host: str = HOST, seconds: float = 60.0) -> FetchedPolicy:
    return client.fetch(FetchPolicy(host, ("127.0.0.1",)), server.port, seconds=seconds)


def problem(
    fetched: FetchedPolicy, failure: TLSProblem = TLSProblem.STS_POLICY_FETCH_ERROR, *, own: bool = False
) -> str:
    assert fetched.failure is failure, fetched
    assert fetched.own is own, fetched
    assert fetched.body == b""
    return fetched.problem


# ------------------------------------------------------------------ good answers


def test_the_policy_comes(serve: Serve, client: Client) -> None:
    server = serve(OK)
    assert get(server, client) == FetchedPolicy(POLICY)
    (request,) = server.requests
    head, *headers = request.decode().split("\r\n")
    assert head == "GET /.well-known/mta-sts.txt HTTP/1.1"
    assert f"host: {HOST}" in [header.lower() for header in headers]
    assert f"User-Agent: zsmtp/{zsmtp.__version__}" in headers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: Text/Plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(POLICY), POLICY),
        b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + POLICY,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
    ],
)
def test_the_forms_of_http(serve: Serve, client: Client, answer: bytes) -> None:
    assert get(serve(answer), client) == FetchedPolicy(POLICY)


def test_an_answer_in_single_octets(serve: Serve, client: Client) -> None:
    def drip(stream: ssl.SSLSocket) -> None:
        for octet in OK:
            stream.sendall(bytes([octet]))
        stream.unwrap()

    assert get(serve(drip), client) == FetchedPolicy(POLICY)


def test_the_next_address_is_tried(serve: Serve, client: Client) -> None:
    server = serve(OK)
    request = FetchPolicy(HOST, ("127.0.0.2", "127.0.0.1"))
    assert client.fetch(request, server.port).body == POLICY


# ------------------------------------------------------------------- bad answers


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 301 Moved\r\nLocation: https://evil.test/\r\nContent-Length: 0\r\n\r\n", "redirects"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"HTTP/1.1 204 None\r\n\r\n", "204"),
        (OK.replace(b"text/plain", b"text/html"), "text/html"),
        (OK.replace(b"Content-Type", b"X-Type"), "no content type"),
        (OK.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1), "encoding"),
        (b"220 mail.example.org ESMTP\r\n", "does not speak HTTP"),
        (b"", "without an answer|does not speak"),
        (OK[:-5], "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000 + b"\r\n", "does not speak HTTP|more than"),
        (b"HTTP/1.1 103 X\r\n\r\n" * 10000, "more than"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000,
            "more than 65536",
        ),
    ],
)
def test_an_answer_that_brings_no_policy(serve: Serve, client: Client, answer: bytes, words: str) -> None:
    found = problem(get(serve(answer), client))
    assert any(word in found for word in words.split("|")), found


def test_a_stream_without_end_is_cut_off(serve: Serve, client: Client) -> None:
    def flood(stream: ssl.SSLSocket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            stream.sendall(b"x" * 10000)

    assert "more than 65536" in problem(get(serve(flood), client))


def test_an_answer_cut_short_is_none(serve: Serve, client: Client) -> None:
    def cut(stream: ssl.SSLSocket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + POLICY)
        stream.shutdown(socket.SHUT_RDWR)  # without close_notify

    assert "close_notify" in problem(get(serve(cut), client))


def test_a_server_that_resets(serve: Serve, client: Client) -> None:
    def reset(stream: ssl.SSLSocket) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        os.close(stream.detach())

    assert problem(get(serve(reset), client))


# ----------------------------------------------------------------- certificates


def failure_with(client: Client, certified: ssl.SSLContext | None, talk: bytes = OK) -> FetchedPolicy:
    server = Server(certified, talk)
    try:
        return get(server, client)
    finally:
        server.close()


def with_certificate(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_a_certificate_for_another_name(web_authority: trustme.CA, client: Client) -> None:
    found = failure_with(client, with_certificate(web_authority.issue_cert("www.example.org")))
    assert "mismatch" in problem(found, TLSProblem.STS_WEBPKI_INVALID).lower()


def test_a_certificate_of_an_unknown_authority(client: Client) -> None:
    stranger = trustme.CA(key_type=trustme.KeyType.ECDSA)
    problem(failure_with(client, with_certificate(stranger.issue_cert(HOST))), TLSProblem.STS_WEBPKI_INVALID)


def test_an_expired_certificate(web_authority: trustme.CA, client: Client) -> None:
    import datetime

    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    expired = web_authority.issue_cert(HOST, not_before=past, not_after=past + datetime.timedelta(days=1))
    found = failure_with(client, with_certificate(expired))
    assert "expired" in problem(found, TLSProblem.STS_WEBPKI_INVALID)


def test_a_wildcard_certificate_is_true_for_the_host(web_authority: trustme.CA, client: Client) -> None:
    assert failure_with(client, with_certificate(web_authority.issue_cert("*.example.org"))).body == POLICY


def test_the_common_name_alone_is_no_name(web_authority: trustme.CA, client: Client) -> None:
    only = web_authority.issue_cert("other.example", common_name=HOST)
    problem(failure_with(client, with_certificate(only)), TLSProblem.STS_WEBPKI_INVALID)


def test_a_server_without_tls(client: Client) -> None:
    assert "TLS handshake failed" in problem(failure_with(client, None, b"HTTP/1.1 200 OK\r\n\r\n"))


# ----------------------------------------------------------------------- waits


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listening socket whose connections are never served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def wait_for(listener: socket.socket, client: Client, seconds: float, *, stopped: bool = False) -> FetchedPolicy:
    port = listener.getsockname()[1]
    return client.fetch(FetchPolicy(HOST, ("127.0.0.1",)), port, seconds=seconds, stopped=stopped)


def test_a_handshake_that_hangs(silent: socket.socket, client: Client) -> None:
    assert "took too long" in problem(wait_for(silent, client, 0.2))


def test_an_answer_that_hangs(serve: Serve, client: Client) -> None:
    released = threading.Event()

    def hang(stream: ssl.SSLSocket) -> None:
        stream.sendall(OK[:50])
        released.wait(60)

    try:
        assert "took too long" in problem(get(serve(hang), client, seconds=0.5))
    finally:
        released.set()


def test_a_stop_ends_the_wait(silent: socket.socket, client: Client) -> None:
    assert problem(wait_for(silent, client, 60, stopped=True), own=True) == "interrupted"


def test_nobody_listens(client: Client) -> None:
    request = FetchPolicy(HOST, ("127.0.0.1", "::1"))
    with refusing_port() as port:
        assert "failed: " in problem(client.fetch(request, port))
    assert "no address" in problem(client.fetch(FetchPolicy(HOST, ()), 443))


@pytest.mark.parametrize("host", ["", ".example.org", "a" * 300, "a\0b"])
def test_a_host_that_is_none(serve: Serve, client: Client, host: str) -> None:
    assert problem(get(serve(OK), client, host=host))


def test_no_connection_is_left_behind(serve: Serve, client: Client) -> None:
    server = serve(b"HTTP/1.1 500 X\r\n\r\n")
    get(server, client)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        get(server, client)
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the server may still hold its end of the last one
