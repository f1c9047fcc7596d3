"""The SASL mechanisms that mail servers list, and which of them to try (RFC 4954, RFC 4616, RFC 2195, RFC 7628).

:class:`MechanismChoice` gives the mechanisms to try at one server, best first; ``zsmtp.proto.auth`` runs the exchange
of each::

    choice = Choice(offered, credentials, cleartext_allowed=True, bindings=(), nonce=fresh_nonce)
    mechanism = choice.next()            # or NoMechanism: none is left
    ...
    choice.refused(refusal)              # decides which mechanisms remain

The best ones send nothing that an eavesdropper or the server could use elsewhere (SCRAM, which also authenticates the
server, then CRAM-MD5). PLAIN, LOGIN and bearer tokens send the secret itself, so they need ``cleartext_allowed``, which
the caller sets under TLS and on the loopback interface.

A server may list a mechanism and store nothing to check it by. After a refusal that does not concern the secret all
other mechanisms remain; a secret that was found wrong is sent once more at most, and only to a check of another kind
(:class:`Check`), so that no account is locked.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from enum import Enum

from zsmtp.errors import ConfigError, ReplyError
from zsmtp.proto.auth import Authentication as Authentication
from zsmtp.proto.auth import Left as Left
from zsmtp.proto.auth import Line as Line
from zsmtp.proto.auth import LoginAccepted as LoginAccepted
from zsmtp.proto.auth import Mechanism as Mechanism
from zsmtp.proto.auth import Refused as Refused
from zsmtp.proto.auth import auth as auth
from zsmtp.proto.auth import auth_response as auth_response
from zsmtp.proto.reply import MASK, printable
from zsmtp.records import dataclass

MAX_PROOFS = 2  # times that a secret, or a proof of knowing it, is offered over one connection


class Secret:
    """Secret octets: ``repr`` and ``str`` give a mask, :meth:`reveal` the octets."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def reveal(self) -> bytes:
        """The octets; put them on the wire and nowhere else."""
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
    """The kind of a secret, which decides on the mechanisms it can be used with."""

    SHARED = "password"  # known to both ends
    BEARER = "bearer token"  # of OAuth 2.0 (RFC 6750): its possession is enough to log in


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and its secret. ``user`` is the account's name at the server, in octets, usually UTF-8.

    ``mechanisms`` are the names of the only mechanisms to be used, in order; empty: all, best first.
    """

    user: bytes
    secret: Secret
    kind: SecretKind = SecretKind.SHARED
    mechanisms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChannelBinding:
    """Ties a login to its TLS channel: ``tls-exporter`` (RFC 9266), ``tls-server-end-point`` (RFC 5929).

    ``data`` are the octets that both ends compute from the channel.
    """

    name: str
    data: bytes

    def __repr__(self) -> str:
        return f"ChannelBinding({self.name!r})"


# ------------------------------------------------------------ plain mechanisms


class _PlainClient:
    """PLAIN: a single message. A server that ignored it in the AUTH command and sends a challenge gets it once more."""

    name = "PLAIN"
    reads_challenges = False
    proved = True

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._asked = False

    def initial(self) -> bytes | None:
        return self._message

    def respond(self, challenge: bytes) -> bytes:
        if self._asked:
            raise ReplyError("a challenge too many")
        self._asked = True
        return self._message

    def doubt(self) -> str | None:
        return None


class _Scripted:
    """A mechanism whose only state is the number of challenges that remain.

    ``reads_challenges``: its responses depend on the text of the challenges.
    """

    def __init__(
        self,
        name: str,
        initial: bytes | None,
        answers: Sequence[Callable[[bytes], bytes]],
        *,
        reads_challenges: bool = False,
    ) -> None:
        self.name = name
        self.reads_challenges = reads_challenges
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

    @property
    def proved(self) -> bool:
        return not self._answers


def plain(credentials: Credentials) -> Mechanism:
    """PLAIN (RFC 4616). Raises :class:`~zsmtp.errors.ConfigError` for a NUL in user or password."""
    user, password = credentials.user, credentials.secret.reveal()
    if b"\0" in user + password:
        raise ConfigError("user or password holds a NUL octet")
    return _PlainClient(b"\0" + user + b"\0" + password)


def login(credentials: Credentials) -> Mechanism:
    """LOGIN, which no standard describes: challenges of varying text, for the user first, then for the password."""
    return _Scripted("LOGIN", None, [lambda challenge: credentials.user, lambda challenge: credentials.secret.reveal()])


def cram_md5(credentials: Credentials) -> Mechanism:
    """CRAM-MD5 (RFC 2195): the response is a digest of the challenge, keyed with the password."""

    def answer(challenge: bytes) -> bytes:
        if not challenge:
            raise ReplyError("an empty challenge")  # its digest would be the same every time
        try:
            digest = hmac.new(credentials.secret.reveal(), challenge, "md5").hexdigest()
        except ValueError:
            raise ConfigError("this system's crypto policy forbids MD5") from None
        return credentials.user + b" " + digest.encode()

    return _Scripted("CRAM-MD5", None, [answer], reads_challenges=True)


class _Bearer:
    """XOAUTH2 and OAUTHBEARER: a single response; a challenge holds the reason of a refusal (RFC 7628)."""

    reads_challenges = True
    proved = True

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
    """The reason why none of the offered mechanisms can be used, or none is left."""

    reason: str


class Check(Enum):
    """The data that a server checks a login with. If one kind is missing or wrong for a user, another may be right."""

    SCRAM = "a verifier of SCRAM"
    DIGEST = "a secret that the server can read"
    SIGHT = "the secret itself, which is shown to the server"


@dataclass(frozen=True, slots=True)
class Listed:
    """A supported mechanism: its name, the kind of secret it takes, and what the server checks its logins with."""

    name: str
    kind: SecretKind
    check: Check

    @property
    def shows_secret(self) -> bool:
        """Whether the secret itself is sent, so that the server, or an eavesdropper, could use it elsewhere."""
        return self.check is Check.SIGHT


PLUS = "SCRAM-SHA-256-PLUS"

MECHANISMS: dict[str, Listed] = {
    one.name: one
    for one in (
        Listed(PLUS, SecretKind.SHARED, Check.SCRAM),
        Listed("SCRAM-SHA-256", SecretKind.SHARED, Check.SCRAM),
        Listed("CRAM-MD5", SecretKind.SHARED, Check.DIGEST),
        Listed("PLAIN", SecretKind.SHARED, Check.SIGHT),
        Listed("LOGIN", SecretKind.SHARED, Check.SIGHT),
        Listed("OAUTHBEARER", SecretKind.BEARER, Check.SIGHT),
        Listed("XOAUTH2", SecretKind.BEARER, Check.SIGHT),
    )
}
"""The mechanisms by name, best first."""


def serving(kind: SecretKind) -> list[str]:
    """The names of the mechanisms for one kind of secret, best first."""
    return [one.name for one in MECHANISMS.values() if one.kind is kind]


_WITHOUT_STATE = {
    "CRAM-MD5": cram_md5,
    "PLAIN": plain,
    "LOGIN": login,
    "OAUTHBEARER": oauthbearer,
    "XOAUTH2": xoauth2,
}


class MechanismChoice:
    """The mechanisms to try over one connection, each once, best first or in the order that the credentials name.

    ``offered`` are those that the server lists (upper case, as in ``Capabilities.auth``), ``bindings`` the channel
    bindings of the connection, best first. ``nonce`` returns 18 or more printable random octets without comma, fresh
    each time (RFC 5802 5.1). ``first`` is the name of a mechanism that was accepted before: it is tried before the
    others.

    With a binding SCRAM-SHA-256-PLUS is tried for each of them, and then SCRAM-SHA-256 (RFC 5802 6).
    """

    def __init__(
        self,
        offered: Sequence[str],
        credentials: Credentials,
        *,
        cleartext_allowed: bool,
        bindings: Sequence[ChannelBinding],
        nonce: Callable[[], bytes],
        first: str = "",
    ) -> None:
        self._credentials = credentials
        self._nonce = nonce
        self._problems: list[str] = []
        self._proofs = 0
        self._over = ""
        allowed = credentials.mechanisms or tuple(MECHANISMS)
        known = (MECHANISMS[name] for name in dict.fromkeys(allowed) if name in MECHANISMS)
        usable = [one for one in known if one.kind is credentials.kind and one.name in offered]
        usable.sort(key=lambda one: one.name != first)  # stable
        # "y" lets the server detect that an attacker removed the PLUS mechanism from its list (RFC 5802 6)
        self._struck = bool(bindings) and PLUS in allowed and PLUS not in offered
        self._waiting: list[tuple[Listed, ChannelBinding | None]] = []
        for one in usable:
            if one.shows_secret and not cleartext_allowed:
                self._problems.append(f"{one.name} would send the secret in clear")
            elif one.name != PLUS:
                self._waiting.append((one, None))
            elif bindings:
                self._waiting += [(one, binding) for binding in bindings]
            else:
                self._problems.append(f"{PLUS}: there is nothing to bind the login to")
        self._current: Listed | None = None
        if not usable:
            listed = printable(" ".join(offered).encode(), 200) or "none"
            wanted = f" ({', '.join(credentials.mechanisms)})" if credentials.mechanisms else ""
            text = f"no mechanism for a {credentials.kind.value}{wanted} is offered; the server lists {listed}"
            self._problems.append(text)

    def next(self) -> Mechanism | NoMechanism:
        """The mechanism to try now."""
        while self._waiting and not self._over:
            listed, binding = self._waiting.pop(0)
            try:
                mechanism = self._make(listed, binding)
            except ConfigError as error:
                self._problems.append(f"{listed.name}: {error}")
                continue
            self._current = listed
            return mechanism
        return NoMechanism("; ".join(filter(None, [*self._problems, self._over])))

    def refused(self, refusal: Refused) -> None:
        """Note that the mechanism returned last was refused."""
        assert self._current is not None
        check = self._current.check
        self._problems.append(refusal.reason)
        self._proofs += refusal.proved
        if refusal.left is Left.NOTHING:
            self._waiting.clear()
        elif refusal.left is Left.OTHER_CHECKS:
            self._waiting = [one for one in self._waiting if one[0].check is not check]
            # Only one more is tried, if it is allowed: one that needs no stored data of its own.
            self._waiting.sort(key=lambda one: not one[0].shows_secret)
        if self._proofs >= MAX_PROOFS and self._waiting:
            self._over = f"no other mechanism is tried: {MAX_PROOFS} tries over one connection lock no account"

    def _make(self, listed: Listed, binding: ChannelBinding | None) -> Mechanism:
        if listed.check is not Check.SCRAM:
            return _WITHOUT_STATE[listed.name](self._credentials)
        from zsmtp.proto import scram

        if binding is not None:
            return scram.Scram(self._credentials, self._nonce(), scram.BindingFlag.USED, binding)
        unbound = scram.BindingFlag.NOT_OFFERED if self._struck else scram.BindingFlag.UNSUPPORTED
        return scram.Scram(self._credentials, self._nonce(), unbound)


def choose(
    offered: Sequence[str],
    credentials: Credentials,
    *,
    cleartext_allowed: bool,
    channel_binding: ChannelBinding | None,
    nonce: bytes,
) -> Mechanism | NoMechanism:
    """The best mechanism for these credentials: the first of :class:`MechanismChoice`, with its arguments."""
    bindings = () if channel_binding is None else (channel_binding,)
    choice = MechanismChoice(
        offered, credentials, cleartext_allowed=cleartext_allowed, bindings=bindings, nonce=lambda: nonce
    )
    return choice.next()
