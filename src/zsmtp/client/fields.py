"""What the header of a message says of its sender and recipients, and the fields a submission may lack.

As for ``smtplib.SMTP.send_message``: the envelope comes from Sender, else From, and from To, Cc and Bcc; of a resent
message from the block of Resent- fields instead, of which there must be one only (RFC 5322 3.6.6).
"""

from __future__ import annotations

import email.policy
from email.errors import MessageError
from email.headerregistry import AddressHeader
from email.message import EmailMessage
from email.parser import HeaderParser
from email.utils import formatdate, getaddresses, make_msgid

from zsmtp.dns.literal import Name, parse_destination
from zsmtp.errors import SubmissionError
from zsmtp.proto.address import domain_of

_PARSER = HeaderParser(policy=email.policy.SMTPUTF8)
_ADDRESSES = ("from", "sender", "reply-to", "to", "cc", "bcc")


def sender_in(header: bytes) -> str:
    """The address a message comes from. Raises SubmissionError if the header does not tell."""
    message = _parse(header)
    prefix = _prefix(message)
    for name in (f"{prefix}sender", f"{prefix}from"):
        found = _addresses(message, name)
        if len(found) == 1 or (found and name.endswith("from")):
            return found[0]
    raise SubmissionError("no sender: neither given nor named by From or Sender")


def recipients_in(header: bytes) -> list[str]:
    """The addresses a message goes to."""
    message = _parse(header)
    prefix = _prefix(message)
    return [one for name in ("to", "cc", "bcc") for one in _addresses(message, f"{prefix}{name}")]


def needs_utf8(message: EmailMessage) -> bool:
    """Whether an address in the header is not ASCII, so that the header has to be UTF-8 (RFC 6532)."""
    names = [f"{prefix}{name}" for prefix in ("", "resent-") for name in _ADDRESSES]
    return any(not address.isascii() for name in names for address in _addresses(message, name))


def with_missing(header: bytes, sender: bytes) -> bytes:
    """The header with Date and Message-ID, each only if it has none (RFC 6409 8.2, 8.3)."""
    message = _parse(header)
    added = b""
    if "date" not in message:
        added += f"Date: {formatdate(localtime=True)}\n".encode()
    if "message-id" not in message:
        domain = parse_destination(domain_of(sender).decode("utf-8", "replace"))
        added += f"Message-ID: {make_msgid(domain=domain.domain if isinstance(domain, Name) else None)}\n".encode()
    return header + added


def _parse(header: bytes) -> EmailMessage:
    return _PARSER.parsestr(header.decode("utf-8", "surrogateescape"))


def _prefix(message: EmailMessage) -> str:
    blocks = len(message.get_all("resent-date", []))
    if blocks > 1:
        raise SubmissionError("the message was resent more than once: say who sends it to whom")
    return "resent-" if blocks else ""


def _addresses(message: EmailMessage, name: str) -> list[str]:
    """The addresses of all fields of a name; those that cannot be read come as they are, to be refused by name."""
    found: list[str] = []
    try:
        values = message.get_all(name, [])
    except (MessageError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # The standard library's parser is beaten by some headers nobody writes in earnest.
        raise SubmissionError(f"the field {name.capitalize()} of the message cannot be read") from error
    for value in values:
        if isinstance(value, AddressHeader):
            found += [one.addr_spec for one in value.addresses]
        else:
            found += [address for _, address in getaddresses([str(value)])]
    return [one for one in found if one not in ("", "<>")]
