"""Divides the work of ``zsmtp send --jobs`` between processes, and the limits.

A destination belongs to one process, so that its own limits hold there: connections to it, their rate, the backoff of a
failed host. Destinations are assigned by their amount of work, the largest first, each to the process with the least.
Mail for a single place, such as a relay, is divided message by message, and the limits of the destination are divided
as well. Limits on all destinations together are always divided: the parts of a limit never exceed the limit. There are
no more processes than parts of each of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from zsmtp.cli.outgoing import Outgoing
from zsmtp.client.config import Limits
from zsmtp.client.destinations import Destination
from zsmtp.delivery.gate import Place

_MESSAGE = 16 << 10  # octets that cost about as much as a message without its content
_DESTINATION = 128 << 10  # the same for a connection


class SharePart(NamedTuple):
    """A message with its recipients for one process: a number in the list of messages."""

    number: int
    recipients: tuple[str, ...]


@dataclass(slots=True)
class Share:
    """The work of one process: its parts in the order of the messages, within these limits."""

    parts: list[SharePart] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)


PlaceOf = Callable[[str, str], Place]
"""The place of mail for a recipient, by the addresses of recipient and sender."""


def place_of(destination: Destination) -> Place:
    """The place of a destination: two with different logins at one server are one place."""
    return destination.request.destination.lower(), destination.request.port


def share_out(messages: Sequence[Outgoing], place: PlaceOf, jobs: int, limits: Limits) -> list[Share]:
    """The shares of ``jobs`` processes, or of fewer, so that each has work and a part of each limit."""
    if jobs == 1 or not messages:
        return _alone(messages, limits)
    found = [_by_place(message, place) for message in messages]
    weights: dict[Place, int] = {}
    for message, places in zip(messages, found, strict=True):
        for where in places:
            weights[where] = weights.get(where, _DESTINATION) + message.size + _MESSAGE
    jobs = min(jobs, limits.connections, *(rate.allowed for rate in limits.message_rates))
    if len(weights) == 1:
        shares = _by_message(messages, min(jobs, *_of_destination(limits)))
    else:
        owner = _assigned(weights, min(jobs, len(weights)))
        shares = [Share() for _ in range(max(owner.values()) + 1)]
        for number, places in enumerate(found):
            _add_parts(shares, number, places, owner)
    if len(shares) == 1:
        return _alone(messages, limits)
    for share, its in zip(shares, divided_limits(limits, shares, one_place=len(weights) == 1), strict=True):
        share.limits = its
    return shares


def _alone(messages: Sequence[Outgoing], limits: Limits) -> list[Share]:
    return [Share([SharePart(number, one.recipients) for number, one in enumerate(messages)], limits)]


def _by_place(message: Outgoing, place: PlaceOf) -> dict[Place, list[str]]:
    """The recipients of a message by their places."""
    found: dict[Place, list[str]] = {}
    for recipient in message.recipients:
        found.setdefault(place(recipient, message.sender), []).append(recipient)
    return found


def _assigned(weights: dict[Place, int], jobs: int) -> dict[Place, int]:
    """The number of the process of each place. Each process has at least one."""
    load = [(0, number) for number in range(jobs)]
    owner = {}
    for where in sorted(weights, key=lambda one: (-weights[one], one)):
        least, number = load[0]
        owner[where] = number
        heapq.heapreplace(load, (least + weights[where], number))
    return owner


def _add_parts(shares: list[Share], number: int, places: dict[Place, list[str]], owner: dict[Place, int]) -> None:
    """Give each process its part of a message."""
    parts: dict[int, list[str]] = {}
    for where, recipients in places.items():
        parts.setdefault(owner[where], []).extend(recipients)
    for process, recipients in parts.items():
        shares[process].parts.append(SharePart(number, tuple(recipients)))


def _by_message(messages: Sequence[Outgoing], jobs: int) -> list[Share]:
    """Each message for the process with the least work."""
    shares = [Share() for _ in range(min(jobs, len(messages)))]
    load = [(0, number) for number in range(len(shares))]
    for number, message in enumerate(messages):
        least, process = load[0]
        shares[process].parts.append(SharePart(number, message.recipients))
        heapq.heapreplace(load, (least + message.size + _MESSAGE, process))
    return shares


# --------------------------------------------------------------------- limits


def _of_destination(limits: Limits) -> Iterable[int]:
    """The limits on one destination."""
    yield limits.per_destination
    if limits.connections_per_minute:
        yield limits.connections_per_minute


def divided_limits(limits: Limits, shares: Sequence[Share], *, one_place: bool) -> list[Limits]:
    """The limits of each share. A rate of messages is divided in proportion to them, every other limit evenly."""
    even = [1] * len(shares)
    work = [len(share.parts) for share in shares]
    connections = divided(limits.connections, even)
    slow = divided(limits.slow_connections, even, least=0)
    waiting = [max(limits.waiting // len(shares), 1)] * len(shares)
    rates = [
        [rate._replace(allowed=allowed) for allowed in divided(rate.allowed, work)] for rate in limits.message_rates
    ]
    if one_place:
        most = divided(limits.per_destination, even)
        minute = divided(limits.connections_per_minute, even, least=min(limits.connections_per_minute, 1))
    else:
        most = [limits.per_destination] * len(shares)
        minute = [limits.connections_per_minute] * len(shares)
    return [
        replace(
            limits,
            connections=connections[number],
            slow_connections=slow[number],
            per_destination=most[number],
            connections_per_minute=minute[number],
            message_rate=" ".join(str(each[number]) for each in rates),
            waiting=waiting[number],
        )
        for number in range(len(shares))
    ]


def divided(total: int, weights: Sequence[int], *, least: int = 1) -> list[int]:
    """``total`` in as many parts as there are ``weights``, in their proportion, each at least ``least``.

    The parts add up to ``total``, which must be enough for ``least`` each.
    """
    rest = total - least * len(weights)
    whole = sum(weights)
    parts = [rest * weight // whole for weight in weights]
    left = sorted(range(len(weights)), key=lambda number: (-(rest * weights[number] % whole), number))
    for number in left[: rest - sum(parts)]:
        parts[number] += 1
    return [least + part for part in parts]
