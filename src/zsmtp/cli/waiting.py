"""Notices on a terminal about the waits of a command that take longer than a moment.

A name server or a host that does not answer can cost minutes; the user should know for which one the command waits.
Each wait is reported once, when it has lasted ``PATIENCE`` seconds::

    with waits_printed("zsmtp explain") as notices:      # None where standard error is no terminal
        driver = make_driver(notices.observer())
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zsmtp.escape import escape
from zsmtp.events import Connected, Connecting, Event, FetchStarted, HandshakeStarted, LookupStarted, Observer

PATIENCE = 1.0  # seconds
GLANCE = 0.25  # seconds between two checks


class _Wait:
    """The present wait of one driver, its start, and whether it was reported."""

    __slots__ = ("reported", "since", "what")

    def __init__(self) -> None:
        self.what = ""
        self.since = 0.0
        self.reported = False


class WaitingNotices:
    """Reports long waits. ``say`` takes a line; ``clock`` returns seconds."""

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._waits: list[_Wait] = []
        self._lock = threading.Lock()  # drivers have threads of their own

    def observer(self) -> Observer:
        """The observer of one driver, which waits for one thing at a time."""
        wait = _Wait()
        with self._lock:
            self._waits.append(wait)

        def observe(event: Event) -> None:
            what = _awaited(event)
            with self._lock:
                wait.what, wait.since, wait.reported = what, self._clock(), False

        return observe

    def look(self) -> None:
        """Report the waits that have lasted long enough."""
        now = self._clock()
        with self._lock:
            late = [one for one in self._waits if one.what and not one.reported and now - one.since >= PATIENCE]
            for one in late:
                one.reported = True
            texts = list(dict.fromkeys(one.what for one in late))
        for text in texts:
            self._say(f"waiting for {text}")


def _awaited(event: Event) -> str:
    """The peer that is waited for after this event; "" for waits not worth a notice."""
    match event:
        case LookupStarted(query=query):
            return f"the name server: {escape(query.name) or '.'} {query.type.value}"
        case FetchStarted(host=host):
            return f"{escape(host)}: MTA-STS policy"
        case Connecting(endpoint=endpoint):
            return f"a connection to {_place(endpoint.host, endpoint.address, endpoint.port)}"
        case HandshakeStarted(server_name=name):
            return f"the TLS handshake with {escape(name)}"
        case Connected(endpoint=endpoint):
            return f"the greeting of {_place(endpoint.host, endpoint.address, endpoint.port)}"
    return ""


def _place(host: str, address: str, port: int) -> str:
    return escape(f"{host} [{address}]:{port}" if port else address)


@contextmanager
def waits_printed(program: str) -> Iterator[WaitingNotices | None]:
    """Report waits on standard error during the block; None, and no report, if that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    notices = WaitingNotices(lambda text: sys.stderr.write(f"{program}: {text}\n"))
    over = threading.Event()

    def watch() -> None:
        while not over.wait(GLANCE):
            notices.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield notices
    finally:
        over.set()
        thread.join()
