"""Selects the keys of a configuration that sign the mail of a domain, with the records that verifiers look up."""

from __future__ import annotations

from collections.abc import Sequence

from zsmtp.idn import to_ascii
from zsmtp.records import dataclass
from zsmtp.sender.findings import PublishedKey
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.keyring import SigningKey
from zsmtp.signing.keys import load_keyring, read_key


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The keys for mail of one domain: those that sign now, those that sign later; without any, the reason."""

    keys: tuple[PublishedKey, ...]
    next_keys: tuple[PublishedKey, ...]
    unsigned: str


def own_keys(keys: Sequence[DKIMKey], author: str, now: float) -> OwnKeys:
    """The keys for mail with ``author`` in From (in lower case and A-labels); ``now`` in seconds since 1970.

    It reads files. Raises ConfigError for an invalid one.
    """
    keyring = load_keyring(keys, _discard)
    chosen = keyring.of_author(author, now)
    later = keyring.next_keys(author, now)
    return OwnKeys(tuple(map(_published, chosen.keys)), tuple(map(_published, later)), chosen.reason if keys else "")


def _published(key: SigningKey) -> PublishedKey:
    config = key.config
    private = read_key(config.key_file, _discard)
    return PublishedKey(
        key.domain,
        config.selector_ascii,
        private.algorithm,
        private.public_key,
        private.bits,
        to_ascii(config.identity.rpartition("@")[2]) or "",
        max(key.active_from, 0.0),
    )


def _discard(text: str) -> None:
    """Ignore a warning about a key file: the signing code reports it."""
