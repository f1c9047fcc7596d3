"""The protocols between systemd and a service: passed sockets, and notifications (sd_listen_fds(3), sd_notify(3)).

Both protocols are small and documented as stable, so no library is needed. Sockets are descriptors from 3 on, if
``LISTEN_PID`` is this process, with names in ``LISTEN_FDNAMES``. Notifications are datagrams to the UNIX socket that
``NOTIFY_SOCKET`` names::

    notifier = Notifier.from_environment(os.environ)
    notifier.send("READY=1", "STATUS=accepting mail")

Without systemd there are no sockets, and notifications are discarded.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

from zsmtp.errors import ConfigError

FIRST = 3  # SD_LISTEN_FDS_START
MAX_SOCKETS = 1000
PATIENCE = 10.0
"""Seconds to wait for room in the queue of notifications, which is short (``net.unix.max_dgram_qlen``)."""


def handed_sockets(environment: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """The passed listening sockets, by name; the variables are removed. Raises ConfigError.

    A socket without a name has "unknown", as in systemd.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count:
        return {}
    if not (count.isascii() and count.isdigit() and int(count[:6]) <= MAX_SOCKETS):
        raise ConfigError(f"LISTEN_FDS: {count[:20]!r} is no number of sockets")
    found: dict[str, list[socket.socket]] = {}
    for place in range(int(count)):
        name = names[place] if place < len(names) and names[place] else "unknown"
        try:
            os.set_inheritable(FIRST + place, False)
            sock = socket.socket(fileno=FIRST + place)
            accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ConfigError(f"LISTEN_FDS: descriptor {FIRST + place} is no socket: {error.strerror}") from None
        if sock.type != socket.SOCK_STREAM or not accepts:
            raise ConfigError(f"LISTEN_FDS: descriptor {FIRST + place} ({name}) is no listening stream socket")
        found.setdefault(name, []).append(sock)
    return found


class Notifier:
    """Sends notifications to ``address`` ("": none). ``watchdog`` is the time in seconds between two keep-alives.

    A ``watchdog`` of 0 means no keep-alives.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Notifier:
        """The notifier for the variables of systemd; they are removed, so that no child of this process has them."""
        address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        seconds = int(usec) / 1e6 if mine and usec.isascii() and usec.isdigit() else 0.0
        return cls(address, seconds)

    def send(self, *words: str) -> None:
        """Send assignments such as ``READY=1``. If systemd is slow to read, wait for it, :data:`PATIENCE` at most.

        A notification that cannot be sent is lost: systemd has a timeout for it.
        """
        self._send("\n".join(words), PATIENCE)

    def alive(self) -> None:
        """Send a keep-alive (``WATCHDOG=1``) without waiting: another one follows."""
        self._send("WATCHDOG=1", 0.0)

    def _send(self, text: str, patience: float) -> None:
        if self._socket is None:
            return
        self._socket.settimeout(patience)
        with suppress(OSError):
            self._socket.sendto(text.encode(), self._address)

    def reloading(self) -> None:
        """Notify the start of a reload (``Type=notify-reload``); READY=1 ends it."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
