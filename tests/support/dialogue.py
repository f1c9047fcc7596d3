"""One connection of the scripted server: reads commands and content, answers as its script says.

Runs in the thread of the connection and never raises; every wait ends when the server is stopped.
"""

from __future__ import annotations

import hashlib
import select
import socket
import struct
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.support.script import Script, Step, Then
from tests.support.wire import Command, Connection, Transaction, Way

if TYPE_CHECKING:
    from tests.support.sink import Sink

_LONGEST_LINE = 1 << 20
_MOMENT = 0.02  # seconds: enough for what was sent before to arrive alone


class _OverError(Exception):
    """The dialogue is at its end."""


class _Content:
    """Takes a message's octets, keeps or only counts them, and watches for the script's interruption."""

    def __init__(self, dialogue: Dialogue, transaction: Transaction) -> None:
        self._dialogue = dialogue
        self._transaction = transaction
        self._hash = hashlib.sha256()
        self._kept: list[bytes] = []

    def take(self, data: bytes) -> None:
        transaction = self._transaction
        transaction.octets += len(data)
        self._hash.update(data)
        if self._dialogue.sink.keep_content:
            self._kept.append(data)
        self._dialogue.interrupt(transaction.octets)

    def settle(self) -> None:
        self._transaction.content = b"".join(self._kept)
        self._transaction.sha256 = self._hash.hexdigest()


