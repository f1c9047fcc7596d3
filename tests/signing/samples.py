"""Keys and messages that the tests of signing share: made once by a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.keyring import SigningKey
from zsmtp.signing.keys import PrivateKey, generate_key
from zsmtp.signing.record import key_record
from zsmtp.signing.signature import Algorithm
from zsmtp.signing.verify import Verification, key_names, read_message, signatures_in, verify

NOW = 1_700_000_000

MESSAGE = b"""\
From: Ann <ann@example.org>
To: Bob <bob@example.net>
Subject: Lunch
Date: Thu, 26 Nov 2026 12:00:00 +0000
Message-ID: <lunch.1@example.org>
MIME-Version: 1.0
Content-Type: text/plain

At one,
by the  river?
"""


@cache
def private_key(algorithm: Algorithm) -> PrivateKey:
    """The one key of this kind."""
    return generate_key(algorithm)


def signing_key(algorithm: Algorithm = Algorithm.ED25519_SHA256, **config: object) -> SigningKey:
    """A key of example.org, under a selector that tells its kind."""
    given = {"domain": "example.org", "selector": algorithm.key_type, "key_file": "unused"} | config
    return SigningKey(DKIMKey(**given), algorithm, private_key(algorithm).sign)  # type: ignore[arg-type]


def published(keys: Iterable[SigningKey]) -> dict[str, str]:
    """The records of these keys, by name."""
    return {key.config.key_name: key_record(key.algorithm, private_key(key.algorithm).public_key) for key in keys}


def answers(records: Mapping[str, str]) -> dict[str, Answer]:
    """What a resolver would answer."""
    return {name: Answer(Query(name, RecordType.TXT), Status.OK, ((text.encode(),),)) for name, text in records.items()}


def verified(message: bytes | list[bytes], records: Mapping[str, str], *, now: float = NOW) -> tuple[Verification, ...]:
    """What each signature of a message is worth; a name without a record does not exist."""
    fields, body = read_message([message] if isinstance(message, bytes) else message)
    found = signatures_in(fields)
    known = answers(records)
    for name in key_names(found):
        known.setdefault(name, Answer(Query(name, RecordType.TXT), Status.NXDOMAIN))
    return verify(fields, found, body, known, now=now)


def results(message: bytes | list[bytes], records: Mapping[str, str], *, now: float = NOW) -> list[str]:
    """The results alone, as words."""
    return [one.result.value for one in verified(message, records, now=now)]
