"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: a login that never sends the password (RFC 5802, RFC 7677).

Both sides prove that they know (a derivative of) the password; a positive reply from a server that did not counts for
nothing. With PLUS the proof also covers the TLS channel, so that it cannot be relayed from another one. The octets::

    C: n,,n=user,r=<client nonce>
    S: r=<client nonce><server nonce>,s=<salt>,i=<iterations>
    C: c=<binding>,r=<both nonces>,p=<proof>
    S: v=<server signature>
    C: (empty)

The server names the number of iterations, hence the work of this side: only 4096 (RFC 7677 4) to a million are
accepted, about half a second. :class:`Scram` is a :class:`zsmtp.proto.auth.Mechanism`.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from enum import Enum

from zsmtp.errors import ConfigError, ReplyError
from zsmtp.proto.auth import GivenUp, Left
from zsmtp.proto.reply import printable
from zsmtp.proto.sasl import ChannelBinding, Credentials

MIN_ITERATIONS = 4096
MAX_ITERATIONS = 1_000_000
MIN_NONCE = 18  # octets
MAX_MESSAGE = 4096  # octets of a message of the server
MAX_SALT = 1024  # octets


class BindingFlag(Enum):
    """The client's channel binding flag; its value starts the GS2 header (RFC 5801 4)."""

    UNSUPPORTED = "n"  # this side has no channel to bind to, or the server does not know its type
    NOT_OFFERED = "y"  # this side supports it, and believes that the server does not
    USED = "p"


class _Awaits(Enum):
    """The message that the server must send next."""

    SERVER_FIRST = "salt and iterations"
    SERVER_FINAL = "its own proof"
    NOTHING = "nothing"


_SHOW_AN_ATTACKER = frozenset({b"channel-bindings-dont-match", b"server-does-support-channel-binding"})
"""Errors of RFC 5802 7 that mean that an attacker may sit between the two ends."""

_ABOUT_THE_SECRET = frozenset({b"invalid-proof", b"unknown-user", b"other-error"})


class Scram:
    """The client's side of one login.

    ``channel`` is needed for ``BindingFlag.USED``. Raises :class:`~zsmtp.errors.ConfigError` if the user's name or the
    password cannot be prepared (RFC 4013), or the nonce is not one.
    """

    def __init__(
        self, credentials: Credentials, nonce: bytes, binding: BindingFlag, channel: ChannelBinding | None = None
    ) -> None:
        if len(nonce) < MIN_NONCE or any(not 0x21 <= octet <= 0x7E or octet == 0x2C for octet in nonce):
            raise ConfigError("not a nonce")
        if (binding is BindingFlag.USED) is not (channel is not None):
            raise ConfigError("channel binding data come with channel binding and only then")
        self.name = "SCRAM-SHA-256-PLUS" if binding is BindingFlag.USED else "SCRAM-SHA-256"
        self._nonce = nonce
        self._password = prepare(credentials.secret.reveal(), "password")
        user = prepare(credentials.user, "user").replace(b"=", b"=3D").replace(b",", b"=2C")
        self._first_bare = b"n=" + user + b",r=" + nonce
        self._header = binding.value.encode()
        self._channel_data = b""
        if channel is not None:
            self._header += b"=" + channel.name.encode("ascii")
            self._channel_data = channel.data
        self._header += b",,"
        self._signature = b""
        self._awaits = _Awaits.SERVER_FIRST

    def initial(self) -> bytes | None:
        """The client's first message."""
        return self._header + self._first_bare

    def respond(self, challenge: bytes) -> bytes:
        """The response to the server's first or final message."""
        if len(challenge) > MAX_MESSAGE:
            raise ReplyError(f"a challenge of {len(challenge)} octets")
        _check_error(challenge)
        if self._awaits is _Awaits.SERVER_FIRST:
            response = self._client_final(challenge)
            self._awaits = _Awaits.SERVER_FINAL
            return response
        if self._awaits is _Awaits.SERVER_FINAL:
            self._check_server(challenge)
            self._awaits = _Awaits.NOTHING
            return b""
        raise ReplyError("a challenge too many")

    @property
    def proved(self) -> bool:
        """Whether the proof was sent."""
        return self._awaits is not _Awaits.SERVER_FIRST

    @property
    def reads_challenges(self) -> bool:
        """True: the challenges are part of the proof."""
        return True

    def doubt(self) -> str | None:
        """The reason why a positive reply does not count: the server has not proved itself; None if it has."""
        return None if self._awaits is _Awaits.NOTHING else "it has not proved that it knows the password"

    def _client_final(self, server_first: bytes) -> bytes:
        nonce, salt, iterations = self._parse_first(server_first)
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        stored_key = hashlib.sha256(client_key).digest()
        without_proof = b"c=" + b64encode(self._header + self._channel_data) + b",r=" + nonce
        message = self._first_bare + b"," + server_first + b"," + without_proof
        client_signature = hmac.digest(stored_key, message, "sha256")
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, client_signature, strict=True))
        return without_proof + b",p=" + b64encode(proof)

    def _parse_first(self, message: bytes) -> tuple[bytes, bytes, int]:
        """Nonce, salt and iterations, in this order and before any extension (RFC 5802 7)."""
        fields = message.split(b",")
        if fields[0].startswith(b"m="):
            raise ReplyError("it asks for an extension that is not known here")
        if len(fields) < 3 or [field[:2] for field in fields[:3]] != [b"r=", b"s=", b"i="]:
            raise ReplyError(f"not the server's first message of SCRAM: '{printable(message, 80)}'")
        nonce, salt, count = fields[0][2:], _base64(fields[1][2:], "salt"), fields[2][2:]
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ReplyError("the nonce is not one of this login")
        if any(not 0x21 <= octet <= 0x7E for octet in nonce):
            raise ReplyError("the nonce holds what no nonce may")
        if not 1 <= len(salt) <= MAX_SALT:
            raise ReplyError(f"a salt of {len(salt)} octets")
        if not count.isdigit() or len(count) > 9:
            raise ReplyError(f"not a number of iterations: '{printable(count, 40)}'")
        if not MIN_ITERATIONS <= int(count) <= MAX_ITERATIONS:
            raise ReplyError(f"{int(count)} iterations; {MIN_ITERATIONS} to {MAX_ITERATIONS} are done here")
        return nonce, salt, int(count)

    def _check_server(self, message: bytes) -> None:
        field = message.split(b",")[0]
        if not field.startswith(b"v="):
            raise ReplyError(f"not the server's final message of SCRAM: '{printable(message, 80)}'")
        if not hmac.compare_digest(_base64(field[2:], "signature"), self._signature):
            raise GivenUp("the server does not know the password", Left.NOTHING)


