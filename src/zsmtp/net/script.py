"""Scripted servers in memory, and their side of one connection, for tests (RFC 5321, RFC 2033, RFC 3030).

A :class:`Script` defines the server's replies at connect and to commands, when it closes, resets or stops replying, and
how octets are split. A :class:`ScriptedConnection` executes it: it receives the client's octets and the time, and
returns what has arrived for the client by then. It records the client's octets and the messages received completely,
for tests to inspect. A :class:`WebScript` is the same for a web server (RFC 9112). ``zsmtp.net.scripted`` is the
network around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import cycle
from typing import TYPE_CHECKING

from zsmtp.dns.candidates import Endpoint
from zsmtp.errors import ConnectionLost

if TYPE_CHECKING:
    from zsmtp.tls.facts import TLSFacts

NEVER = float("inf")
LOCAL = ("192.0.2.200", 40025)  # the client's end of every connection


class Then(Enum):
    """The server's action after a reaction."""

    GO_ON = "go on"
    CLOSE = "close"  # orderly: the client reads the end of the stream
    RESET = "reset"  # the client's next read or write fails
    HANG = "hang"  # send nothing more; octets are still taken
    STALL = "stall"  # send nothing more and take nothing more


@dataclass(frozen=True, slots=True)
class Reaction:
    """The server's reaction at one point of the dialogue.

    ``say`` is the reply: ``str`` are lines and get their line end, ``bytes`` are sent unchanged (b"": nothing). It is
    sent ``delay`` seconds later, and with ``drip`` one octet at a time, so many seconds apart.
    """

    say: str | bytes
    then: Then = Then.GO_ON
    delay: float = 0.0
    drip: float = 0.0

    @property
    def octets(self) -> bytes:
        """The octets of the reply."""
        return self.say if isinstance(self.say, bytes) else self.say.encode() + b"\r\n"


class ServerPace(Enum):
    """When a server processes received octets."""

    AT_ONCE = "at once"  # after every write of the client
    PATIENT = "patient"  # when the client has nothing left to write, as if replies took longer than commands


@dataclass(frozen=True, slots=True)
class Script:
    """The server's behaviour on one connection.

    ``replies`` holds reactions per command (its verb, ``DOT`` for the end of DATA, ``BDAT`` for a chunk), used in turn,
    the last one again and again. ``keywords`` are offered in the reply to EHLO and LHLO. ``in_content`` happens once so
    many octets of content were received. ``read_sizes`` and ``write_sizes`` are the most octets that one read and one
    write of the client transfer, used in turn, repeating (empty: all). ``connect_time`` is how long connecting takes,
    in seconds. ``tls`` are the facts of a successful handshake (the octets stay plain, for tests), or the reason of a
    failed one, ``tls_time`` how long it takes, in seconds; without ``resumes`` a resumed session fails. ``exporter`` is
    the channel binding of both ends then (``tls-exporter``, RFC 9266).
    """

    greeting: Reaction = Reaction("220 server.example ESMTP")
    keywords: Sequence[str] = ()
    replies: Mapping[str, Sequence[Reaction]] = field(default_factory=dict)
    in_content: tuple[int, Reaction] | None = None
    lmtp: bool = False
    pace: ServerPace = ServerPace.PATIENT
    read_sizes: Sequence[int] = ()
    write_sizes: Sequence[int] = ()
    connect_time: float = 0.0
    tls: TLSFacts | str = "the peer has no TLS"
    tls_time: float = 0.0
    resumes: bool = True
    exporter: bytes = b""


@dataclass(frozen=True, slots=True)
class WebScript:
    """A web server's behaviour on one connection: it answers the request when that is complete."""

    answer: Reaction
    """Its octets are complete HTTP: nothing is added to them."""
    connect_time: float = 0.0
    """How long connecting takes, in seconds."""
    tls: str = ""
    """The reason why the handshake fails; "": it succeeds."""
    untrusted: bool = False
    """The handshake fails because the certificate is invalid."""
    tls_time: float = 0.0
    """How long it takes, in seconds."""
    read_sizes: Sequence[int] = ()
    write_sizes: Sequence[int] = ()
    """As those of :class:`Script`."""
    pace: ServerPace = ServerPace.PATIENT

    @classmethod
    def serving(cls, text: bytes) -> WebScript:
        """A server that answers with this text, like a policy host."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(text)
        return cls(Reaction(head + text))


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A message content that a server received completely, and its reply for one recipient."""

    path: bytes
    reply: bytes
    content: bytes


