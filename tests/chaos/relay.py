"""The way from a node to its database, which can be cut: a UNIX socket that passes octets on, or drops them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path


class DatabaseRelay:
    """Passes connections to a PostgreSQL socket on; ``folder`` is the host that a node is given."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self._target = str(target)
        self._cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self.folder.mkdir()
        self._server = await asyncio.start_unix_server(self._serve, self.folder / ".s.PGSQL.5432")

    async def stop(self) -> None:
        """Close it."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break everything off, and let nothing through."""
        self._cut = True
        for writer in tuple(self._writers):
            writer.transport.abort()

    def heal(self) -> None:
        """Let everything through again."""
        self._cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            await asyncio.wait(
                [asyncio.ensure_future(_pass(reader, back)), asyncio.ensure_future(_pass(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except asyncio.CancelledError:  # the run is over
            pass
        finally:
            self._writers -= {writer, back}
            writer.transport.abort()
            back.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
