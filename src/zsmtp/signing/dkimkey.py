"""The configuration of one signing key: its domain, selector and file.

A domain may have several. Keys of different kinds (RSA and Ed25519) sign side by side: a receiver that supports only
one kind can verify (RFC 8463 3). Of keys of one kind the one that became active last signs alone; so a key is replaced
by naming the next one beside it, with the time from which on it signs::

    DKIMKey(domain="example.org", selector="2026a", key_file="/etc/zsmtp/2026a.pem")
    DKIMKey(domain="example.org", selector="2027a", key_file="/etc/zsmtp/2027a.pem",
            activate=datetime(2027, 1, 1, tzinfo=UTC))

``zsmtp.signing.keys`` reads the file. An invalid value is a :class:`~zsmtp.errors.ConfigError` that begins with the
name of the field.
"""

from __future__ import annotations

from datetime import datetime

from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.idn import to_ascii
from zsmtp.patterns import pattern
from zsmtp.records import dataclass, field_names
from zsmtp.signing.canonical import Canonicalization

LONGEST = 366 * 86400  # seconds that a signature may be valid; a longer time is a mistake in the configuration

_FIELD_NAME = pattern(r"[!-9;-~]+")
_NEVER_SIGNED = frozenset({"return-path", "received", "bcc", "resent-bcc", "dkim-signature"})  # RFC 6376 5.4
_KINDS = {
    "activate": (datetime, type(None)),
    "lifetime": (int, type(None)),
    "subdomains": (bool,),
    "also_sign": (tuple,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DKIMKey:
    """One key to sign with."""

    domain: str
    """The domain that signs."""
    selector: str
    """The name of the key below ``_domainkey.`` of the domain."""
    key_file: str
    """PEM: the private key."""
    activate: datetime | None = None
    """The time, with a time zone, from which on it signs; None: always."""
    subdomains: bool = False
    """Whether it also signs for domains below ``domain`` that have no key of their own."""
    canonicalization: str = "relaxed/relaxed"
    """The forms of header and body: ``relaxed/relaxed``, or with ``simple`` for either (RFC 6376 3.4)."""
    lifetime: int | None = None
    """Seconds after which a signature is void (``x=``); None: it stays valid."""
    identity: str = ""
    """The value of ``i=``, ``user@`` or ``@`` with the domain or one below it; "" omits it."""
    also_sign: tuple[str, ...] = ()
    """Names of fields to cover besides the usual ones (``zsmtp.signing.sign``)."""

    def __post_init__(self) -> None:
        for name in field_names(DKIMKey):
            kinds = _KINDS.get(name, (str,))
            value = getattr(self, name)
            wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
            _require(isinstance(value, kinds), name, f"{wanted} is expected, not {type(value).__name__}")
        domain, selector = self.domain_ascii, self.selector_ascii
        problem = domain_problem(domain)
        _require(problem is None, "domain", f"{escape(self.domain[:80])} {problem}")
        _require("." in domain, "domain", f"{escape(self.domain[:80])} is a single label")
        problem = domain_problem(f"{selector}._domainkey.{domain}") if selector else "is empty"
        _require(problem is None, "selector", f"{escape(self.selector[:80])} {problem}")
        _require(bool(self.key_file), "key_file", "no file is named")
        _require(self.activate is None or self.activate.tzinfo is not None, "activate", "a time zone is expected")
        header, slash, body = self.canonicalization.partition("/")
        known = {form.value for form in Canonicalization}
        _require(bool(slash) and {header, body} <= known, "canonicalization", "relaxed or simple expected, twice: a/b")
        _require(self.lifetime is None or 1 <= self.lifetime <= LONGEST, "lifetime", f"1 to {LONGEST} seconds")
        self._check_identity(domain)
        for number, name in enumerate(self.also_sign):
            _require(isinstance(name, str), f"also_sign[{number}]", "the name of a field is expected")
            good = _FIELD_NAME.fullmatch(name) and ";" not in name
            _require(bool(good), f"also_sign[{number}]", f"not the name of a field: {escape(name[:80])}")
            good = name.lower() not in _NEVER_SIGNED
            _require(good, f"also_sign[{number}]", f"{name} must not be signed: it changes or is removed in transit")

    def _check_identity(self, domain: str) -> None:
        if not self.identity:
            return
        _, at, name = self.identity.rpartition("@")
        own = to_ascii(name) or ""
        good = bool(at) and (own == domain or own.endswith(f".{domain}")) and self.identity.isprintable()
        _require(good, "identity", f"{escape(self.identity[:80])} is not user@ or @ with {domain} or a domain below it")

    @property
    def domain_ascii(self) -> str:
        """The domain in lower case and A-labels."""
        return to_ascii(self.domain) or ""

    @property
    def selector_ascii(self) -> str:
        """The selector in lower case and A-labels."""
        return to_ascii(self.selector) or ""

    @property
    def key_name(self) -> str:
        """The name at which the public key is published."""
        return f"{self.selector_ascii}._domainkey.{self.domain_ascii}"

    @property
    def forms(self) -> tuple[Canonicalization, Canonicalization]:
        """The canonical forms of header and body."""
        header, _, body = self.canonicalization.partition("/")
        return Canonicalization(header), Canonicalization(body)


def _require(good: bool, key: str, problem: str) -> None:
    if not good:
        raise ConfigError(f"{key}: {problem}")
