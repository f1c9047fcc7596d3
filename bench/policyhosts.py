"""Policy hosts of MTA-STS so many milliseconds away, for benchmarks: ``mta-sts.dN.example.com``, all on one port.

What a client sends is looked at when its time has come and not before, however many connections there are, so that a
handshake and a request take a client two round trips. The policy is of mode ``testing``: exchangers need no TLS.
:func:`ready_policy_hosts` runs them in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

BACKLOG = 4096
NAMES = 20  # hosts in one certificate
POLICY = b"version: STSv1\nmode: testing\nmx: *.example.net\nmax_age: 604800\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(POLICY) + POLICY


def contexts(first: int, count: int, ca_file: Path) -> dict[str, ssl.SSLContext]:
    """A context for each host, by name; the authority of their certificates is written to ``ca_file``."""
    import trustme

    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(str(ca_file))
    found: dict[str, ssl.SSLContext] = {}
    for begin in range(first, first + count, NAMES):
        names = [f"mta-sts.d{number}.example.com" for number in range(begin, begin + NAMES)]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names, key_type=trustme.KeyType.ECDSA).configure_cert(context)
        found.update(dict.fromkeys(names, context))
    return found


class PolicyConnection(asyncio.Protocol):
    """One connection: TLS, a request, the policy."""

    def __init__(self, context: ssl.SSLContext, seconds: float) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._seconds = seconds
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._look_at, data)

    def _look_at(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
            self._request += self._tls.read(16384)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._transport.close()
            return
        if self._request.endswith(b"\r\n\r\n"):
            self._tls.write(ANSWER)
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._transport.write(self._outgoing.read())
        if self._request:
            self._transport.close()


async def serve(server: socket.socket, first: int, count: int, seconds: float, ca_file: Path) -> None:
    """Serve until killed; says when it is ready."""
    hosts = contexts(first, count, ca_file)

    def choose(connection: ssl.SSLObject, name: str, _: ssl.SSLContext) -> None:
        connection.context = hosts[name]

    entrance = next(iter(hosts.values()))
    entrance.sni_callback = choose  # type: ignore[assignment]
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: PolicyConnection(entrance, seconds), sock=server, backlog=BACKLOG)
    print("ready", flush=True)
    await listening.serve_forever()


@contextlib.contextmanager
def ready_policy_hosts(first: int, count: int, seconds: float, ca_file: Path) -> Iterator[int]:
    """The hosts of so many domains from the ``first`` on, which answer after so many seconds; their port."""
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as server:
        port: int = server.getsockname()[1]
        words = [sys.executable, __file__, *map(str, (server.fileno(), first, count, seconds)), str(ca_file)]
        process = subprocess.Popen(words, pass_fds=[server.fileno()], stdout=subprocess.PIPE)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield port
        finally:
            process.kill()


if __name__ == "__main__":
    given = socket.socket(fileno=int(sys.argv[1]))
    asyncio.run(serve(given, int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5])))
