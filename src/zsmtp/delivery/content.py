"""From a stored message to what the commands of one server must know of its content.

:class:`Targets` completes what is wanted of content by what the server offers, :func:`content_form` is the content
chosen for that as ``zsmtp.proto.plan`` takes it. :class:`ContentProvider` is both for one message, as
``zsmtp.delivery.envelope.Message`` wants it, and tells observers what became of the content.
"""

from __future__ import annotations

from collections.abc import Callable

from zsmtp.body.encode import MessageContent
from zsmtp.body.stored import Stored
from zsmtp.body.target import ContentRefusal as ContentRefusal
from zsmtp.body.target import Conversion, Target
from zsmtp.effects import Operation
from zsmtp.events import About, Observer, Remark, ignore
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.plan import ContentForm, Envelope, LocalRefusal
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


def content_form(content: MessageContent | ContentRefusal) -> ContentForm | LocalRefusal:
    """The chosen content, or the refusal, as the commands see it."""
    if isinstance(content, ContentRefusal):
        return LocalRefusal(EnhancedStatus.parse(content.status), content.text)
    return ContentForm(
        content.size,
        content.header_size,
        content.body_parameter,
        content.data_blocks,
        content.chunk_blocks,
        content.needs_smtputf8,
    )


def _nothing(conversion: Conversion) -> None:
    """Default of ``converted``."""


class ContentProvider:
    """The content of one message for whatever server it meets.

    ``prepare`` gives the stored message, or the work that does; it is called when the first server asks, and may raise
    :class:`~zsmtp.errors.ContentError`. Remarks on what was changed go to ``observe``; ``converted`` is called with
    the conversion of each content chosen, ``Conversion.NONE`` too: another server may need another one.
    """

    __slots__ = ("_converted", "_envelope", "_observe", "_prepare", "_stored", "_targets")

    def __init__(
        self,
        prepare: Callable[[], Stored | Operation[Stored]],
        targets: Targets,
        envelope: Envelope,
        observe: Observer = ignore,
        converted: Callable[[Conversion], None] = _nothing,
    ) -> None:
        self._prepare = prepare
        self._targets = targets
        self._envelope = envelope
        self._observe = observe
        self._converted = converted
        self._stored: Stored | None = None

    def __call__(
        self, capabilities: Capabilities
    ) -> ContentForm | LocalRefusal | Operation[ContentForm | LocalRefusal]:
        """The content for a server with these capabilities, or why it cannot be sent there.

        If that takes long, it is the work that gives it, which gives way to others meanwhile.
        """
        stored = self._stored
        if stored is None:
            found = self._prepare()
            if not isinstance(found, Stored):
                return self._prepared(found, capabilities)
            stored = self._stored = found
        target = self._targets.of(capabilities, internationalised=self._envelope.internationalised)
        content = stored.known(target)
        return self._chosen(stored, target) if content is None else self._told(content)

    async def _prepared(self, work: Operation[Stored], capabilities: Capabilities) -> ContentForm | LocalRefusal:
        stored = self._stored = await work
        target = self._targets.of(capabilities, internationalised=self._envelope.internationalised)
        return await self._chosen(stored, target)

    async def _chosen(self, stored: Stored, target: Target) -> ContentForm | LocalRefusal:
        return self._told(await stored.content_in_pieces(target))

    def _told(self, content: MessageContent | ContentRefusal) -> ContentForm | LocalRefusal:
        if isinstance(content, ContentRefusal):
            return content_form(content)
        if content.remarks and self._observe is not ignore:
            for text in content.remarks:
                self._observe(Remark(text, About.CONTENT, self._envelope))
        self._converted(content.conversion)
        return content_form(content)
