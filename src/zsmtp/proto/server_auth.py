"""The server's half of SMTP AUTH (RFC 4954).

PLAIN (RFC 4616), LOGIN (which no standard describes), SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677, with
the channel bindings of RFC 5929 and RFC 9266) against the verifiers of ``zsmtp.proto.server_passwords``. A mechanism
is given the client's responses, decoded. It returns the next :class:`Challenge`, a :class:`Claim` (the user that the
client claims to be, and a check of the claim), or :class:`Malformed`::

    exchange = make_exchange("PLAIN", passwords, bindings=(), nonce=b"...")
    step = exchange.respond(initial_response)        # None where there is none

Every well-formed exchange ends with a claim, also that of an unknown user or with a wrong proof, so the exchange up to
the final reply is the same for all of them. Checks compare in constant time, have no side effects, and may be called in
another thread. An authorization identity other than the user's own is refused like a wrong password.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from zsmtp.errors import ConfigError
from zsmtp.patterns import pattern
from zsmtp.proto.sasl import ChannelBinding, Secret
from zsmtp.proto.scram import prepare
from zsmtp.proto.server_passwords import Passwords, ScramVerifier, Verifier

MAX_NAME = 255  # octets of a user or a password
MAX_NONCE = 512  # octets of the client's

_NONCE = pattern(rb"[\x21-\x2b\x2d-\x7e]+")
_NAME = pattern(rb"(?:[^\x00,=]|=2C|=3D)+")


class Challenge(NamedTuple):
    """The next challenge, before base64."""

    data: bytes


class Claim(NamedTuple):
    """The user that the client claims to be. ``check`` verifies the claim, and takes long if ``slow``."""

    user: bytes
    check: Callable[[], bool]
    slow: bool


class Malformed(NamedTuple):
    """The response violates the mechanism's syntax; the exchange is over. ``text`` quotes nothing of the response."""

    text: str


class ServerExchange(Protocol):
    """One SASL exchange from the server's side."""

    def respond(self, response: bytes | None) -> Challenge | Claim | Malformed:
        """Process the client's response, or None, once, for AUTH without an initial response; returns the next step."""


def make_exchange(
    name: str, passwords: Passwords, *, bindings: tuple[ChannelBinding, ...], nonce: bytes
) -> ServerExchange:
    """The exchange of one of the mechanisms that :attr:`Passwords.mechanisms` may list.

    ``bindings`` are those of the TLS channel, ``nonce`` fresh random octets, printable for SCRAM.
    """
    if name == "PLAIN":
        return _PlainServer(passwords)
    if name == "LOGIN":
        return _Login(passwords)
    return _ScramServer(passwords, nonce, bindings, bound=name == "SCRAM-SHA-256-PLUS")


class _PasswordCheck:
    """Compares a password with a verifier. A password that SASLprep rejects never matches, but takes as long."""

    __slots__ = ("_password", "_possible", "_verifier")

    def __init__(self, verifier: Verifier, password: bytes, *, possible: bool) -> None:
        self._verifier = verifier
        self._possible = possible
        try:
            self._password = Secret(prepare(password, "password"))
        except ConfigError:
            self._password = Secret(password)
            self._possible = False

    def __call__(self) -> bool:
        return self._verifier.matches(self._password.reveal()) and self._possible

    def __repr__(self) -> str:
        return "<check of a password>"


def _password_claim(
    passwords: Passwords, user: bytes, password: bytes, authorization: bytes = b""
) -> Claim | Malformed:
    if not 1 <= len(user) <= MAX_NAME or not 1 <= len(password) <= MAX_NAME:
        return Malformed("user or password is empty or too long")
    try:
        name = prepare(user, "user")
    except ConfigError:
        return Malformed("the user is not a name")
    possible = authorization in (b"", user, name)
    return Claim(name, _PasswordCheck(passwords.plain(name), password, possible=possible), slow=True)


class _PlainServer:
    """``[authorization identity] NUL user NUL password`` (RFC 4616 2)."""

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    def respond(self, response: bytes | None) -> Challenge | Claim | Malformed:
        if response is None:
            return Challenge(b"")
        words = response.split(b"\0")
        if len(words) != 3:
            return Malformed("not of the syntax of PLAIN")
        return _password_claim(self._passwords, words[1], words[2], words[0])


class _Login:
    """LOGIN: challenges for the user, then the password; the user may also come as the initial response."""

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords
        self._user: bytes | None = None

    def respond(self, response: bytes | None) -> Challenge | Claim | Malformed:
        if response is None:
            return Challenge(b"Username:")
        if self._user is None:
            self._user = response
            return Challenge(b"Password:")
        if b"\0" in self._user + response:
            return Malformed("NUL in user or password")
        return _password_claim(self._passwords, self._user, response)


