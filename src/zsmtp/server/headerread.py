"""Reads the header of a received message: its sender fields, and missing fields.

A submission server may add Date and Message-ID (RFC 6409 8.2, 8.3), and compares From and Sender with the rights of the
client. Header blocks have LF line ends here::

    read = HeaderRead(block)
    read.has_date, read.message_id
    read.sender_problem(rights)         # "" if there is none
"""

from __future__ import annotations

from zsmtp.body.fields import field_values
from zsmtp.body.mailboxes import Unreadable, read_mailboxes
from zsmtp.escape import escape
from zsmtp.server.access import Rights

_LENGTHS = frozenset(map(len, (b"date", b"message-id", b"from", b"sender")))


class HeaderRead:
    """The values of a header block (LF line ends) for the intake."""

    __slots__ = ("_senders", "has_date", "message_id")

    def __init__(self, block: bytes) -> None:
        self.has_date = False
        self.message_id = ""
        self._senders: list[tuple[bytes, bytes]] = []
        for spelling, value in field_values(block):
            if len(spelling) not in _LENGTHS:
                continue
            name = spelling.lower()
            if name == b"date":
                self.has_date = True
            elif name == b"message-id":
                self.message_id = self.message_id or escape(value.strip()[:500].decode("utf-8", "replace"))
            elif name in (b"from", b"sender"):
                self._senders.append((name, value))

    def sender_problem(self, rights: Rights) -> str:
        """The problem with an address of From or Sender that the client may not use; "" if there is none."""
        for name, value in self._senders:
            shown = name.decode().capitalize()
            found = read_mailboxes(value)
            if isinstance(found, Unreadable):
                return f"a field {shown} that cannot be read"
            for address in found:
                if not rights.may_send_as(address):
                    return f"{escape(address[:120])} in the field {shown}"
        return ""


def begins_with_a_field(content: bytes) -> bool:
    """Whether a message has a header: it begins with a field, not with an empty line or other text."""
    first = field_values(content[: content.find(b"\n") + 1 or 1000])
    return bool(first) and first[0][0] != b""
