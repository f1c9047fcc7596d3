"""Whether DANE applies to a candidate, and where its TLSA records are: the lookup rules (RFC 7672 2).

:func:`find_tlsa` awaits a ``Query`` for each lookup. What it rests on are the answers
that the Plan already holds. DANE applies only if they were all *secure*, that is validated by a resolver that is
trusted: the MX set (or its absence), its aliases, and the address the connection goes to. Then:

- The records are looked for at the *base domain*: the name at the end of the host's aliases, if all of them are
  secure, and failing that the host's own name (2.2.3). ``_25._tcp.`` goes before it, with the port in use.
- No records, or insecure ones: the domain does not ask for DANE. Records that cannot be used: it asks for TLS, without
  saying to whom (2.2). A lookup that fails: somebody may be hiding them, so the candidate must wait (2.1.2, 2.2.3).
- An alias that leads out of the signed zones leaves the host's own name: only that one is asked about then. Nothing
  distinguishes a name server that is broken from one that is being suppressed, so a failure counts there as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from zsmtp.dns.answer import TLSA, Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family, Plan
from zsmtp.dns.literal import Name, parse_destination
from zsmtp.records import NamedTuple
from zsmtp.tls.dane import usable

MAX_ALIAS_STEPS = 8


class Finding(Enum):
    """What looking for TLSA records came to."""

    NONE = "no DANE"  # not asked for, or nothing here is secure
    USABLE = "usable TLSA records"
    UNUSABLE = "no usable TLSA record"  # TLS, authenticated to nobody
    FAILED = "TLSA lookup failed"  # not now


@dataclass(frozen=True, slots=True)
class TLSAFinding:
    """The result for one candidate. ``reason`` says it in words.

    ``base`` is the base domain, the name to ask for in the handshake (SNI); ``names`` are those that a certificate
    under DANE-TA may speak for (RFC 7672 3.2.3); ``records`` are the usable ones. Empty unless there are any.
    """

    finding: Finding
    reason: str
    base: str = ""
    names: tuple[str, ...] = ()
    records: tuple[TLSA, ...] = ()


class _Trail(NamedTuple):
    """Where the aliases of a name led, and whether every answer on the way was secure."""

    canonical: str
    secure: bool
    empty: bool


def mx_is_secure(plan: Plan) -> bool:
    """Whether the exchangers of this plan were named securely (or the destination is a host that needs no naming)."""
    trail = _mx_trail(plan)
    return trail is None or trail.secure


async def find_tlsa(plan: Plan, endpoint: Endpoint) -> TLSAFinding:
    """Look for the TLSA records of one candidate of ``plan``."""
    if endpoint.literal or endpoint.family is Family.UNIX:
        return TLSAFinding(Finding.NONE, "no DANE for an address")
    mx = _mx_trail(plan)
    if mx is not None and not mx.secure:
        return TLSAFinding(Finding.NONE, "no DANE: the MX answer is not secure")
    kind = RecordType.AAAA if endpoint.family is Family.INET6 else RecordType.A
    host = endpoint.host.lower()
    address = _follow(plan, host, kind)
    if address is None or (not address.secure and address.canonical == host):
        return TLSAFinding(Finding.NONE, f"no DANE: the address of {host} is not secure")
    domain = _domain(plan)
    bases = [address.canonical, host] if address.secure else [host]
    if mx is not None and mx.empty and domain:  # without MX the destination is the host (RFC 7672 2.2.2)
        bases.append(domain)
    names = [domain, mx.canonical] if mx is not None else []
    return await _at_first(list(dict.fromkeys(bases)), endpoint.port, [host, *names])


async def _at_first(bases: list[str], port: int, names: list[str]) -> TLSAFinding:
    """The records at the first of the base domains that has any."""
    for base in bases:
        answer, secure = await _ask(f"_{port}._tcp.{base}")
        if answer.temporary or (secure and answer.problem):
            reason = f"lookup of TLSA for {base} failed: {answer.status.value}"
            return TLSAFinding(Finding.FAILED, f"{reason} ({answer.problem})" if answer.problem else reason)
        if not secure or answer.status is not Status.OK:
            continue
        records = usable(answer.records)
        if not records:
            return TLSAFinding(Finding.UNUSABLE, f"no TLSA record of {base} can be used", base)
        allowed = tuple(filter(None, dict.fromkeys([base, *names])))
        return TLSAFinding(Finding.USABLE, f"TLSA records of {base}", base, allowed, records)
    return TLSAFinding(Finding.NONE, f"no DANE: {bases[0]} has no secure TLSA records")


async def _ask(name: str) -> tuple[Answer, bool]:
    """The answer at the end of the aliases of ``name``, and whether all of the way there was secure.

    Resolvers follow aliases themselves; one that stops halfway must not make records look absent.
    """
    secure = True
    seen = {name}
    while True:
        answer = await Query(name, RecordType.TLSA)
        secure = secure and answer.secure
        alias = answer.canonical.lower()
        if answer.status is not Status.NODATA or answer.problem or alias in ("", name):
            return answer, secure
        if alias in seen or len(seen) > MAX_ALIAS_STEPS:
            return Answer(answer.query, Status.NODATA, problem="aliases without end"), secure
        seen.add(alias)
        name = alias


def _domain(plan: Plan) -> str:
    """The destination as a host name, "" if it is something else."""
    parsed = parse_destination(plan.destination)
    return parsed.domain if isinstance(parsed, Name) else ""


def _mx_trail(plan: Plan) -> _Trail | None:
    """How the plan's MX lookup went; None if there was none."""
    domain = _domain(plan)
    return _follow(plan, domain, RecordType.MX) if domain else None


def _follow(plan: Plan, name: str, kind: RecordType) -> _Trail | None:
    """The way the plan's own lookups took from ``name``; None if that was not asked."""
    answers = {answer.query.name: answer for answer in plan.lookups if answer.query.type is kind}
    secure, seen = True, set[str]()
    while (answer := answers.get(name)) is not None:
        secure = secure and answer.secure
        seen.add(name)
        canonical = answer.canonical.lower() or name
        empty = answer.status is Status.NODATA
        if not empty or answer.problem or canonical in seen or canonical not in answers:
            return _Trail(canonical, secure, empty)
        name = canonical
    return None
