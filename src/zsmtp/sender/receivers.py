"""What large receivers ask of senders: data of ``receivers.toml``, with where each says so and since when."""

from __future__ import annotations

import tomllib
from enum import Enum
from functools import cache
from importlib.resources import files

from zsmtp.records import dataclass


class SenderRequirement(Enum):
    """Something that is asked for; the value is the word in the file."""

    SPF_OR_DKIM = "spf or dkim"
    SPF = "spf"
    DKIM = "dkim"
    DMARC = "dmarc"
    ALIGNMENT = "alignment"
    REVERSE = "reverse name"
    TLS = "tls"
    HEADER = "valid header"
    ONE_CLICK = "one-click unsubscribe"


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver and what it asks for."""

    name: str
    source: str
    """The page where it says so."""
    since: str
    """Since when, as a date."""
    seen: str
    """When the page was read last."""
    all: frozenset[SenderRequirement]
    """Of everybody."""
    bulk: frozenset[SenderRequirement]
    """Beside that of those who send much."""


@cache
def receivers() -> tuple[Receiver, ...]:
    """All that are known."""
    text = files("zsmtp.sender").joinpath("receivers.toml").read_text("utf-8")
    return tuple(
        Receiver(
            one["name"],
            one["source"],
            one["since"],
            one["seen"],
            frozenset(map(SenderRequirement, one["all"])),
            frozenset(map(SenderRequirement, one["bulk"])),
        )
        for one in tomllib.loads(text)["receiver"]
    )


def asking(*wanted: SenderRequirement) -> tuple[str, ...]:
    """Who asks for one of these, in words: ``Gmail``, or ``Outlook.com (bulk)`` where only bulk senders are asked."""
    found = []
    for one in receivers():
        if one.all.intersection(wanted):
            found.append(one.name)
        elif one.bulk.intersection(wanted):
            found.append(f"{one.name} (bulk)")
    return tuple(found)
