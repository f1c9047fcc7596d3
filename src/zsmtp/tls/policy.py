"""The TLS requirement of a session with a candidate: the rules of precedence among all who may require TLS.

Four parties may ask for TLS: the administrator (a level for all mail or for a destination), the destination itself
through DNSSEC (DANE, RFC 7672) or through HTTPS (MTA-STS, RFC 8461), and the sender of the message (RFC 8689). The
coroutine :func:`requirement` combines them, awaits TLSA records where DANE may apply, and returns one value: a
:class:`Requirement` with which ``zsmtp.tls.judgement`` compares a session, or :class:`Barred`, if the candidate must
not be used now. The result is never weaker than required:

- If the administrator pins the peer (fingerprints, or names of his own choice), no other party counts.
- DANE comes before MTA-STS (RFC 8461 2), both before a level that is merely configured.
- Unusable TLSA records leave the other requirements in force, and require at least encryption (RFC 7672 2.2).
- MTA-STS in testing mode requires nothing; the requirement that it would mean is kept as ``trial``, judged as well, and
  reported.
- REQUIRETLS raises the result to an authenticated level; ``TLS-Required: No`` overrides DANE and MTA-STS, but not the
  administrator.
"""

from __future__ import annotations

from enum import Enum

from zsmtp.dns.answer import TLSA
from zsmtp.dns.candidates import Endpoint, Family, Plan
from zsmtp.dns.literal import Literal, Name, parse_destination
from zsmtp.errors import ConfigError
from zsmtp.proto.plan import TLSDemand
from zsmtp.records import dataclass, replace
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsa import Finding, TLSAFinding, find_tlsa, mx_is_secure


class Level(Enum):
    """The level of protection; the value is the word in configuration files."""

    NONE = "none"  # no TLS
    MAY = "may"  # TLS if available, with any peer
    ENCRYPT = "encrypt"  # TLS or nothing, with any peer
    FINGERPRINT = "fingerprint"  # TLS with a known certificate or key
    VERIFY = "verify"  # TLS, chain and name of the exchanger as found in the DNS
    SECURE = "secure"  # TLS, chain and name of the destination, which the DNS cannot change
    DANE = "dane"  # by TLSA records; MAY without any
    DANE_ONLY = "dane-only"  # by TLSA records, or no delivery


class RequirementSource(Enum):
    """The party that a requirement comes from."""

    CONFIGURED = "configured"
    DANE = "dane"
    MTA_STS = "mta-sts"
    REQUIRETLS = "requiretls"


class STSMode(Enum):
    """The mode of an MTA-STS policy (RFC 8461 5); policies of mode ``none`` are no policies here."""

    ENFORCE = "enforce"
    TESTING = "testing"


class STSUse(Enum):
    """How MTA-STS policies are used."""

    OFF = "off"
    ON = "on"
    TESTING = "testing"  # all of them as in testing mode: judged and reported, not enforced


@dataclass(frozen=True, slots=True, kw_only=True)
class STSFinding:
    """The destination's MTA-STS policy for one exchanger.

    ``listed``: the exchanger's name matches one of the policy's mx patterns.
    """

    mode: STSMode
    listed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSPolicy:
    """The configuration for a destination.

    ``match`` are the names that a certificate may have: host names, ``.domain`` for everything below it, and the words
    ``hostname`` (the exchanger), ``nexthop`` (the destination), ``dot-nexthop`` (everything below it); empty means
    ``hostname`` for VERIFY and the other two for SECURE. ``fingerprints`` are SHA-256 or SHA-512 digests of
    certificates or public keys. ``dane`` means TLSA lookups at every level. ``server_name`` replaces the name sent in
    the handshake (SNI).
    """

    level: Level = Level.MAY
    match: tuple[str, ...] = ()
    fingerprints: tuple[bytes, ...] = ()
    dane: bool = False
    server_name: str = ""

    @property
    def wants_dane(self) -> bool:
        """Whether to look up TLSA records."""
        return not self.pinned and (self.dane or self.level in (Level.DANE, Level.DANE_ONLY))

    @property
    def pinned(self) -> bool:
        """Whether the administrator has pinned the peer, so that no other party counts."""
        return self.level is Level.FINGERPRINT or (self.level in (Level.VERIFY, Level.SECURE) and bool(self.match))