class _Expects(Enum):
    """The next message expected from the client."""

    FIRST = "user and nonce"
    FINAL = "proof"
    NOTHING = "an empty response"


class _Known:
    """A check whose result is known."""

    __slots__ = ("_result",)

    def __init__(self, *, result: bool) -> None:
        self._result = result

    def __call__(self) -> bool:
        return self._result


class _ScramServer:
    """The server's side of one SCRAM login; a wrong proof ends as a claim whose check fails."""

    def __init__(
        self, passwords: Passwords, nonce: bytes, bindings: tuple[ChannelBinding, ...], *, bound: bool
    ) -> None:
        self._passwords = passwords
        self._nonce = nonce
        self._bindings = {binding.name.encode(): binding.data for binding in bindings}
        self._bound = bound
        self._expects = _Expects.FIRST
        self._user = b""
        self._possible = True
        self._header = b""  # of GS2, with the data of the channel: the required value of c=
        self._first_bare = b""
        self._server_first = b""
        self._verifier: ScramVerifier = passwords.scram(b"")

    def respond(self, response: bytes | None) -> Challenge | Claim | Malformed:
        if response is None:
            return Challenge(b"")
        if self._expects is _Expects.FIRST:
            return self._first(response)
        if self._expects is _Expects.FINAL:
            return self._final(response)
        if response:
            return Malformed("more than the mechanism has")
        return Claim(self._user, _Known(result=True), slow=False)

    def _first(self, message: bytes) -> Challenge | Malformed:
        flag, comma, rest = message.partition(b",")
        identity, second, bare = rest.partition(b",")
        fields = bare.split(b",")
        if not comma or not second or len(fields) < 2 or fields[0][:2] != b"n=" or fields[1][:2] != b"r=":
            return Malformed("not the first message of SCRAM")
        if not self._takes_flag(flag):
            return Malformed("the channel binding is not what this mechanism and channel have")
        user, nonce = _saslname(fields[0][2:]), fields[1][2:]
        if user is None or not 1 <= len(nonce) <= MAX_NONCE or not _NONCE.fullmatch(nonce):
            return Malformed("the user or the nonce is not one")
        if identity:
            self._possible = identity[:2] == b"a=" and _saslname(identity[2:]) == user
        self._user = user
        self._verifier = self._passwords.scram(user)
        self._first_bare = bare
        self._header = flag + b"," + identity + b"," + self._bindings.get(flag[2:], b"")
        self._nonce = nonce + self._nonce
        self._server_first = b"r=%b,s=%b,i=%d" % (
            self._nonce,
            b64encode(self._verifier.salt),
            self._verifier.iterations,
        )
        self._expects = _Expects.FINAL
        return Challenge(self._server_first)

    def _takes_flag(self, flag: bytes) -> bool:
        """RFC 5802 6: with "y" the client believes that PLUS is not offered; where it is, the list was changed."""
        if self._bound:
            return flag[:2] == b"p=" and flag[2:] in self._bindings
        return flag == b"n" or (flag == b"y" and not self._bindings)

    def _final(self, message: bytes) -> Challenge | Claim | Malformed:
        without, comma, proof = message.rpartition(b",p=")
        fields = without.split(b",")
        if not comma or len(fields) < 2 or fields[0][:2] != b"c=" or fields[1][:2] != b"r=":
            return Malformed("not the final message of SCRAM")
        try:
            header, shown = b64decode(fields[0][2:], validate=True), b64decode(proof, validate=True)
        except ValueError:
            return Malformed("not base64 within SCRAM")
        said = b",".join((self._first_bare, self._server_first, without))
        stored_key = self._verifier.stored_key.reveal()
        signature = hmac.digest(stored_key, said, "sha256")
        client_key = bytes(a ^ b for a, b in zip(shown[:32].ljust(32), signature, strict=True))
        true = hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)
        true &= hmac.compare_digest(header, self._header)
        true &= hmac.compare_digest(fields[1][2:], self._nonce)
        true &= len(shown) == len(signature)
        if not (true and self._possible):
            return Claim(self._user, _Known(result=False), slow=False)
        self._expects = _Expects.NOTHING
        return Challenge(b"v=" + b64encode(hmac.digest(self._verifier.server_key.reveal(), said, "sha256")))


def _saslname(octets: bytes) -> bytes | None:
    """A user's name from its SCRAM encoding, prepared by SASLprep; None if it is invalid."""
    if not _NAME.fullmatch(octets) or len(octets) > MAX_NAME:
        return None
    try:
        return prepare(octets.replace(b"=2C", b",").replace(b"=3D", b"="), "user")
    except ConfigError:
        return None
