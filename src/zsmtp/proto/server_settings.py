"""The extensions that a server offers, and the limits of a session, as frozen values; makes the reply to EHLO.

The extensions: PIPELINING (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), DSN (RFC 3461),
CHUNKING and BINARYMIME (RFC 3030), ENHANCEDSTATUSCODES (RFC 2034, always), STARTTLS (RFC 3207), REQUIRETLS (RFC 8689,
under TLS only), AUTH (RFC 4954), MT-PRIORITY (RFC 6710), FUTURERELEASE (RFC 4865), LIMITS (RFC 9422). The offer also
depends on the session: whether it is under TLS, and which mechanisms its passwords serve. :func:`offer` combines both,
and commands are checked against its result (``zsmtp.proto.server_commands``)::

    settings = ServerSettings(name=b"mx.example.org", max_size=50 << 20)
    ehlo_reply(settings, offer(settings, secure=False), utc=0.0)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zsmtp.errors import CommandError, ConfigError
from zsmtp.proto import command
from zsmtp.proto.datetimes import date_time
from zsmtp.proto.mailoptions import MAX_HOLD
from zsmtp.proto.reply import Reply, printable

PROMISED_RECIPIENTS = 100  # RFC 5321 4.5.3.1.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimeouts:
    """How long the server waits for the client, in seconds (RFC 5321 4.5.3.2.7 asks for five minutes).

    A wait counts only while it is the client's turn.
    """

    command: float = 300.0
    """A whole command line, in however many pieces it comes."""
    data: float = 300.0
    """The next octets of content."""
    write: float = 300.0
    """The transport to take replies; also the time for open replies when the session ends."""
    session: float = 14400.0
    """The connection as a whole."""
    min_rate: float = 100.0
    """Octets a second: content that takes longer than at this rate, and ``data`` seconds more, ends the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBounds:
    """The limits of one session. Exceeding one ends the session with 421, unless noted otherwise."""

    recipients: int = 1000  # of one transaction; more are refused with 452 4.5.3
    messages: int | None = None  # MAIL commands accepted in one session; None: any number
    line: int = 1 << 20  # octets of a line of content with its CRLF; RFC 5321 4.5.3.1.6 promises 1000
    errors: int = 20  # malformed, unknown or misplaced commands since the last message
    refusals: int = 1000  # refused commands of transactions since the last message; checked at MAIL, never behind it
    commands: int = 200  # other commands than those of transactions since the last message
    logins: int = 3  # failed ones
    replies: int = 256  # replies open or not taken yet; then nothing is read
    unanswered: int = 64 << 20  # octets of messages whose reply is open; then nothing is read
    discarded: int = 256 << 20  # octets of a refused message that are read on the way to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The extensions and limits of a server. Raises :class:`~zsmtp.errors.ConfigError` for an impossible combination.

    ``name`` is the domain or address literal in the greeting, ``banner`` the text behind it. ``mechanisms``
    are SASL mechanisms, best first; those that send the password (PLAIN, LOGIN) are offered under TLS only, unless
    ``cleartext_logins``. ``max_hold`` is the longest time in seconds a message may be held back on request.
    """

    name: bytes
    lmtp: bool = False  # RFC 2033: LHLO, and one reply for each recipient
    banner: str = ""
    max_size: int = 64 << 20  # octets
    pipelining: bool = True
    strict_pipelining: bool = True  # refuse clients that send commands which must wait for a reply (RFC 2920 3.1)
    eight_bit_mime: bool = True
    smtputf8: bool = True
    dsn: bool = True
    chunking: bool = True
    binary_mime: bool = False  # needs chunking
    starttls: bool = False
    tls_required: bool = False  # before MAIL and AUTH
    require_tls: bool = True  # the extension REQUIRETLS
    mechanisms: tuple[str, ...] = ()
    cleartext_logins: bool = False
    login_required: bool = False  # before MAIL
    priority: bool = False
    priority_profile: bytes = b""  # RFC 6710 4.1
    max_hold: int | None = None  # None: FUTURERELEASE is not offered
    announce_limits: bool = True  # LIMITS: RCPTMAX, and MAILMAX where messages are bounded
    timeouts: ServerTimeouts = field(default_factory=ServerTimeouts)
    bounds: ServerBounds = field(default_factory=ServerBounds)

    def __post_init__(self) -> None:
        try:
            command.hello(b"EHLO", self.name)
        except CommandError as error:
            raise ConfigError(str(error)) from None
        if self.binary_mime and not (self.chunking and self.eight_bit_mime):
            raise ConfigError("BINARYMIME needs CHUNKING and 8BITMIME (RFC 3030 3)")
        if self.smtputf8 and not self.eight_bit_mime:
            raise ConfigError("SMTPUTF8 needs 8BITMIME (RFC 6531 3.1)")
        if self.max_hold is not None and not 0 < self.max_hold <= MAX_HOLD:
            raise ConfigError(f"max_hold: {self.max_hold}; 1 to {MAX_HOLD} seconds are possible")
        if self.bounds.recipients < PROMISED_RECIPIENTS:
            raise ConfigError(f"recipients: {self.bounds.recipients}; {PROMISED_RECIPIENTS} are promised (RFC 5321)")
        if self.bounds.line < 1000:
            raise ConfigError(f"line: {self.bounds.line}; 1000 octets are promised (RFC 5321 4.5.3.1.6)")
        if self.max_size < 64 << 10:
            raise ConfigError(f"max_size: {self.max_size}; 64 KiB are promised (RFC 5321 4.5.3.1.7)")
        for text in (self.banner, self.priority_profile.decode("latin-1")):
            if not ((text.isascii() and text.isprintable()) or not text):
                raise ConfigError(f"not printable: '{printable(text.encode(), 80)}'")


@dataclass(frozen=True, slots=True)
class Offer:
    """The extensions that a session offers at one time.

    ``mail`` and ``rcpt`` are the parameters that MAIL and RCPT may have.
    """

    keywords: tuple[bytes, ...]
    mail: frozenset[bytes]
    rcpt: frozenset[bytes]
    smtputf8: bool
    binary_mime: bool
    max_hold: int
    mechanisms: tuple[str, ...]
    starttls: bool


_CLEARTEXT = frozenset({"PLAIN", "LOGIN"})


def offer(settings: ServerSettings, *, secure: bool, mechanisms: tuple[str, ...] = (), bound: bool = False) -> Offer:
    """The offer of a session with ``settings``. ``secure``: under TLS. ``bound``: its TLS channel has channel bindings.

    ``mechanisms`` are those that the passwords can serve: no others are offered, even if the settings name them.
    """
    usable = tuple(
        name
        for name in settings.mechanisms
        if name in mechanisms
        and (name not in _CLEARTEXT or secure or settings.cleartext_logins)
        and (not name.endswith("-PLUS") or bound)
    )
    if settings.tls_required and not secure:
        usable = ()
    starttls = settings.starttls and not secure
    flags = (
        (settings.pipelining, b"PIPELINING", ()),
        (True, b"SIZE %d" % settings.max_size, (b"SIZE",)),
        (starttls, b"STARTTLS", ()),
        (bool(usable), b"AUTH " + " ".join(usable).encode(), ()),
        (settings.eight_bit_mime, b"8BITMIME", (b"BODY",)),
        (settings.smtputf8, b"SMTPUTF8", (b"SMTPUTF8",)),
        (settings.chunking, b"CHUNKING", ()),
        (settings.binary_mime, b"BINARYMIME", ()),
        (settings.dsn, b"DSN", (b"RET", b"ENVID")),
        (settings.require_tls and secure, b"REQUIRETLS", (b"REQUIRETLS",)),
        (settings.priority, b" ".join((b"MT-PRIORITY", settings.priority_profile)).rstrip(), (b"MT-PRIORITY",)),
        (settings.max_hold is not None, b"FUTURERELEASE", (b"HOLDFOR", b"HOLDUNTIL")),
        (settings.announce_limits, _limits(settings.bounds), ()),
        (True, b"ENHANCEDSTATUSCODES", ()),
    )
    mail = {name for wanted, _, names in flags if wanted for name in names}
    if settings.mechanisms and mechanisms:
        mail.add(b"AUTH")  # also before the login, and without one (RFC 4954 5)
    return Offer(
        keywords=tuple(keyword for wanted, keyword, _ in flags if wanted),
        mail=frozenset(mail),
        rcpt=frozenset((b"NOTIFY", b"ORCPT") if settings.dsn else ()),
        smtputf8=settings.smtputf8,
        binary_mime=settings.binary_mime,
        max_hold=settings.max_hold or 0,
        mechanisms=usable,
        starttls=starttls,
    )


def _limits(bounds: ServerBounds) -> bytes:
    """RFC 9422 4: the recipients of a transaction, and the transactions of a session where they are counted."""
    keyword = b"LIMITS RCPTMAX=%d" % bounds.recipients
    return keyword if bounds.messages is None else keyword + b" MAILMAX=%d" % bounds.messages


def ehlo_reply(settings: ServerSettings, offered: Offer, *, utc: float) -> Reply:
    """The answer to EHLO or LHLO (RFC 5321 4.1.1.1); ``utc`` is the POSIX time, for the limit of FUTURERELEASE."""
    keywords = [
        b"FUTURERELEASE %d %b" % (offered.max_hold, date_time(utc + offered.max_hold))
        if keyword == b"FUTURERELEASE"
        else keyword
        for keyword in offered.keywords
    ]
    return Reply(250, (settings.name, *keywords))
