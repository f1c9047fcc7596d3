"""One GET over HTTPS, for the policy texts of MTA-STS (RFC 8461 3.3) and for nothing else.

The server's certificate must be true for the host by the rules of the web (PKIX, RFC 6125), a redirect is not followed,
nothing is cached, sent or remembered, and the answer must be a 200 with ``text/plain``. Sockets do not block: one
deadline bounds connecting, handshake and transfer together, however slowly a server drips, and a second descriptor can
end the wait at once. At most 64 KiB of text and 16 KiB of header are taken::

    context = pkix_context()                      # once per process: reading the system's CA file takes 30 ms
    fetched = fetch_policy(effect, context, deadline=time.monotonic() + 30)

HTTP itself is h11's; it is imported with the first request.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from zsmtp import __version__
from zsmtp.dns.candidates import Endpoint
from zsmtp.dns.ip import ip_family
from zsmtp.dns.literal import domain_problem
from zsmtp.effects import FetchPolicy
from zsmtp.escape import escape
from zsmtp.net.transport import begin_connect, finish_connect, new_socket
from zsmtp.tls.mtasts import MAX_POLICY, FetchedPolicy
from zsmtp.tls.problem import TLSProblem

if TYPE_CHECKING:
    import h11

T = TypeVar("T")

HTTPS_PORT = 443
FETCH_TIME = 30.0  # seconds; what a caller without a wish of its own should allow for all of it
CONNECT_TIME = 10.0  # seconds for one of several addresses
MAX_HEADER = 16 * 1024  # octets
_READ_UNIT = 16 * 1024


class _Failed(Exception):
    """The fetch cannot be done; the text is for people."""


def pkix_context(ca_file: str | None = None, ca_path: str | None = None) -> ssl.SSLContext:
    """A context that takes only certificates true for the host name, TLS 1.2 or later.

    Trust anchors are the system's, or those of ``ca_file`` and ``ca_path``. Raises OSError if these cannot be read.
    From 3.13 on Python also refuses what RFC 5280 wants of certificates and clients do not need, such as key
    identifiers; which hosts can be reached is not to depend on that.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_file, capath=ca_path)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # set by some builds: an answer cut short would look whole
    context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def fetch_policy(
    request: FetchPolicy,
    context: ssl.SSLContext,
    *,
    deadline: float,
    interrupt: int | None = None,
    port: int = HTTPS_PORT,
    clock: Callable[[], float] = time.monotonic,
) -> FetchedPolicy:
    """Carry the effect out by ``deadline`` (on ``clock``); never raises for what the network or the server does.

    ``interrupt`` is a descriptor that becomes readable when this program is to stop.
    """
    fetch = _Fetch(request, context, deadline, interrupt, port, clock)
    try:
        return FetchedPolicy(fetch.run())
    except ssl.SSLCertVerificationError as error:
        problem = f"the certificate of {request.host} is not good: {escape(error.verify_message)}"
        return FetchedPolicy(failure=TLSProblem.STS_WEBPKI_INVALID, problem=problem)
    except ssl.SSLError as error:
        problem = f"TLS with {request.host} failed: {escape(error.reason or str(error))}"
    except OSError as error:
        problem = f"connection to {request.host} failed: {os.strerror(error.errno) if error.errno else error}"
    except _Failed as error:
        problem = str(error)
    return FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem=problem)


