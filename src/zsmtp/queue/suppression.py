"""Suppression of addresses: the list of addresses that get no more mail, and its effect on submitted messages.

A *suppression* belongs to one tenant and one address. A recipient that is submitted to such an address gets its end in
the same transaction: failed with 5.7.1, without an attempt, its sender notified as of every other failure
(:func:`zsmtp.queue.settlement.suppressed`). Recipients queued already are not touched.

Addresses are compared by :func:`folded`. RFC 5321 2.4 leaves the meaning of a local part to its domain, upper and lower
case included; but no major domain distinguishes ``Bob`` from ``bob``, people type both, and a list with only one of
them would not stop mail to that person.

The list does not apply to two kinds of messages (:func:`is_subject`): notices, which answer mail from that person, and
those that were submitted with the right to override it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from zsmtp.client.addresslist import comparable
from zsmtp.queue.notices import ORIGIN
from zsmtp.records import dataclass

OVERRIDE = "override_suppression"
"""The key in the options of a message that also goes to suppressed addresses."""
PIECE = 1000
"""Suppressions written, or read, at a time."""

_SPECIAL = b' "(),:;<>\\[]'  # in quotes alone (RFC 5322 3.2.3)

InsertedRecipient = tuple[int, int, str, str]
"""A recipient as a store inserted it: message, number, address, tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """The suppression of an address."""

    tenant: str = ""
    """The tenant whose mail to it is suppressed."""
    address: bytes
    """The address, UTF-8; stores keep it :func:`folded`."""
    reason: str = ""
    """The reason as text: a server's reply, or an operator's words."""
    source: str = ""
    """The cause: ``bounce``, ``complaint``, or the operator's name."""
    at: float
    """Since when, in seconds since 1970."""
    until: float | None = None
    """When it ends; None: when it is removed."""

    @property
    def words(self) -> str:
        """The reason for the history."""
        return f"suppressed: {self.reason or 'no reason was given'}"


def folded(address: bytes) -> bytes:
    """An address in the form for comparison: lower case, the domain in A-labels, no redundant quotes."""
    if address.isascii() and not address.startswith(b'"'):
        return address.lower()
    local, host = comparable(address)
    given, _, domain = address.rpartition(b"@")
    if b"@" in local or local.translate(None, _SPECIAL) != local:
        local = given  # it needs its quotes
    text = unicodedata.normalize("NFC", local.decode("utf-8", "surrogateescape").casefold())
    return b"%b@%b" % (text.encode("utf-8", "surrogateescape"), domain.lower() if host is None else host.encode())


def is_subject(origin: str, options: Mapping[str, object] | None) -> bool:
    """Whether the list applies to a message of this origin with these options."""
    return origin != ORIGIN and not (options and options.get(OVERRIDE))


def holds(one: Suppression | None, now: float) -> bool:
    """Whether ``one`` is a suppression that has not ended."""
    return one is not None and (one.until is None or one.until > now)


async def in_pages(
    read: Callable[[tuple[str, str] | None], Awaitable[list[Suppression]]],
) -> AsyncIterator[Suppression]:
    """A list that ``read`` returns in pages of :data:`PIECE`, each after a tenant and an address; None: the first."""
    after: tuple[str, str] | None = None
    while True:
        found = await read(after)
        for one in found:
            yield one
        if len(found) < PIECE:
            return
        after = found[-1].tenant, found[-1].address.decode()
