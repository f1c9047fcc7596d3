"""The configuration of a queue, as one frozen value: retries, limits of sites and tenants, notices, retention.

:class:`zsmtp.client.config.Config` configures a delivery itself; this module the decisions before and after it. Times
are in seconds, sizes in octets. Patterns (``*``, ``?``) match queue keys: domains, or ``relay:NAME``; the first match
in the given order counts. Case does not matter, and labels in Unicode and in ASCII are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

from zsmtp.fieldtypes import check_least, check_types
from zsmtp.queue.addressrules import AddressRules
from zsmtp.queue.filter import key_matches
from zsmtp.queue.quotas import TenantLimits as TenantLimits
from zsmtp.queue.returnpath import BounceConfig
from zsmtp.queue.schedule import RetryPolicy
from zsmtp.queue.settlement import InDoubt, SettlementPolicy
from zsmtp.queue.shaping import SiteLimits

DAY = 86400.0

T = TypeVar("T")


class Deliver(Enum):
    """Whether the mail of a queue is delivered."""

    ALL = "all"  # it is delivered
    NONE = "none"  # it is kept, for machines of developers and tests


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """The settings of a queue."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """When recipients are tried again and given up, and when senders are warned."""
    in_doubt: InDoubt = InDoubt.RETRY
    """The policy for recipients whose server may have the message already."""
    in_doubt_by_site: Mapping[str, InDoubt] = field(default_factory=lambda: MappingProxyType({}))
    """Exceptions, by pattern of the queue key."""
    sites: Mapping[str, SiteLimits] = field(default_factory=lambda: MappingProxyType({}))
    """Limits, by pattern of the queue key; all others have the defaults of SiteLimits."""
    tenants: Mapping[str, TenantLimits] = field(default_factory=lambda: MappingProxyType({}))
    """Shares and quotas, by tenant."""
    connections: int = 1000
    """Connections at most, in all."""
    idle: float = 5.0
    """How long an idle connection is kept open."""
    claim: int = 200
    """Recipients read from the store at a time."""
    leases: int = 5000
    """Sites served at a time."""
    shutdown: float = 60.0
    """How long a stopping node waits for messages past their point of no return."""
    retention: float = 30 * DAY
    """How long history is kept."""
    addresses: AddressRules = field(default_factory=AddressRules)
    """Rules for the addresses of envelopes: aliases, rewritten senders, redirection."""
    bounces: BounceConfig = field(default_factory=BounceConfig)
    """Return paths, and the handling of bounces and complaints."""
    deliver: Deliver = Deliver.ALL
    """With NONE the delivering process holds all mail by a rule, until one with ALL takes over."""

    def __post_init__(self) -> None:
        check_types(self)
        check_least(self, connections=1, claim=1, leases=1, idle=0, shutdown=0, retention=3600)

    def limits_for(self, key: str) -> SiteLimits:
        """The limits of a site."""
        return _by_pattern(self.sites, key, _DEFAULT_LIMITS)

    def weight_of(self, tenant: str) -> float:
        """The share of a tenant."""
        limits = self.tenants.get(tenant)
        return limits.weight if limits is not None else 1.0

    def is_metered(self, tenant: str) -> bool:
        """Whether mail accepted from a tenant is counted."""
        limits = self.tenants.get(tenant)
        return limits is not None and limits.by_hour

    def settlement_for(self, key: str, tenant: str) -> SettlementPolicy:
        """The settlement policy for a site and a tenant."""
        return SettlementPolicy(
            retry=self.retry.for_recipient(key, tenant),
            in_doubt=_by_pattern(self.in_doubt_by_site, key, self.in_doubt),
        )


_DEFAULT_LIMITS = SiteLimits()


def _by_pattern(patterns: Mapping[str, T], key: str, default: T) -> T:
    for pattern, value in patterns.items():
        if key_matches(pattern, key):
            return value
    return default
