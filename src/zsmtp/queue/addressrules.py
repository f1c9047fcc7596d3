"""Rewrites the addresses of an envelope before it is queued: aliases, rewritten senders, redirection.

A machine that sends all its mail through a relay has users whose addresses mean nothing elsewhere (``root``), and
senders that should appear under the organisation's domain. A developer's machine must not send mail to customers. The
rules are in the configuration (``[queue.addresses]``) and change the envelope only (RFC 5321 3.6), never the header;
they apply to all mail that enters the queue, including notices::

    rules = AddressRules(aliases={"root": ("ops@example.org",)}, domains=("web1.example.org",))
    envelope = rules.apply(envelope)

A recipient that an alias replaces keeps its DSN parameters; where it has no ORCPT, its own address becomes that (RFC
3461 5.2.1), so that notices name the address that the sender knows. All functions are pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.fieldtypes import check_types
from zsmtp.proto.address import path_problem, typed_address
from zsmtp.proto.plan import Envelope, EnvelopeRecipient

MAX_TARGETS = 1000
"""The most addresses that one alias expands to, including aliases of aliases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRules:
    """Rules for the addresses of envelopes. Raises :class:`~zsmtp.errors.ConfigError` for one that cannot be used."""

    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Recipients by alias: ``root`` (in each of ``domains``) or a whole address; without regard to case.

    A recipient may be an alias itself; one without a domain is in the first of ``domains``.
    """
    domains: tuple[str, ...] = ()
    """The domains of aliases without one. ``zsmtp serve`` uses the name of the server if there are none."""
    senders: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Replacements by reverse-path: an address for an address, or ``@domain`` for ``@domain``."""
    redirect_to: str = ""
    """The address that receives all mail instead of its recipients; "" for none. For developers' machines."""
    _targets_of: Mapping[str, tuple[str, ...]] = field(
        init=False, repr=False, compare=False, default_factory=lambda: MappingProxyType({})
    )
    """The direct targets of each alias, by its address in lower case."""

    def __post_init__(self) -> None:
        check_types(self)
        for domain in self.domains:
            problem = domain_problem(domain)
            if problem is not None:
                raise ConfigError(f"domains: '{escape(domain[:120])}' {problem}")
        for alias, targets in self.aliases.items():
            _check(f"aliases.{alias}", alias if "@" in alias else f"{alias}@example.org")
            if "@" not in alias and not self.domains:
                raise ConfigError(f"aliases.{escape(alias[:120])}: in which domain? domains names none")
            if not targets:
                raise ConfigError(f"aliases.{escape(alias[:120])}: no address")
            for target in targets:
                _check(f"aliases.{alias}", self._with_domain(target))
        for before, after in self.senders.items():
            if before.startswith("@") != after.startswith("@"):
                raise ConfigError(f"senders.{escape(before[:120])}: an address for an address, @domain for @domain")
            for one in (before, after):
                _check(f"senders.{before}", f"x{one}" if one.startswith("@") else one)
        if self.redirect_to:
            _check("redirect_to", self.redirect_to)
        object.__setattr__(self, "_targets_of", MappingProxyType(dict(self._by_address())))
        for alias in self.aliases:
            if len(self._targets(alias if "@" in alias else f"{alias}@{self.domains[0]}")) > MAX_TARGETS:
                raise ConfigError(f"aliases.{escape(alias[:120])}: more than {MAX_TARGETS} addresses")

    def __bool__(self) -> bool:
        return bool(self.aliases or self.senders or self.redirect_to)

    def apply(self, envelope: Envelope) -> Envelope:
        """The rewritten envelope, with each recipient once."""
        sender = self.sender(envelope.sender)
        recipients = self.recipients(envelope.recipients)
        if sender == envelope.sender and recipients == envelope.recipients:
            return envelope
        return envelope._replace(sender=sender, recipients=recipients)

    def sender(self, address: bytes) -> bytes:
        """The rewritten reverse-path; the null one stays."""
        if not self.senders or not address:
            return address
        local, _, domain = address.decode("utf-8", "replace").rpartition("@")
        for before, after in self.senders.items():
            if before.startswith("@"):
                if before[1:].lower() == domain.lower():
                    return f"{local}{after}".encode()
            elif before.lower() == f"{local}@{domain}".lower():
                return after.encode()
        return address

    def recipients(self, given: tuple[EnvelopeRecipient, ...]) -> tuple[EnvelopeRecipient, ...]:
        """The rewritten recipients, each once."""
        if self.redirect_to:
            return (EnvelopeRecipient(self.redirect_to.encode(), given[0].notify, given[0].orcpt),) if given else given
        if not self.aliases:
            return given
        found: dict[bytes, EnvelopeRecipient] = {}
        for one in given:
            for address in self._targets(one.address.decode("utf-8", "replace")) or (one.address,):
                changed = one
                if address != one.address:
                    changed = one._replace(address=address, orcpt=one.orcpt or typed_address(one.address))
                found.setdefault(address, changed)
        return tuple(found.values())

    def _targets(self, address: str) -> tuple[bytes, ...]:
        """The final addresses of an alias; empty if it is none. An alias that leads to itself is kept."""
        found: dict[str, None] = {}
        seen = {address.lower()}
        waiting = deque(self._targets_of.get(address.lower(), ()))
        while waiting and len(found) <= MAX_TARGETS:
            one = waiting.popleft()
            further = () if one.lower() in seen else self._targets_of.get(one.lower(), ())
            seen.add(one.lower())
            waiting.extendleft(reversed(further))
            if not further:
                found[one] = None
        return tuple([one.encode() for one in found])

    def _by_address(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for alias, targets in self.aliases.items():
            whole = tuple([self._with_domain(target) for target in targets])
            for address in [alias] if "@" in alias else [f"{alias}@{domain}" for domain in self.domains]:
                yield address.lower(), whole

    def _with_domain(self, address: str) -> str:
        return address if "@" in address or not self.domains else f"{address}@{self.domains[0]}"


def _check(key: str, address: str) -> None:
    problem = path_problem(address.encode("utf-8", "surrogatepass"))
    if problem is None and "@" not in address:
        problem = "has no domain"
    if problem is not None:
        raise ConfigError(f"{escape(key[:120])}: '{escape(address[:120])}' {problem}")
