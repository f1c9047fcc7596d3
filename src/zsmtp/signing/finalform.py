"""Signs messages on submission, in a form that no later conversion changes (RFC 6376 5.3).

A conversion on the way would void a signature, and a signed message is never converted. So a message is converted
before it is signed, to the form that the most limited server accepts: 7-bit content, encoded words in the header, lines
within their limits (``zsmtp.body.choose``). If an address in the header needs SMTPUTF8, the header stays, since no
server without that accepts it in any form; signed or encrypted parts (RFC 1847) stay unchanged. A message is read in
blocks; a converted body is returned in blocks as well::

    signing = MessageSigning(keyring, wanted, time.time)
    choice = signing.choose(header)
    done = choice.sign(header, body) if choice.keys else None

``header`` is a block with LF line ends; add Date and Message-ID before, if they are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from itertools import chain

from zsmtp.body.encode import Examination, MessageContent, examine_in_pieces, with_header
from zsmtp.body.fields import end_of_header
from zsmtp.body.lines import CRLF, unified_header
from zsmtp.body.source import Source
from zsmtp.body.stored import Stored
from zsmtp.body.target import ContentRefusal, Conversion, Target
from zsmtp.effects import GiveWay, Operation, at_once
from zsmtp.errors import SubmissionError
from zsmtp.records import NamedTuple, replace
from zsmtp.signing.keyring import Keyring, SigningKey
from zsmtp.signing.sign import Signer, read_header

MAX_HEADER = 1 << 20
"""Octets of the longest header of a whole message."""


class SignedMessage(NamedTuple):
    """A message with its signatures."""

    header: bytes
    """The header block with LF line ends, the signatures in front."""
    body: Callable[[], Iterator[bytes]] | None
    """The body in blocks with CRLF line ends, if it was converted; None: unchanged."""
    body_size: int
    """Octets of :attr:`body`; 0 if there is none."""
    seen: Examination | None
    """The examination of the message, if the body is unchanged; None: it must be examined."""
    remarks: tuple[str, ...]
    """Descriptions of signatures and changes, for people."""


class SigningChoice(NamedTuple):
    """The keys to sign one message with; without any, ``reason`` explains why, for people.

    ``header`` is the header that they were chosen for, ``signer`` signs a message with this header only. ``signing``
    made the choice.
    """

    keys: tuple[SigningKey, ...]
    reason: str
    header: bytes
    signer: Signer
    signing: MessageSigning

    def sign(self, header: bytes, body: Source) -> SignedMessage:
        """Sign the message, once for each choice; ``header`` may have more fields than the one of the choice.

        A message that no server accepts in any form stays unchanged, and is refused later. Raises ContentError if the
        body cannot be read.
        """
        return at_once(self.sign_in_pieces(header, body))

    def sign_in_pieces(self, header: bytes, body: Source) -> Operation[SignedMessage]:
        """As :meth:`sign`, giving way to others between the blocks of the body."""
        return self.signing.sign_in_pieces(header, body, self)


class MessageSigning:
    """Signs with the keys of one configuration.

    ``wanted`` is the target that stands for the most limited server, ``clock`` returns seconds since 1970.
    """

    __slots__ = ("_clock", "_forms", "keyring")

    def __init__(self, keyring: Keyring, wanted: Target, clock: Callable[[], float]) -> None:
        self.keyring = keyring
        self._clock = clock
        least = replace(wanted, eight_bit_mime=False, binary_mime=False, smtputf8=False)
        self._forms = (
            least,
            replace(least, smtputf8=True, internationalised=True),
            replace(wanted, seven_bit=False, eight_bit_mime=True, binary_mime=True, smtputf8=True),
        )

    def choose(self, header: bytes, *, granted: AbstractSet[str] | None = None) -> SigningChoice:
        """The keys for a message with this header, or the reason why there are none.

        ``granted`` are the domains whose keys its sender may use; None: all. Raises SubmissionError for a message with
        more fields than can be signed.
        """
        now = self._clock()
        fields = read_header(header)
        keys, reason = self.keyring.choose(fields, granted=granted, now=now)
        return SigningChoice(keys, reason, header, Signer(fields, keys, now=now), self)

    async def sign_in_pieces(self, header: bytes, body: Source, choice: SigningChoice) -> SignedMessage:
        """As :meth:`SigningChoice.sign_in_pieces`."""
        keys, seen = choice.keys, await examine_in_pieces(header, body)
        content = await self._final(seen, body)
        if isinstance(content, ContentRefusal):
            return SignedMessage(header, None, 0, seen, (f"not signed: {content.text}",))
        block = header
        if content.head is not seen.head or header != choice.header or seen.header.bare_cr:
            block = content.head.removesuffix(CRLF).replace(CRLF, b"\n")
        try:
            signer = choice.signer if block is header else Signer(read_header(block), keys, now=self._clock())
        except SubmissionError as error:  # too many fields, because of added ones
            return SignedMessage(header, None, 0, seen, (f"not signed: {error}",))
        for octets in content.body_blocks():
            signer.feed(octets)
            await GiveWay()
        signed = signer.finish() + block
        said = [f"signed by {key.config.key_name} ({key.algorithm.value})" for key in keys]
        if content.conversion is not Conversion.NONE:
            said.append("encoded anew before it was signed, so that every server can take it (RFC 6376 5.3)")
        if content.body_changed:
            size = content.size - content.header_size
            return SignedMessage(signed, content.body_blocks, size, None, (*said, *content.remarks))
        return SignedMessage(signed, None, 0, with_header(seen, signed), (*said, *content.remarks))

    async def _final(self, seen: Examination, body: Source) -> MessageContent | ContentRefusal:
        stored = Stored(seen, body)
        for target in self._forms:
            content = await stored.content_in_pieces(target)
            if not isinstance(content, ContentRefusal):
                break
        return content


def sign_whole(signing: MessageSigning, content: Source) -> Iterator[bytes] | None:
    """The octets of a whole message of this system, signed, in blocks; None without a key for it.

    Raises ContentError if it cannot be read.
    """
    beginning = next(content.blocks(MAX_HEADER), b"")
    found = end_of_header(beginning)
    if found is None:
        return None
    header = unified_header(beginning[: found[0]] + b"\n")[0]
    choice = signing.choose(header)
    if not choice.keys:
        return None
    body = content.part(found[1], content.size)
    done = choice.sign(header, body)
    head = done.header.replace(b"\n", CRLF) + CRLF
    return chain((head,), body.blocks() if done.body is None else done.body())
