"""A host that serves an MTA-STS policy over HTTPS on a loopback port, and the agent that finds it there.

Policy hosts listen on port 443 and nothing in a configuration says otherwise. For a child process the port is changed
before the program starts: :meth:`PolicyHost.environment` puts a ``sitecustomize`` module in its way.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.support.agent import SOURCE
from tests.support.webhost import QuietHandler, WebHost


class PolicyHost(WebHost):
    """Serves ``text`` under the well-known path with the certificate in ``context``; ``text`` None is a 404.

    ``asked`` are the paths that were asked for, with the host.
    """

    def __init__(self, context: ssl.SSLContext, text: bytes | None) -> None:
        self.text = text
        self.asked: list[str] = []
        host = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                host.asked.append(f"{self.headers['Host']}{self.path}")
                found = host.text if self.path == "/.well-known/mta-sts.txt" else None
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(found or b"")))
                self.end_headers()
                self.wfile.write(found or b"")

        super().__init__(context, Handler)

    def environment(self, folder: Path) -> dict[str, str]:
        """What a child process needs in its environment to look for policy hosts on this port."""
        place = folder / "policy-host"
        place.mkdir(exist_ok=True)
        (place / "sitecustomize.py").write_text(f"import zsmtp.tls.https\n\nzsmtp.tls.https.HTTPS_PORT = {self.port}\n")
        return {"PYTHONPATH": f"{place}:{SOURCE}"}
