"""Messages between two processes over a pair of UNIX sockets, on an event loop.

A frame is its length in four octets, big-endian, and as many octets: a list of messages as ``pickle`` writes it
(protocol 5). Both ends are processes of this program under one user, and nobody else has the sockets, which were made
by one and inherited by the other: whoever could put anything into them could do so to the processes themselves. What
strangers said is octets and text within messages, and stays that. What is sent in one turn of the loop goes in one
frame. A descriptor comes along with the first octet of a frame of its own (``SCM_RIGHTS``).

Nothing waits here: what the socket does not take at once is kept, and :attr:`Channel.backlog` says how much that is,
so that whoever sends can wait with what need not be sent. A frame of more than :data:`MAX_FRAME` octets, or one that
cannot be read, ends the channel like the end of the other process.
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
from types import MappingProxyType
from typing import Any

MAX_FRAME = 64 << 20  # octets
FRAME_MESSAGES = 1000  # messages of one frame at most
FRAME_OCTETS = 1 << 20  # of contents in one frame, after which another one is begun
READ_SIZE = 1 << 18
HEAD = 4  # octets of the length


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


_TABLE: dict[type, Callable[[Any], Any]] = {
    **copyreg.dispatch_table,
    MappingProxyType: lambda mapping: (_read_only, (dict(mapping),)),
}


def encode(messages: list[object]) -> bytes:
    """A frame of messages. Raises what ``pickle`` raises for values that it cannot write."""
    file = io.BytesIO()
    file.write(bytes(HEAD))
    pickler = pickle.Pickler(file, 5)
    pickler.dispatch_table = _TABLE
    pickler.dump(messages)
    size = file.tell() - HEAD
    file.seek(0)
    file.write(size.to_bytes(HEAD, "big"))
    return file.getvalue()


class Channel:
    """One end. ``heard`` is called with each message, ``ended`` once, with the reason, when no more can come.

    A message that brought a descriptor finds it by :meth:`take_descriptor`. ``heard`` must not raise.
    """

    def __init__(self, sock: socket.socket, heard: Callable[[Any], None], ended: Callable[[str], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._heard = heard
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._waiting: list[object] = []  # messages of the next frame
        self._octets = 0  # of contents among them
        self._late: list[Callable[[], object]] = []
        self._scheduled = False
        self._out: deque[tuple[memoryview, int]] = deque()  # what is not written, each with a descriptor or -1
        self._buffer = bytearray(READ_SIZE)
        self._in = bytearray()
        self._descriptors: deque[int] = deque()
        self._writing = False
        self._writable = True
        self.open = True
        """Whether something may still be heard."""
        self.backlog = 0
        """Octets that were sent and that the socket has not taken."""
        self._loop.add_reader(sock.fileno(), self._read)

    # ---------------------------------------------------------------------- sending

    def send(self, message: object, *, octets: int = 0, descriptor: int = -1) -> None:
        """Send a message, whose content has about so many octets; a ``descriptor`` is this channel's from now on.

        After the end of the channel it goes nowhere.
        """
        if not self._writable:
            if descriptor >= 0:
                os.close(descriptor)
            return
        if descriptor >= 0:
            self._gather()
            self._put([message], descriptor)
        else:
            self._waiting.append(message)
            self._octets += octets
            if self._octets >= FRAME_OCTETS or len(self._waiting) >= FRAME_MESSAGES:
                self._gather()
        self._schedule()

    def send_late(self, make: Callable[[], object]) -> None:
        """Send what ``make`` gives when this turn of the loop is over."""
        self._late.append(make)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if not self._writable:
            return
        late, self._late = self._late, []
        self._waiting += [make() for make in late]
        self._gather()
        if not self._writing:
            self._write()

    def _gather(self) -> None:
        """Make a frame of what waits."""
        if self._waiting:
            messages, self._waiting, self._octets = self._waiting, [], 0
            self._put(messages, -1)

    def _put(self, messages: list[object], descriptor: int) -> None:
        try:
            frame = encode(messages)
        except Exception as error:  # of a value that cannot travel: a fault of this program
            if descriptor >= 0:
                os.close(descriptor)
            self.close(f"it cannot be told something: {type(error).__name__}: {error}")
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
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:  # nobody reads any more; what was said before is still to be heard
                self._drop_output()
                return
            if descriptor >= 0:
                os.close(descriptor)
            self.backlog -= sent
            if sent < len(octets):
                self._out[0] = octets[sent:], -1
            else:
                self._out.popleft()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    # -------------------------------------------------------------------- receiving

    def take_descriptor(self) -> int:
        """The descriptor that came with the message that is heard now; the caller closes it.

        It is -1 if this process had no room for another open file.
        """
        return self._descriptors.popleft()

    def _read(self) -> None:
        room = socket.CMSG_SPACE(array("i").itemsize)
        try:
            size, rights, flags, _ = self._socket.recvmsg_into([self._buffer], room)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"its socket cannot be read: {error.strerror}")
            return
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array("i")
                found.frombytes(data[: len(data) - len(data) % found.itemsize])
                self._descriptors.extend(found)
        if flags & socket.MSG_CTRUNC:  # one read brings the descriptors of one frame
            self._descriptors.append(-1)
        if not size:
            self.close("it is not there any more")
        else:
            self._in += memoryview(self._buffer)[:size]
            self._parse()

    def _parse(self) -> None:
        start = 0
        while self.open and len(self._in) - start >= HEAD:
            size = int.from_bytes(self._in[start : start + HEAD], "big")
            if size > MAX_FRAME:
                self.close(f"a frame of {size} octets came")
                return
            end = start + HEAD + size
            if len(self._in) < end:
                break
            try:
                with memoryview(self._in) as octets:
                    messages = pickle.loads(octets[start + HEAD : end])  # noqa: S301 - of a process of this program
            except Exception as error:
                self.close(f"a frame came that cannot be read: {type(error).__name__}: {error}")
                return
            start = end
            for message in messages:
                if self.open:
                    self._heard(message)
        del self._in[:start]

    # ----------------------------------------------------------------------- ending

    def close(self, reason: str = "closed") -> None:
        """End it; may be called again. ``ended`` is told unless it knows."""
        if not self.open:
            return
        self.open = False
        self._loop.remove_reader(self._socket.fileno())
        self._drop_output()
        self._socket.close()
        for descriptor in self._descriptors:
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptors.clear()
        self._ended(reason)

    def _drop_output(self) -> None:
        """Send nothing any more."""
        self._writable = False
        self._loop.remove_writer(self._socket.fileno())
        for _, descriptor in self._out:
            if descriptor >= 0:
                os.close(descriptor)
        self._out.clear()
        self._waiting.clear()
        self._late.clear()
        self.backlog = 0
