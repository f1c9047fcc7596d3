"""A host that takes TLS reports by POST over HTTPS on a loopback port (RFC 8460 5.4)."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Posted:
    """One POST: where it was sent, its header fields by lower-case name, and its body."""

    path: str
    fields: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class ReportHost:
    """Answers each POST with the next of ``statuses``, the last one repeated; ``posted`` are those that came."""

    def __init__(self, context: ssl.SSLContext, *statuses: int) -> None:
        self.posted: list[Posted] = []
        left = list(statuses or (201,))
        host = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 60

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fields = {name.lower(): value for name, value in self.headers.items()}
                host.posted.append(Posted(self.path, fields, body))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that does not like the certificate hangs up, and that is its right."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> ReportHost:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)
