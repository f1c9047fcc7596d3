"""The other hosts of the recordings: mail exchangers, a relay, a mailbox server, a policy host.

``record.py`` starts it in a network namespace of its own, joins the two by a virtual wire and says where certificates
are. Every host is aiosmtpd under another name and address; the policy host is the standard library's HTTPS server.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

WIRE = ("203.0.113.1/24", "2001:db8:1::1/64")
ADDRESSES = (
    *("192.0.2.25/32", "192.0.2.26/32", "192.0.2.30/32", "192.0.2.40/32", "198.51.100.25/32", "198.51.100.80/32"),
    "2001:db8::25/128",
)
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmax_age: 604800\r\n"


@dataclass
class Host:
    """One server: its name, where it listens, what it thinks of recipients."""

    name: str
    addresses: tuple[str, ...]
    port: int = 25
    tls: bool = True
    login: bool = False
    lmtp: bool = False
    refuse: dict[str, str] = field(default_factory=dict)
    taken: int = 0

    async def handle_EHLO(
        self, server: SMTP, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", "250-ENHANCEDSTATUSCODES", responses[-1]]

    handle_LHLO = handle_EHLO

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        self.taken += 1
        return f"250 2.0.0 Ok: queued as 4X{self.taken:03d}"

    def authenticate(
        self, server: SMTP, session: Any, envelope: Any, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        """Who may log in."""
        return AuthResult(success=data.login == b"ann" and data.password == b"open sesame", handled=False)


HOSTS = (
    Host("mx1.example.org", ("192.0.2.25", "2001:db8::25"), refuse={"nobody@example.org": "550 5.1.1 No such user"}),
    Host("mx2.example.org", ("192.0.2.26",)),
    Host(
        "mail.example.com", ("198.51.100.25",), refuse={"busy@example.com": "450 4.2.1 Mailbox busy, try again later"}
    ),
    Host("relay.example.net", ("192.0.2.30",), port=587, login=True),
    Host("mailbox.example.net", ("192.0.2.40",), port=24, tls=False, lmtp=True),
)


def _server(host: Host, certificates: Path) -> SMTP:
    context = None
    if host.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates / f"{host.name}.pem")
    kind = LMTP if host.lmtp else SMTP
    options: dict[str, Any] = {"auth_require_tls": True, "authenticator": host.authenticate} if host.login else {}
    return kind(host, hostname=host.name, ident="ESMTP", tls_context=context, enable_SMTPUTF8=False, **options)


async def _serve(certificates: Path) -> None:
    loop = asyncio.get_running_loop()
    for host in HOSTS:
        for address in host.addresses:
            await loop.create_server(lambda host=host: _server(host, certificates), address, host.port)  # type: ignore[misc]
    print("ready", flush=True)
    await asyncio.Event().wait()


class _Policies(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(POLICY)))
        self.end_headers()
        self.wfile.write(POLICY)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _policy_host(certificates: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "mta-sts.example.com.pem")
    server = ThreadingHTTPServer(("198.51.100.80", 443), _Policies)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    """Wait until the wire is there, then be all hosts until standard input ends."""
    sys.stdin.readline()
    commands = [f"ip address add {address} dev lo" for address in ADDRESSES]
    commands += [f"ip address add {address} dev wire {'nodad' if ':' in address else ''}" for address in WIRE]
    commands += ["ip link set lo up", "ip link set wire up"]
    for command in commands:
        subprocess.run(command.split(), check=True)
    certificates = Path(sys.argv[1])
    _policy_host(certificates)
    threading.Thread(target=lambda: (sys.stdin.read(), __import__("os")._exit(0)), daemon=True).start()
    asyncio.run(_serve(certificates))


if __name__ == "__main__":
    main()
