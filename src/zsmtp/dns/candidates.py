"""The Plan: the servers for a destination in order, and the lookups and decisions behind them, as one value.

Destination rules (``zsmtp.dns.destination``) make it, delivery executes it, and ``zsmtp explain`` prints it: all use
the same value, so they cannot differ.
"""

from __future__ import annotations

from enum import Enum

from zsmtp.dns.answer import Answer
from zsmtp.records import dataclass


class Family(Enum):
    """The kind of an endpoint's address."""

    INET = "IPv4"
    INET6 = "IPv6"
    UNIX = "UNIX"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server address to connect to.

    ``host`` is the mail exchanger's name, or the literal without brackets, or the socket's path; ``address`` the
    numeric address or the path; ``port`` is 0 for UNIX sockets. ``literal``: the destination is an address, not a name.
    """

    host: str
    address: str
    port: int
    family: Family
    literal: bool = False

    @property
    def place(self) -> tuple[str, int]:
        """Address and port, independent of the exchanger's name."""
        return self.address, self.port


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint of the plan with the MX preference it comes from (0 without MX)."""

    endpoint: Endpoint
    preference: int = 0


@dataclass(frozen=True, slots=True)
class NoRoute:
    """The reason why a plan has no candidates. ``status`` is an enhanced status code such as ``5.1.2`` (RFC 3463)."""

    permanent: bool
    status: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of the destination rules: either candidates in the order of trying, or the reason why there are none.

    ``lookups`` are the answers that it is based on, in order, ``notes`` the decisions taken, in words.
    ``exchangers`` are the names of the mail exchangers considered, in lower case, best first.
    """

    destination: str
    candidates: tuple[Candidate, ...] = ()
    failure: NoRoute | None = None
    lookups: tuple[Answer, ...] = ()
    notes: tuple[str, ...] = ()
    exchangers: tuple[str, ...] = ()

    def left(self, tried: set[Endpoint]) -> list[Endpoint]:
        """The endpoints not tried yet, in order; a place tried under one exchanger's name counts as tried for all."""
        gone = {endpoint.place for endpoint in tried}
        return [candidate.endpoint for candidate in self.candidates if candidate.endpoint.place not in gone]
