"""The receiving side of one SMTP or LMTP connection: octets in, events out; answers in, octets out.

RFC 5321 and RFC 2033 with the extensions of ``zsmtp.proto.server_settings``. The session does no I/O, has no clock and
decides no policy: each request of the client becomes an event, which the application answers with a reply. Its
methods::

    session.receive_data(data, now)       octets came
    session.receive_eof(now)              the client closed its side
    session.next_event()                  what happened, until None
    session.answer(slot, reply, now)      the reply to an event that has a slot
    session.data_to_send()                octets to write; call when the transport takes more
    session.deadline()                    when to call handle_timer(now) at the latest
    session.wants_data                    whether to read from the client at all

``now`` is the caller's monotonic clock in seconds. Parsing happens in ``next_event``, one event at a time, so nothing
piles up: while the application owes an answer, too many replies are open, or the application asked for a pause, there
is no next event and ``wants_data`` is false. A message may be answered long after it has come, and in any order;
replies leave in the order of the commands (RFC 2920). Nothing a client sends raises an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from zsmtp.errors import LocalError
from zsmtp.proto import server_replies as replies
from zsmtp.proto.auth import MAX_RESPONSE
from zsmtp.proto.command import MAX_COMMAND
from zsmtp.proto.reply import Reply
from zsmtp.proto.sasl import ChannelBinding
from zsmtp.proto.server_auth import Claim
from zsmtp.proto.server_commands import MailCommand, has_text, is_bare, parse_auth, parse_hello, parse_mail, parse_rcpt
from zsmtp.proto.server_events import (
    Abort,
    Ending,
    Greeted,
    LoginAttempt,
    MailFrom,
    Opened,
    RcptTo,
    TLSRequested,
)
from zsmtp.proto.server_login import LoginDialogue, fresh_nonce
from zsmtp.proto.server_passwords import Passwords
from zsmtp.proto.server_replies import reply_octets
from zsmtp.proto.server_settings import Offer, ServerSettings, ehlo_reply, offer
from zsmtp.proto.server_stream import HANDSHAKE
from zsmtp.proto.server_transfer import GREETED, OPENED, RECIPIENTS, SENDER, ServerTransfer

SEED_LENGTH = 32  # octets

_SHAKING_HANDS = -1  # awaited like the answer to a slot, but the number of none

_HTTP = frozenset({b"GET ", b"POST", b"PUT ", b"HEAD", b"CONN", b"OPTI", b"PATC", b"DELE", b"TRAC"})
_TRANSACTION = frozenset({b"MAIL", b"RCPT", b"DATA", b"BDAT"})


class ServerSession(ServerTransfer):
    """The protocol engine of one connection.

    ``passwords`` are the users that may log in; without them there is no AUTH. ``seed`` are 32 random octets, needed
    with them. ``bindings``, given for a connection under TLS from the first octet, are the channel bindings that logins
    may use. ``utc`` is the POSIX time that ``now`` stands for. ``user`` is the user that is logged in, or None.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        now: float,
        utc: float = 0.0,
        passwords: Passwords | None = None,
        seed: bytes = b"",
        bindings: tuple[ChannelBinding, ...] | None = None,
    ) -> None:
        super().__init__(settings, now)
        if passwords is not None and len(seed) < SEED_LENGTH:
            raise LocalError(f"logins need a seed of {SEED_LENGTH} random octets")
        self._utc_ahead = utc - now
        self._passwords = passwords
        self._seed = seed
        self._logins = 0  # begun in this session
        self._failed_logins = 0
        self._login: LoginDialogue | None = None
        self._claim: Claim | None = None
        self._bindings = bindings
        self._offered = self._in_force = self._offer()
        self._extended = False  # greeted with EHLO or LHLO
        self._stepwise = False  # greeted in a way that forbids pipelining
        self._messages = 0  # MAIL commands accepted
        self.user: bytes | None = None
        self._read = self._read_commands = self._read_command
        self._events.append(Opened(self._ask(self._decide_greeting)))

    @property
    def secure(self) -> bool:
        """Whether the connection is under TLS."""
        return self._bindings is not None

    @property
    def protocol(self) -> str:
        """The protocol for Received fields (RFC 3848): SMTP, ESMTP, LMTP; with S under TLS, with A after a login."""
        if not (self._extended or self._settings.lmtp):
            return "SMTP"
        name = "LMTP" if self._settings.lmtp else "ESMTP"
        return name + "S" * self.secure + "A" * (self.user is not None)

    def shutdown(self, now: float) -> None:
        """The server stops: end with 421, at once or behind the transaction that is open."""
        self._now = now
        reading_commands = self._read == self._read_commands
        self._read_commands = self._read_or_stop
        if reading_commands:
            self._read = self._read_or_stop
            if self._stage <= GREETED and self._gate is None:
                self._finish(Ending.SHUTDOWN)

    def tls_started(self, bindings: tuple[ChannelBinding, ...], now: float) -> None:
        """The handshake after :class:`TLSRequested` is done; the state of the session is reset (RFC 3207 4.2)."""
        if self._gate != _SHAKING_HANDS:
            raise LocalError("no TLS handshake is waited for")
        self._now = now
        self._gate = None
        self._bindings = bindings
        self._offered = self._in_force = self._offer()
        self._stage = OPENED
        self._extended = self._stepwise = False
        self.user = None
        self._read = self._read_commands
        self._waits.turn(now)

    def _offer(self) -> Offer:
        return offer(
            self._settings,
            secure=self._bindings is not None,
            mechanisms=self._passwords.mechanisms if self._passwords is not None else (),
            bound=bool(self._bindings),
        )

    # -------------------------------------------------------------- commands

    def _read_command(self) -> bool:
        line = self._next_line()
        if line is None:
            return False
        if len(line) > MAX_COMMAND and line[:5].upper() != b"AUTH ":
            return self._refuse(replies.LINE_TOO_LONG)
        if line[-2:] != b"\r\n" or line[0] == HANDSHAKE:
            return self._read_unknown(line)
        if self._stepwise and line[:5].upper() != b"BDAT " and self._is_out_of_step():
            return True
        reader = _COMMON_READERS.get(line[:5])
        return reader(self, line) if reader is not None else self._read_other(line)

    def _read_other(self, line: bytes) -> bool:
        """Read a command outside transactions, or one in an unusual spelling."""
        verb = line[: 8 if line[:4].upper() == b"STAR" else 4].upper()
        reader = _READERS.get(verb)
        if reader is None or line[len(verb)] not in b" \t\r":
            return self._read_unknown(line)
        if verb not in _TRANSACTION:
            self._commands += 1
            if self._commands > self._bounds.commands:
                self._finish(Ending.COMMANDS, replies.TOO_MANY_COMMANDS)
                return True
        return reader(self, line)

    def _read_refused(self) -> bool:
        """After a greeting that refuses, all commands but QUIT get 503 (RFC 5321 3.1)."""
        line = self._next_line()
        if line is None:
            return False
        return self._read_quit(line) if line.upper() == b"QUIT\r\n" else self._refuse(replies.REFUSED_SERVICE)

    def _read_or_stop(self) -> bool:
        """Like _read_command, while the server is shutting down."""
        if self._stage > GREETED:
            return self._read_command()
        self._finish(Ending.SHUTDOWN)
        return True

    def _read_unknown(self, line: bytes) -> bool:
        if line[0] == HANDSHAKE or line[:4].upper() in _HTTP:
            self._finish(Ending.NOT_SMTP, replies.NOT_PLAIN if line[0] == HANDSHAKE else replies.NO_MAIL_PROTOCOL)
            return True
        if line[-2:] != b"\r\n":
            return self._refuse(replies.BARE_LF)
        return self._refuse(replies.UNKNOWN if has_text(line) else replies.BAD_CHARACTER)

    def _decide_greeting(self, slot: int, reply: Reply) -> None:
        self._slots.fill(slot, reply_octets(reply), self._now)
        if reply.code >= 400:
            self._read = self._read_commands = self._read_refused
        else:
            self._is_out_of_step()

    def _read_hello(self, line: bytes) -> bool:
        if self._is_out_of_step():
            return True
        verb = line[:4].upper()
        if (verb == b"LHLO") is not self._settings.lmtp:
            return self._refuse(replies.LMTP_ONLY if self._settings.lmtp else replies.SMTP_ONLY)
        name = parse_hello(line)
        if isinstance(name, Reply):
            return self._refuse(name)
        self._abort(Abort.HELLO)
        self._stage = GREETED
        self._extended = verb != b"HELO"
        self._stepwise = not (self._extended and self._settings.pipelining)
        self._events.append(Greeted(verb, name))
        if self._extended:
            self._in_force = self._offered
            self._reply(ehlo_reply(self._settings, self._offered, utc=self._now + self._utc_ahead))
        else:
            self._in_force = replace(self._offered, mail=frozenset(), rcpt=frozenset())
            self._reply(Reply(250, (self._settings.name,)))
        return True

    def _read_mail(self, line: bytes) -> bool:
        settings = self._settings
        if self._stage is not GREETED:
            if self._stage is OPENED:
                return self._refuse(replies.LMTP_GREET_FIRST if settings.lmtp else replies.GREET_FIRST)
            return self._refuse(replies.NESTED_MAIL)
        if settings.tls_required and self._bindings is None:
            return self._refuse(replies.TLS_FIRST)
        if settings.login_required and self.user is None:
            return self._refuse(replies.LOGIN_FIRST)
        if self._bounds.messages is not None and self._messages >= self._bounds.messages:
            self._finish(Ending.MESSAGES, replies.TOO_MANY_MESSAGES)
            return True
        if self._refusals > self._bounds.refusals:
            self._finish(Ending.ERRORS)
            return True
        found = parse_mail(line, self._in_force, self._now + self._utc_ahead)
        if not isinstance(found, MailCommand):
            return self._decline(found)
        size = found.parameters.size
        if size is not None and size > settings.max_size:
            return self._decline(replies.TOO_LARGE)
        self._mail = found.parameters
        self._events.append(MailFrom(self._ask(self._decide_mail), found.path, found.parameters))
        return True

    def _decide_mail(self, slot: int, reply: Reply) -> None:
        self._slots.fill(slot, reply_octets(reply), self._now)
        if reply.code < 300:
            self._begin_transaction()
            self._messages += 1
        else:
            self._refusals += 1

    def _read_rcpt(self, line: bytes) -> bool:
        if self._stage is not SENDER and self._stage is not RECIPIENTS:
            return self._decline(replies.MAIL_FIRST if self._stage < SENDER else replies.IN_TRANSACTION)
        if self._recipients >= self._bounds.recipients:
            self._reply(replies.TOO_MANY_RECIPIENTS)
            return True
        found = parse_rcpt(line, self._in_force, smtputf8=self._mail.smtputf8)
        if isinstance(found, Reply):
            return self._decline(found)
        self._events.append(RcptTo(self._ask(self._decide_rcpt), found))
        return True

    def _decide_rcpt(self, slot: int, reply: Reply) -> None:
        self._slots.fill(slot, reply_octets(reply), self._now)
        if reply.code < 300:
            self._recipients += 1
            self._stage = RECIPIENTS
        else:
            self._refusals += 1

    def _read_rset(self, line: bytes) -> bool:
        if not is_bare(line, b"RSET"):
            return self._refuse(replies.NO_ARGUMENTS)
        self._abort(Abort.RESET)
        self._stage = min(self._stage, GREETED)
        self._reply(replies.OK)
        return True

    def _read_text(self, line: bytes) -> bool:
        """NOOP, HELP, VRFY and EXPN, whose text changes nothing."""
        verb = line[:4].upper()
        if not has_text(line):
            return self._refuse(replies.BAD_CHARACTER)
        if verb == b"EXPN":
            return self._refuse(replies.NOT_IMPLEMENTED)
        if verb == b"VRFY" and is_bare(line, verb):
            return self._refuse(replies.BAD_ARGUMENTS)
        self._reply(_TEXT_REPLIES[verb])
        return True

    def _read_quit(self, line: bytes) -> bool:
        if not is_bare(line, b"QUIT"):
            return self._refuse(replies.NO_ARGUMENTS)
        self._finish(Ending.QUIT, replies.CLOSING)
        return True

    # ------------------------------------------------------- STARTTLS and AUTH

    def _read_starttls(self, line: bytes) -> bool:
        if not is_bare(line, b"STARTTLS"):
            return self._refuse(replies.NO_ARGUMENTS)
        if self._is_out_of_step(always=True):  # octets sent in clear must not count as sent under TLS
            return True
        if self._bindings is not None:
            return self._refuse(replies.TLS_ONCE)
        if not self._offered.starttls:
            return self._refuse(replies.NOT_OFFERED)
        if self._stage is not GREETED:
            return self._refuse(self._greet_first() if self._stage < GREETED else replies.IN_TRANSACTION)
        self._gate = _SHAKING_HANDS
        self._reply(replies.START_TLS)
        if not self._slots.waiting:
            self._all_answered()
        return True

    def _all_answered(self) -> None:
        super()._all_answered()
        if self._gate == _SHAKING_HANDS and not self._ended:
            self._events.append(TLSRequested())

    def _greet_first(self) -> Reply:
        return replies.LMTP_GREET_FIRST if self._settings.lmtp else replies.GREET_FIRST

    def _read_auth(self, line: bytes) -> bool:
        passwords, settings = self._passwords, self._settings
        if passwords is None or not settings.mechanisms:
            return self._refuse(replies.NOT_OFFERED)
        if self._stage is not GREETED:
            return self._refuse(self._greet_first() if self._stage < GREETED else replies.IN_TRANSACTION)
        if self.user is not None:
            return self._refuse(replies.LOGIN_ONCE)
        if settings.tls_required and self._bindings is None:
            return self._refuse(replies.TLS_FIRST)
        found = parse_auth(line) if len(line) <= MAX_RESPONSE else replies.LOGIN_TOO_LONG
        if isinstance(found, Reply):
            return self._refuse(found)
        if self._is_out_of_step():
            return True
        name, initial = found
        if name not in self._offered.mechanisms:
            served = name in settings.mechanisms and name in passwords.mechanisms
            return self._refuse(replies.LOGIN_NEEDS_TLS if served and not self.secure else replies.NO_MECHANISM)
        self._logins += 1
        bound = "SCRAM-SHA-256-PLUS" in self._offered.mechanisms
        bindings = self._bindings if self._bindings is not None and bound else ()
        nonce = fresh_nonce(self._seed, self._logins)
        self._login = LoginDialogue(name, passwords, bindings=bindings, nonce=nonce)
        return self._go_on_with_login(self._login.begin(initial))

    def _read_response(self) -> bool:
        line = self._next_line()
        if line is None:
            return False
        if self._is_out_of_step():
            return True
        assert self._login is not None
        return self._go_on_with_login(self._login.take(line))

    def _go_on_with_login(self, step: bytes | Claim | Reply) -> bool:
        if isinstance(step, bytes):
            self._read = self._read_response
            self._slots.add(step, self._now)
            return True
        login, self._login = self._login, None
        assert login is not None
        self._read = self._read_commands
        if isinstance(step, Reply):
            return self._refuse(step)
        self._claim = step
        slot = self._ask(self._decide_login)
        self._events.append(LoginAttempt(slot, login.mechanism, step.user, step.check, step.slow))
        return True

    def _decide_login(self, slot: int, reply: Reply) -> None:
        claim, self._claim = self._claim, None
        assert claim is not None
        self._slots.fill(slot, reply_octets(reply), self._now)
        if reply.code < 300:
            self.user = claim.user
            return
        self._failed_logins += 1
        if self._failed_logins >= self._bounds.logins:
            self._finish(Ending.LOGINS, replies.TOO_MANY_LOGINS)


