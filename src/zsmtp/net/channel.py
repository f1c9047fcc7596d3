"""Messages between two processes of this program, over a pair of UNIX stream sockets on an event loop.

A frame is its length in four octets (big-endian), and as many octets: a list of messages, written by ``pickle``
(protocol 5). Both processes have the same user, and only they have the sockets: one process makes the pair, and the
other inherits an end (:mod:`zsmtp.net.processes`). So only this program writes pickles into it. Data from the network
is in a message as octets and text only.

A descriptor is sent with the first octet of a frame of its own (``SCM_RIGHTS``).

No method waits, except :meth:`Channel.drain`. The channel keeps the octets that the socket does not take at once;
:attr:`Channel.backlog` counts them, so that a sender can postpone messages. A frame of more than :data:`MAX_FRAME`
octets, or one that cannot be decoded, closes the channel.
"""

from __future__ import annotations

import asyncio
import copyreg
import io
import os
import pickle
import socket
from array import array
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from types import MappingProxyType
from typing import Any

MAX_FRAME = 256 << 20  # octets
FRAME_MESSAGES = 1000  # a frame is complete with so many messages
FRAME_OCTETS = 1 << 20  # or with so many octets of content
READ_SIZE = 1 << 18
HEAD = 4  # octets of the length
PEER_CLOSED = "the other process closed the connection"
CLOSED = "closed"


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


_TABLE: dict[type, Callable[[Any], Any]] = {
    **copyreg.dispatch_table,
    MappingProxyType: lambda mapping: (_read_only, (dict(mapping),)),
}


def encode(messages: list[object]) -> bytes:
    """Encode messages as a frame. Raises ValueError above MAX_FRAME, and what ``pickle`` raises."""
    file = io.BytesIO()
    file.write(bytes(HEAD))
    pickler = pickle.Pickler(file, 5)
    pickler.dispatch_table = _TABLE
    pickler.dump(messages)
    size = file.tell() - HEAD
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size} octets is too long")
    file.seek(0)
    file.write(size.to_bytes(HEAD, "big"))
    return file.getvalue()


