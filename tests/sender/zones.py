"""Zones to check senders against: names and what they have, asked by rules without a name server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from zsmtp.dns.answer import MX, TLSA, Answer, Query, Record, RecordType, Status
from zsmtp.effects import Effect, FetchPolicy, Operation, carry_out
from zsmtp.tls.mtasts import FetchedPolicy
from zsmtp.tls.problem import TLSProblem

T = TypeVar("T")

Zone = Mapping[tuple[str, RecordType], "list[Record] | Status"]


def zone(text: str) -> dict[tuple[str, RecordType], list[Record] | Status]:
    """A zone of lines such as ``example.org MX 10 mx.example.org``; TXT is the rest of the line, ``|`` parts strings.

    ``example.org TXT !timeout`` is a lookup that fails.
    """
    found: dict[tuple[str, RecordType], list[Record] | Status] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, kind, rest = line.split(" ", 2)
        key = (name.lower(), RecordType(kind) if kind != "CNAME" else RecordType.WKS)
        if rest.startswith("!"):
            found[key] = Status[rest[1:].upper()]
            continue
        record: Record = rest
        if kind == "MX":
            preference, exchange = rest.split()
            record = MX(int(preference), exchange.removesuffix("."))
        elif kind == "TLSA":
            usage, selector, matching, digits = rest.split()
            record = TLSA(int(usage), int(selector), int(matching), bytes.fromhex(digits))
        elif kind == "TXT":
            record = tuple(part.encode() for part in rest.split("|"))
        records = found.setdefault(key, [])
        assert isinstance(records, list)
        records.append(record)
    return found


def asked(work: Operation[T], names: Zone, policy: bytes | None = None) -> tuple[T, list[str]]:
    """The result of rules, and what they asked; a policy of MTA-STS is ``policy``."""
    questions: list[str] = []

    def perform(effect: Effect[Any]) -> object:
        if isinstance(effect, FetchPolicy):
            if policy is None:
                return FetchedPolicy(failure=TLSProblem.STS_WEBPKI_INVALID, problem="the certificate has expired")
            return FetchedPolicy(policy)
        assert isinstance(effect, Query), effect
        questions.append(f"{effect.type.value} {effect.name}")
        return _answer(effect, names)

    return carry_out(work, perform), questions


def _answer(query: Query, names: Zone) -> Answer:
    name = query.name.lower()
    for _ in range(10):
        alias = names.get((name, RecordType.WKS))
        if not isinstance(alias, list):
            break
        name = str(alias[0]).lower()
    found = names.get((name, query.type))
    if isinstance(found, Status):
        return Answer(query, found, canonical=name)
    if found:
        return Answer(query, Status.OK, tuple(found), canonical=name)
    known = any(one == name or one.endswith(f".{name}") for one, _ in names)
    return Answer(query, Status.NODATA if known else Status.NXDOMAIN, canonical=name)


def result(work: Operation[T], names: str) -> T:
    """The result of rules in a zone."""
    return asked(work, zone(names))[0]
