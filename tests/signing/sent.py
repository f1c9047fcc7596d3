"""Mail that is signed by keys in files, and what of it arrived, as both verifiers see it."""

from __future__ import annotations

import time
from pathlib import Path

import dkim
from tests.signing.samples import private_key, verified
from tests.support.sink import Sink

import zsmtp
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.keys import write_key
from zsmtp.signing.record import key_record
from zsmtp.signing.signature import Algorithm

RSA, ED25519 = Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256
PLAIN = b"From: Ann <ann@example.org>\nTo: b@example.net\nSubject: s\n\nHi,\n.\n..dots\n"
EIGHT_BIT = "From: Ännchen <ann@example.org>\nTo: b@example.net\nSubject: Grüße\n\nGrüße\n".encode()
LONG_LINES = b"From: ann@example.org\nTo: b@example.net\n\n" + b"x" * 5000 + b"\n"
LARGE = b"From: ann@example.org\nTo: b@example.net\n\n" + b"Gr\xc3\xbc\xc3\x9fe aus der Ferne.\n" * 100_000


def written(folder: Path, selector: str, algorithm: Algorithm = ED25519, **values: object) -> DKIMKey:
    """A key of the configuration, in a file."""
    path = folder / f"{selector}.pem"
    if not path.exists():
        write_key(str(path), private_key(algorithm))
    return DKIMKey(domain="example.org", selector=selector, key_file=str(path), **values)  # type: ignore[arg-type]


def record(algorithm: Algorithm) -> str:
    return key_record(algorithm, private_key(algorithm).public_key)


RECORDS = {"rsa._domainkey.example.org": record(RSA), "ed._domainkey.example.org": record(ED25519)}


def is_good(message: bytes, selectors: list[str]) -> bool:
    """Whether a message as it arrived has these signatures, and both verifiers believe all of them."""
    found = verified(message, RECORDS, now=time.time())
    ours = [one.result.value == "pass" for one in found]

    def look_up(name: bytes, timeout: int = 5) -> str | None:
        return RECORDS.get(name.decode().removesuffix("."))

    theirs = [bool(dkim.DKIM(message).verify(number, dnsfunc=look_up)) for number in range(len(found))]
    names = [getattr(one.found.signature, "selector", "") for one in found]
    return names == selectors and all(ours) and all(theirs)


def arrived(sink: Sink) -> list[bytes]:
    """The messages that a server has taken, dots unstuffed."""
    found = []
    for connection in sink.connections:
        ways = [verb for verb in connection.verbs if verb in ("DATA", "BDAT")]  # the content of one may hold commands
        complete = [one for one in connection.transactions if one.complete]
        for one, way in zip(complete, ways, strict=True):
            text = one.content
            if way == "DATA":
                text = b"\r\n".join(line.removeprefix(b".") for line in text.split(b"\r\n"))
            found.append(text)
    return found


def relay_to(sink: Sink) -> zsmtp.Relay:
    return zsmtp.Relay(host="127.0.0.1", port=sink.port)
