"""A connection over a socket, for the drivers: never blocking, closed once, errors as exceptions of zsmtp."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.errors import ConnectionLost

READ_UNIT = 64 * 1024  # octets asked for in one read

_FAMILIES = {Family.INET: socket.AF_INET, Family.INET6: socket.AF_INET6, Family.UNIX: socket.AF_UNIX}


class SocketStream:
    """A connected, non-blocking socket."""

    exporter = b""  # no TLS here

    def __init__(self, sock: socket.socket, family: Family) -> None:
        self._sock = sock
        self.local: tuple[str, int] | None = None
        if family is not Family.UNIX:
            name = sock.getsockname()
            self.local = (str(name[0]), int(name[1]))

    def fileno(self) -> int:
        """The descriptor, to wait on; -1 once closed."""
        return self._sock.fileno()

    def receive(self) -> bytes | None:
        """The next octets, ``b""`` at the end of the stream, None if there are none now.

        Raises :class:`~zsmtp.errors.ConnectionLost`.
        """
        try:
            return self._sock.recv(READ_UNIT)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise ConnectionLost(f"connection lost: {os.strerror(error.errno or 0)}") from error

    def send(self, data: memoryview) -> int:
        """Write octets to the socket; returns how many it took (0: none now). Raises ConnectionLost."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise ConnectionLost(f"connection lost: {os.strerror(error.errno or 0)}") from error

    @property
    def pending(self) -> bool:
        """Whether octets can be received although the descriptor is not readable; never here."""
        return False

    @property
    def wants_write(self) -> bool:
        """Whether buffered octets wait for the descriptor to become writable; never here."""
        return False

    def flush(self) -> None:
        """Write buffered octets; there are none here."""

    def close(self) -> None:
        """Close the socket; unsent octets are lost."""
        with contextlib.suppress(OSError):
            self._sock.close()


def new_socket(endpoint: Endpoint, send_buffer: int | None) -> socket.socket:
    """A non-blocking socket for ``endpoint``: keep-alive on, small segments not delayed. Raises OSError."""
    sock = socket.socket(_FAMILIES[endpoint.family], socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if endpoint.family is not Family.UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if send_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    except OSError:
        sock.close()
        raise
    return sock


def socket_address(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address of an address and a port. Raises OSError (ENODEV) if its zone is no interface of this machine.

    Python ignores the zone in the text of an address: it needs a separate field (RFC 3493 3.3).
    """
    bare, mark, zone = address.partition("%")
    if not mark:
        return address, port
    try:
        return bare, port, 0, int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    except OSError as error:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error


def begin_connect(sock: socket.socket, endpoint: Endpoint) -> bool:
    """Start connecting; True if it is connected already. Raises OSError if that fails."""
    unix = endpoint.family is Family.UNIX
    code = sock.connect_ex(endpoint.address if unix else socket_address(endpoint.address, endpoint.port))
    if code in (errno.EINPROGRESS, errno.EINTR):
        if not _is_writable(sock):
            return False
        finish_connect(sock)
        return True
    if code:
        raise OSError(code, os.strerror(code))
    return True


def _is_writable(sock: socket.socket) -> bool:
    """Whether connecting has ended, which it often has at once if the server is on this machine."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(0))


def finish_connect(sock: socket.socket) -> None:
    """Call when the socket is writable: raises OSError if the connection failed."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
