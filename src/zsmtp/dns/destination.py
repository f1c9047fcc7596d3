"""Destination rules: from the text of a destination to the Plan of its mail servers (RFC 5321 5, RFC 7505).

:func:`plan_destination` awaits a ``Query`` for each lookup and ``zsmtp.effects.OwnAddresses`` for the addresses of this
machine, and returns the Plan. A driver only carries effects out (``zsmtp.dns.resolver.carry_out`` is the simplest one);
all rules are here.

- An address literal needs no lookup. Otherwise the MX set, or with none the name's own addresses (implicit MX).
- Aliases are followed. A resolver normally does so itself; after NODATA under another canonical name that name is
  looked up, at most 8 times, and loops are refused. A chain that the resolver itself gave up is NODATA with a problem.
- Only exchangers with a better preference than this machine's own are used, to prevent mail loops.
- The order is by preference, then random, then alternating between the two address families (similar to RFC 8305).

Randomness is an argument: ``DestinationRequest.shuffle`` is ``random.shuffle``, and deterministic in tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from zsmtp.dns.answer import MX, WKS, Answer, AskAhead, Query, RecordType, Status
from zsmtp.dns.candidates import Candidate, Endpoint, Family, NoRoute, Plan
from zsmtp.dns.ip import canonical_ip, ip_family, is_loopback, is_unspecified, unmapped
from zsmtp.dns.literal import Literal, domain_problem, parse_destination, shown
from zsmtp.effects import OwnAddresses
from zsmtp.records import NamedTuple, dataclass

SMTP_PORT = 25
SUBMISSIONS_PORT = 465  # TLS from the first octet (RFC 8314)
MAX_ALIAS_STEPS = 8
_TCP = 6  # IP protocol number in a WKS record


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationRequest:
    """The input of the destination rules.

    ``destination`` is a text as ``zsmtp.dns.literal`` reads it (``UNIX:/path`` and zones only with ``allow_unix``);
    ``port`` is used where the destination names none. ``use_mx`` off (-x) takes the name's own addresses;
    ``allow_self`` (-X) then lets them be this machine's. ``own_names`` are the names that this machine greets with.
    ``loops_wait``: mail that would loop back to this machine is not refused (5.4.6) but waits (4.4.6) until an operator
    has corrected the routing; ``loops_allowed``: this machine counts as an exchanger like any other, to show the view
    of other hosts. ``check_wks`` (-W) requires a WKS record with SMTP for each host. ``is_relay``: this side's
    configuration names the host; if it does not exist, the configuration is wrong and the mail waits (4.3.5, RFC 3463
    3.4). Only addresses of ``families`` are looked up and used. ``shuffle`` brings a list into random order in place.
    """

    destination: str
    shuffle: Callable[[list[Any]], None]
    port: int = SMTP_PORT
    use_mx: bool = True
    allow_self: bool = False
    is_relay: bool = False
    prefer_ipv6: bool = False
    check_wks: bool = False
    own_names: frozenset[str] = frozenset()
    loops_wait: bool = False
    loops_allowed: bool = False
    allow_unix: bool = False
    families: frozenset[Family] = frozenset(Family)
    max_hosts: int = 100
    max_addresses: int = 20


class _Exchanger(NamedTuple):
    """One host that may take the mail. ``implicit``: no MX record names it."""

    preference: int
    host: str
    implicit: bool = False


class _HostAddresses(NamedTuple):
    """The result of the address lookups of one host; ``problem`` and the rest matter only without an address."""

    addresses: tuple[str, ...]
    temporary: bool = False
    problem: str = ""
    no_such_domain: bool = False


class _NoRouteError(Exception):
    """Ends the rules early; caught where the Plan is made, never raised to callers."""

    def __init__(self, failure: NoRoute) -> None:
        self.failure = failure
        super().__init__(failure.text)


async def plan_destination(request: DestinationRequest) -> Plan:
    """The Plan for a destination. Never raises because of a name or an answer: a failure is part of the Plan."""
    rules = _Rules(request)
    candidates: list[Candidate] = []
    failure = None
    parsed = parse_destination(request.destination, allow_unix=request.allow_unix)
    try:
        if isinstance(parsed, NoRoute):
            failure = parsed
        elif isinstance(parsed, Literal):
            candidates = [Candidate(rules.literal_endpoint(parsed))]
        else:
            found = await rules.find_exchangers(parsed.domain)
            candidates = await rules.find_candidates(rules.without_own_names(found))
    except _NoRouteError as reason:
        failure = reason.failure
    if failure is not None and failure.permanent and request.is_relay:
        failure = NoRoute(permanent=False, status="4.3.5", text=f"the relay cannot be used: {failure.text}")
    return Plan(
        destination=request.destination,
        candidates=tuple(candidates),
        failure=failure,
        lookups=tuple(rules.lookups),
        notes=tuple(rules.notes),
        exchangers=tuple(exchanger.host for exchanger in rules.exchangers),
    )


async def exchanger_names(request: DestinationRequest) -> tuple[str, ...]:
    """The hosts that may take mail for a destination, best first, without looking up their addresses.

    ``-e`` compares with these names: empty for literals and for destinations whose exchangers cannot be determined now.
    """
    parsed = parse_destination(request.destination)
    if isinstance(parsed, NoRoute | Literal):
        return ()
    rules = _Rules(request)
    try:
        found = await rules.find_exchangers(parsed.domain)
        return tuple(exchanger.host for exchanger in rules.without_own_names(found))
    except _NoRouteError:
        return ()


class _Rules:
    """One run of the rules: the request, its lookups and notes so far, and the steps."""

    def __init__(self, request: DestinationRequest) -> None:
        self.request = request
        self.lookups: list[Answer] = []
        self.notes: list[str] = []
        self.exchangers: list[_Exchanger] = []
        self._own_names = frozenset(name.rstrip(".").lower() for name in request.own_names if name)
        self._own_addresses: frozenset[str] | None = None
        self._is_exchanger_itself = False

    def literal_endpoint(self, literal: Literal) -> Endpoint:
        """The endpoint that an address literal or a socket path names."""
        if literal.family not in self.request.families:
            self._refuse("5.4.4", f"{literal.address} is not of the address family that is to be used")
        if literal.family is Family.UNIX:
            return Endpoint(literal.address, literal.address, 0, Family.UNIX, literal=True)
        port = self.request.port if literal.port is None else literal.port
        return Endpoint(literal.address, literal.address, port, literal.family, literal=True)

    async def _ask(self, query: Query) -> Answer:
        """Look up a query, following aliases."""
        seen = {query.name}
        while True:
            answer = await query
            self.lookups.append(answer)
            alias = answer.canonical.lower()
            if answer.status is not Status.NODATA or answer.problem or alias in ("", query.name):
                return answer
            problem = domain_problem(alias)
            if alias in seen:
                problem = "is part of a loop of aliases"
            elif len(seen) > MAX_ALIAS_STEPS:
                problem = f"is more than {MAX_ALIAS_STEPS} aliases away"
            if problem is not None:
                return Answer(query, Status.NODATA, canonical=alias, problem=f"alias {shown(alias)} {problem}")
            self.notes.append(f"{query.name} is an alias of {alias}")
            seen.add(alias)
            query = Query(alias, query.type)

    async def find_exchangers(self, domain: str) -> list[_Exchanger]:
        """The exchangers of a domain, best first and at random among equals; the implicit one if there is no MX."""
        if not self.request.use_mx:
            self.notes.append(f"MX records are not asked for: the addresses of {domain} itself")
            return [_Exchanger(0, domain, implicit=True)]
        answer = await self._ask(Query(domain, RecordType.MX))
        if answer.status is Status.NXDOMAIN:
            self._refuse("5.1.2", f"no such domain: {domain}")
        if answer.temporary:
            self._defer(f"lookup of MX for {domain} failed: {_reason(answer)}")
        if answer.status is Status.NODATA:
            if answer.problem:
                self._refuse("5.4.4", f"no route to {domain}: {answer.problem}")
            host = answer.canonical.lower() or answer.query.name
            self.notes.append(f"{host} has no MX records: implicit MX, its own addresses")
            return [_Exchanger(0, host, implicit=True)]
        if answer.canonical.lower() not in ("", answer.query.name):
            self.notes.append(f"{answer.query.name} is an alias of {shown(answer.canonical)}")
        return self._sort(domain, [record for record in answer.records if isinstance(record, MX)])

    def _sort(self, domain: str, records: list[MX]) -> list[_Exchanger]:
        named = [MX(record.preference, record.exchange.rstrip(".").lower()) for record in records]
        if named and not any(record.exchange for record in named):
            self._refuse("5.1.10", f"{domain} does not accept mail (null MX)")
        best: dict[str, int] = {}
        for record in named:
            problem = domain_problem(record.exchange)
            if not record.exchange:
                self.notes.append("a null MX beside other MX records is ignored")  # RFC 7505 3
            elif problem is not None:
                self.notes.append(f"MX {shown(record.exchange)} is skipped: it {problem}")
            else:
                best[record.exchange] = min(record.preference, best.get(record.exchange, record.preference))
        if not best:
            self._refuse("5.4.4", f"no MX of {domain} names a usable host")
        exchangers = [_Exchanger(preference, host) for host, preference in best.items()]
        self.request.shuffle(exchangers)
        exchangers.sort(key=lambda exchanger: exchanger.preference)  # a stable sort: equals stay in random order
        return exchangers

    def _may_be_own(self, exchanger: _Exchanger) -> bool:
        """Whether an exchanger that is this machine would mean a mail loop.

        Other ports do not lead back to the server on port 25. -X applies to a host whose own addresses are used; it
        does not let a backup exchanger send to its equals.
        """
        if self.request.loops_allowed:
            return False
        return self.request.port == SMTP_PORT and not (exchanger.implicit and self.request.allow_self)

    def without_own_names(self, exchangers: list[_Exchanger]) -> list[_Exchanger]:
        """The exchangers better than the best one with a name of this machine, no more than the limit.

        Without MX (-x) the caller has chosen the name; only its addresses count.
        """
        own = next((one for one in exchangers if one.host in self._own_names and self._may_be_own(one)), None)
        if own is not None and self.request.use_mx:
            exchangers = self._better_than(own, exchangers, "its name is ours")
        limit = self.request.max_hosts
        if len(exchangers) > limit:
            self.notes.append(f"{len(exchangers) - limit} MX hosts beyond the limit of {limit} are left out")
        self.exchangers = exchangers[:limit]
        return self.exchangers

    def _better_than(self, own: _Exchanger, exchangers: list[_Exchanger], why: str) -> list[_Exchanger]:
        self.exchangers = []
        if own.implicit:
            self._refuse_loop(f"{own.host} is this machine: {why}")
        self.notes.append(f"MX {own.host} is this machine ({why}): preference {own.preference} and worse is dropped")
        self._is_exchanger_itself = True
        self.exchangers = [exchanger for exchanger in exchangers if exchanger.preference < own.preference]
        if not self.exchangers:
            self._refuse_as_best()
        return self.exchangers

    async def _own_among(self, exchanger: _Exchanger, addresses: tuple[str, ...]) -> str | None:
        """The first of an exchanger's addresses that is this machine's."""
        if not addresses or not self._may_be_own(exchanger):
            return None
        if self._own_addresses is None:
            own = await OwnAddresses()
            self._own_addresses = frozenset(unmapped(canonical_ip(address) or address) for address in own)
        for address in addresses:
            if is_loopback(address) or is_unspecified(address) or unmapped(address) in self._own_addresses:
                return address
        return None

    async def find_candidates(self, exchangers: list[_Exchanger]) -> list[Candidate]:
        """The candidates of the exchangers, one preference after the other until there are enough."""
        request = self.request
        await self._ask_ahead(exchangers)
        candidates: dict[Endpoint, Candidate] = {}
        failures: list[_HostAddresses] = []
        for preference, group in _by_preference(exchangers):
            if len(candidates) >= request.max_addresses:
                break
            # The whole group is looked up before any of it is used: each of its hosts may be this machine.
            hosts: list[tuple[str, str]] = []
            for exchanger in group:
                found = await self._find_addresses(exchanger)
                own = await self._own_among(exchanger, found.addresses)
                if own is not None:
                    self._better_than(exchanger, exchangers, f"{own} is an address of ours")
                    return self._enough(candidates) or self._nothing_usable(failures)
                if found.addresses and request.check_wks:
                    found = await self._check_wks(exchanger, found)
                if not found.addresses:
                    failures.append(found)
                    self.notes.append(f"{exchanger.host} is skipped: {found.problem}")
                hosts += [(exchanger.host, address) for address in found.addresses]
            for host, address in _by_turns(hosts, prefer_ipv6=request.prefer_ipv6):
                endpoint = Endpoint(host, address, request.port, ip_family(address))
                candidates.setdefault(endpoint, Candidate(endpoint, preference))
        return self._enough(candidates) or self._nothing_usable(failures)

    def _enough(self, candidates: dict[Endpoint, Candidate]) -> list[Candidate]:
        limit = self.request.max_addresses
        if len(candidates) > limit:
            self.notes.append(f"{len(candidates) - limit} addresses beyond the limit of {limit} are left out")
        return list(candidates.values())[:limit]

    def _nothing_usable(self, failures: list[_HostAddresses]) -> NoReturn:
        problems = "; ".join(dict.fromkeys(found.problem for found in failures[:5])) or "no host can be used"
        if any(found.temporary for found in failures):
            self._defer(problems)
        if self._is_exchanger_itself:  # the exchangers before this machine have no addresses
            self._refuse_as_best()
        if not self.request.use_mx and any(found.no_such_domain for found in failures):
            self._refuse("5.1.2", problems)
        self._refuse("5.4.4", problems)

    @property
    def _kinds(self) -> list[tuple[RecordType, Family]]:
        """The record types of the addresses to be used."""
        kinds = ((RecordType.A, Family.INET), (RecordType.AAAA, Family.INET6))
        return [kind for kind in kinds if kind[1] in self.request.families]

    async def _ask_ahead(self, exchangers: list[_Exchanger]) -> None:
        """Start the address lookups of the first exchangers concurrently, if the driver can do that.

        They are the exchangers that will be used if each has an address of either family. More lookups than one by one
        are made only if a host does not exist, is this machine, or has very many addresses.
        """
        first = exchangers[: self.request.max_addresses // 2]
        ahead = tuple(Query(one.host, kind) for one in first for kind, _ in self._kinds)
        if len(ahead) > 1:
            await AskAhead(ahead)

    async def _find_addresses(self, exchanger: _Exchanger) -> _HostAddresses:
        """Do both address lookups of one host; if one fails, the other's addresses still count."""
        addresses: list[str] = []
        reasons: list[str] = []
        temporary = False
        for record_type, family in self._kinds:
            answer = await self._ask(Query(exchanger.host, record_type))
            if answer.status is Status.NXDOMAIN:
                return _HostAddresses((), problem=f"no such domain: {exchanger.host}", no_such_domain=True)
            if answer.temporary:
                temporary = True
                reasons.append(f"lookup of {record_type.value} for {exchanger.host} failed: {_reason(answer)}")
            elif answer.problem:
                reasons.append(answer.problem)
            for record in answer.records:
                address = canonical_ip(record) if isinstance(record, str) else None
                if address is not None and ip_family(address) is family:
                    addresses.append(address)
        kind = "" if len(self.request.families) > 2 else " of the family that is to be used"
        problem = ", ".join(dict.fromkeys(reasons)) or f"{exchanger.host} has no address{kind}"
        return _HostAddresses(tuple(addresses), temporary, problem)

    async def _check_wks(self, exchanger: _Exchanger, found: _HostAddresses) -> _HostAddresses:
        """Keep the addresses only if the host has a WKS record with SMTP (RFC 974, RFC 1035 3.4.2)."""
        answer = await self._ask(Query(exchanger.host, RecordType.WKS))
        services = [record for record in answer.records if isinstance(record, WKS)]
        if any(service.protocol == _TCP and SMTP_PORT in service.ports for service in services):
            return found
        if answer.temporary:
            return _HostAddresses(
                (), temporary=True, problem=f"lookup of WKS for {exchanger.host} failed: {_reason(answer)}"
            )
        return _HostAddresses((), problem=f"{exchanger.host} has no WKS record of SMTP")

    def _refuse_as_best(self) -> NoReturn:
        self._refuse_loop("we are the best MX, but this is not our domain")

    def _refuse_loop(self, text: str) -> NoReturn:
        wait = self.request.loops_wait
        raise _NoRouteError(NoRoute(permanent=not wait, status="4.4.6" if wait else "5.4.6", text=text))

    def _refuse(self, status: str, text: str) -> NoReturn:
        raise _NoRouteError(NoRoute(permanent=True, status=status, text=text))

    def _defer(self, text: str) -> NoReturn:
        raise _NoRouteError(NoRoute(permanent=False, status="4.4.3", text=text))


def _reason(answer: Answer) -> str:
    return f"{answer.status.value} ({answer.problem})" if answer.problem else answer.status.value


def _by_preference(exchangers: list[_Exchanger]) -> list[tuple[int, list[_Exchanger]]]:
    """The groups of equal preference of a sorted list, in its order."""
    groups: dict[int, list[_Exchanger]] = {}
    for exchanger in exchangers:
        groups.setdefault(exchanger.preference, []).append(exchanger)
    return list(groups.items())


def _by_turns(hosts: list[tuple[str, str]], *, prefer_ipv6: bool) -> list[tuple[str, str]]:
    """Pairs of host and address, families alternating, so that a dead family never costs two attempts in a row."""
    first_family = Family.INET6 if prefer_ipv6 else Family.INET
    first = [pair for pair in hosts if ip_family(pair[1]) is first_family]
    second = [pair for pair in hosts if ip_family(pair[1]) is not first_family]
    both = min(len(first), len(second))
    turns = [pair for pairs in zip(first, second, strict=False) for pair in pairs]
    return turns + first[both:] + second[both:]
