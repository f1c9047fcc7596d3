"""Wakes the delivering process after another process wrote: a datagram to a socket beside the file.

Without it, or if there can be no socket, the deliverer finds the changes of others within a second.
"""

from __future__ import annotations

import socket
from contextlib import suppress


def wake(path: str) -> None:
    """Make the delivering process look for new messages at once, if there is one and it listens."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto(b"w", f"{path}-wake")