@dataclass(frozen=True, slots=True)
class Barred:
    """The candidate must not be used now; ``reason`` in words, ``problem`` for reports, ``source``: who requires it."""

    reason: str
    source: RequirementSource
    problem: TLSProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """The requirement for a session with one candidate, with its reason.

    ``level`` is one of NONE, MAY, ENCRYPT, FINGERPRINT, VERIFY, SECURE and DANE, the last always with usable ``tlsa``
    records. ``names`` are the references a certificate is matched with (see ``zsmtp.tls.names``); VERIFY and SECURE
    differ only in them. ``server_name`` is the SNI to send, "" for none. ``trial`` is the requirement of MTA-STS in
    testing mode: judged and reported, not enforced.
    """

    level: Level
    reason: str
    source: RequirementSource = RequirementSource.CONFIGURED
    names: tuple[str, ...] = ()
    fingerprints: tuple[bytes, ...] = ()
    tlsa: tuple[TLSA, ...] = ()
    server_name: str = ""
    trial: Requirement | Barred | None = None

    @property
    def wants_tls(self) -> bool:
        """Whether to use STARTTLS where it is offered."""
        return self.level is not Level.NONE

    @property
    def needs_tls(self) -> bool:
        """Whether nothing may be sent without TLS."""
        return self.level not in (Level.NONE, Level.MAY)

    @property
    def authenticates(self) -> bool:
        """Whether the peer must be authenticated."""
        return self.needs_tls and self.level is not Level.ENCRYPT


async def requirement(
    plan: Plan,
    endpoint: Endpoint,
    policy: TLSPolicy,
    *,
    sts: STSFinding | None = None,
    wish: TLSDemand = TLSDemand.NONE,
) -> Requirement | Barred:
    """The requirement for one candidate of ``plan``. Awaits TLSA lookups.

    ``sts`` is the destination's MTA-STS policy for this exchanger, None without one.
    """
    base = _configured(plan, endpoint, policy)
    use_dane = policy.wants_dane
    if wish is TLSDemand.TLS_OPTIONAL:
        sts = None
        use_dane = policy.level is Level.DANE_ONLY
    result: Requirement | Barred = base
    if not policy.pinned:
        found = None
        if use_dane:
            found = await find_tlsa(plan, endpoint)
        result = _combined(base, policy, endpoint, found, sts)
    if wish is TLSDemand.REQUIRETLS:
        result = _raised(result, policy, plan, endpoint)
    return result


def _configured(plan: Plan, endpoint: Endpoint, policy: TLSPolicy) -> Requirement:
    """The administrator's requirement. DANE levels without TLSA records mean MAY."""
    level = Level.MAY if policy.level in (Level.DANE, Level.DANE_ONLY) else policy.level
    names: tuple[str, ...] = ()
    if level in (Level.VERIFY, Level.SECURE):
        names = _names(policy, plan, endpoint)
    return Requirement(
        level=level,
        reason=f"configured level {policy.level.value}",
        names=names,
        fingerprints=policy.fingerprints if level is Level.FINGERPRINT else (),
        server_name=policy.server_name or _host_name(endpoint),
    )


def _combined(
    base: Requirement, policy: TLSPolicy, endpoint: Endpoint, found: TLSAFinding | None, sts: STSFinding | None
) -> Requirement | Barred:
    """The requirement of DANE, else of MTA-STS, else of the configuration."""
    if found is not None:
        if found.finding is Finding.FAILED:
            return Barred(found.reason, RequirementSource.DANE, TLSProblem.DNSSEC_INVALID)
        if found.finding is Finding.USABLE:
            return Requirement(
                level=Level.DANE,
                reason=found.reason,
                source=RequirementSource.DANE,
                names=found.names,
                tlsa=found.records,
                server_name=found.base,
            )
        if policy.level is Level.DANE_ONLY:
            problem = TLSProblem.TLSA_INVALID if found.finding is Finding.UNUSABLE else TLSProblem.DANE_REQUIRED
            return Barred(f"level dane-only: {found.reason}", RequirementSource.CONFIGURED, problem)
        base = replace(base, reason=f"{base.reason}; {found.reason}")
    result = base if sts is None else _with_sts(base, endpoint, sts)
    if found is not None and found.finding is Finding.UNUSABLE and isinstance(result, Requirement):
        if not result.needs_tls:
            result = replace(result, level=Level.ENCRYPT, source=RequirementSource.DANE, reason=found.reason)
        result = replace(result, server_name=policy.server_name or found.base)
    return result


