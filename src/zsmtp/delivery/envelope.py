"""A message to deliver: its envelope, and its content in the form that a server's capabilities call for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Envelope


@dataclass(frozen=True, slots=True)
class Message:
    """One message for one destination.

    ``content_for`` gives the content for a server with the given capabilities. It may raise
    :class:`~zsmtp.errors.ContentError` if the content cannot be read.
    """

    envelope: Envelope
    content_for: Callable[[Capabilities], ContentForm]
