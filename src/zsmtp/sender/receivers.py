"""The requirements of large receivers for senders: data of ``receivers.toml``, each with its source and date."""

from __future__ import annotations

import tomllib
from enum import Enum
from functools import cache
from importlib.resources import files

from zsmtp.records import dataclass


class SenderRequirement(Enum):
    """A requirement; the value is the word in the file."""

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
    """One receiver and its requirements."""

    name: str
    source: str
    """The page that states them."""
    since: str
    """Their start, as a date."""
    seen: str
    """The date when the page was last read."""
    all: frozenset[SenderRequirement]
    """For all senders."""
    bulk: frozenset[SenderRequirement]
    """In addition, for senders of bulk mail."""


@cache
def receivers() -> tuple[Receiver, ...]:
    """All known receivers."""
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
    """The receivers with one of these requirements: ``Gmail``, or ``Outlook.com (bulk)`` if for bulk senders only."""
    found = []
    for one in receivers():
        if one.all.intersection(wanted):
            found.append(one.name)
        elif one.bulk.intersection(wanted):
            found.append(f"{one.name} (bulk)")
    return tuple(found)