_TEXT_REPLIES = {b"NOOP": replies.OK, b"HELP": replies.HELP, b"VRFY": replies.NOT_VERIFIED}
_Reader = Callable[[ServerSession, bytes], bool]
_COMMON_READERS: dict[bytes, _Reader] = {
    b"MAIL ": ServerSession._read_mail,
    b"RCPT ": ServerSession._read_rcpt,
    b"DATA\r": ServerSession._read_data_command,
    b"BDAT ": ServerSession._read_bdat,
}
_READERS: dict[bytes, _Reader] = {
    b"EHLO": ServerSession._read_hello,
    b"HELO": ServerSession._read_hello,
    b"LHLO": ServerSession._read_hello,
    b"MAIL": ServerSession._read_mail,
    b"RCPT": ServerSession._read_rcpt,
    b"DATA": ServerSession._read_data_command,
    b"BDAT": ServerSession._read_bdat,
    b"RSET": ServerSession._read_rset,
    b"NOOP": ServerSession._read_text,
    b"HELP": ServerSession._read_text,
    b"VRFY": ServerSession._read_text,
    b"EXPN": ServerSession._read_text,
    b"QUIT": ServerSession._read_quit,
    b"AUTH": ServerSession._read_auth,
    b"STARTTLS": ServerSession._read_starttls,
}