class _Fetch:
    """One fetch and what bounds it."""

    def __init__(
        self,
        request: FetchPolicy,
        context: ssl.SSLContext,
        deadline: float,
        interrupt: int | None,
        port: int,
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._context = context
        self._deadline = deadline
        self._interrupt = interrupt
        self._port = port
        self._clock = clock

    def run(self) -> bytes:
        problem = domain_problem(self._request.host)
        if problem is not None:
            raise _Failed(f"{escape(self._request.host[:80])} {problem}")
        with closing(self._connect()) as sock:
            stream = self._context.wrap_socket(
                sock,
                server_hostname=self._request.host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,  # an answer cut short must not pass for a whole one
            )
            with closing(stream):
                self._repeat(stream, stream.do_handshake)
                return self._get(stream)

    def _connect(self) -> socket.socket:
        """A connection to the first address that takes one."""
        last: OSError | _Failed = _Failed(f"{self._request.host} has no address")
        for address in self._request.addresses:
            endpoint = Endpoint(self._request.host, address, self._port, ip_family(address))
            try:
                sock = new_socket(endpoint, None)
            except OSError as error:
                last = error
                continue
            try:
                if not begin_connect(sock, endpoint):
                    self._wait(sock, select.POLLOUT, min(self._deadline, self._clock() + CONNECT_TIME))
                    finish_connect(sock)
            except (OSError, _Failed) as error:
                sock.close()
                last = error
                if self._stopped() or self._clock() >= self._deadline:
                    break
                continue
            return sock
        raise last

    # ------------------------------------------------------------------- HTTP

    def _get(self, stream: ssl.SSLSocket) -> bytes:
        import h11

        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
        headers = [
            ("Host", self._request.host),
            ("User-Agent", f"zsmtp/{__version__}"),  # RFC 9110 10.1.5; some hosts refuse requests without one
            ("Accept", "text/plain"),
            ("Connection", "close"),
        ]
        try:
            out = connection.send(h11.Request(method="GET", target=self._request.path, headers=headers))
            self._send(stream, (out or b"") + (connection.send(h11.EndOfMessage()) or b""))
            return self._read_answer(stream, connection)
        except h11.ProtocolError as error:
            raise _Failed(f"{self._request.host} does not speak HTTP: {escape(str(error))}") from error

    def _read_answer(self, stream: ssl.SSLSocket, connection: h11.Connection) -> bytes:
        import h11

        body = b""
        received = 0
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = self._repeat(stream, partial(stream.recv, _READ_UNIT))
                received += len(data)
                if received > MAX_POLICY + 2 * MAX_HEADER:
                    raise _Failed(f"{self._request.host} answers with more than {MAX_POLICY} octets")
                connection.receive_data(data)
            elif isinstance(event, h11.Response):
                self._check(event)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_POLICY:
                    raise _Failed(f"{self._request.host} answers with more than {MAX_POLICY} octets")
            elif isinstance(event, h11.EndOfMessage):
                return body
            elif not isinstance(event, h11.InformationalResponse):
                raise _Failed(f"{self._request.host} closes the connection without an answer")

    def _check(self, response: h11.Response) -> None:
        """Only a plain 200 brings a policy (RFC 8461 3.3)."""
        host, status = self._request.host, response.status_code
        if 300 <= status < 400:
            raise _Failed(f"{host} answers {status}, and redirects are not followed")
        if status != 200:
            raise _Failed(f"{host} answers {status}")
        headers = {bytes(name): bytes(value) for name, value in response.headers}
        content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if content_type != b"text/plain":
            raise _Failed(f"{host} answers with {escape(content_type[:60]) or 'no content type'} instead of text/plain")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _Failed(f"{host} answers with an encoding that was not asked for")

    def _send(self, stream: ssl.SSLSocket, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._repeat(stream, partial(stream.send, left)) :]

    # ------------------------------------------------------------------ waits

    def _repeat(self, stream: ssl.SSLSocket, operation: Callable[[], T]) -> T:
        """Do an operation of the TLS layer as often as it takes, waiting for what it wants."""
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                self._wait(stream, select.POLLIN, self._deadline)
            except ssl.SSLWantWriteError:
                self._wait(stream, select.POLLOUT, self._deadline)
            if self._clock() >= self._deadline:
                raise _Failed(f"{self._request.host} took too long")

    def _wait(self, sock: socket.socket, wanted: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(sock, wanted)
        if self._interrupt is not None:
            poll.register(self._interrupt, select.POLLIN)
        ready = poll.poll(max(deadline - self._clock(), 0.0) * 1000)
        if any(descriptor == self._interrupt for descriptor, _ in ready):
            raise _Failed("told to stop")
        if not ready:
            raise _Failed(f"{self._request.host} took too long")

    def _stopped(self) -> bool:
        if self._interrupt is None:
            return False
        poll = select.poll()  # select(2) cannot look at descriptors beyond 1023
        poll.register(self._interrupt, select.POLLIN)
        return bool(poll.poll(0))
