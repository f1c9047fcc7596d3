"""SMTP AUTH: proving to a server who this client is (RFC 4954), with the SASL mechanisms that mail servers list.

:func:`choose` picks the best mechanism that the server offers, the credentials allow and the channel is fit for;
:class:`Authentication` then leads the dialogue, reply by reply::

    login = Authentication(mechanism)
    line = login.start()                 # a Line to send: AUTH ...
    outcome = login.hear(reply)          # the next Line, or Accepted, or Refused

Best means: nothing that a listener or the server itself could use elsewhere leaves this side (SCRAM, then CRAM-MD5);
PLAIN, LOGIN and bearer tokens hand the secret over and so need ``cleartext_allowed``, which the caller grants under
TLS and on a loopback. Challenges come from a peer that is not trusted yet: they are bounded in size and number, read
strictly, and whatever is wrong with one cancels the login (RFC 4954 4). A success is only one if the mechanism agrees:
SCRAM proves the server too. Every line has a ``shown`` form for logs, in which what must stay secret is not.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from zsmtp.errors import CommandError, ConfigError, ReplyError
from zsmtp.proto.reply import MASK, Reply, printable

MAX_COMMAND = 512  # octets of the AUTH command with CRLF; a longer initial response waits for a challenge
MAX_RESPONSE = 12288  # octets of a challenge or response in base64 with CRLF (RFC 4954 4)
MAX_CHALLENGES = 6  # SCRAM without an initial response has three

CANCEL = b"*\r\n"

_NAME_OCTETS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class Secret:
    """Octets that never show themselves: ``repr`` and ``str`` are a mask. :meth:`reveal` gives them."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """The octets, to be put on the wire and nowhere else."""
        return self._octets

    def __repr__(self) -> str:
        return MASK.decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._octets, other._octets)

    def __hash__(self) -> int:
        return hash(self._octets)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not to be stored")


class SecretKind(Enum):
    """What a secret is, and so which mechanisms it serves."""

    SHARED = "password"  # known to both ends
    BEARER = "bearer token"  # of OAuth 2.0 (RFC 6750): whoever holds it is let in


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in with what. ``user`` are the octets the server knows the account by, UTF-8 as a rule."""

    user: bytes
    secret: Secret
    kind: SecretKind = SecretKind.SHARED


@dataclass(frozen=True, slots=True)
class ChannelBinding:
    """What ties a login to the TLS channel under it: ``tls-exporter`` (RFC 9266), ``tls-server-end-point`` (RFC 5929).

    ``data`` are the octets both ends find by themselves.
    """

    name: str
    data: bytes

    def __repr__(self) -> str:
        return f"ChannelBinding({self.name!r})"


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


# ---------------------------------------------------------------- the dialogue


@dataclass(frozen=True, slots=True)
class Line:
    """One line to send, with its CRLF, and how logs show it (without)."""

    wire: bytes
    shown: bytes

    def __repr__(self) -> str:
        return f"Line({self.shown!r})"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The login is done."""

    mechanism: str


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no login; mail must not be sent. ``reason`` is for people and holds no secret of ours."""

    reason: str


class Authentication:
    """The AUTH dialogue of one mechanism: :meth:`start` once, then :meth:`hear` with each reply until it is decided."""

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self._held: bytes | None = None  # an initial response too long for the command line
        self._challenges = 0
        self._failure: str | None = None

    def start(self) -> Line:
        """The AUTH command."""
        response = self._mechanism.initial()
        if response is not None and _initial_size(self._mechanism.name, response) > MAX_COMMAND:
            self._held, response = response, None
        return auth(self._mechanism.name, response)

    def hear(self, reply: Reply) -> Line | Accepted | Refused:
        """What follows from a reply: the next line to send, or the end."""
        name = self._mechanism.name
        if self._failure is not None:
            return Refused(self._failure)
        if reply.code == 334:
            try:
                return self._answer(reply)
            except (ReplyError, ConfigError, CommandError) as error:
                self._failure = f"{name}: login given up: {error}"
                return Line(CANCEL, b"*")
        if reply.code != 235:
            return Refused(f"{name}: login refused: {reply}")
        doubt = self._mechanism.doubt()
        if doubt is not None or self._held is not None:
            return Refused(f"{name}: the server says yes, but {doubt or 'it has not heard who logs in'}")
        return Accepted(name)

    def _answer(self, reply: Reply) -> Line:
        self._challenges += 1
        if self._challenges > MAX_CHALLENGES:
            raise ReplyError(f"more than {MAX_CHALLENGES} challenges")
        challenge = decode_challenge(reply)
        if self._held is None:
            return auth_response(self._mechanism.respond(challenge))
        response, self._held = self._held, None
        if challenge:
            raise ReplyError("a challenge where the first word is the client's")
        return auth_response(response)


