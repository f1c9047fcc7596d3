"""One request over HTTPS: the GET of an MTA-STS policy (RFC 8461 3.3), the POST of a TLS report (RFC 8460 5.4).

The server's certificate must be true for the host by the rules of the web (PKIX, RFC 6125), a redirect is not followed,
and nothing is cached or remembered. A policy must come in a 200 with ``text/plain``; of the answer to a report only the
status counts. Sockets do not block: one deadline bounds connecting, handshake and transfer together, however slowly a
server drips, and a second descriptor can end the wait at once. At most 64 KiB of text and 16 KiB of header are taken::

    context = pkix_context()                      # once per process: reading the system's CA file takes 30 ms
    fetched = fetch_policy(effect, context, deadline=time.monotonic() + 30)
    answer = post(place, "application/tlsrpt+gzip", octets, context, deadline=time.monotonic() + 30)

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
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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
    """The request cannot be done; the text is for people."""


class WebPlace(NamedTuple):
    """Where a request goes: the host, whose certificate is asked for, its addresses, a port and a path."""

    host: str
    addresses: tuple[str, ...]
    port: int
    path: str


class PostAnswer(NamedTuple):
    """What came of a POST: the status (0: there was no answer), and a text for people."""

    status: int
    text: str

    @property
    def taken(self) -> bool:
        """Whether the server has what was posted."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether it will not have it later either: by its answer to the request, not by its load (RFC 9110 15.5)."""
        return 300 <= self.status < 500 and self.status not in (408, 421, 425, 429)


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
    place = WebPlace(request.host, request.addresses, port, request.path)
    conversation = _Conversation(place, context, deadline, interrupt, clock)
    try:
        return FetchedPolicy(conversation.get())
    except ssl.SSLCertVerificationError as error:
        return FetchedPolicy(failure=TLSProblem.STS_WEBPKI_INVALID, problem=_told(error, request.host))
    except (OSError, _Failed) as error:
        return FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem=_told(error, request.host))


def post(
    place: WebPlace,
    content_type: str,
    body: bytes,
    context: ssl.SSLContext,
    *,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> PostAnswer:
    """Post ``body`` by ``deadline`` (on ``clock``); never raises for what the network or the server does."""
    conversation = _Conversation(place, context, deadline, None, clock)
    try:
        status = conversation.post(content_type, body)
    except (OSError, _Failed) as error:
        return PostAnswer(0, _told(error, place.host))
    moved = ", and redirects are not followed" if 300 <= status < 400 else ""
    return PostAnswer(status, f"{place.host} answers {status}{moved}")


def _told(error: OSError | _Failed, host: str) -> str:
    """Why there was no answer, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not good: {escape(error.verify_message)}"
    if isinstance(error, ssl.SSLError):
        return f"TLS with {host} failed: {escape(error.reason or str(error))}"
    if isinstance(error, OSError):
        return f"connection to {host} failed: {os.strerror(error.errno) if error.errno else error}"
    return str(error)


class _Conversation:
    """One request with its answer, and what bounds it."""

    def __init__(
        self,
        place: WebPlace,
        context: ssl.SSLContext,
        deadline: float,
        interrupt: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._place = place
        self._context = context
        self._deadline = deadline
        self._interrupt = interrupt
        self._clock = clock

    def get(self) -> bytes:
        """The text of a policy. Raises OSError and _Failed."""
        fields = [("Host", self._place.host), ("Accept", "text/plain")]
        return self._converse("GET", fields, b"", self._check_policy)[1]

    def post(self, content_type: str, body: bytes) -> int:
        """Post a body; the status of the answer. Raises OSError and _Failed."""
        port = "" if self._place.port == HTTPS_PORT else f":{self._place.port}"
        fields = [("Host", self._place.host + port), ("Content-Type", content_type), ("Content-Length", str(len(body)))]
        return self._converse("POST", fields, body, None)[0]

    def _converse(
        self, method: str, fields: list[tuple[str, str]], body: bytes, check: Callable[[h11.Response], None] | None
    ) -> tuple[int, bytes]:
        problem = domain_problem(self._place.host)
        if problem is not None:
            raise _Failed(f"{escape(self._place.host[:80])} {problem}")
        with closing(self._connect()) as sock:
            stream = self._context.wrap_socket(
                sock,
                server_hostname=self._place.host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,  # an answer cut short must not pass for a whole one
            )
            with closing(stream):
                self._repeat(stream, stream.do_handshake)
                return self._request(stream, method, fields, body, check)

    def _connect(self) -> socket.socket:
        """A connection to the first address that takes one."""
        last: OSError | _Failed = _Failed(f"{self._place.host} has no address")
        for address in self._place.addresses:
            endpoint = Endpoint(self._place.host, address, self._place.port, ip_family(address))
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

    def _request(
        self,
        stream: ssl.SSLSocket,
        method: str,
        fields: list[tuple[str, str]],
        body: bytes,
        check: Callable[[h11.Response], None] | None,
    ) -> tuple[int, bytes]:
        import h11

        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
        agent = ("User-Agent", f"zsmtp/{__version__}")  # RFC 9110 10.1.5; some hosts refuse requests without one
        headers = [*fields, agent, ("Connection", "close")]
        try:
            out = connection.send(h11.Request(method=method, target=self._place.path, headers=headers)) or b""
            if body:
                out += connection.send(h11.Data(data=body)) or b""
            self._send(stream, out + (connection.send(h11.EndOfMessage()) or b""))
            return self._read_answer(stream, connection, check)
        except h11.ProtocolError as error:
            raise _Failed(f"{self._place.host} does not speak HTTP: {escape(str(error))}") from error

    def _read_answer(
        self, stream: ssl.SSLSocket, connection: h11.Connection, check: Callable[[h11.Response], None] | None
    ) -> tuple[int, bytes]:
        """The status and the body of the answer; without a ``check`` of its header nobody wants the body."""
        import h11

        status, body = 0, b""
        received = 0
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = self._repeat(stream, partial(stream.recv, _READ_UNIT))
                received += len(data)
                if received > MAX_POLICY + 2 * MAX_HEADER:
                    raise _Failed(f"{self._place.host} answers with more than {MAX_POLICY} octets")
                connection.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
                if check is None:
                    return status, b""
                check(event)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_POLICY:
                    raise _Failed(f"{self._place.host} answers with more than {MAX_POLICY} octets")
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif not isinstance(event, h11.InformationalResponse):
                raise _Failed(f"{self._place.host} closes the connection without an answer")

    def _check_policy(self, response: h11.Response) -> None:
        """Only a plain 200 brings a policy (RFC 8461 3.3)."""
        host, status = self._place.host, response.status_code
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
                raise _Failed(f"{self._place.host} took too long")

    def _wait(self, sock: socket.socket, wanted: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(sock, wanted)
        if self._interrupt is not None:
            poll.register(self._interrupt, select.POLLIN)
        ready = poll.poll(max(deadline - self._clock(), 0.0) * 1000)
        if any(descriptor == self._interrupt for descriptor, _ in ready):
            raise _Failed("told to stop")
        if not ready:
            raise _Failed(f"{self._place.host} took too long")

    def _stopped(self) -> bool:
        if self._interrupt is None:
            return False
        poll = select.poll()  # select(2) cannot look at descriptors beyond 1023
        poll.register(self._interrupt, select.POLLIN)
        return bool(poll.poll(0))
