"""From a stored message to what the commands of one server must know of its content.

:class:`Targets` completes what is wanted of content by what the server offers, :func:`content_form` is the content
chosen for that as ``zsmtp.proto.plan`` takes it.
"""

from __future__ import annotations

from zsmtp.body.encode import Content
from zsmtp.body.target import Refusal as ContentRefusal
from zsmtp.body.target import Target
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Refusal
from zsmtp.proto.status import EnhancedStatus
from zsmtp.records import replace


class Targets:
    """What content has to be like for a server: ``wanted`` says what is known before its capabilities are."""

    def __init__(self, wanted: Target) -> None:
        self._wanted = wanted
        self._capabilities: Capabilities | None = None
        self._plain = self._internationalised = wanted

    def of(self, capabilities: Capabilities, *, internationalised: bool) -> Target:
        """The target for a server with these capabilities; made once for all messages of a session."""
        if capabilities is not self._capabilities:
            self._plain = replace(
                self._wanted,
                eight_bit_mime=capabilities.eight_bit_mime,
                binary_mime=capabilities.binary_mime and capabilities.chunking,
                smtputf8=capabilities.smtputf8,
            )
            self._internationalised = replace(self._plain, internationalised=True)
            self._capabilities = capabilities
        return self._internationalised if internationalised else self._plain


def content_form(content: Content | ContentRefusal) -> ContentForm | Refusal:
    """The chosen content, or the refusal, as the commands see it."""
    if isinstance(content, ContentRefusal):
        return Refusal(EnhancedStatus.parse(content.status), content.text)
    return ContentForm(
        content.size,
        content.header_size,
        content.body_parameter,
        content.data_blocks,
        content.chunk_blocks,
        content.needs_smtputf8,
    )
