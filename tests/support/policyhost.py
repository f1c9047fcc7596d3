"""A host that serves an MTA-STS policy over HTTPS on a loopback port, and the agent that finds it there.

Policy hosts listen on port 443 and nothing in a configuration says otherwise. For a child process the port is changed
before the program starts: :meth:`PolicyHost.environment` puts a ``sitecustomize`` module in its way.
"""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.agent import SOURCE


class PolicyHost:
    """Serves ``text`` under the well-known path with the certificate in ``context``; ``text`` None is a 404.

    ``asked`` are the paths that were asked for, with the host.
    """

    def __init__(self, context: ssl.SSLContext, text: bytes | None) -> None:
        self.text = text
        self.asked: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                host.asked.append(f"{self.headers['Host']}{self.path}")
                found = host.text if self.path == "/.well-known/mta-sts.txt" else None
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(found or b"")))
                self.end_headers()
                self.wfile.write(found or b"")

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that does not like the certificate hangs up, and that is its right."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> PolicyHost:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    def environment(self, folder: Path) -> dict[str, str]:
        """What a child process needs in its environment to look for policy hosts on this port."""
        place = folder / "policy-host"
        place.mkdir(exist_ok=True)
        (place / "sitecustomize.py").write_text(f"import zsmtp.net.https\n\nzsmtp.net.https.HTTPS_PORT = {self.port}\n")
        return {"PYTHONPATH": f"{place}:{SOURCE}"}
