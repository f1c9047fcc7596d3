"""Scripts for the scripted mail server: what it says to which command, and how it says it.

A :class:`Script` belongs to one connection. For each command it holds :class:`Step` values, used one after the other
(the last one repeats); a command without steps is answered as a friendly server of RFC 5321 would. A step sends
octets, possibly late, and may then close, reset or hang. ``str`` stands for reply lines (the line end is added),
``bytes`` for exactly those octets, which is how malformed, unasked-for and early replies are made::

    Script(caps=("PIPELINING",), replies={"RCPT": (Step("250 ok"), Step("550 5.1.1 no such user"))})

The names of commands are those of the wire, and ``DOT`` for the end of the content.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Then(Enum):
    """What the server does after a reply."""

    GO_ON = "go on"  # read the next command
    CLOSE = "close"  # close in an orderly way
    RESET = "reset"  # close so that the peer's next read or write fails with ECONNRESET
    HANG = "hang"  # neither read nor write again
    TLS = "tls"  # go on as the server side of a TLS handshake
    DRIP = "drip"  # answer whatever comes with the start of a TLS record, octet by octet, without end
    NO_TLS = "no tls"  # answer whatever comes with what is no TLS, and close


@dataclass(frozen=True, slots=True)
class Step:
    """One answer: wait for ``gate``, wait ``delay`` seconds, ``send``, ``late`` a moment after, and ``then``.

    ``behind``: wait before that for octets that the client sent behind what is answered.
    """

    send: str | bytes | None
    then: Then = Then.GO_ON
    delay: float = 0.0
    gate: threading.Event | None = None
    late: bytes = b""
    behind: bool = False

    @property
    def octets(self) -> bytes:
        """What goes on the wire."""
        if self.send is None:
            return b""
        return self.send if isinstance(self.send, bytes) else self.send.encode("latin-1") + b"\r\n"

    @classmethod
    def from_json(cls, value: Any) -> Step:
        """Read ``"250 ok"`` or ``{"send": ..., "then": ..., "delay": ...}``.

        A delay is to outlast what the client does meanwhile, on a busy machine too: it is made a hundred times as long.
        """
        if isinstance(value, str):
            return cls(value)
        return cls(value["send"], Then(value.get("then", "go on")), 100.0 * value.get("delay", 0))


@dataclass(frozen=True, slots=True)
class Drip:
    """How octets leave the server: at most ``size`` in one segment, ``pause`` seconds between two."""

    size: int
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """What the server does on one connection; with ``implicit_tls`` after a handshake at its start.

    ``in_order``: a command out of sequence gets its 503 whatever the replies say, and content that nobody was accepted
    for too. ``in_content`` is taken once so many octets of a message's content have come, before the end was seen
    (None: never). ``read_size`` octets are read at a time, with ``read_pause`` seconds between two reads.
    """

    banner: Step = Step("220 sink.example ESMTP Sink")
    caps: tuple[str, ...] = ()
    lmtp: bool = False
    implicit_tls: bool = False
    replies: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    in_order: bool = False
    in_content: tuple[int, Step] | None = None
    drip: Drip | None = None
    read_size: int = 1 << 18
    read_pause: float = 0.0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Script:
        """Read one entry of ``scripts``; raises ValueError for a key that is not known."""
        unknown = value.keys() - {"banner", "caps", "lmtp", "replies", "data_close_after", "data_close_how"}
        if unknown:
            raise ValueError(f"not part of a script: {sorted(unknown)}")
        in_content = None
        if "data_close_after" in value:
            in_content = value["data_close_after"], Step(None, Then(value.get("data_close_how", "close")))
        return cls(
            banner=Step.from_json(value["banner"]) if "banner" in value else cls().banner,
            caps=tuple(value.get("caps", ())),
            lmtp=value.get("lmtp", False),
            replies={verb: tuple(map(Step.from_json, steps)) for verb, steps in value.get("replies", {}).items()},
            in_content=in_content,
        )

    def answer(self, verb: str, count: int) -> Step | None:
        """The step for the ``count``-th (from 0) command of this name, or None if the script has none."""
        steps = self.replies.get(verb)
        return steps[min(count, len(steps) - 1)] if steps else None

    def greeting(self, verb: str) -> str:
        """The friendly answer to EHLO, LHLO and HELO."""
        if verb == "HELO":
            return "250 sink.example"
        lines = ["sink.example Hello", *self.caps]
        return "\r\n".join(f"250{' ' if n == len(lines) - 1 else '-'}{text}" for n, text in enumerate(lines))
