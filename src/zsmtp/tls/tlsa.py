"""The lookup rules of DANE: whether it applies to a candidate, and the names of its TLSA records (RFC 7672 2).

:func:`find_tlsa` awaits a ``Query`` for each lookup, and uses the answers in the Plan. DANE applies only if all of
those are *secure*, that is validated by a trusted resolver: the MX set (or its absence), its aliases, and the address
the connection goes to. Then:

- The records are looked up at the *base domain*: the name at the end of the host's aliases, if all of them are secure,
  otherwise the host's own name (2.2.3). ``_25._tcp.``, with the port in use, is its prefix.
- No records, or insecure ones: the domain does not use DANE. Unusable records: it requires TLS without authentication
  (2.2). A failed lookup: an attacker may be hiding the records, so the candidate must wait (2.1.2, 2.2.3).
- If an alias leads out of the signed zones, only the host's own name is looked up. A broken name server cannot be
  distinguished from a suppressed one, so a failure counts there as well.
"""

from __future__ import annotations

from enum import Enum

from zsmtp.dns.answer import TLSA, Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family, Plan
from zsmtp.dns.literal import Name, parse_destination
from zsmtp.records import NamedTuple, dataclass

MAX_ALIAS_STEPS = 8


class Finding(Enum):
    """The result of looking up TLSA records."""

    NONE = "no DANE"  # not wanted, or an answer is not secure
    USABLE = "usable TLSA records"
    UNUSABLE = "no usable TLSA record"  # TLS without authentication
    FAILED = "TLSA lookup failed"  # not now


@dataclass(frozen=True, slots=True)
class TLSAFinding:
    """The result for one candidate. ``reason`` describes it.

    ``base`` is the base domain, the name to send in the handshake (SNI); ``names`` are those that a certificate under
    DANE-TA may have (RFC 7672 3.2.3); ``records`` are the usable ones. All are empty without usable records.
    """

    finding: Finding
    reason: str
    base: str = ""
    names: tuple[str, ...] = ()
    records: tuple[TLSA, ...] = ()


class _Trail(NamedTuple):
    """The end of a name's chain of aliases, and whether every answer of the chain was secure."""

    canonical: str
    secure: bool
    empty: bool


def mx_is_secure(plan: Plan) -> bool:
    """Whether a secure answer named the exchangers of this plan (or the destination is a host itself)."""
    trail = _mx_trail(plan)
    return trail is None or trail.secure


async def find_tlsa(plan: Plan, endpoint: Endpoint) -> TLSAFinding:
    """Look up the TLSA records of one candidate of ``plan``."""
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
        from zsmtp.tls.dane import usable  # most domains have no such records

        records = usable(answer.records)
        if not records:
            return TLSAFinding(Finding.UNUSABLE, f"no TLSA record of {base} can be used", base)
        allowed = tuple(filter(None, dict.fromkeys([base, *names])))
        return TLSAFinding(Finding.USABLE, f"TLSA records of {base}", base, allowed, records)
    return TLSAFinding(Finding.NONE, f"no DANE: {bases[0]} has no secure TLSA records")


async def _ask(name: str) -> tuple[Answer, bool]:
    """The answer at the end of the aliases of ``name``, and whether all answers of the chain were secure.

    Resolvers follow aliases themselves; if one stops halfway, records must not seem absent.
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
    """The trail of the plan's MX lookup; None if there was none."""
    domain = _domain(plan)
    return _follow(plan, domain, RecordType.MX) if domain else None


def _follow(plan: Plan, name: str, kind: RecordType) -> _Trail | None:
    """The trail of the plan's own lookups from ``name``; None if it was not looked up."""
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
