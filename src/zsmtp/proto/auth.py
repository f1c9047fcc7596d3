"""The dialogue of SMTP AUTH with one mechanism (RFC 4954 4): lines out, replies in, until it is decided.

:class:`Authentication` leads it for a :class:`Mechanism`, which deals in plain octets; base64, limits and lines are
here::

    login = Authentication(mechanism)
    line = login.start()                 # a Line to send: AUTH ...
    outcome = login.hear(reply)          # the next Line, or Accepted, or Refused

Challenges come from a peer that is not trusted yet: they are bounded in size and number, and where the mechanism reads
them they are read strictly; whatever is wrong with one cancels the login. A success is only one if the mechanism
agrees. Every line has a ``shown`` form for logs, in which what must stay secret is not. A :class:`Refused` says what
may be tried next (:class:`Left`): that depends on whether the refusal is about the mechanism or about the secret.
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
    """One SASL exchange from the client's side, in plain octets; base64 and lines are :class:`Authentication`'s."""

    @property
    def name(self) -> str:
        """As it stands in the AUTH command."""

    def initial(self) -> bytes | None:
        """The initial response; None if the server has to speak first."""

    def respond(self, challenge: bytes) -> bytes:
        """The answer to a challenge. Raises :class:`~zsmtp.errors.ReplyError` for one that cannot be right."""

    def doubt(self) -> str | None:
        """Why a success said by the server now must not be believed, or None."""

    @property
    def proved(self) -> bool:
        """Whether the server has been given what it judges the secret by: a proof of knowing it, or the secret."""

    @property
    def reads_challenges(self) -> bool:
        """Whether what challenges hold is of use; where it is not, it need not be base64 either."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line to send, with its CRLF, and how logs show it (without)."""

    wire: bytes
    shown: bytes

    def __repr__(self) -> str:
        return f"Line({self.shown!r})"


@dataclass(frozen=True, slots=True)
class LoginAccepted:
    """The login is done."""

    mechanism: str


class Left(Enum):
    """What a refusal leaves to be tried on the same connection."""

    NOTHING = "nothing"  # the server is not to be trusted, or wants to hear no more
    OTHER_CHECKS = "mechanisms that check the secret in another way"
    ALL = "all other mechanisms"  # the refusal says nothing of the secret


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no login; mail must not be sent. ``reason`` is for people and holds no secret of ours.

    ``proved`` tells that the server had been given what it judges the secret by.
    """

    reason: str
    left: Left = Left.NOTHING
    proved: bool = False


class GivenUp(ReplyError):
    """This side ends the dialogue of a mechanism; ``left`` is what may still be tried."""

    def __init__(self, text: str, left: Left) -> None:
        super().__init__(text)
        self.left = left


class Authentication:
    """The AUTH dialogue of one mechanism: :meth:`start` once, then :meth:`hear` with each reply until it is decided."""

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

    def hear(self, reply: Reply) -> Line | LoginAccepted | Refused:
        """What follows from a reply: the next line to send, or the end."""
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
            return Refused(f"{name}: the server says yes, but {doubt or 'it has not heard who logs in'}")
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
    """What a refusal of AUTH leaves to be tried.

    One that comes before the server has been given a proof or the secret cannot be about the secret: it does not know
    the mechanism, has nothing to check this user by, or does not like the channel binding. Afterwards 535 and whatever
    has no meaning of its own are taken for a judgement on the secret, unless the enhanced status code names the
    mechanism; a temporary refusal (454) judges nothing.
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
    """The octets of a 334 reply's challenge. Raises :class:`~zsmtp.errors.ReplyError` if it is not base64, or long."""
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
    """The line that answers a challenge. Raises :class:`~zsmtp.errors.CommandError` if it is over 12288 octets."""
    wire = b64encode(data) + b"\r\n"
    if len(wire) > MAX_RESPONSE:
        raise CommandError(f"a response of {len(wire)} octets; {MAX_RESPONSE} are the limit")
    return Line(wire, MASK if data else b"")


def _initial_size(name: str, response: bytes) -> int:
    return len("AUTH ") + len(name) + 1 + max(4 * -(-len(response) // 3), 1) + 2
