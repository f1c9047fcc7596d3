"""Return paths that identify the returned message: variable envelope return paths (VERP), signed against forgery.

Other systems send reports to the reverse-path of a message when it is too late to refuse it (RFC 5321 4.4, 6.1), and
the reports seldom identify the message. So each message is sent with its own reverse-path, made from a template::

    bounce+{id}@example.net             one for each message
    bounce+{id}-{recipient}@example.net one for each recipient

``{id}`` stands for a token of 34 characters in the base 32 of ``zsmtp.queue.ids``: the id of the message (15), the day
it was issued on (3), and the first 80 bits of an HMAC-SHA256 over these and the number of the recipient (16).
``{recipient}`` is that number. A token is valid for 30 days. It is verified before any lookup, and in constant time;
without the keys no token for another message or recipient can be made.

The day of a token changes once a week while a message is queued: servers that defer strangers (greylisting) know a
message by its reverse-path, too. Recipients with reverse-paths of their own cannot share a transaction.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.fieldtypes import check_types
from zsmtp.proto.address import path_problem
from zsmtp.queue.filter import glob
from zsmtp.queue.ids import EPOCH, digits, from_text, number, to_text
from zsmtp.queue.states import QueuedMessage, QueuedRecipient

VALID_DAYS = 30
"""Days that a token is valid."""
MAX_LOCAL = 64
"""Octets of a local part (RFC 5321 4.5.3.1.1)."""
ADDRESS_FAILURES = ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1")
"""Statuses of a dead address: no such mailbox, no such host, bad syntax, moved, null MX, disabled.

