"""Key records: the TXT record at ``selector._domainkey.domain`` (RFC 6376 3.6.1, RFC 8463 4).

:func:`parse_record` parses the text of one TXT record, :func:`key_record` makes it for a key of this side, and
:func:`zone_entry` formats it for a zone file, in strings of at most 255 octets (RFC 1035 3.3.14). No lookups are made
here: :func:`record_in` takes the answer of a lookup and returns the record, or raises the reason why there is none::

    record = record_in(answer)
    record.public_key, record.testing
"""

from __future__ import annotations

from base64 import b64encode

from zsmtp.dns.answer import Answer, Status
from zsmtp.records import dataclass
from zsmtp.signing.signature import Algorithm
from zsmtp.signing.tags import parse_base64, parse_tags, parse_words, shown

MAX_RECORD = 8192  # octets of a TXT record that is parsed
MAX_STRING = 255  # octets of one string of it

_KEY_TYPES = {algorithm.key_type.encode("ascii"): algorithm for algorithm in Algorithm}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The content of one record. ``public_key`` is empty if the key was revoked.

    ``testing``: the domain tries DKIM out (``t=y``); ``strict``: ``i=`` must name the very domain of ``d=`` (``t=s``).
    """

    algorithm: Algorithm
    public_key: bytes
    testing: bool = False
    strict: bool = False


class NoRecord(ValueError):
    """There is no usable key at a name; the text is the reason. ``temporary``: there may be one later."""

    def __init__(self, reason: str, *, temporary: bool = False) -> None:
        self.temporary = temporary
        super().__init__(reason)


def parse_record(text: bytes) -> KeyRecord:
    """Parse the text of one record. Raises ValueError with the reason if it is no key record for mail."""
    if len(text) > MAX_RECORD:
        raise ValueError(f"longer than {MAX_RECORD} octets")
    tags = parse_tags(text)
    if b"v" in tags and (tags[b"v"] != b"DKIM1" or next(iter(tags)) != b"v"):
        raise ValueError("v= is not DKIM1, or is not the first tag")
    if b"p" not in tags:
        raise ValueError("p= is missing")
    key_type = tags.get(b"k", b"rsa")
    if key_type not in _KEY_TYPES:
        raise ValueError(f"key type {shown(key_type)} is not known")
    if b"h" in tags and b"sha256" not in parse_words(tags[b"h"]):
        raise ValueError("h= does not allow sha256")
    services = parse_words(tags.get(b"s", b"*"))
    if b"*" not in services and b"email" not in services:
        raise ValueError("s= does not allow email")
    flags = parse_words(tags.get(b"t", b""))
    return KeyRecord(_KEY_TYPES[key_type], parse_base64(tags[b"p"], "p"), b"y" in flags, b"s" in flags)


def record_in(answer: Answer) -> KeyRecord:
    """The key record in the answer to a TXT query; there must be exactly one (3.6.2.2). Raises NoRecord."""
    name = shown(answer.query.name)
    if answer.temporary:
        problem = shown(answer.problem) or answer.status.value
        raise NoRecord(f"the key at {name} cannot be looked up now: {problem}", temporary=True)
    if answer.status is not Status.OK:
        raise NoRecord(f"no key at {name}: {answer.status.value}")
    texts = [b"".join(record) for record in answer.records if isinstance(record, tuple)]
    found: list[KeyRecord] = []
    problem = "no TXT record"
    for text in texts:
        try:
            found.append(parse_record(text))
        except ValueError as error:
            problem = str(error)
    if not found:
        raise NoRecord(f"the record at {name} is no key: {problem}")
    if len(found) > 1:
        raise NoRecord(f"{len(found)} keys at {name}, where one is allowed")
    return found[0]


def key_record(algorithm: Algorithm, public_key: bytes) -> str:
    """The record text to publish for a key."""
    return f"v=DKIM1; k={algorithm.key_type}; p={b64encode(public_key).decode('ascii')}"


def strings_of(text: str) -> tuple[str, ...]:
    """The text of a record, split into strings of the length that a TXT record allows."""
    return tuple(text[place : place + MAX_STRING] for place in range(0, len(text), MAX_STRING))


def zone_entry(name: str, text: str) -> str:
    """A TXT record in zone file format (RFC 1035 5.1)."""
    quoted = (string.replace("\\", "\\\\").replace('"', '\\"') for string in strings_of(text))
    first, *rest = (f'"{string}"' for string in quoted)
    if not rest:
        return f"{name}. IN TXT {first}\n"
    return "\n    ".join((f"{name}. IN TXT ( {first}", *rest)) + " )\n"
