"""Plans as the destination rules make them, and zones to answer the questions that generators ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from zsmtp.dns.answer import MX, Answer, Query, Record, RecordType, Status
from zsmtp.dns.candidates import Candidate, Endpoint, Family, Plan
from zsmtp.effects import Effect, Operation, carry_out

T = TypeVar("T")

ENDPOINT = Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET)
LITERAL = Endpoint("192.0.2.1", "192.0.2.1", 25, Family.INET, literal=True)
SOCKET = Endpoint("/run/lmtp", "/run/lmtp", 0, Family.UNIX, literal=True)


def answer(
    name: str,
    kind: RecordType,
    *records: Record,
    status: Status | None = None,
    secure: bool = True,
    alias: str = "",
    problem: str = "",
) -> Answer:
    """An answer, OK if it has records, else NODATA; ``alias`` is the name at the end of the aliases."""
    status = status or (Status.OK if records else Status.NODATA)
    return Answer(Query(name, kind), status, records, canonical=alias or name, secure=secure, problem=problem)


def plan(*lookups: Answer, destination: str = "example.org", endpoint: Endpoint = ENDPOINT) -> Plan:
    """A plan that rests on these lookups."""
    return Plan(destination, (Candidate(endpoint),), lookups=lookups)


def signed_plan(*, mx_secure: bool = True, address_secure: bool = True) -> Plan:
    """The plan of example.org with the exchanger of ``ENDPOINT``."""
    return plan(
        answer("example.org", RecordType.MX, MX(10, "mx.example.org"), secure=mx_secure),
        answer("mx.example.org", RecordType.A, "192.0.2.1", secure=address_secure),
        answer("mx.example.org", RecordType.AAAA, secure=address_secure),
    )


def run(work: Operation[T], zone: Mapping[str, Answer] | None = None) -> tuple[T, list[str]]:
    """Run rules that ask for TLSA records; the result, and the names asked for. What the zone lacks is not there."""
    asked: list[str] = []

    def perform(effect: Effect[Any]) -> Answer:
        assert isinstance(effect, Query)
        assert effect.type is RecordType.TLSA
        asked.append(effect.name)
        missing = Answer(effect, Status.NXDOMAIN, canonical=effect.name, secure=True)
        return (zone or {}).get(effect.name, missing)

    return carry_out(work, perform), asked