def decode_challenge(reply: Reply) -> bytes:
    """The octets of a 334 reply's challenge. Raises :class:`~zsmtp.errors.ReplyError` if it is not base64, or long."""
    if len(reply.lines) != 1:
        raise ReplyError("a challenge of several lines")
    text = reply.lines[0].strip(b" ")
    if len(text) > MAX_RESPONSE:
        raise ReplyError(f"a challenge of {len(text)} octets")
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ReplyError(f"a challenge that is not base64: {printable(text, 80)!r}") from None


def auth(mechanism: str, initial: bytes | None) -> Line:
    """``AUTH mechanism [initial-response]`` (RFC 4954 4); an empty response is ``=``, None is none.

    Raises :class:`~zsmtp.errors.CommandError` for a mechanism that is no name, or a line over 512 octets.
    """
    name = mechanism.encode("ascii", "replace")
    if not 1 <= len(name) <= 20 or not _NAME_OCTETS.issuperset(name):
        raise CommandError(f"not a SASL mechanism: {printable(name, 60)!r}")
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


# ------------------------------------------------------------ plain mechanisms


class _Scripted:
    """A mechanism without state but the number of challenges it has still to answer."""

    def __init__(self, name: str, initial: bytes | None, answers: Sequence[Callable[[bytes], bytes]]) -> None:
        self.name = name
        self._initial = initial
        self._answers = list(answers)

    def initial(self) -> bytes | None:
        return self._initial

    def respond(self, challenge: bytes) -> bytes:
        if not self._answers:
            raise ReplyError("a challenge too many")
        return self._answers.pop(0)(challenge)

    def doubt(self) -> str | None:
        return "it has not asked for everything" if self._answers else None


def plain(credentials: Credentials) -> Mechanism:
    """PLAIN (RFC 4616). Raises :class:`~zsmtp.errors.ConfigError` for a NUL in user or password."""
    user, password = credentials.user, credentials.secret.reveal()
    if b"\0" in user + password:
        raise ConfigError("user or password holds a NUL octet")
    return _Scripted("PLAIN", b"\0" + user + b"\0" + password, [])


def login(credentials: Credentials) -> Mechanism:
    """LOGIN, which no standard describes: the server asks twice, in words that differ; first for the user."""
    return _Scripted("LOGIN", None, [lambda challenge: credentials.user, lambda challenge: credentials.secret.reveal()])


def cram_md5(credentials: Credentials) -> Mechanism:
    """CRAM-MD5 (RFC 2195): the password keys a digest of what the server said."""

    def answer(challenge: bytes) -> bytes:
        if not challenge:
            raise ReplyError("an empty challenge")  # its digest would be the same every time
        try:
            digest = hmac.new(credentials.secret.reveal(), challenge, "md5").hexdigest()
        except ValueError:
            raise ConfigError("this system's crypto policy forbids MD5") from None
        return credentials.user + b" " + digest.encode()

    return _Scripted("CRAM-MD5", None, [answer])


class _Bearer:
    """XOAUTH2 and OAUTHBEARER: all is in the first response; a challenge brings the reason of a refusal (RFC 7628)."""

    def __init__(self, name: str, initial: bytes, acknowledgement: bytes) -> None:
        self.name = name
        self._initial = initial
        self._acknowledgement = acknowledgement
        self._refused = False

    def initial(self) -> bytes | None:
        return self._initial

    def respond(self, challenge: bytes) -> bytes:
        if self._refused or not challenge:
            raise ReplyError("a challenge too many")
        self._refused = True
        return self._acknowledgement

    def doubt(self) -> str | None:
        return "it has just refused the token" if self._refused else None