class ScriptedConnection:
    """One connection: the server's side, and the client's stream.

    ``written`` are the client's octets with their times, ``acceptances`` the messages received completely;
    ``closed_at`` is when the client closed it, None before; ``clear_octets`` is the number of octets from the client
    before a handshake, None without one.
    """

    local = LOCAL

    def __init__(self, endpoint: Endpoint, script: Script, now: float) -> None:
        self.endpoint = endpoint
        self.script = script
        self.opened_at = now
        self.closed_at: float | None = None
        self.clear_octets: int | None = None
        self.written: list[tuple[float, bytes]] = []
        self.acceptances: list[Acceptance] = []
        self._arrivals: list[tuple[float, bytes]] = []  # to the client, in order of time
        self._end: tuple[float, Then] | None = None
        self._inbox = b""
        self._content: bytearray | None = None  # of the message being received
        self._chunk_left: int | None = None
        self._chunk_is_last = False
        self._in_transaction = False
        self._paths: list[bytes] = []  # the recipients accepted in it
        self._counts: Counter[str] = Counter()
        self._free_at = now  # reactions are sent one after the other
        self._reads = cycle(script.read_sizes or (1 << 30,))
        self._writes = cycle(script.write_sizes or (1 << 30,))
        self._react(script.greeting)

    @property
    def exporter(self) -> bytes:
        """The channel binding ``tls-exporter``; b"" in clear."""
        return self.script.exporter if self.clear_octets is not None else b""

    @property
    def client_octets(self) -> bytes:
        """Everything the client wrote."""
        return b"".join(octets for _, octets in self.written)

    @property
    def lines(self) -> list[str]:
        """The lines that the client wrote."""
        return self.client_octets.decode("latin-1").split("\r\n")[:-1]

    @property
    def lines_in_clear(self) -> list[str]:
        """The lines that the client wrote outside of TLS."""
        return self.client_octets[: self.clear_octets].decode("latin-1").split("\r\n")[:-1]

    # ------------------------------------------------------ the client's view

    def secure(self) -> None:
        """Note that a handshake was done: the dialogue starts again."""
        self.clear_octets = len(self.client_octets)

    def receive(self, now: float) -> bytes | None:
        """Octets that have arrived, b"" at the end of the stream, None if there is nothing. Raises ConnectionLost."""
        arrived = b""
        while self._arrivals and self._arrivals[0][0] <= now:
            arrived += self._arrivals.pop(0)[1]
        if arrived:
            size = next(self._reads)
            if arrived[size:]:
                self._arrivals.insert(0, (now, arrived[size:]))
            return arrived[:size]
        if self._end is not None and self._end[0] <= now and not self._arrivals:
            if self._end[1] is Then.RESET:
                raise ConnectionLost("connection lost: Connection reset by peer")
            if self._end[1] is Then.CLOSE:
                return b""
        return None

    def take(self, octets: memoryview, now: float) -> int:
        """Take octets that the client writes; returns how many, 0 for none."""
        if self.stalled:
            return 0
        count = min(len(octets), next(self._writes))
        self.written.append((now, bytes(octets[:count])))
        if self._end is None:
            self._inbox += octets[:count]
            if self.script.pace is ServerPace.AT_ONCE:
                self.act(now)
        return count

    @property
    def stalled(self) -> bool:
        """Whether the server takes nothing any more."""
        return self._end is not None and self._end[1] is Then.STALL

    def next_arrival(self) -> float:
        """The earliest time when the client has something to read."""
        if self._arrivals:
            return self._arrivals[0][0]
        silent = self._end is None or self._end[1] in (Then.HANG, Then.STALL)
        return NEVER if silent or self._end is None else self._end[0]

    # ------------------------------------------------------ the server's work

    def act(self, now: float) -> None:
        """Process the received octets as far as possible."""
        self._free_at = max(self._free_at, now)
        while self._end is None and self._inbox:
            if self._content is not None and self._chunk_left is None:
                if not self._take_data():
                    return
            elif self._chunk_left:
                self._take_chunk()
            else:
                line, end, rest = self._inbox.partition(b"\r\n")
                if not end:
                    return
                self._inbox = rest
                self._obey(line)

    def _react(self, reaction: Reaction) -> bytes:
        """Send the octets of a reaction, and do its ``then``; returns the octets."""
        at = self._free_at + reaction.delay
        pieces = [reaction.octets] if reaction.octets else []
        if reaction.drip:
            pieces = [bytes([octet]) for octet in reaction.octets]
        for piece in pieces:
            at += reaction.drip
            self._arrivals.append((at, piece))
        self._free_at = at
        if reaction.then is not Then.GO_ON:
            self._end = (at, reaction.then)
        return reaction.octets

    def _answer(self, verb: str, friendly: str | Reaction) -> bytes:
        steps = self.script.replies.get(verb, ())
        count = self._counts[verb]
        self._counts[verb] += 1
        if steps:
            return self._react(steps[min(count, len(steps) - 1)])
        return self._react(Reaction(friendly) if isinstance(friendly, str) else friendly)

    def _obey(self, line: bytes) -> None:
        verb = line.split(b" ", 1)[0].decode("latin-1").upper()
        if verb == "BDAT":
            self._begin_chunk(line)
            return
        reply = self._answer(verb, self._friendly(verb))
        if verb in ("MAIL", "RSET", "EHLO", "HELO", "LHLO"):
            self._paths = []
            self._in_transaction = verb == "MAIL" and reply.startswith(b"2")
        elif verb == "RCPT" and self._in_transaction and reply.startswith(b"2"):
            self._paths.append(line[line.index(b"<") + 1 : line.rindex(b">")])
        elif verb == "DATA" and reply.startswith(b"3"):
            self._content = bytearray()

    def _friendly(self, verb: str) -> str | Reaction:
        if verb == ("LHLO" if self.script.lmtp else "EHLO"):
            lines = ["server.example", *self.script.keywords]
            last = len(lines) - 1
            return "\r\n".join(f"250{' ' if i == last else '-'}{text}" for i, text in enumerate(lines))
        if verb == "DATA" and not self._paths:
            return "503 5.5.1 no valid recipients"
        if verb == "QUIT":
            return Reaction("221 2.0.0 bye", Then.CLOSE)
        texts = {
            "HELO": "250 server.example",
            "MAIL": "250 2.1.0 sender ok",
            "RCPT": "250 2.1.5 recipient ok",
            "DATA": "354 go ahead",
            "RSET": "250 2.0.0 reset",
            "NOOP": "250 2.0.0 ok",
            "STARTTLS": "220 2.0.0 go ahead",
        }
        if self.script.lmtp:
            del texts["HELO"]
        if "STARTTLS" not in self.script.keywords:
            del texts["STARTTLS"]
        return texts.get(verb, "500 5.5.2 unknown command")

    def _take_data(self) -> bool:
        """Take content up to the final dot; False if more octets are needed."""
        assert self._content is not None
        self._content += self._inbox
        self._inbox = b""
        if self._content.startswith(b".\r\n"):  # no content at all
            end, after = 0, 3
        else:
            end = self._content.find(b"\r\n.\r\n") + 2
            after = end + 3
        whole = end >= 2 or after == 3
        if self._interrupted(end if whole else len(self._content)):
            return False
        if not whole:
            return False
        content, self._inbox = bytes(self._content[:end]), bytes(self._content[after:])
        self._content = None
        self._finish_content("DOT", content)
        return True

    def _begin_chunk(self, line: bytes) -> None:
        words = line.split()
        self._content = self._content if self._content is not None else bytearray()
        self._chunk_left = int(words[1])
        self._chunk_is_last = len(words) > 2
        if self._chunk_left == 0:
            self._end_chunk()

    def _take_chunk(self) -> None:
        assert self._content is not None
        assert self._chunk_left is not None
        self._content += self._inbox[: self._chunk_left]
        self._inbox, taken = self._inbox[self._chunk_left :], len(self._inbox[: self._chunk_left])
        self._chunk_left -= taken
        if not self._interrupted(len(self._content)) and self._chunk_left == 0:
            self._end_chunk()

    def _end_chunk(self) -> None:
        assert self._content is not None
        if self._chunk_is_last:
            content = bytes(self._content)
            self._content, self._chunk_left = None, None
            self._finish_content("BDAT", content)
        else:
            self._answer("BDAT", "250 2.0.0 chunk ok")

    def _interrupted(self, octets: int) -> bool:
        if self.script.in_content is None or self._counts["in content"] or octets < self.script.in_content[0]:
            return False
        self._counts["in content"] = 1
        self._react(self.script.in_content[1])
        return self._end is not None

    def _finish_content(self, verb: str, content: bytes) -> None:
        paths, self._paths = self._paths, []
        if not self.script.lmtp:
            reply = self._answer(verb, "250 2.0.0 accepted" if paths else "554 5.5.1 no valid recipients")
            self.acceptances += [Acceptance(path, reply, content) for path in paths]
            return
        for path in paths:
            if self._end is not None:
                return
            reply = self._answer(verb, "250 2.0.0 accepted")
            self.acceptances.append(Acceptance(path, reply, content))


class ScriptedWebConnection(ScriptedConnection):
    """One connection to a server of the web: ``web`` is its script."""

    def __init__(self, endpoint: Endpoint, web: WebScript, now: float) -> None:
        from zsmtp.tls.facts import TLSFacts

        tls = web.tls or TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
        script = Script(
            Reaction(b""),
            pace=web.pace,
            read_sizes=web.read_sizes,
            write_sizes=web.write_sizes,
            tls=tls,
            tls_time=web.tls_time,
        )
        super().__init__(endpoint, script, now)
        self.web = web

    def act(self, now: float) -> None:
        """Answer, once the request is there."""
        self._free_at = max(self._free_at, now)
        head, end, body = self._inbox.partition(b"\r\n\r\n")
        if self._end is None and end and len(body) >= _content_length(head):
            self._inbox = b""
            self._react(self.web.answer)


def _content_length(head: bytes) -> int:
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(lengths[0].partition(b":")[2]) if lengths else 0