def _with_sts(base: Requirement, endpoint: Endpoint, sts: STSFinding) -> Requirement | Barred:
    """The requirement of MTA-STS on top of the configured one."""
    host = endpoint.host.lower()
    enforced: Requirement | Barred
    if sts.listed:
        enforced = Requirement(
            level=Level.SECURE,
            reason=f"MTA-STS policy, mode {sts.mode.value}",
            source=RequirementSource.MTA_STS,
            names=(host,),
            server_name=_host_name(endpoint),
        )
    else:
        reason = f"{host} is not among the exchangers of the MTA-STS policy"
        enforced = Barred(reason, RequirementSource.MTA_STS, TLSProblem.VALIDATION_FAILURE)
    if sts.mode is STSMode.ENFORCE:
        return enforced
    level = Level.MAY if base.level is Level.NONE else base.level
    return replace(base, level=level, trial=enforced)


def _raised(result: Requirement | Barred, policy: TLSPolicy, plan: Plan, endpoint: Endpoint) -> Requirement | Barred:
    """Apply REQUIRETLS (RFC 8689 4.2.1): an authenticated peer, whose name came from a secure answer or a policy.

    If only an insecure answer named the exchanger, a certificate for the destination itself is accepted.
    """
    if isinstance(result, Barred):
        return result
    if result.trial is not None:  # testing mode counts here: the sender requires TLS
        return result.trial
    if result.source is not RequirementSource.CONFIGURED and result.authenticates:
        return result
    if policy.pinned or result.level is Level.SECURE:
        return result
    secure = mx_is_secure(plan)
    wanted = TLSPolicy(level=Level.VERIFY if secure else Level.SECURE)
    return replace(
        result,
        level=wanted.level,
        names=_names(wanted, plan, endpoint),
        source=RequirementSource.REQUIRETLS,
        reason=f"REQUIRETLS, {'a secure' if secure else 'an insecure'} MX answer",
    )


def _names(policy: TLSPolicy, plan: Plan, endpoint: Endpoint) -> tuple[str, ...]:
    """The reference names of VERIFY and SECURE."""
    default = ("hostname",) if policy.level is Level.VERIFY else ("nexthop", "dot-nexthop")
    parsed = parse_destination(plan.destination, allow_unix=True)
    nexthop, is_name = "", isinstance(parsed, Name)
    if isinstance(parsed, Name):
        nexthop = parsed.domain
    elif isinstance(parsed, Literal) and parsed.family is not Family.UNIX:
        nexthop = parsed.address
    words = {
        "hostname": endpoint.host.lower() if endpoint.family is not Family.UNIX else "",
        "nexthop": nexthop,
        "dot-nexthop": f".{nexthop}" if is_name else "",
    }
    names = (words.get(name.lower(), name.lower()) for name in policy.match or default)
    return tuple(filter(None, dict.fromkeys(names)))


def _host_name(endpoint: Endpoint) -> str:
    """The name to send in the handshake (SNI); "" for addresses (RFC 6066 3)."""
    return "" if endpoint.literal or endpoint.family is Family.UNIX else endpoint.host.lower()


def parse_fingerprint(text: str) -> bytes:
    """A SHA-256 or SHA-512 digest in hexadecimal, with or without colons. Raises ConfigError."""
    digits = text.strip().replace(":", "")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if len(digest) not in (32, 64):
        raise ConfigError(f"not a SHA-256 or SHA-512 fingerprint: {text[:140]!r}")
    return digest
