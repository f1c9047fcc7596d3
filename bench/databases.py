"""Where a benchmark's queue is: SQLite files in a folder, or databases of a PostgreSQL cluster of the benchmark's own.

The cluster has PostgreSQL's defaults (fsync on), but for the UNIX socket alone that it listens on.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from zsmtp.queue.location import locate
from zsmtp.queue.store import QueueStore
from zsmtp.queue.stores import open_store


class Databases:
    """Makes places for queues, one after the other."""

    def __init__(self, folder: Path, cluster: object | None) -> None:
        self.folder = folder
        self._cluster = cluster
        self._names = itertools.count(1)

    def fresh(self) -> str:
        """The URL of a queue that is not there yet."""
        name = f"bench{next(self._names)}"
        if self._cluster is None:
            return str(self.folder / f"{name}.db")
        self._cluster.make(name)  # type: ignore[attr-defined]
        url: str = self._cluster.url(name)  # type: ignore[attr-defined]
        return url

    async def open(self, url: str) -> QueueStore:
        """Open a queue."""
        return await open_store(locate(url))

    def cpu(self, measure: Callable[[int], float]) -> float:
        """What a server of theirs had so far, as ``measure`` gives it for its first process."""
        return measure(self._cluster.pid) if self._cluster is not None else 0.0  # type: ignore[attr-defined]

    @contextmanager
    def held_open(self, url: str) -> Iterator[None]:
        """Somebody else's transaction in a queue's database, which saw it as it is now and stays open."""
        if self._cluster is None:
            other = sqlite3.connect(url, isolation_level=None)
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM zsmtp_message").fetchall()
            with closing(other):
                yield
        else:
            import psycopg

            with psycopg.connect(url) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.execute("SELECT pg_current_xact_id(), (SELECT count(*) FROM zsmtp_message)")
                yield

    def forget(self) -> None:
        """Remove the files that are there; databases stay until the end."""
        for file in self.folder.glob("*.db*"):
            file.unlink()


@contextmanager
def databases(*, postgres: bool, folder: str | None = None) -> Iterator[Databases]:
    """A place for files, or a cluster, which are removed in the end."""
    place = Path(tempfile.mkdtemp(prefix="zsmtp-bench-", dir=folder))
    cluster = None
    try:
        if postgres:
            from tests.support.postgres import Cluster

            cluster = Cluster(durable=True)
        yield Databases(place, cluster)
    finally:
        shutil.rmtree(place)
        if cluster is not None:
            cluster.remove()
