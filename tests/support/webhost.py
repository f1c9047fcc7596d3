"""A host of the web on a loopback port, for tests of what is fetched and posted over HTTPS."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class QuietHandler(BaseHTTPRequestHandler):
    """Answers requests, and says nothing of them."""

    timeout = 60

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class WebHost:
    """Serves requests with the certificate in ``context`` until its block is left; ``port`` is where."""

    def __init__(self, context: ssl.SSLContext, handler: type[QuietHandler]) -> None:
        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that does not like the certificate hangs up, and that is its right."""

        self._server = Server(("127.0.0.1", 0), handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)