def xoauth2(credentials: Credentials) -> Mechanism:
    """XOAUTH2, as the large providers describe it. Raises :class:`~zsmtp.errors.ConfigError` for control characters."""
    user, token = _bearer_words(credentials)
    return _Bearer("XOAUTH2", b"user=" + user + b"\x01auth=Bearer " + token + b"\x01\x01", b"")


def oauthbearer(credentials: Credentials) -> Mechanism:
    """OAUTHBEARER (RFC 7628). Raises :class:`~zsmtp.errors.ConfigError` for control characters."""
    user, token = _bearer_words(credentials)
    header = b"n,a=" + user.replace(b"=", b"=3D").replace(b",", b"=2C") + b","
    return _Bearer("OAUTHBEARER", header + b"\x01auth=Bearer " + token + b"\x01\x01", b"\x01")


def _bearer_words(credentials: Credentials) -> tuple[bytes, bytes]:
    token = credentials.secret.reveal()
    if not token or any(octet <= 0x20 or octet >= 0x7F for octet in token):
        raise ConfigError("the token is empty or holds what no token may")
    if any(octet < 0x20 or octet == 0x7F for octet in credentials.user):
        raise ConfigError("the user holds a control character")
    return credentials.user, token


# ---------------------------------------------------------------- the choice


@dataclass(frozen=True, slots=True)
class NoMechanism:
    """Why none of the mechanisms offered can be used."""

    reason: str


_CLEARTEXT: dict[SecretKind, tuple[tuple[str, Callable[[Credentials], Mechanism]], ...]] = {
    SecretKind.SHARED: (("PLAIN", plain), ("LOGIN", login)),
    SecretKind.BEARER: (("OAUTHBEARER", oauthbearer), ("XOAUTH2", xoauth2)),
}


def choose(
    offered: Sequence[str],
    credentials: Credentials,
    *,
    cleartext_allowed: bool,
    channel_binding: ChannelBinding | None,
    nonce: bytes,
) -> Mechanism | NoMechanism:
    """The best mechanism of ``offered`` (upper case, as in ``Capabilities.auth``) for these credentials.

    ``nonce`` is 18 or more printable random octets without comma, fresh for every login (RFC 5802 5.1).
    """
    problems: list[str] = []
    for name, make in _ranked(offered, credentials, channel_binding, nonce):
        if name not in offered:
            continue
        if not cleartext_allowed and name in ("PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"):
            problems.append(f"{name} would send the secret in clear")
            continue
        try:
            return make()
        except ConfigError as error:
            problems.append(f"{name}: {error}")
    if problems:
        return NoMechanism("; ".join(problems))
    listed = printable(" ".join(offered).encode(), 200) or "none"
    return NoMechanism(f"no mechanism for a {credentials.kind.value} is offered; the server lists {listed}")


def _ranked(
    offered: Sequence[str], credentials: Credentials, binding: ChannelBinding | None, nonce: bytes
) -> list[tuple[str, Callable[[], Mechanism]]]:
    """The mechanisms that serve these credentials, best first."""
    ranked: list[tuple[str, Callable[[], Mechanism]]] = []
    if credentials.kind is SecretKind.SHARED:
        from zsmtp.proto import scram

        if binding is not None:
            bound = scram.Binding.USED
            ranked.append(("SCRAM-SHA-256-PLUS", lambda: scram.Scram(credentials, nonce, bound, binding)))
        # "y" lets the server notice that somebody struck the PLUS mechanism from its list (RFC 5802 6)
        struck = binding is not None and "SCRAM-SHA-256-PLUS" not in offered
        unbound = scram.Binding.NOT_OFFERED if struck else scram.Binding.UNSUPPORTED
        ranked.append(("SCRAM-SHA-256", lambda: scram.Scram(credentials, nonce, unbound)))
        ranked.append(("CRAM-MD5", lambda: cram_md5(credentials)))
    for name, factory in _CLEARTEXT[credentials.kind]:
        ranked.append((name, lambda factory=factory: factory(credentials)))  # type: ignore[misc]
    return ranked
