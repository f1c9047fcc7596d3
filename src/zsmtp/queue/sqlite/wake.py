"""How the process that delivers is woken when another one wrote: a datagram to a socket beside the file.

Without it, or where there can be none, what others wrote is found within a second.
"""

from __future__ import annotations

import socket
from contextlib import suppress


def wake(path: str) -> None:
    """Have the process that delivers look for new messages at once, if there is one and it listens."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto(b"w", f"{path}-wake")
