"""The composition of a delivery status notification: a multipart/report (RFC 6522) in three parts.

The first is a text for people (:mod:`zsmtp.queue.noticetext`). The second is the status for machines
(:mod:`zsmtp.queue.deliverystatus`, RFC 3464), the third the original message or its header, as RET asks (RFC 3461 4.3)
and the size allows. For internationalised mail the types of RFC 6533 are used::

    composer = Composer(NoticeSettings(host="mail.example.org"), templates.load())
    composed = composer.compose(
        message, notices, beginning, recipients=recipients, now=now, expires=expires, nonce=token_bytes(16)
    )

Only the beginning of the original is read; a large one that is returned whole is streamed. Addresses, replies and the
header of the original are not trusted: they are written in printable characters and limited lengths, so that they
cannot add a field or a part.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from zsmtp.body.fold import fold_long_lines
from zsmtp.body.lines import MAX_LINE, unified_header
from zsmtp.body.words import encode_header
from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.proto.address import downgrade, path_problem
from zsmtp.queue.deliverystatus import (
    date_text,
    delivery_status,
    folded,
    needs_utf8,
    shown_address,
)
from zsmtp.queue.ids import to_text
from zsmtp.queue.notices import AUTOMATIC, ORIGIN, Automatic, automatic
from zsmtp.queue.noticetext import NoticeText, field_value
from zsmtp.queue.phrases import Phrases, choose_language
from zsmtp.queue.states import NoticeKind, OwedNotice, QueuedMessage
from zsmtp.queue.store import NewMessage, NewRecipient

MAX_RECIPIENTS = 100  # in one notice
MAX_HEADER = 64 * 1024
"""Octets of the original's header that are read and returned."""

