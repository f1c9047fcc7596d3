"""Threads for heartbeats and notifications: the heartbeat of a node, and LISTEN and NOTIFY for changes.

A node's leases are valid for 20 s after its event loop last ran. :class:`Pulse` writes that to the database every 5 s,
from its own thread: a loop that is busy for a while loses nothing, and one that hangs loses its leases. The same thread
sends the notifications, one for many commits, in separate transactions. :class:`NewsListener` waits for them; without
it (behind a pooler) the store still polls every second.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psycopg

from zsmtp.queue.leases import MARGIN, VALID
from zsmtp.queue.postgres import leases
from zsmtp.queue.postgres.connect import Connection, Database, cut
from zsmtp.queue.postgres.results import RENEW

BEAT = 5.0
"""Seconds between two heartbeats."""
NOTIFY_PAUSE = 0.05
"""Seconds between two notifications at least."""
SLACK = 10  # a node gives leases back when it has a tenth more than its share, plus two
_RETRY = 1.0  # seconds before a lost connection is replaced
CHANNEL = "zsmtp_news"


class PulseAnswer(NamedTuple):
    """The reply of the database to a heartbeat."""

    draining: bool
    same_server: bool
    """Whether it is the server that has this node's marks."""
    mine: int
    """The leases of this node."""
    all: int
    """The leases of all nodes."""
    nodes: int
    """The nodes that take leases."""
    all_serve_parts: bool
    """Whether all live nodes know parts of sites."""

    @property
    def sharing(self) -> int:
        """How many nodes share the sites; 1 if one of them serves whole sites only."""
        return max(self.nodes, 1) if self.all_serve_parts else 1

    @property
    def surplus(self) -> int:
        """How many leases this node has beyond its share; 0 if it has only a few more (:data:`SLACK`)."""
        share = -(-self.all // max(self.nodes, 1))
        return self.mine - share if self.mine > share + share // SLACK + 1 else 0


class Pulse(threading.Thread):
    """Sends heartbeats and notifications. ``age`` gives the seconds since the event loop last ran.

    ``answered`` is called in this thread with the reply of the database, None if it does not know the node.
    """

    def __init__(
        self, database: Database, *, age: Callable[[], float], answered: Callable[[PulseAnswer | None], None]
    ) -> None:
        super().__init__(name="zsmtp queue pulse", daemon=True)
        self._database = database
        self._age = age
        self._answered = answered
        self._wanted = threading.Event()
        self._notify = False
        self._node = 0
        self._ends = False
        self._connection: Connection | None = None

    def notify(self) -> None:
        """Notify all delivering processes of changes."""
        self._notify = True
        self._wanted.set()

    def beat_for(self, node: int) -> None:
        """Send the heartbeats of a node from now on; 0: of none."""
        self._node = node
        self._wanted.set()

    def beat_now(self) -> None:
        """Send a heartbeat at once."""
        self._wanted.set()

    def end(self) -> None:
        """End the thread, and wait for its end."""
        self._ends = True
        self._wanted.set()
        if self.ident is not None:
            self.join(_RETRY)
            cut(self._connection)  # its server does not answer
            self.join()

    def run(self) -> None:
        """Send heartbeats and notifications until the end."""
        pause = BEAT
        while not self._ends or self._notify:
            self._wanted.wait(pause if self._node else None)
            self._wanted.clear()
            try:
                self._do()
                pause = BEAT
            except psycopg.Error:
                self._close()
                pause = _RETRY
                if self._ends:
                    break
        self._close()

    def _do(self) -> None:
        if not (self._notify or self._node):
            return
        if self._connection is None:
            self._connection = self._database.connect()
        if self._notify:
            self._notify = False
            try:
                self._connection.execute(f"NOTIFY {CHANNEL}".encode())
            except psycopg.Error:
                self._notify = True
                raise
            if not self._ends:
                time.sleep(NOTIFY_PAUSE)
        self._beat(self._connection)

    def _beat(self, db: Connection) -> None:
        age = self._age()
        if not self._node or age >= VALID - MARGIN:
            return
        row = db.execute(
            f"{RENEW} RETURNING draining, incarnation = zsmtp_incarnation(), "
            "(SELECT count(*) FROM zsmtp_lease l WHERE l.node = zsmtp_node.id), (SELECT count(*) FROM zsmtp_lease), "
            f"({leases.NODES}), {leases.SERVE_PARTS}".encode(),
            (VALID - age, self._node),
        ).fetchone()
        self._answered(None if row is None else PulseAnswer(*row))

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


class NewsListener(threading.Thread):
    """Waits for notifications, and calls ``on_notification`` for each."""

    def __init__(self, database: Database, on_notification: Callable[[], None]) -> None:
        super().__init__(name="zsmtp queue listener", daemon=True)
        self._database = database
        self._on_notification = on_notification
        self._end, self._ends = socket.socketpair()

    def end(self) -> None:
        """End the thread, without waiting for its end."""
        self._end.close()

    def run(self) -> None:
        """Listen until the end; a lost connection is replaced."""
        with self._ends:
            while True:
                with suppress(psycopg.Error), self._database.connect() as connection:
                    connection.execute(f"LISTEN {CHANNEL}".encode())
                    self._on_notification()  # for those before LISTEN
                    if self._listen(connection):
                        return
                if select.select([self._ends], [], [], _RETRY)[0]:
                    return

    def _listen(self, connection: Connection) -> bool:
        """Listen until the end (True), or until the connection is lost."""
        end = self._ends.fileno()
        while True:
            ready, _, _ = select.select([connection.fileno(), end], [], [])
            if end in ready:
                return True
            for _ in connection.notifies(timeout=0):
                self._on_notification()
