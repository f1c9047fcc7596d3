"""Opens the store of a queue: memory, a SQLite file, or a PostgreSQL database. Only its modules are imported."""

from __future__ import annotations

from zsmtp.errors import ConfigError
from zsmtp.queue.limits import HISTORY_KEPT
from zsmtp.queue.location import Location
from zsmtp.queue.store import QueueStore


async def open_store(where: Location, *, shard: int | None = None, history_kept: float = HISTORY_KEPT) -> QueueStore:
    """Open a store; a missing file or schema is made, as shard ``shard`` (None: 0).

    Raises QueueUnavailable if it cannot be opened, QueueError if this program cannot use it, or if its shard is another
    one, ConfigError if the library that a database needs is not installed.
    """
    if where.in_memory:
        from zsmtp.queue.memory import MemoryStore

        return MemoryStore(shard=shard or 0, history_kept=history_kept)
    if where.url:
        check_library()
        from zsmtp.queue.postgres.store import PostgresStore

        return await PostgresStore.open(where.url, shard=shard, history_kept=history_kept)
    from zsmtp.queue.sqlite.store import SQLiteStore

    return await SQLiteStore.open(where.path, shard=shard, history_kept=history_kept)


def check_library() -> None:
    """Raise ConfigError if psycopg is not installed, or not with the library that it needs."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"queue: PostgreSQL needs psycopg: pip install 'zsmtp[postgres]' ({error})") from None
