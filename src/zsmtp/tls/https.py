"""One request over HTTPS: the GET of an MTA-STS policy (RFC 8461 3.3), the POST of a TLS report (RFC 8460 5.4).

:func:`fetch_policy` and :func:`post` are rules: they await ``Connect``, ``StartTLS``, ``Exchange`` and ``Close``, as
sessions of SMTP do, and any driver carries them out. The dialogue is an :class:`HTTPConversation`; HTTP itself is
h11's, which is imported with the first request::

    fetched = await fetch_policy(FetchPolicy(host, addresses), WebContextOptions())
    answer = driver.run(post(place, "application/tlsrpt+gzip", octets, WebContextOptions(), seconds=30))

The server's certificate must be true for the host by the rules of the web (PKIX, RFC 6125), a redirect is not followed,
and nothing is cached or remembered. A policy must come in a 200 with ``text/plain``; of the answer to a report only the
status counts. One deadline bounds connecting, handshake and transfer together, however slowly a server drips, and a
stop of this side ends the request at once. At most 64 KiB of text and 16 KiB of header are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from zsmtp import __version__
from zsmtp.dns.candidates import Endpoint
from zsmtp.dns.ip import ip_family
from zsmtp.dns.literal import domain_problem
from zsmtp.effects import Close, Connect, ConnectResult, Exchange, FetchPolicy, ReadClock, ReadStop, StartTLS
from zsmtp.errors import INTERRUPTED, Interrupted, WaitTimeout, ZsmtpError
from zsmtp.escape import escape
from zsmtp.records import NamedTuple
from zsmtp.tls.context import WebContextOptions
from zsmtp.tls.mtasts import MAX_POLICY, FetchedPolicy
from zsmtp.tls.problem import TLSProblem

if TYPE_CHECKING:
    import h11

HTTPS_PORT = 443
FETCH_TIME = 30.0
"""Seconds for a fetch in all: connecting, handshake and transfer."""
CONNECT_TIME = 10.0
"""Seconds for one of several addresses."""
MAX_HEADER = 16 * 1024
"""Octets of the header of an answer."""
MAX_ANSWER = MAX_POLICY + 2 * MAX_HEADER
"""Octets of all that a server sends."""

_PIECE = 1024  # octets given to h11 at a time: only of what waits for more it looks at the size
_NOTHING = memoryview(b"")


class WebPlace(NamedTuple):
    """Where a request goes: the host, whose certificate is asked for, its addresses, a port and a path."""

    host: str
    addresses: tuple[str, ...]
    port: int
    path: str


class WebAnswer(NamedTuple):
    """What came of one request."""

    status: int = 0
    """The status of the answer; 0: there was none."""
    body: bytes = b""
    problem: str = ""
    """Why there is no answer, or none that is of use, for people; "" if there is one."""
    untrusted: bool = False
    """There is none because the host's certificate is not good."""
    own: bool = False
    """There is none for trouble of this side (a stop, no socket, no CA certificates): it says nothing of the host."""


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


# ----------------------------------------------------------------------- rules


async def fetch_policy(
    request: FetchPolicy, trust: WebContextOptions, *, port: int = HTTPS_PORT, seconds: float = FETCH_TIME
) -> FetchedPolicy:
    """The policy text at the host, within so many seconds, or why there is none."""
    place = WebPlace(request.host, request.addresses, port, request.path)
    answer = await _request(place, _get(place), _policy_problem, trust, seconds)
    if not answer.problem:
        return FetchedPolicy(answer.body)
    failure = TLSProblem.STS_WEBPKI_INVALID if answer.untrusted else TLSProblem.STS_POLICY_FETCH_ERROR
    return FetchedPolicy(failure=failure, problem=answer.problem, own=answer.own)


async def post(
    place: WebPlace, content_type: str, body: bytes, trust: WebContextOptions, *, seconds: float
) -> PostAnswer:
    """Post ``body``, within so many seconds."""
    answer = await _request(place, _post(place, content_type, body), None, trust, seconds)
    if answer.problem:
        return PostAnswer(0, answer.problem)
    moved = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
    return PostAnswer(answer.status, f"{place.host} answers {answer.status}{moved}")


