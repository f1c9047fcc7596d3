"""Parses the table of ``tls-policy-file``: the TLS policies of single destinations (``zsmtp-tls.conf(5)``).

Lines are ``destination level [match=name,...] [fingerprint=digest,...] [sni=name]``::

    example.org          secure  match=mail.example.org,.mx.example.net
    .example.com         encrypt
    [192.0.2.1]          fingerprint  fingerprint=A1:B2:...
    *                    may

An invalid line stays in the table as a problem: its destination should have a policy, and mail to it waits until the
operator has corrected the line. The same functions parse the values here and in the main file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from zsmtp.dns.ip import canonical_ip
from zsmtp.dns.literal import Literal, Name, domain_problem, parse_destination
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.idn import to_ascii
from zsmtp.tls.policy import Level, TLSPolicy, parse_fingerprint

_COMMENT = re.compile(r"(?:^|(?<=\s))[#;]")
_MATCH_WORDS = frozenset({"hostname", "nexthop", "dot-nexthop"})
_OPPORTUNISTIC = frozenset({Level.NONE, Level.MAY})


def is_demanding(level: Level) -> bool:
    """Whether ``level`` requires more than opportunistic TLS."""
    return level not in _OPPORTUNISTIC


def significant_lines(data: bytes) -> list[tuple[int, str]]:
    """Lines with their numbers, without comments and blank ones. A comment starts the line or follows a blank."""
    texts = (_COMMENT.split(line.decode("utf-8", "surrogateescape"), maxsplit=1)[0] for line in data.split(b"\n"))
    return [(number, stripped) for number, text in enumerate(texts, 1) if (stripped := text.strip())]


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One line of the table: a policy, or the error in the line."""

    line: int
    policy: TLSPolicy | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """Policies by destination, from the file ``path``.

    Keys are host names, ``.domain`` for everything below it, ``[address]``, ``unix:/path``, and ``*`` for all others.
    """

    path: str
    entries: dict[str, TableEntry] = field(default_factory=dict)

    def find(self, destination: str) -> TableEntry | None:
        """The entry for ``destination``: its own, else that of the nearest ``.domain`` above it, else ``*``."""
        key = _key(destination)
        if key is not None and self.entries:
            found = self.entries.get(key)
            if found is not None:
                return found
            if not key.startswith(("[", "unix:")):
                _, *parents = key.split(".")
                for start in range(len(parents)):
                    found = self.entries.get("." + ".".join(parents[start:]))
                    if found is not None:
                        return found
        return self.entries.get("*")

    @property
    def demanding(self) -> bool:
        """Whether a line requires more than opportunistic TLS, or may have been meant to."""
        entries = self.entries.values()
        return any(entry.policy is None or is_demanding(entry.policy.level) for entry in entries)


def _key(destination: str) -> str | None:
    """The table's key of a destination; None for an invalid one."""
    parsed = parse_destination(destination, allow_unix=True)
    if isinstance(parsed, Name):
        return parsed.domain
    if isinstance(parsed, Literal):
        return f"unix:{parsed.address}" if parsed.address.startswith("/") else f"[{parsed.address}]"
    return None


def parse_table(data: bytes, path: str) -> tuple[PolicyTable, list[str]]:
    """The table in a file's content, and remarks on invalid lines.

    ``destination level [match=name,...] [fingerprint=digest,...] [sni=name]``; the first line of a destination counts.
    """
    table = PolicyTable(path)
    remarks: list[str] = []
    for number, line in significant_lines(data):
        destination, *words = line.split()
        if destination == "*":
            key: str | None = "*"
        elif destination.startswith("."):
            below = _key(destination[1:])
            key = f".{below}" if below is not None else None
        else:
            key = _key(destination)
        if key is None:
            remarks.append(f"{path}:{number}: not a destination: {escape(destination[:80])}")
        elif key in table.entries:
            remarks.append(
                f"{path}:{number}: {escape(destination[:80])} stands in line {table.entries[key].line} already"
            )
        else:
            try:
                table.entries[key] = TableEntry(number, _table_policy(words))
            except ConfigError as error:
                table.entries[key] = TableEntry(number, None, str(error))
                remarks.append(f"{path}:{number}: {error}; mail to {escape(destination[:80])} waits")
    return table, remarks


def _table_policy(words: list[str]) -> TLSPolicy:
    if not words:
        raise ConfigError("no level")
    policy = TLSPolicy(level=read_level(words[0]))
    for word in words[1:]:
        name, equals, value = word.partition("=")
        name = name.lower()
        if not equals or name not in ("match", "fingerprint", "sni"):
            raise ConfigError(f"unknown attribute {escape(word[:80])}")
        if name == "match":
            policy = replace(policy, match=read_names(value))
        elif name == "fingerprint":
            policy = replace(policy, fingerprints=read_fingerprints(value))
        else:
            policy = replace(policy, server_name=read_host(value))
    check_policy(policy)
    return policy


def read_level(value: str) -> Level:
    """The level that a word names; raises ConfigError for any other word."""
    try:
        return Level(value.lower())
    except ValueError:
        raise ConfigError(f"not a level: {escape(value[:80])}") from None


def read_host(value: str) -> str:
    """A host name in A-labels; raises ConfigError for an invalid one."""
    name = to_ascii(value)
    if name is None or domain_problem(name) is not None:
        raise ConfigError(f"not a host name: {escape(value[:80])}")
    return name


def read_names(value: str) -> tuple[str, ...]:
    """Names to match a certificate with: words, addresses, host names, ``.domain``."""
    names = []
    for word in value.replace(",", " ").split():
        if word.lower() in _MATCH_WORDS:
            names.append(word.lower())
        elif (address := canonical_ip(word)) is not None:
            names.append(address)
        else:
            names.append("." * word.startswith(".") + read_host(word.removeprefix(".")))
    if not names:
        raise ConfigError("no name to match")
    return tuple(names)


def read_fingerprints(value: str) -> tuple[bytes, ...]:
    """One or more digests; raises ConfigError for an invalid one."""
    digests = tuple(parse_fingerprint(word) for word in value.replace(",", " ").split())
    if not digests:
        raise ConfigError("no fingerprint")
    return digests


def check_policy(policy: TLSPolicy) -> None:
    """Raise ConfigError if the parts of a policy contradict each other."""
    if policy.level is Level.FINGERPRINT and not policy.fingerprints:
        raise ConfigError("level fingerprint without a fingerprint")
    if policy.fingerprints and policy.level is not Level.FINGERPRINT:
        raise ConfigError(f"a fingerprint has no place at level {policy.level.value}")
    if policy.match and policy.level not in (Level.VERIFY, Level.SECURE):
        raise ConfigError(f"names to match have no place at level {policy.level.value}")