def _check_error(message: bytes) -> None:
    """Raise :class:`GivenUp` if the server's message is an error (RFC 5802 7)."""
    field = message.split(b",")[0]
    if not field.startswith(b"e="):
        return
    error = field[2:]
    left = Left.OTHER_CHECKS if error in _ABOUT_THE_SECRET else Left.ALL
    if error in _SHOW_AN_ATTACKER:
        left = Left.NOTHING
    raise GivenUp(f"the server says '{printable(error, 80)}'", left)


def _base64(text: bytes, what: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ReplyError(f"a {what} that is not base64") from None


def prepare(octets: bytes, what: str) -> bytes:
    """SASLprep (RFC 4013): different ways to type the same text become the same octets.

    Raises :class:`~zsmtp.errors.ConfigError` for text that is not UTF-8, is empty or holds prohibited characters; the
    text itself is not in the error message.
    """
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"the {what} is not UTF-8") from None
    prepared = text if text.isascii() else _mapped(text)
    if not prepared:
        raise ConfigError(f"the {what} is empty")
    if any(character < " " or character == "\x7f" for character in prepared) or (
        not prepared.isascii() and _is_prohibited(prepared)
    ):
        raise ConfigError(f"the {what} holds characters that SCRAM prohibits")
    return prepared.encode("utf-8")


def _mapped(text: str) -> str:
    """Non-ASCII blanks are blanks, soft hyphens and the like are nothing, then normalization form KC (2.1, 2.2)."""
    import stringprep  # loads tables, so it is imported only for passwords that need them
    from unicodedata import ucd_3_2_0

    kept = (" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    return ucd_3_2_0.normalize("NFKC", "".join(kept))


def _is_prohibited(text: str) -> bool:
    """Prohibited output, and right-to-left text mixed with left-to-right (RFC 4013 2.3, 2.4)."""
    import stringprep

    tables = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    if any(table(character) for table in tables for character in text):
        return True
    if not any(stringprep.in_table_d1(character) for character in text):
        return False
    ends_right_to_left = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return not ends_right_to_left or any(stringprep.in_table_d2(character) for character in text)