async def _request(
    place: WebPlace, message: HTTPMessage, check: HeaderCheck | None, trust: WebContextOptions, seconds: float
) -> WebAnswer:
    host = place.host
    problem = domain_problem(host)
    if problem is not None:
        return WebAnswer(problem=f"{escape(host[:80])} {problem}")
    if not place.addresses:
        return WebAnswer(problem=f"{host} has no address")
    deadline = await ReadClock() + seconds
    endpoints = tuple(Endpoint(host, address, place.port, ip_family(address)) for address in place.addresses)
    made = await Connect(endpoints, min(CONNECT_TIME, seconds), deadline)
    if made.stream is None:
        return await _no_connection(host, made)
    secured = await StartTLS(made.stream, trust, host, max(deadline - await ReadClock(), 0.0))
    if secured.stream is None:  # the stream below is closed
        if secured.interrupted:
            return await _stopped()
        if secured.timed_out:
            return WebAnswer(problem=_too_slow(host))
        if secured.untrusted:
            return WebAnswer(problem=f"the certificate of {host} is not good: {secured.error}", untrusted=True)
        return WebAnswer(problem=f"{host}: {secured.error}", own=secured.own)
    conversation = HTTPConversation(host, message, deadline, check)
    answer = await Exchange(secured.stream, conversation)
    await Close(secured.stream)
    assert answer is not None  # it has a deadline until there is one
    return answer


async def _no_connection(host: str, made: ConnectResult) -> WebAnswer:
    if made.interrupted:
        return await _stopped()
    if not made.failures:
        return WebAnswer(problem=_too_slow(host))
    own = all(endpoint in made.own for endpoint, _ in made.failures)
    return WebAnswer(problem=f"connection to {host} failed: {made.failures[-1][1]}", own=own)


async def _stopped() -> WebAnswer:
    return WebAnswer(problem=await ReadStop() or INTERRUPTED, own=True)


def _too_slow(host: str) -> str:
    return f"{host} took too long"


# ------------------------------------------------------------------------ HTTP


