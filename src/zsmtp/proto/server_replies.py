"""The replies of a server as values, and their octets (RFC 5321 4.2, RFC 2034).

A reply is a :class:`~zsmtp.proto.reply.Reply`, as the client's side reads it; its enhanced status code (RFC 3463) is
the first word of its text. :func:`make_reply` puts one together, :func:`reply_octets` makes its lines. The text of a
reply may quote the peer: octets that are not allowed in a line are escaped here, so no reply holds an unintended line
end. The constants below are the replies that the engine sends by itself, and those that applications need most.
"""

from __future__ import annotations

from functools import lru_cache

from zsmtp.errors import LocalError
from zsmtp.patterns import pattern
from zsmtp.proto.reply import Reply, printable

MAX_REPLY_LINE = 512  # octets with code and CRLF (RFC 5321 4.5.3.1.5)

_MAX_TEXT = MAX_REPLY_LINE - 6
_TEXT = pattern(rb"[\t\x20-\x7e]*")


def make_reply(code: int, status: str, text: str) -> Reply:
    """``code`` (200 to 599), the enhanced status code ``5.1.1`` ("" where none belongs), and a text of one line."""
    return Reply(code, ((f"{status} {text}" if status else text).encode("ascii", "backslashreplace"),))


@lru_cache(512)
def reply_octets(reply: Reply) -> bytes:
    """The lines of a reply with their CRLFs, none longer than 512 octets.

    Raises :class:`~zsmtp.errors.LocalError` for an invalid code.
    """
    if not 200 <= reply.code <= 599:
        raise LocalError(f"not a reply code: {reply.code}")
    texts = tuple(_line(text) for text in reply.lines) or (b"",)
    return b"\r\n".join(Reply(reply.code, texts).raw_lines) + b"\r\n"


def _line(text: bytes) -> bytes:
    if len(text) <= _MAX_TEXT and _TEXT.fullmatch(text):
        return text
    return printable(text).encode("ascii", "backslashreplace")[:_MAX_TEXT]


def _constant(code: int, status: str, text: str) -> Reply:
    return make_reply(code, status, text)


OK = _constant(250, "2.0.0", "ok")
SENDER_OK = _constant(250, "2.1.0", "sender ok")
RECIPIENT_OK = _constant(250, "2.1.5", "recipient ok")
GO_AHEAD = _constant(354, "", "end with a line of one dot")
CLOSING = _constant(221, "2.0.0", "closing connection")
START_TLS = _constant(220, "2.0.0", "ready for TLS")
LOGIN_OK = _constant(235, "2.7.0", "logged in")
NOT_VERIFIED = _constant(252, "2.0.0", "send some mail, and it will be tried")
HELP = _constant(214, "2.0.0", "RFC 5321 describes the commands; EHLO lists the extensions")

LOGIN_REFUSED = _constant(535, "5.7.8", "user or password is wrong")
LOGIN_CANCELLED = _constant(501, "5.7.0", "login cancelled")
LOGIN_FIRST = _constant(530, "5.7.0", "log in first")
LOGIN_ONCE = _constant(503, "5.5.1", "already logged in")
LOGIN_MALFORMED = _constant(501, "5.5.2", "not base64")
LOGIN_TOO_LONG = _constant(500, "5.5.6", "line of the login is too long")
LOGIN_NEEDS_TLS = _constant(538, "5.7.11", "this mechanism needs TLS")
NO_MECHANISM = _constant(504, "5.5.4", "mechanism is not offered")
TLS_FIRST = _constant(530, "5.7.0", "send STARTTLS first")
TLS_ONCE = _constant(503, "5.5.1", "TLS is active already")

UNKNOWN = _constant(500, "5.5.1", "command not recognized")
NOT_IMPLEMENTED = _constant(502, "5.5.1", "command not implemented")
NOT_OFFERED = _constant(502, "5.5.1", "not offered here")
BAD_ARGUMENTS = _constant(501, "5.5.4", "not of the command's syntax")
NO_ARGUMENTS = _constant(501, "5.5.4", "this command has no parameters")
BAD_NAME = _constant(501, "5.5.4", "a domain or an address literal must follow")
BAD_CHARACTER = _constant(500, "5.5.2", "control character or 8-bit octet in the command")
BARE_LF = _constant(500, "5.5.2", "bare LF; a command line ends with CR LF")
LINE_TOO_LONG = _constant(500, "5.5.2", "command line is too long")
GREET_FIRST = _constant(503, "5.5.1", "EHLO first")
LMTP_GREET_FIRST = _constant(503, "5.5.1", "LHLO first")
LMTP_ONLY = _constant(500, "5.5.1", "this is LMTP: greet with LHLO")
SMTP_ONLY = _constant(500, "5.5.1", "this is SMTP: greet with EHLO")
MAIL_FIRST = _constant(503, "5.5.1", "MAIL first")
NESTED_MAIL = _constant(503, "5.5.1", "a transaction is open already")
IN_TRANSACTION = _constant(503, "5.5.1", "not in a transaction")
NO_RECIPIENTS = _constant(554, "5.5.1", "no valid recipients")
LMTP_NO_RECIPIENTS = _constant(503, "5.5.1", "no valid recipients")
NO_DATA_NOW = _constant(503, "5.5.1", "not between the chunks of a message, nor for BINARYMIME")
CHUNK_FAILED = _constant(503, "5.5.1", "a chunk of this message was refused; send RSET")
BAD_CHUNK = _constant(
    501, "5.5.4", "not a chunk: octets and commands cannot be separated behind it; closing connection"
)
TOO_MANY_RECIPIENTS = _constant(452, "4.5.3", "too many recipients for one transaction")
TOO_LARGE = _constant(552, "5.3.4", "message is larger than the limit")

REFUSED_SERVICE = _constant(503, "5.3.2", "no service for this client; only QUIT is left")
OUT_OF_STEP = _constant(554, "5.5.0", "more was sent than may be before this reply (RFC 2920 3.1); closing connection")
NO_MAIL_PROTOCOL = _constant(554, "5.5.1", "this is not SMTP; closing connection")
NOT_PLAIN = _constant(554, "5.5.1", "a TLS handshake came without STARTTLS; closing connection")
TIMED_OUT = _constant(421, "4.4.2", "waited too long; closing connection")
TOO_SLOW = _constant(421, "4.4.2", "content comes too slowly; closing connection")
SESSION_OVER = _constant(421, "4.4.2", "this session has lasted too long; closing connection")
TOO_MANY_ERRORS = _constant(421, "4.7.0", "too many errors; closing connection")
TOO_MANY_COMMANDS = _constant(421, "4.7.0", "too many commands without a message; closing connection")
TOO_MANY_LOGINS = _constant(421, "4.7.0", "too many failed logins; closing connection")
TOO_MANY_MESSAGES = _constant(421, "4.5.3", "enough messages for one session; closing connection")
TOO_MUCH_DISCARDED = _constant(421, "4.3.0", "the refused message does not end; closing connection")
SHUTTING_DOWN = _constant(421, "4.3.2", "service shuts down; closing connection")
TOO_MANY_CONNECTIONS = _constant(421, "4.7.0", "too many connections; try again later")
NO_ROOM = _constant(452, "4.3.1", "no room for the message now")
SERVICE_ERROR = _constant(421, "4.3.0", "error here; closing connection")
LOCAL_ERROR = _constant(451, "4.3.0", "error here; try again later")
LOGIN_UNAVAILABLE = _constant(454, "4.7.0", "logins cannot be checked now")
