"""A message to deliver: its envelope, its content by capabilities, and the ledger of its verdicts."""

from __future__ import annotations

from collections.abc import Callable

from zsmtp.delivery.ledger import Ledger
from zsmtp.effects import Operation
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Envelope, LocalRefusal
from zsmtp.records import NamedTuple


class Message(NamedTuple):
    """One message for one destination.

    ``content_for`` gives the content for a server with the given capabilities, or why it cannot be sent there; if that
    takes long, the work that gives it. It may raise :class:`~zsmtp.errors.ContentError` if the content cannot be read.
    """

    envelope: Envelope
    content_for: Callable[[Capabilities], ContentForm | LocalRefusal | Operation[ContentForm | LocalRefusal]]


class Delivery(NamedTuple):
    """A message and the ledger that receives the verdicts on its recipients.

    ``name`` is the message's name in logs and traces ("" if it has none).
    """

    message: Message
    ledger: Ledger
    name: str = ""