class HTTPMessage(NamedTuple):
    """A request: method, target, header fields, body."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""


HeaderCheck = Callable[[str, "h11.Response"], str]
"""Given the host and the header of its answer, says why the answer is of no use, "" if it is."""


def _get(place: WebPlace) -> HTTPMessage:
    return HTTPMessage("GET", place.path, (("Host", place.host), ("Accept", "text/plain")))


def _post(place: WebPlace, content_type: str, body: bytes) -> HTTPMessage:
    port = "" if place.port == HTTPS_PORT else f":{place.port}"
    fields = (("Host", place.host + port), ("Content-Type", content_type), ("Content-Length", str(len(body))))
    return HTTPMessage("POST", place.path, fields, body)


def _policy_problem(host: str, response: h11.Response) -> str:
    """Only a plain 200 brings a policy (RFC 8461 3.3)."""
    status = response.status_code
    if 300 <= status < 400:
        return f"{host} answers {status}, and redirects are not followed"
    if status != 200:
        return f"{host} answers {status}"
    headers = {bytes(name): bytes(value) for name, value in response.headers}
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type != b"text/plain":
        return f"{host} answers with {escape(content_type[:60]) or 'no content type'} instead of text/plain"
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return f"{host} answers with an encoding that was not asked for"
    return ""


class HTTPConversation:
    """One request and the answer to it: a :class:`zsmtp.effects.Conversation` whose one event is a ``WebAnswer``.

    ``deadline`` is the end of it on the driver's clock. ``check`` looks at the header of the answer; without it nobody
    wants the body, and the answer is there with its header.
    """

    idle = final_reply_due = False  # a stop ends it at once
    listens = blind = False  # nothing is in doubt that a server did not answer
    last_heard = -math.inf

    def __init__(self, host: str, message: HTTPMessage, deadline: float, check: HeaderCheck | None) -> None:
        import h11

        self._host = host
        self._deadline = deadline
        self._check = check
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER - _PIECE)
        self._out = _NOTHING
        self._received = 0
        self._status = 0
        self._body = bytearray()
        self._answer: WebAnswer | None = None
        self.lost: ZsmtpError | None = None
        try:
            self._out = memoryview(self._wire(message))
        except h11.LocalProtocolError as error:
            self._end(f"not a request: {escape(str(error))}")

    def _wire(self, message: HTTPMessage) -> bytes:
        import h11

        agent = ("User-Agent", f"zsmtp/{__version__}")  # RFC 9110 10.1.5; some hosts refuse requests without one
        headers = [*message.fields, agent, ("Connection", "close")]
        request = h11.Request(method=message.method, target=message.target, headers=headers)
        parts = [self._connection.send(request)]
        if message.body:
            parts.append(self._connection.send(h11.Data(data=message.body)))
        parts.append(self._connection.send(h11.EndOfMessage()))
        return b"".join(part for part in parts if part)

    # -------------------------------------------------------- the conversation

    def next_event(self) -> WebAnswer | None:
        """The answer, as soon as there is one or none to come."""
        return self._answer

    def data_to_send(self, now: float) -> memoryview:
        """What is left of the request; nothing once there is an answer."""
        return self._out if self._answer is None else _NOTHING

    def data_written(self, count: int, now: float) -> None:
        """So many octets of it were written."""
        self._out = self._out[count:]

    def receive_data(self, data: bytes, now: float) -> None:
        """Octets came; what comes behind the answer is not looked at."""
        if self._answer is not None:
            return
        self._received += len(data)
        if self._received > MAX_ANSWER:
            self._end(f"{self._host} answers with more than {MAX_POLICY} octets")
            return
        self._read(data)

    def receive_eof(self, now: float) -> None:
        """The server closed its side."""
        if not self._received:
            self._end(f"{self._host} closes the connection without an answer")
        self._read(b"")

    def deadline(self) -> float | None:
        """The end of it; None once there is an answer."""
        return self._deadline if self._answer is None else None

    def handle_timer(self, now: float) -> None:
        """Look at the time."""
        if now >= self._deadline:
            self.fail(WaitTimeout("took too long"))

    def stop(self) -> None:
        """This side was asked to stop; ``fail`` follows."""

    def fail(self, error: ZsmtpError) -> None:
        """The connection is of no use any more: there is no answer, unless there is one already."""
        if self.lost is None:
            self.lost = error
        if isinstance(error, WaitTimeout):
            self._end(_too_slow(self._host))
        elif isinstance(error, Interrupted):
            self._end(str(error), own=True)
        else:
            self._end(f"{self._host}: {escape(str(error))}")

    # ---------------------------------------------------------------- the answer

    def _read(self, data: bytes) -> None:
        import h11

        try:
            for start in range(0, max(len(data), 1), _PIECE):
                self._connection.receive_data(data[start : start + _PIECE])
                while self._answer is None and (event := self._connection.next_event()) is not h11.NEED_DATA:
                    self._take(event)
        except h11.ProtocolError as error:
            self._end(f"{self._host} does not speak HTTP: {escape(str(error))}")

    def _take(self, event: object) -> None:
        import h11

        if isinstance(event, h11.Response):
            self._status = event.status_code
            problem = "" if self._check is None else self._check(self._host, event)
            if problem or self._check is None:
                self._end(problem)
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > MAX_POLICY:
                self._end(f"{self._host} answers with more than {MAX_POLICY} octets")
        elif isinstance(event, h11.EndOfMessage):
            self._end("")
        elif not isinstance(event, h11.InformationalResponse):
            self._end(f"{self._host} does not speak HTTP: {event!r}")

    def _end(self, problem: str, *, own: bool = False) -> None:
        """There is the answer, with its body unless there is a problem; the first one counts."""
        if self._answer is None:
            body = b"" if problem else bytes(self._body)
            self._answer = WebAnswer(self._status, body, problem, own=own)