class Channel:
    """One end. ``on_message`` is called with each message, ``on_close`` once, with the reason.

    ``on_message`` must not raise; it finds a descriptor of the message by :meth:`take_descriptor`. The channel owns the
    socket. It gathers messages for ``gather`` seconds into frames; 0 means one turn of the event loop.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Any], None],
        on_close: Callable[[str], None],
        *,
        gather: float = 0.0,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._on_message = on_message
        self._on_close = on_close
        self._gather_for = gather
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._gathered: list[object] = []  # messages of the next frame
        self._octets = 0  # of content among them
        self._late: list[Callable[[], object]] = []
        self._flush_handle: asyncio.Handle | None = None
        self._out: deque[tuple[memoryview, int]] = deque()  # frames to write, each with a descriptor or -1
        self._drained: list[asyncio.Future[None]] = []
        self._buffer = bytearray(READ_SIZE)
        self._in = bytearray()
        self._descriptors: deque[int] = deque()
        self._waits_to_write = False
        self._is_writable = True
        self.is_open = True
        """Whether messages may still arrive."""
        self.problem = ""
        """The fault that closed the channel, "" if it is open, or one of the processes closed it."""
        self.backlog = 0
        """Octets of frames that the socket has not taken."""
        self._loop.add_reader(sock.fileno(), self._read)

    # ---------------------------------------------------------------------- sending

    def send(self, message: object, *, octets: int = 0, descriptor: int = -1) -> None:
        """Send a message with about ``octets`` octets of content. The channel owns and closes ``descriptor``.

        A closed channel discards the message.
        """
        if not self._is_writable:
            if descriptor >= 0:
                os.close(descriptor)
            return
        if descriptor >= 0:
            self._make_frame()
            self._add_frame([message], descriptor)
        else:
            self._gathered.append(message)
            self._octets += octets
            if self._octets >= FRAME_OCTETS or len(self._gathered) >= FRAME_MESSAGES:
                self._make_frame()
        self._schedule()

    def send_threadsafe(self, message: object) -> None:
        """Send a message from any thread; one that the loop cannot take any more is discarded."""
        if get_ident() == self._thread:
            self.send(message)
            return
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.send, message)

    def send_late(self, make: Callable[[], object]) -> None:
        """Send the message that ``make`` returns when the next frame is written, behind all others."""
        if self._is_writable:
            self._late.append(make)
            self._schedule()

    def _schedule(self) -> None:
        if self._flush_handle is None and self._is_writable:
            if self._gather_for:
                self._flush_handle = self._loop.call_later(self._gather_for, self.flush)
            else:
                self._flush_handle = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what was sent, as far as the socket takes it now."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if not self._is_writable:
            return
        late, self._late = self._late, []
        self._gathered += [make() for make in late]
        self._make_frame()
        if not self._waits_to_write:
            self._write()

    async def drain(self) -> None:
        """Flush, and wait until the socket has taken everything or the channel is closed."""
        self.flush()
        if self._out:
            drained: asyncio.Future[None] = self._loop.create_future()
            self._drained.append(drained)
            await drained

    def _make_frame(self) -> None:
        """Make a frame of the gathered messages."""
        if self._gathered:
            messages, self._gathered, self._octets = self._gathered, [], 0
            self._add_frame(messages, -1)

    def _add_frame(self, messages: list[object], descriptor: int) -> None:
        if not self._is_writable:
            if descriptor >= 0:
                os.close(descriptor)
            return
        try:
            frame = encode(messages)
        except Exception as error:  # a fault of this program: a message that cannot be pickled, or is too long
            if descriptor >= 0:
                os.close(descriptor)
            self._fail(f"a message cannot be sent: {type(error).__name__}: {error}")
            return
        self._out.append((memoryview(frame), descriptor))
        self.backlog += len(frame)

    def _write(self) -> None:
        while self._out:
            octets, descriptor = self._out[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))] if descriptor >= 0 else []
            try:
                sent = self._socket.sendmsg([octets], rights)
            except BlockingIOError:
                if not self._waits_to_write:
                    self._waits_to_write = True
                    self._loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:  # the peer has closed; messages that it sent before are still to be read
                self._drop_output()
                return
            if descriptor >= 0:
                os.close(descriptor)
            self.backlog -= sent
            if sent < len(octets):
                self._out[0] = octets[sent:], -1
            else:
                self._out.popleft()
        if self._waits_to_write:
            self._waits_to_write = False
            self._loop.remove_writer(self._socket.fileno())
        self._end_drains()

    def _end_drains(self) -> None:
        drained, self._drained = self._drained, []
        for future in drained:
            if not future.done():
                future.set_result(None)

    # -------------------------------------------------------------------- receiving

    def take_descriptor(self) -> int:
        """The descriptor that came with the message of this call of ``on_message``; the caller closes it.

        It is -1 if this process cannot open another file.
        """
        return self._descriptors.popleft()

    def _read(self) -> None:
        room = socket.CMSG_SPACE(array("i").itemsize)
        try:
            size, rights, flags, _ = self._socket.recvmsg_into([self._buffer], room)
        except BlockingIOError:
            return
        except ConnectionError:
            self.close(PEER_CLOSED)
            return
        except OSError as error:
            self._fail(f"the socket cannot be read: {error.strerror}")
            return
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array("i")
                found.frombytes(data[: len(data) - len(data) % found.itemsize])
                self._descriptors.extend(found)
        if flags & socket.MSG_CTRUNC:  # one read returns the descriptors of one frame
            self._descriptors.append(-1)
        if not size:
            self.close(PEER_CLOSED)
        else:
            self._in += memoryview(self._buffer)[:size]
            self._parse()

    def _parse(self) -> None:
        start = 0
        while self.is_open and len(self._in) - start >= HEAD:
            size = int.from_bytes(self._in[start : start + HEAD], "big")
            if size > MAX_FRAME:
                self._fail(f"a frame of {size} octets arrived")
                return
            end = start + HEAD + size
            if len(self._in) < end:
                break
            try:
                with memoryview(self._in) as octets:
                    messages = pickle.loads(octets[start + HEAD : end])  # noqa: S301 - written by this program
            except Exception as error:
                self._fail(f"a frame arrived that cannot be decoded: {type(error).__name__}: {error}")
                return
            start = end
            for message in messages:
                if self.is_open:
                    self._on_message(message)
        del self._in[:start]

    # ---------------------------------------------------------------------- closing

    def _fail(self, problem: str) -> None:
        """Close the channel because of a fault."""
        if self.is_open:
            self.problem = problem
            self.close(problem)

    def close(self, reason: str = CLOSED) -> None:
        """Close the channel and discard what is not written; may be called again."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._socket.fileno())
        self._drop_output()
        self._socket.close()
        for descriptor in self._descriptors:
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptors.clear()
        self._on_close(reason)

    def _drop_output(self) -> None:
        """Discard what is not written, and whatever is sent from now on."""
        self._is_writable = False
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._loop.remove_writer(self._socket.fileno())
        for _, descriptor in self._out:
            if descriptor >= 0:
                os.close(descriptor)
        self._out.clear()
        self._gathered.clear()
        self._late.clear()
        self.backlog = 0
        self._end_drains()