class Dialogue:
    """One connection being served."""

    def __init__(self, sink: Sink, connection: Connection, sock: socket.socket, script: Script) -> None:
        self.sink = sink
        self.connection = connection
        self._sock = sock
        self._script = script
        self._buffer = b""
        self._counts: Counter[str] = Counter()
        self._transaction: Transaction | None = None
        self._content: _Content | None = None
        self._interrupted = False

    def run(self) -> None:
        """Serve until the end; never raises."""
        self.sink.record(self.connection, Way.OPEN, self.connection.peer.encode())
        try:
            if self._script.implicit_tls:
                self._start_tls()
            self._perform(self._script.banner)
            while True:
                self._obey(self._read_line())
        except _OverError:
            pass
        except OSError:
            self.sink.record(self.connection, Way.CLIENT_RESET)
        finally:
            with self.sink.changed:
                self._sock.close()
                self.connection.finished = True
                self.sink.changed.notify_all()

    def interrupt(self, octets: int) -> None:
        """Do what the script wants to happen in the middle of the content."""
        wanted = self._script.in_content
        if wanted is not None and not self._interrupted and octets >= wanted[0]:
            self._interrupted = True
            self._perform(wanted[1])

    # The wire

    def _receive(self, *, content: bool = False) -> bytes:
        if self._script.read_pause:
            self.sink.stopping.wait(self._script.read_pause)
        data = self._sock.recv(self._script.read_size)
        if not data:
            self.sink.record(self.connection, Way.CLIENT_CLOSED)
            raise _OverError
        if not content or self.sink.keep_content:
            self.sink.record(self.connection, Way.CLIENT, data)
        return data

    def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LONGEST_LINE:
                raise _OverError
            self._buffer += self._receive()
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        line = line.removesuffix(b"\r")
        with self.sink.changed:
            self.connection.commands.append(Command(line, bool(self._buffer)))
            self.sink.changed.notify_all()
        return line

    def _send(self, data: bytes) -> None:
        drip = self._script.drip
        size = drip.size if drip else max(len(data), 1)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self.sink.record(self.connection, Way.SERVER, piece)
            self._sock.sendall(piece)
            if drip and drip.pause and self.sink.stopping.wait(drip.pause):
                raise _OverError

    def _perform(self, step: Step) -> None:
        if step.gate is not None:
            while not step.gate.wait(0.02):
                if self.sink.stopping.is_set():
                    raise _OverError
        while step.behind and not self._buffer and not select.select([self._sock], [], [], _MOMENT)[0]:
            if self.sink.stopping.is_set():
                raise _OverError
        if step.delay and self.sink.stopping.wait(step.delay):
            raise _OverError
        self._send(step.octets)
        if step.late:
            if self.sink.stopping.wait(_MOMENT):
                raise _OverError
            self._send(step.late)
        match step.then:
            case Then.GO_ON:
                return
            case Then.TLS:
                self._start_tls()
                return
            case Then.DRIP:
                self._receive()
                self._send(b"\x16\x03\x03\x40\x00")
                self._fall_silent()
                while not self.sink.stopping.wait(_MOMENT):
                    self._send(b"\x0b")
            case Then.NO_TLS:
                self._receive()
                self._send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                self._close()
            case Then.HANG:
                self._fall_silent()
                self.sink.stopping.wait()
            case Then.RESET:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.sink.record(self.connection, Way.SERVER_CLOSED)
            case Then.CLOSE:
                self._close()
        raise _OverError

    def _fall_silent(self) -> None:
        with self.sink.changed:
            self.connection.silent = True
            self.sink.changed.notify_all()

    def _close(self) -> None:
        """Close as a good server does: unread octets must not turn the close into a reset (RFC 9293 3.6.1)."""
        self.sink.record(self.connection, Way.SERVER_CLOSED)
        self._sock.shutdown(socket.SHUT_WR)
        with suppress(_OverError, OSError):
            while True:
                self._receive()

    def _start_tls(self) -> None:
        assert self.sink.tls is not None, "the script wants TLS, the sink has no context for it"
        with self.sink.changed:
            plain = self._sock
            self._sock = self.sink.tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self.sink.sockets[self.sink.sockets.index(plain)] = self._sock
        self._sock.do_handshake()
        self.sink.record(self.connection, Way.TLS, repr(self._sock.cipher()).encode())

    # The commands

    def _obey(self, line: bytes) -> None:
        verb = line.split(b" ", 1)[0].decode("latin-1").upper()
        if verb == "BDAT":
            self._take_chunk(line)
            return
        if verb == "RSET":
            self._transaction = None
        step = self._next_step(verb, self._transaction) or self._friendly(verb)
        accepted = step.octets[:1] in {b"2", b"3"}
        if verb == "MAIL" and accepted:
            self._transaction = Transaction(line)
            with self.sink.changed:
                self.connection.transactions.append(self._transaction)
        if verb == "RCPT" and self._transaction is not None:
            self._transaction.rcpts.append(line)
            if accepted:
                self._transaction.accepted.append(line)
        self._perform(step)
        if verb == "DATA" and step.octets[:1] == b"3":
            self._take_data()

    def _next_step(self, verb: str, transaction: Transaction | None) -> Step | None:
        if self._script.in_order and verb in {"RCPT", "DATA", "DOT", "BDAT"}:
            stray = transaction is None or (verb != "RCPT" and not transaction.accepted)
            if stray:
                return Step("503 5.5.1 Bad sequence of commands")
        step = self._script.answer(verb, self._counts[verb])
        self._counts[verb] += 1
        return step

    def _friendly(self, verb: str) -> Step:
        if verb in {"EHLO", "HELO", "LHLO"}:
            return Step(self._script.greeting(verb)) if (verb == "LHLO") == self._script.lmtp else Step("500 5.5.1 No")
        has_recipients = self._transaction is not None and bool(self._transaction.accepted)
        if (verb == "RCPT" and self._transaction is None) or (verb == "DATA" and not has_recipients):
            return Step("503 5.5.1 Bad sequence of commands")
        if verb == "QUIT":
            return Step("221 2.0.0 Bye", Then.CLOSE)
        texts = {
            "MAIL": "250 2.1.0 Sender ok",
            "RCPT": "250 2.1.5 Recipient ok",
            "DATA": "354 Send it",
            "DOT": "250 2.6.0 Message accepted",
            "BDAT": "250 2.6.0 Chunk ok",
            "RSET": "250 2.0.0 Reset",
            "NOOP": "250 2.0.0 Ok",
            "STARTTLS": "454 4.7.0 Not now",
        }
        return Step(texts.get(verb, "500 5.5.2 Unknown command"))

    # The content

    def _begin_content(self) -> Transaction:
        if self._transaction is None:
            self._transaction = Transaction(b"")
        if self._content is None:
            self._content = _Content(self, self._transaction)
        return self._transaction

    def _take_data(self) -> None:
        self._begin_content()
        assert self._content is not None
        held, ahead, self._buffer = b"\r\n", self._buffer, b""
        surplus = 2  # the line end that a dot at the very start of the content wants before it
        try:
            while True:
                data = held + (ahead or self._receive(content=True))
                ahead = b""
                end = data.find(b"\r\n.\r\n")
                whole = data[: end + 2] if end >= 0 else data[:-4]
                self._content.take(whole[surplus:])
                surplus = max(0, surplus - len(whole))
                if end >= 0:
                    self._buffer = data[end + 5 :]
                    break
                held = data[-4:]
        finally:
            self._content.settle()
        self._end_content("DOT")

    def _take_chunk(self, line: bytes) -> None:
        self._begin_content()
        assert self._content is not None
        left = int(line.split(b" ")[1])
        try:
            while left:
                if not self._buffer:
                    self._buffer = self._receive(content=True)
                piece, self._buffer = self._buffer[:left], self._buffer[left:]
                left -= len(piece)
                self._content.take(piece)
        finally:
            self._content.settle()
        if line.upper().endswith(b" LAST"):
            self._end_content("BDAT")
        else:
            self._perform(self._next_step("BDAT", self._transaction) or self._friendly("BDAT"))

    def _end_content(self, verb: str) -> None:
        transaction = self._transaction
        assert transaction is not None
        self._transaction = self._content = None
        with self.sink.changed:
            transaction.complete = True
            self.sink.changed.notify_all()
        for _ in transaction.accepted if self._script.lmtp else (None,):
            step = self._next_step(verb, transaction) or self._friendly(verb)
            if step.send is not None:
                transaction.answers.append(step.octets)
            self._perform(step)
