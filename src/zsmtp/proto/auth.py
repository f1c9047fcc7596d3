"""The client's SMTP AUTH exchange for one mechanism (RFC 4954 4): lines out, replies in, until accepted or refused.

:class:`Authentication` drives a :class:`Mechanism`, which works on plain octets, and adds base64, limits and lines::

    login = Authentication(mechanism)
    line = login.start()                 # a Line to send: AUTH ...
    outcome = login.receive(reply)       # the next Line, or LoginAccepted, or Refused

Challenges come from a peer that is not trusted yet: their size and number are bounded, a mechanism that uses them
parses them strictly, and any error in one cancels the login. A positive reply counts only if the mechanism agrees.
Every line has a ``shown`` form for logs, without secrets. :class:`Refused` names what may be tried next
(:class:`Left`), which depends on whether the server refused the mechanism or the secret.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from enum import Enum
from typing import Protocol

from zsmtp.errors import CommandError, ConfigError, ReplyError
from zsmtp.proto.reply import MASK, Reply, printable
from zsmtp.proto.status import given_status
from zsmtp.records import dataclass

MAX_COMMAND = 512  # octets of the AUTH command with CRLF; a longer initial response waits for a challenge
MAX_RESPONSE = 12288  # octets of a challenge or response in base64 with CRLF (RFC 4954 4)
MAX_CHALLENGES = 6  # SCRAM without an initial response has three

CANCEL = b"*\r\n"

_NAME_OCTETS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class Mechanism(Protocol):
    """The client's side of one SASL exchange, in plain octets; :class:`Authentication` adds base64 and lines."""

    @property
    def name(self) -> str:
        """The name for the AUTH command."""

    def initial(self) -> bytes | None:
        """The initial response; None if the server must send a challenge first."""

    def respond(self, challenge: bytes) -> bytes:
        """The response to a challenge. Raises :class:`~zsmtp.errors.ReplyError` for an invalid challenge."""

    def doubt(self) -> str | None:
        """The reason why a positive reply at this point does not count; None if it counts."""

    @property
    def proved(self) -> bool:
        """Whether this side has sent the secret, or a proof of knowing it, so that the server can check the secret."""

    @property
    def reads_challenges(self) -> bool:
        """Whether responses depend on the text of challenges; if not, the text need not be valid base64."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line to send, with its CRLF, and its form for logs, without."""

    wire: bytes
    shown: bytes

    def __repr__(self) -> str:
        return f"Line({self.shown!r})"


@dataclass(frozen=True, slots=True)
class LoginAccepted:
    """The server accepted the login."""

    mechanism: str


class Left(Enum):
    """What may still be tried on the same connection after a refusal."""

    NOTHING = "nothing"  # the server cannot be trusted, or takes no further AUTH
    OTHER_CHECKS = "mechanisms that check the secret in another way"
    ALL = "all other mechanisms"  # the refusal does not concern the secret


@dataclass(frozen=True, slots=True)
class Refused:
    """The login failed; mail must not be sent. ``reason`` is a text for people without any secret of this side.

    ``proved``: this side had sent the secret, or a proof of knowing it, before the refusal.
    """

    reason: str
    left: Left = Left.NOTHING
    proved: bool = False


class GivenUp(ReplyError):
    """This side cancels the exchange of a mechanism; ``left`` is what may still be tried."""

    def __init__(self, text: str, left: Left) -> None:
        super().__init__(text)
        self.left = left


class Authentication:
    """The AUTH exchange of one mechanism: call :meth:`start`, then :meth:`receive` for each reply until the outcome."""

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self._held: bytes | None = None  # an initial response too long for the command line
        self._challenges = 0
        self._given_up: Refused | None = None

    def start(self) -> Line:
        """The AUTH command."""
        response = self._mechanism.initial()
        if response is not None and _initial_size(self._mechanism.name, response) > MAX_COMMAND:
            self._held, response = response, None
        return auth(self._mechanism.name, response)

    def receive(self, reply: Reply) -> Line | LoginAccepted | Refused:
        """Process a reply: returns the next line to send, or the outcome."""
        name = self._mechanism.name
        if self._given_up is not None:
            return self._given_up if reply.code != 421 else Refused(self._given_up.reason)
        if 300 <= reply.code < 400:  # 334, or another that counts by its first digit (RFC 5321 4.3.2)
            try:
                return self._answer(reply)
            except (ReplyError, ConfigError, CommandError) as error:
                left = Left.OTHER_CHECKS if self._proved else Left.ALL
                left = error.left if isinstance(error, GivenUp) else left
                self._given_up = Refused(f"{name}: login given up: {error}", left, self._proved)
                return Line(CANCEL, b"*")
        if reply.code >= 300:
            return Refused(f"{name}: login refused: {reply}", _left_by(reply, proved=self._proved), self._proved)
        doubt = self._mechanism.doubt()
        if doubt is not None or self._held is not None:
            return Refused(f"{name}: the server accepted the login, but {doubt or 'the user was not sent'}")
        return LoginAccepted(name)

    @property
    def _proved(self) -> bool:
        return self._held is None and self._mechanism.proved

    def _answer(self, reply: Reply) -> Line:
        self._challenges += 1
        if self._challenges > MAX_CHALLENGES:
            raise ReplyError(f"more than {MAX_CHALLENGES} challenges")
        reads = self._mechanism.reads_challenges
        challenge = decode_challenge(reply) if reads else _challenge_text(reply)
        if self._held is None:
            return auth_response(self._mechanism.respond(challenge))
        response, self._held = self._held, None
        if challenge and reads:
            raise ReplyError("a challenge where the first word is the client's")
        return auth_response(response)


