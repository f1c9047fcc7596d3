"""A queue in memory, for tests and documentation: :class:`MemoryStore`."""

from zsmtp.queue.memory.store import MemoryStore

__all__ = ["MemoryStore"]
