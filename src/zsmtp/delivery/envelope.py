"""A message to deliver: its envelope, its content by capabilities, and the books its verdicts go into."""

from __future__ import annotations

from collections.abc import Callable

from zsmtp.delivery.ledger import Ledger
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Envelope, LocalRefusal
from zsmtp.records import NamedTuple


class Message(NamedTuple):
    """One message for one destination.

    ``content_for`` gives the content for a server with the given capabilities, or why it cannot be sent there. It may
    raise :class:`~zsmtp.errors.ContentError` if the content cannot be read.
    """

    envelope: Envelope
    content_for: Callable[[Capabilities], ContentForm | LocalRefusal]


class Delivery(NamedTuple):
    """A message and the ledger of its recipients: what is asked for, and where the answer goes.

    ``name`` is what logs and traces know the message by ("" if it has no name).
    """

    message: Message
    ledger: Ledger
    name: str = ""