_TRY_NO_MORE = frozenset({421, 503, 530})  # closing, out of order, STARTTLS first: no mechanism changes that
_ABOUT_THE_MECHANISM = frozenset({432, 501, 504, 534, 538})  # RFC 4954 4 and 6
_STATUS_OF_MECHANISMS = frozenset({(5, 4), (5, 6), (7, 4), (7, 9), (7, 11), (7, 12)})  # RFC 3463, RFC 4954 6


def _left_by(reply: Reply, *, proved: bool) -> Left:
    """What may still be tried after the refusal ``reply`` to AUTH.

    A refusal before this side has sent the secret or a proof cannot concern the secret: the server does not know the
    mechanism, stores nothing to check this user by, or rejects the channel binding. Afterwards 535, and any code
    without a meaning of its own, counts as a wrong secret, unless the enhanced status code names the mechanism; a
    temporary refusal (454) says nothing about the secret.
    """
    if reply.code in _TRY_NO_MORE:
        return Left.NOTHING
    if not proved or reply.code < 500 or reply.code in _ABOUT_THE_MECHANISM:
        return Left.ALL
    status = given_status(reply.code, reply.lines)
    if status is not None and (status.subject, status.detail) in _STATUS_OF_MECHANISMS:
        return Left.ALL
    return Left.OTHER_CHECKS


def decode_challenge(reply: Reply) -> bytes:
    """The decoded challenge of a 334 reply. Raises :class:`~zsmtp.errors.ReplyError` if it is no base64 or too long."""
    text = _challenge_text(reply)
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ReplyError(f"a challenge that is not base64: '{printable(text, 80)}'") from None


def _challenge_text(reply: Reply) -> bytes:
    if len(reply.lines) != 1:
        raise ReplyError("a challenge of several lines")
    text = reply.lines[0].strip(b" ")
    if len(text) > MAX_RESPONSE:
        raise ReplyError(f"a challenge of {len(text)} octets")
    return text


def auth(mechanism: str, initial: bytes | None) -> Line:
    """``AUTH mechanism [initial-response]`` (RFC 4954 4); an empty response is ``=``, None is none.

    Raises :class:`~zsmtp.errors.CommandError` for a mechanism that is no name, or a line over 512 octets.
    """
    name = mechanism.encode("ascii", "replace")
    if not 1 <= len(name) <= 20 or not _NAME_OCTETS.issuperset(name):
        raise CommandError(f"not a SASL mechanism: '{printable(name, 60)}'")
    if initial is None:
        return Line(b"AUTH " + name + b"\r\n", b"AUTH " + name)
    wire = b"AUTH " + name + b" " + (b64encode(initial) or b"=") + b"\r\n"
    if len(wire) > MAX_COMMAND:
        raise CommandError(f"AUTH command of {len(wire)} octets; {MAX_COMMAND} are the limit")
    return Line(wire, b"AUTH " + name + b" " + MASK)


def auth_response(data: bytes) -> Line:
    """The line of a response to a challenge. Raises :class:`~zsmtp.errors.CommandError` if it is over 12288 octets."""
    wire = b64encode(data) + b"\r\n"
    if len(wire) > MAX_RESPONSE:
        raise CommandError(f"a response of {len(wire)} octets; {MAX_RESPONSE} are the limit")
    return Line(wire, MASK if data else b"")


def _initial_size(name: str, response: bytes) -> int:
    return len("AUTH ") + len(name) + 1 + max(4 * -(-len(response) // 3), 1) + 2
