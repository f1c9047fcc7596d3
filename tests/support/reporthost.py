"""A host that takes TLS reports by POST over HTTPS on a loopback port (RFC 8460 5.4)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from tests.support.webhost import QuietHandler, WebHost


@dataclass(frozen=True)
class Posted:
    """One POST: where it was sent, its header fields by lower-case name, and its body."""

    path: str
    fields: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class ReportHost(WebHost):
    """Answers each POST with the next of ``statuses``, the last one repeated; ``posted`` are those that came."""

    def __init__(self, context: ssl.SSLContext, *statuses: int) -> None:
        self.posted: list[Posted] = []
        left = list(statuses or (201,))
        host = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fields = {name.lower(): value for name, value in self.headers.items()}
                host.posted.append(Posted(self.path, fields, body))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

        super().__init__(context, Handler)
