"""Chooses the keys for a message: by the domains of its From, the domains that its sender may sign for, and the time.

A receiver compares the domain of a signature with that of ``From`` (DMARC, RFC 9989), so its domain decides on the key:
first one of exactly that domain, then of the nearest one above it whose key signs for ``subdomains``. Of a domain's
keys of one kind, the one that became active last is chosen. Only keys of *granted* domains are used; the caller passes
the domains that a login may sign for::

    choice = keyring.choose(fields, granted={"example.org"}, now=now)
    choice.keys or choice.reason
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import NoReturn

from zsmtp.body.fields import outside_quotes
from zsmtp.dns.literal import domain_problem
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.idn import to_ascii
from zsmtp.records import NamedTuple
from zsmtp.signing.canonical import Canonicalization, HeaderFields
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.signature import Algorithm, Tags, front
from zsmtp.signing.tags import quoted

MAX_FROM = 10_000  # octets of a From field that is parsed
_MAX_FRONTS = 256  # beginnings of signatures that a key caches

_BETWEEN_MAILBOXES = re.compile(rb"[,;]")


class SigningKey:
    """A key of the configuration with its signing function.

    ``sign`` returns the signature over octets. ``config`` is its configuration, ``domain`` the domain in A-labels,
    ``active_from`` the time when it becomes active (seconds since 1970). It holds no octets of the private key, and
    cannot be pickled.
    """

    __slots__ = ("_fronts", "active_from", "algorithm", "body_form", "config", "domain", "header_form", "sign")

    def __init__(self, config: DKIMKey, algorithm: Algorithm, sign: Callable[[bytes], bytes]) -> None:
        self.config = config
        self.algorithm = algorithm
        self.sign = sign
        self.domain = config.domain_ascii
        self.header_form, self.body_form = config.forms
        self.active_from = float("-inf") if config.activate is None else config.activate.timestamp()
        self._fronts: dict[tuple[bytes, ...], bytes] = {}

    def front(self, signed: tuple[bytes, ...], *, utf8: bool) -> bytes:
        """The beginning of the signature field for a message with these fields.

        ``utf8``: the message is internationalised, and names in the signature are U-labels then (RFC 8616 5).
        """
        key = (b"utf8", *signed) if utf8 else signed
        made = self._fronts.get(key)
        if made is None:
            if len(self._fronts) >= _MAX_FRONTS:
                self._fronts.clear()
            made = self._fronts[key] = front(self._tags(signed, utf8=utf8))
        return made

    def _tags(self, signed: tuple[bytes, ...], *, utf8: bool) -> Tags:
        local, at, name = self.config.identity.rpartition("@")
        named = _as_written(to_ascii(name) or "", utf8=utf8)
        return Tags(
            self.algorithm,
            self.header_form,
            self.body_form,
            _as_written(self.domain, utf8=utf8),
            _as_written(self.config.selector_ascii, utf8=utf8),
            quoted(local, utf8=utf8) + b"@" + named if at else b"",
            signed,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.config.key_name}, {self.algorithm.value}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key that signs is not pickled")


def _as_written(name: str, *, utf8: bool) -> bytes:
    """A name in A-labels in the form for a signature field."""
    if not utf8 or "xn--" not in name:
        return name.encode("ascii")
    import idna

    labels = []
    for label in name.split("."):
        try:
            labels.append(idna.ulabel(label) if label.startswith("xn--") else label)
        except idna.IDNAError:  # of IDNA 2003: it stays unchanged
            labels.append(label)
    return ".".join(labels).encode("utf-8")


class ChosenKeys(NamedTuple):
    """The keys to sign a message with; without any, ``reason`` explains why, for people."""

    keys: tuple[SigningKey, ...]
    reason: str = ""


class Keyring:
    """All keys of one configuration.

    Raises ConfigError if two keys have the same record, or if two keys of one kind would sign at the same time.
    """

    def __init__(self, keys: Iterable[SigningKey]) -> None:
        self._keys: dict[str, list[SigningKey]] = {}
        for key in keys:
            others = self._keys.setdefault(key.domain, [])
            for other in others:
                if other.config.selector_ascii == key.config.selector_ascii:
                    raise ConfigError(f"dkim: two keys at {key.config.key_name}")
                if (other.algorithm, other.active_from) == (key.algorithm, key.active_from):
                    raise ConfigError(
                        f"dkim: two {key.algorithm.key_type} keys for {key.domain}, {other.config.selector} and "
                        f"{key.config.selector}, become active at the same time: which of them signs?"
                    )
            others.append(key)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the keys, in lower case and A-labels."""
        return tuple(self._keys)

    def choose(
        self, fields: HeaderFields, *, granted: AbstractSet[str] | None, now: float, again: bool = False
    ) -> ChosenKeys:
        """The keys for a message with these fields.

        ``granted`` are the domains whose keys may be used, in lower case and A-labels; None: all. ``now`` is in seconds
        since 1970. A message from several domains is signed for each of them; one that is signed already gets no
        signature unless ``again``.
        """
        if not again and fields.count(b"dkim-signature"):
            return ChosenKeys((), "the message is signed already")
        domains = from_domains(fields)
        if not domains:
            return ChosenKeys((), "From has no domain")
        chosen = [key for domain in domains for key in self._choose(domain, granted, now)]
        if not chosen:
            return ChosenKeys((), self._reason(domains[0], granted, now))
        return ChosenKeys(tuple(chosen if len(domains) == 1 else dict.fromkeys(chosen)))

    def of_author(self, domain: str, now: float) -> ChosenKeys:
        """The keys for mail with one address in From, of this domain (in lower case and A-labels)."""
        chosen = self._choose(domain, None, now)
        return ChosenKeys(tuple(chosen), "" if chosen else self._reason(domain, None, now))

    def next_keys(self, domain: str, now: float) -> tuple[SigningKey, ...]:
        """The keys for such mail that become active later than ``now``, of the nearest domain that has some."""
        for name in _with_parents(domain):
            keys = [key for key in self._keys.get(name, ()) if key.active_from > now]
            if found := tuple([key for key in keys if name == domain or key.config.subdomains]):
                return found
        return ()

    def _choose(self, domain: str, granted: AbstractSet[str] | None, now: float) -> list[SigningKey]:
        for name in _with_parents(domain):
            keys = self._keys.get(name)
            if keys is None or (granted is not None and name not in granted):
                continue
            active: dict[Algorithm, SigningKey] = {}
            for key in keys:
                if key.active_from <= now and (name == domain or key.config.subdomains):
                    best = active.get(key.algorithm)
                    if best is None or best.active_from < key.active_from:
                        active[key.algorithm] = key
            if active:
                return list(active.values())
        return []

    def _reason(self, domain: str, granted: AbstractSet[str] | None, now: float) -> str:
        """The reason why there is no key for a domain."""
        shown = escape(domain)
        if granted is not None and self._choose(domain, None, now):
            return f"the sender may not sign for {shown}"
        return f"no key of {shown} is active yet" if domain in self._keys else f"there is no key for {shown}"


