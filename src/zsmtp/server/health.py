"""Health and metrics of a service by HTTP, for this machine only: ``GET /health`` and ``GET /metrics``.

``/health`` is 200 and ``ok``, or 503 and the reasons, one a line. ``/metrics`` is the text format of Prometheus.
Requests change nothing, and responses contain no mail. Each connection has one request, of 8 KiB and five seconds at
most; a request with a ``Host`` that is no name of this machine is refused, so that no web page can make a browser send
one (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from zsmtp.server.serviceconfig import SocketAddress

MAX_REQUEST = 8192  # octets
TIME = 5.0  # seconds for a request, and for its response
MAX_CONNECTIONS = 20

Problems = Callable[[], Awaitable[list[str]]]
Metrics = Callable[[], Awaitable[Mapping[str, float]]]
_HOSTS = ("localhost", "127.0.0.1", "[::1]", "")


class HealthServer:
    """Serves requests. ``problems`` and ``metrics`` are called for each."""

    def __init__(self, problems: Problems, metrics: Metrics) -> None:
        self._problems = problems
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._open = 0

    async def listen(self, where: SocketAddress) -> None:
        """Listen; raises OSError if that is not possible."""
        if where.path:
            self._server = await asyncio.start_unix_server(self._serve, where.path, limit=MAX_REQUEST)
        else:
            self._server = await asyncio.start_server(self._serve, where.host, where.port, limit=MAX_REQUEST)

    @property
    def port(self) -> int:
        """The port, for tests that let the system choose."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                async with asyncio.timeout(TIME):
                    status, text = await self._answer(reader)
                    writer.write(_response(status, text))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, str]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        words = head[0].split(" ")
        hosts = [line.partition(":")[2].strip().lower() for line in head[1:] if line.lower().startswith("host:")]
        if any(_without_port(host) not in _HOSTS for host in hosts):
            return "403 Forbidden", "this is for this machine only\n"
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "400 Bad Request", "not HTTP/1.1\n"
        if words[0] != "GET":
            return "405 Method Not Allowed", "nothing can be changed here\n"
        if words[1] == "/health":
            problems = await self._problems()
            lines = "".join(f"{problem}\n" for problem in problems)
            return ("503 Service Unavailable", lines) if problems else ("200 OK", "ok\n")
        if words[1] == "/metrics":
            return "200 OK", metrics_text(await self._metrics())
        return "404 Not Found", "there are /health and /metrics\n"


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Metrics in the text format; a name that ends with ``_total`` is a counter."""
    lines = []
    for name, value in metrics.items():
        lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n{name} {value:g}\n")
    return "".join(lines)


def _response(status: str, text: str) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