_REQUIRE_TLS = "require_tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeSettings:
    """The settings of notices. Raises :class:`~zsmtp.errors.ConfigError` for an invalid value."""

    host: str
    """The name of this mail system (Reporting-MTA), a host name in A-labels."""
    sender_name: str = "Mail Delivery System"
    """The name in From."""
    sender_address: str = ""
    """The address in From; "" for ``mailer-daemon@`` the host."""
    contact: str = ""
    """The address for questions; "" for ``postmaster@`` the host."""
    language: str = ""
    """The language of all notices; "" for the one that the original message requests."""
    default_language: str = "en"
    """The language if the original requests no available one."""
    return_limit: int = 50 * 1024
    """Octets of a message that is returned whole; of a larger one only the header is returned."""

    def __post_init__(self) -> None:
        problem = domain_problem(self.host)
        if problem is not None:
            raise ConfigError(f"host: '{escape(self.host[:120])}' {problem}")
        if not self.sender_name.isprintable() or len(self.sender_name) > 120:
            raise ConfigError("sender_name: not printable, or more than 120 characters")
        for name, address in (("sender_address", self.sender_address), ("contact", self.contact)):
            if address and (path_problem(address.encode()) or not address.isascii() or "@" not in address):
                raise ConfigError(f"{name}: '{escape(address[:120])}' is no address of ASCII")
        if self.return_limit < 0:
            raise ConfigError(f"return_limit: {self.return_limit} octets")

    @property
    def from_address(self) -> str:
        """The address in From."""
        return self.sender_address or f"mailer-daemon@{self.host}"

    @property
    def contact_address(self) -> str:
        """The address for questions."""
        return self.contact or f"postmaster@{self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedNotice:
    """A notice, ready for queueing.

    ``message`` is complete with its content, unless ``streamed``: then the original is too large for memory, and
    :meth:`chunks` or :meth:`stream` make the content from the original's. A streamed message has an idempotency key,
    made from the owed notices: if the process dies before these are replaced, a second submission queues no second
    message.
    """

    message: NewMessage
    streamed: bool
    before: bytes
    """The octets before the original's content."""
    after: bytes
    """The octets after it."""

    def chunks(self, content: Iterable[bytes]) -> Iterator[bytes]:
        """The content of a streamed notice, from chunks of the original's."""
        yield self.before
        yield from content
        yield self.after

    async def stream(self, content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The same from an asynchronous iterable."""
        yield self.before
        async for chunk in content:
            yield chunk
        yield self.after


class Composer:
    """Makes notices. Raises :class:`~zsmtp.errors.ConfigError` if there are no phrases in a language of the settings.

    ``shard`` is that of the queue: notices show its ids.
    """

    def __init__(self, settings: NoticeSettings, phrases: Mapping[str, Phrases], *, shard: int = 0) -> None:
        for name, language in (("language", settings.language), ("default_language", settings.default_language)):
            if language.lower() not in phrases and (language or name == "default_language"):
                known = ", ".join(sorted(phrases))
                raise ConfigError(f"{name}: there are no notices in '{escape(language[:40])}', only in {known}")
        self._settings = settings
        self._phrases = phrases
        self._shard = shard

    def compose(
        self,
        message: QueuedMessage,
        notices: Sequence[OwedNotice],
        beginning: bytes,
        *,
        recipients: Sequence[NewRecipient],
        now: float,
        expires: float,
        nonce: bytes,
    ) -> ComposedNotice | None:
        """One notice from the owed ones of a message; None if its envelope or header forbids one.

        ``beginning`` is the content of the message, or at least its first :data:`MAX_HEADER` octets; empty if the
        content is gone. ``recipients`` are those of the notice: the sender, or the targets of its alias; ``expires`` is
        when the notice is given up; ``nonce`` 16 unpredictable octets. Raises ValueError for no recipients or more than
        :data:`MAX_RECIPIENTS`.
        """
        if not 1 <= len(notices) <= MAX_RECIPIENTS:
            raise ValueError(f"{len(notices)} recipients in one notice")
        header, whole_header = _header_of(beginning)
        if message.null_sender or automatic(header) is Automatic.REPLIED:
            return None
        settings = self._settings
        original = _original(message, beginning, header, notices, settings, whole_header=whole_header)
        words = self._phrases[self._language(header)]
        queue_id = to_text(message.id, self._shard)
        text = NoticeText(message, notices, header, words, host=settings.host, contact=settings.contact_address)
        utf8 = needs_utf8(notices)
        status = delivery_status(message, notices, host=settings.host, queue_id=queue_id, utf8=utf8)
        parts = [_text_part(text.body(original.section), words.language), _status_part(status, utf8=utf8)]
        message_id = f"<{queue_id}.{nonce.hex()[:16]}@{settings.host}>"
        eight_bit = original.eight_bit or not status.isascii()
        fields = _fields(message, header, settings, text.subject(), message_id, now)
        before, after = _assembled(fields, parts, original, f"=_{nonce.hex()}", eight_bit=eight_bit)
        envelope = _envelope(message, recipients, now, expires, message_id)
        if original.streamed:
            return ComposedNotice(message=_once(envelope, notices), streamed=True, before=before, after=after)
        envelope = replace(envelope, content=before + original.content + after)
        return ComposedNotice(message=envelope, streamed=False, before=before, after=after)

    def _language(self, header: bytes) -> str:
        settings = self._settings
        default = settings.default_language.lower()
        return settings.language.lower() or choose_language(header, self._phrases, default)


# ---------------------------------------------------------------- the envelope


def _envelope(
    message: QueuedMessage, recipients: Sequence[NewRecipient], now: float, expires: float, message_id: str
) -> NewMessage:
    """The envelope of a notice, from the null sender; it has REQUIRETLS if the original has (RFC 8689 5)."""
    options: dict[str, object] = {AUTOMATIC: Automatic.REPLIED.value}
    if (message.options or {}).get(_REQUIRE_TLS):
        options[_REQUIRE_TLS] = True
    return NewMessage(
        sender=b"",
        recipients=recipients,
        content=b"",
        tenant=message.tenant,
        priority=min(message.priority, 0),
        due=now,
        expires=expires,
        name=message_id,
        origin=ORIGIN,
        options=options,
    )


def _once(envelope: NewMessage, notices: Sequence[OwedNotice]) -> NewMessage:
    """The envelope with an idempotency key: the same owed notices give the same key."""
    owed = "\n".join(f"{one.message} {one.number} {one.kind.value} {one.at!r}" for one in notices)
    digest = hashlib.sha256(owed.encode()).digest()
    return replace(envelope, idempotency_key=f"notice {digest.hex()[:32]}", digest=digest)


# ---------------------------------------------------------------- the original


@dataclass(frozen=True, slots=True, kw_only=True)
class _Original:
    """The third part. ``section`` names the phrase that mentions it, "" if there is no such part."""

    section: str = ""
    fields: bytes = b""
    content: bytes = b""
    streamed: bool = False
    eight_bit: bool = False
    crlf: bool = False


_END_OF_HEADER = re.compile(rb"(?:\A|\n)\r?\n")
_CONTROLS = bytes(c for c in range(32) if c not in (9, 10)) + b"\x7f"
_VISIBLE = bytes.maketrans(_CONTROLS, b"?" * len(_CONTROLS))
_OVERLONG = re.compile(rb"([^\n]{%d})[^\n]+" % MAX_LINE)  # unfoldable text is cut off: it is for display only


def _header_of(beginning: bytes) -> tuple[bytes, bool]:
    """The header block with LF line ends, and whether it is complete: one that is too long is cut at a line."""
    limit = min(len(beginning), MAX_HEADER)
    end = _END_OF_HEADER.search(beginning, 0, limit)
    if end is not None:
        return unified_header(beginning[: end.start() + 1])[0], True
    cut = limit if limit < MAX_HEADER else beginning.rfind(b"\n", 0, limit) + 1 or limit
    return unified_header(beginning[:cut])[0], limit < MAX_HEADER


def _original(
    message: QueuedMessage,
    beginning: bytes,
    header: bytes,
    notices: Iterable[OwedNotice],
    settings: NoticeSettings,
    *,
    whole_header: bool,
) -> _Original:
    """The part of the original to return: all of it only for a failure, if RET and the size allow (RFC 3461 4.3)."""
    if not beginning:
        return _Original()
    crlf = beginning.find(b"\r\n", 0, beginning.find(b"\n") + 1) >= 0
    failed = any(one.kind is NoticeKind.FAILED for one in notices)
    if failed and (message.ret or b"").upper() != b"HDRS" and message.size <= settings.return_limit:
        content = beginning if len(beginning) >= message.size else b""
        eight_bit = not (content and content.isascii())
        kind = b"message/global" if whole_header and _is_utf8(header) else b"message/rfc822"
        return _Original(
            section="original whole",
            fields=_part_fields(kind, b"Original message", eight_bit=eight_bit),
            content=content,
            streamed=not content,
            eight_bit=eight_bit,
            crlf=crlf,
        )
    content = _OVERLONG.sub(rb"\1", fold_long_lines(header.translate(_VISIBLE)).block)
    kind = b"message/global-headers" if _is_utf8(content) else b"text/rfc822-headers"
    if kind == b"text/rfc822-headers" and not content.isascii():
        content = encode_header(content, default_charset=b"UNKNOWN-8BIT", keep_utf8=False).block
        content = content.decode("ascii", "replace").replace("\N{REPLACEMENT CHARACTER}", "?").encode()
    eight_bit = not content.isascii()
    return _Original(
        section="original header",
        fields=_part_fields(kind, b"Header of the original message", eight_bit=eight_bit),
        content=content.replace(b"\n", b"\r\n") if crlf else content,
        eight_bit=eight_bit,
        crlf=crlf,
    )


def _is_utf8(header: bytes) -> bool:
    """Whether a header is internationalised (RFC 6532): UTF-8, and not just ASCII."""
    if header.isascii():
        return False
    try:
        header.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# ------------------------------------------------------------------- the parts


def _part_fields(kind: bytes, description: bytes, *, eight_bit: bool) -> bytes:
    encoding = b"Content-Transfer-Encoding: 8bit\n" if eight_bit else b""
    return b"Content-Type: %b\nContent-Description: %b\n%b\n" % (kind, description, encoding)


def _text_part(text: str, language: str) -> bytes:
    octets = text.encode("utf-8", "backslashreplace")
    charset, encoding = b"us-ascii", b""
    if not octets.isascii():
        charset, encoding = b"utf-8", b"Content-Transfer-Encoding: quoted-printable\n"
        octets = binascii.b2a_qp(octets, istext=True)
    return b"Content-Type: text/plain; charset=%b\nContent-Description: Report\nContent-Language: %b\n%b\n%b" % (
        charset,
        language.encode("ascii"),
        encoding,
        octets,
    )


def _status_part(status: bytes, *, utf8: bool) -> bytes:
    kind = b"message/global-delivery-status" if utf8 else b"message/delivery-status"
    return _part_fields(kind, b"Delivery status", eight_bit=not status.isascii()) + status


def _assembled(
    fields: bytes, parts: Iterable[bytes], original: _Original, boundary: str, *, eight_bit: bool
) -> tuple[bytes, bytes]:
    """The octets before the original, and those after it."""
    delimiter = f"\n--{boundary}\n".encode()
    encoding = b"Content-Transfer-Encoding: 8bit\n" if eight_bit else b""
    kind = f'Content-Type: multipart/report; report-type=delivery-status;\n\tboundary="{boundary}"\n'.encode()
    before = fields + kind + encoding
    for part in parts:
        before += delimiter + part
    if original.section:
        before += delimiter + original.fields
    after = f"\n--{boundary}--\n".encode()
    if original.crlf:
        return before.replace(b"\n", b"\r\n"), after.replace(b"\n", b"\r\n")
    return before, after


_MESSAGE_ID = re.compile(rb"<[!-;=?-~]{1,240}>")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")
_DOT_ATOM = re.compile(r"[^\s()<>\[\]:;@\\,\".]+(?:\.[^\s()<>\[\]:;@\\,\".]+)*")
_NOT_IN_DOMAINS = re.compile(r"[\s()<>,;\\\"]")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"")


def _fields(
    message: QueuedMessage, header: bytes, settings: NoticeSettings, subject: str, message_id: str, now: float
) -> bytes:
    """The header of the notice without its Content- fields."""
    name = settings.sender_name
    if name and name.isascii() and not _ATOMS.fullmatch(name):
        name = '"' + re.sub(r'([\\"])', r"\\\1", name) + '"'
    lines = [
        f"From: {name} <{settings.from_address}>" if name else f"From: {settings.from_address}",
        f"To: {_mailbox(message.sender)}",
        folded("Subject", subject) if subject.isascii() else f"Subject: {subject}",
        f"Date: {date_text(now)}",
        f"Message-ID: {message_id}",
    ]
    found = _MESSAGE_ID.fullmatch(field_value(header, b"message-id").strip())
    if found is not None:
        original = found[0].decode("ascii")
        lines += [f"In-Reply-To: {original}", f"References: {original}"]
    lines += ["Auto-Submitted: auto-replied", "MIME-Version: 1.0"]
    block = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    return encode_header(block, default_charset=b"UTF-8", keep_utf8=False).block


def _mailbox(path: bytes) -> str:
    """A path as a header has it: without its source route, with the local part quoted if necessary."""
    text = shown_address(downgrade(path) or path)
    if text.startswith("@") and ":" in text:
        text = text.partition(":")[2]
    local, at, domain = text.rpartition("@")
    if not at:
        local, domain = text, ""
    if not (_DOT_ATOM.fullmatch(local) or _QUOTED.fullmatch(local)):
        local = '"' + re.sub(r'([\\"])', r"\\\1", local) + '"'
    return f"<{local}{at}{_NOT_IN_DOMAINS.sub('?', domain)}>"