def _with_parents(domain: str) -> Iterator[str]:
    """The domain, and those above it."""
    while domain:
        yield domain
        domain = domain.partition(".")[2]


def from_domains(fields: HeaderFields) -> tuple[str, ...]:
    """The domains of the addresses in From, each once, in order, in lower case and A-labels."""
    found = fields.form(Canonicalization.RELAXED).get(b"from", ())
    if len(found) == 1:
        return _domains(found[0]) if len(found[0]) <= MAX_FROM else ()
    return tuple(dict.fromkeys(domain for one in found if len(one) <= MAX_FROM for domain in _domains(one)))


@lru_cache(256)
def _domains(field: bytes) -> tuple[str, ...]:
    """The domains in one From field (RFC 5322 3.4); an address that cannot be read has none."""
    value = field.partition(b":")[2]
    if b'"' in value or b"(" in value:
        value = outside_quotes(value)
    found: dict[str, None] = {}
    for mailbox in _BETWEEN_MAILBOXES.split(value):
        place = mailbox.rfind(b"<")
        address = mailbox[place + 1 :].partition(b">")[0] if place >= 0 else mailbox
        _, at, name = address.rpartition(b"@")
        domain = to_ascii(name.strip().decode("utf-8", "surrogateescape")) if at else None
        if domain and domain_problem(domain) is None:
            found[domain] = None
    return tuple(found)