Others concern the message or its sender: if ``5.7.1`` suppressed, one block list could empty a mailing list.
"""
_DAY = 86400.0
_WEEK = 7  # days that a message keeps its token while it is queued
_ID, _DATE, _PROOF = 15, 3, 16  # characters
_TAG = b"zsmtp return path 1\0"
_PLACES = re.compile(r"\{[^{}]*\}?|\}")
_LONGEST = {"{id}": "z" * (_ID + _DATE + _PROOF), "{recipient}": "2147483647"}
_PATTERNS = {
    "{id}": f"(?P<id>[0-9a-hjkmnp-tv-z]{{{_ID + _DATE + _PROOF}}})",
    "{recipient}": "(?P<recipient>[0-9]{1,10})",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceConfig:
    """The handling of returned mail. Raises :class:`~zsmtp.errors.ConfigError` for an invalid template."""

    return_path: str = ""
    """The reverse-path of sent mail: ``bounce+{id}@example.net`` is one for each message, with ``{recipient}`` in it
    one for each recipient; "" leaves reverse-paths as submitted."""
    key_file: str = ""
    """The file of the keys that sign them (``zsmtp bounce key FILE`` makes it); the same for all delivering nodes."""
    senders: tuple[str, ...] = ("*",)
    """Patterns of the senders whose mail gets a return path; mail from the null sender never does."""
    complaints: tuple[str, ...] = ()
    """Addresses for complaints (RFC 5965), whose mail listeners with ``bounces`` accept."""
    suppress: tuple[str, ...] = ADDRESS_FAILURES
    """Patterns of the enhanced statuses of reports after which an address is suppressed; each begins with 5."""
    suppress_complaints: bool = True
    """Whether a complaint suppresses the address of its recipient."""
    _patterns: tuple[re.Pattern[str], ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_types(self)
        for pattern in self.suppress:
            if not pattern.startswith("5."):
                raise ConfigError(f"suppress: {escape(pattern[:40])!r}: only failures for good suppress: 5.1.1, 5.*")
        for address in self.complaints:
            problem = path_problem(address.encode("utf-8", "surrogateescape")) if "@" in address else "it has no domain"
            if problem is not None:
                raise ConfigError(f"complaints: {escape(address[:120])!r}: {problem}")
        if self.complaints and not self.return_path:
            raise ConfigError("complaints: no effect without a return_path")
        if self.return_path:
            _check_template(self.return_path)
            if not self.key_file:
                raise ConfigError("key_file: is missing, and return_path needs it; zsmtp bounce key FILE makes one")
        object.__setattr__(self, "_patterns", tuple(glob(text.lower()) for text in self.senders))

    def example_for(self, sender: bytes) -> bytes:
        """An example of the reverse-path for mail from a sender; its token is invalid."""
        if not self.is_for(sender):
            return sender
        return self.return_path.replace("{id}", "0" * (_ID + _DATE + _PROOF)).replace("{recipient}", "0").encode()

    def is_for(self, sender: bytes) -> bool:
        """Whether mail from a sender gets a return path."""
        text = sender.decode("utf-8", "replace").lower()
        return bool(sender and self.return_path) and any(one.fullmatch(text) for one in self._patterns)


def _check_template(template: str) -> None:
    """Raise ConfigError for a template that makes no valid addresses."""
    local, _, domain = template.rpartition("@")
    shown = escape(template[:120])
    places = _PLACES.findall(local)
    if places.count("{id}") != 1 or places.count("{recipient}") > 1 or set(places) - _LONGEST.keys():
        raise ConfigError(f"return_path: {shown!r}: one {{id}}, and at most one {{recipient}}, belong before the @")
    problem = domain_problem(domain)
    if problem is not None:
        raise ConfigError(f"return_path: {escape(domain[:120])!r} {problem}")
    longest = _PLACES.sub(lambda place: _LONGEST[place[0]], local)
    if len(longest) > MAX_LOCAL:
        raise ConfigError(
            f"return_path: {shown!r}: up to {len(longest)} octets before the @; {MAX_LOCAL} are the limit (RFC 5321)"
        )
    problem = "it is not ASCII" if not template.isascii() else path_problem(f"{longest}@{domain}".encode())
    if problem is not None:
        raise ConfigError(f"return_path: {shown!r}: {problem}")


class ReturnedTo(NamedTuple):
    """A verified return path: the message, and the recipient if the path belongs to only one."""

    message: int
    number: int | None


class Unproven(NamedTuple):
    """A return path that failed verification, and why."""

    problem: str


class ReturnPath:
    """Makes and verifies return paths. The first of ``keys`` signs, all of them verify."""

    def __init__(self, config: BounceConfig, keys: Sequence[bytes], shard: int) -> None:
        self.config = config
        self._keys = tuple(keys)
        self._shard = shard
        self._by_recipient = "{recipient}" in config.return_path
        parts = re.split(r"(\{id\}|\{recipient\})", config.return_path.lower())
        pattern = "".join(_PATTERNS.get(part) or re.escape(part) for part in parts)
        self._pattern = re.compile(pattern)

    def is_of_one(self, message: QueuedMessage) -> bool:
        """Whether each recipient of a message has a return path of its own."""
        return self._by_recipient and self.config.is_for(message.sender)

    def sender_of(self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], now: float) -> bytes:
        """The reverse-path of a message to recipients that share a transaction.

        If :meth:`is_of_one` is true, there is only one recipient.
        """
        if not self.config.is_for(message.sender):
            return message.sender
        number = str(recipients[0].number) if self._by_recipient else ""
        not_before = (message.options or {}).get("not_before")
        since = max(message.submitted, float(not_before) if isinstance(not_before, int | float) else 0.0)
        first = _day(since)
        day = digits(first + (_day(max(now, since)) - first) // _WEEK * _WEEK, _DATE)
        signed = to_text(message.id, self._shard) + day
        token = signed + _proof(self._keys[0], signed, number)
        return self.config.return_path.replace("{id}", token).replace("{recipient}", number).encode()

    def recognise(self, address: bytes, now: float) -> ReturnedTo | Unproven | None:
        """Verify an address that mail came back to; None: it is no return path of this template."""
        found = self._pattern.fullmatch(address.decode("utf-8", "replace").lower()) if self.config.return_path else None
        if found is None:
            return None
        token, recipient = found["id"], found["recipient"] if self._by_recipient else ""
        signed, proof = token[: _ID + _DATE], token[_ID + _DATE :]
        good = [hmac.compare_digest(_proof(key, signed, recipient), proof) for key in self._keys]
        if not any(good):
            return Unproven("it is forged, or of a removed key")
        age = _day(now) - number(signed[_ID:])
        if not -1 <= age <= VALID_DAYS:
            return Unproven(f"it was issued more than {VALID_DAYS} days ago")
        message, shard = from_text(signed[:_ID])
        if shard != self._shard:
            return Unproven(f"it is of shard {shard}, and this queue is shard {self._shard}")
        return ReturnedTo(message, int(recipient) if recipient else None)


def _day(at: float) -> int:
    return max(int((at - EPOCH) // _DAY), 0)


def _proof(key: bytes, signed: str, recipient: str) -> str:
    octets = hmac.new(key, _TAG + f"{signed}\0{recipient}".encode(), sha256).digest()
    return digits(int.from_bytes(octets[:10], "big"), _PROOF)
