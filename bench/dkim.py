"""What a DKIM signature costs: of a small message beside the bare private-key operation, of a large one beside SHA-256.

A message of 4 KB as a mail program writes it is signed from its stored form to the field in front of it: the header
read, the key chosen by From, the body brought into the form of the wire, hashed and signed. Beside it stands what
``cryptography`` takes for the signature alone, and dkimpy where it is installed. A body of 20 MB, an attachment in
base64 or text, is hashed in both canonical forms, beside ``hashlib`` over the same octets in the form of the wire. Each
result is checked. The runs alternate, and times are those of the CPU, since nothing waits;
``python bench/dkim.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from table import in_turns, line, machine

from body import text_body
from zsmtp.body.lines import LineConverter, canonical, canonical_blocks
from zsmtp.body.source import Source
from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.signing.canonical import BodyHash, Canonicalization
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.keyring import Keyring, SigningKey
from zsmtp.signing.keys import PrivateKey, generate_key
from zsmtp.signing.record import key_record
from zsmtp.signing.sign import Signer, read_header
from zsmtp.signing.signature import Algorithm
from zsmtp.signing.verify import DKIMResult, key_names, read_message, signatures_in, verify

HERE = Path(__file__).resolve().parent
NOW = 1_700_000_000
HEADER = b"""\
Received: from client.example.org (client.example.org [192.0.2.1])
\tby mail.example.org with ESMTPSA id 4X001; Thu, 26 Nov 2026 12:00:00 +0000
From: Ann Example <ann@example.org>
To: Bob Example <bob@example.net>
Subject: Lunch by the river, and what became of the boat
Date: Thu, 26 Nov 2026 12:00:00 +0000
Message-ID: <lunch.1@example.org>
In-Reply-To: <lunch.0@example.net>
References: <lunch.0@example.net>
User-Agent: Mail 1.0
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit
"""


def keyring(*private: PrivateKey) -> Keyring:
    """A key of each kind for example.org."""
    configs = [DKIMKey(domain="example.org", selector=one.algorithm.key_type, key_file="memory") for one in private]
    return Keyring(SigningKey(config, one.algorithm, one.sign) for config, one in zip(configs, private, strict=True))


def sign(body: bytes, keys: Keyring) -> bytes:
    """The whole way, as a program with a message goes it."""
    fields = read_header(HEADER)
    signer = Signer(fields, keys.choose(fields, granted=None, now=NOW).keys, now=NOW)
    for block in canonical_blocks([body], LineConverter()):
        signer.feed(block)
    return signer.finish() + HEADER


def all_pass(message: bytes, private: Iterable[PrivateKey]) -> bool:
    """Whether each signature of a message is good."""
    answers = {}
    for one in private:
        name = f"{one.algorithm.key_type}._domainkey.example.org"
        text = key_record(one.algorithm, one.public_key).encode()
        answers[name] = Answer(Query(name, RecordType.TXT), Status.OK, ((text,),))
    fields, body = read_message([message])
    found = signatures_in(fields)
    results = [one.result for one in verify(fields, found, body, answers, now=NOW)]
    return set(key_names(found)) == set(answers) and set(results) == {DKIMResult.PASS}


def small(messages: int, runs: int) -> bool:
    """Microseconds for a message of 4 KB."""
    rsa, ed25519 = generate_key(Algorithm.RSA_SHA256), generate_key(Algorithm.ED25519_SHA256)
    body = text_body(4096 - len(HEADER))[: 4096 - len(HEADER)]
    octets = bytes(700)  # as much as the fields and the signature's own have
    kinds = {"RSA-2048": (rsa,), "Ed25519": (ed25519,), "both": (rsa, ed25519)}
    good = True
    print(f"signing a message of 4 KB, {messages} messages, {runs} runs of each in turns")
    for name, private in kinds.items():
        keys = keyring(*private)
        good = good and all_pass(sign(body, keys) + b"\n" + body, private)

        def bare(private: tuple[PrivateKey, ...] = private) -> None:
            for one in private:
                one.sign(octets)

        def whole(keys: Keyring = keys) -> None:
            sign(body, keys)

        work = {f"zsmtp, {name}": each(whole, messages), f"bare {name}": each(bare, messages)}
        if name == "RSA-2048":
            peer = dkimpy(body, rsa)
            work |= {} if peer is None else {"dkimpy, RSA-2048": each(peer, max(messages // 10, 1))}
        times = in_turns(work, runs)
        mine, operation = times[f"zsmtp, {name}"], times[f"bare {name}"]
        for one, values in times.items():
            print(line(one, values, "us", beside={}))
        over = statistics.median(a - b for a, b in zip(mine, operation, strict=True))
        ratio = statistics.median(b / a for a, b in zip(mine, operation, strict=True))
        print(f"    the bare operation and {over:.0f} us; {ratio:.2f} of its rate")
    return good


def each(work: Callable[[], None], count: int) -> Callable[[], float]:
    """What one of ``count`` in a row takes, in microseconds."""

    def measured() -> float:
        started = time.process_time()
        for _ in range(count):
            work()
        return (time.process_time() - started) / count * 1e6

    return measured


def dkimpy(body: bytes, private: PrivateKey) -> Callable[[], None] | None:
    """The same signature by dkimpy, if it is installed."""
    spec = PathFinder.find_spec("dkim", [path for path in sys.path if Path(path).resolve() != HERE])  # not this file
    if spec is None or spec.loader is None:
        print("  dkimpy is not installed, and left out")
        return None
    dkim = sys.modules["dkim"] = module_from_spec(spec)
    spec.loader.exec_module(dkim)
    message, pem = HEADER + b"\n" + body, private.pem()
    forms = (b"relaxed", b"relaxed")
    return lambda: dkim.sign(message, b"rsa", b"example.org", pem, canonicalize=forms)


def slow_hash(wire: bytes, form: Canonicalization) -> bytes:
    """The hash of a whole body, by regular expressions."""
    if form is Canonicalization.RELAXED:
        wire = re.sub(rb"[ \t]+\r\n", b"\r\n", re.sub(rb"[ \t]+", b" ", wire))
    return hashlib.sha256(re.sub(rb"(?:\r\n)+\Z", b"", wire[-1000:]).join([wire[:-1000], b"\r\n"])).digest()


def large(megabytes: int, runs: int) -> bool:
    """MB/s of a large body."""
    chance = random.Random(6376)
    size = megabytes * 1_000_000
    bodies = {
        "base64": base64.encodebytes(chance.randbytes(size * 3 // 4)),
        "text": text_body(size),
    }
    good = True
    print(f"hashing a body of {megabytes} MB, {runs} runs of each in turns")
    for name, stored in bodies.items():
        wire = canonical(stored)[0]
        blocks = list(Source.from_bytes(wire).blocks())

        def plain(blocks: list[bytes] = blocks) -> bytes:
            digest = hashlib.sha256()
            for block in blocks:
                digest.update(block)
            return digest.digest()

        work: dict[str, Callable[[], float]] = {f"hashlib, {name}": rate(plain, len(wire))}
        for form in Canonicalization:

            def canonically(blocks: Iterable[bytes] = blocks, form: Canonicalization = form) -> bytes:
                body = BodyHash(form)
                for block in blocks:
                    body.feed(block)
                return body.finish()

            def from_stored(stored: bytes = stored, form: Canonicalization = form) -> bytes:
                body = BodyHash(form)
                for block in canonical_blocks(Source.from_bytes(stored).blocks(), LineConverter()):
                    body.feed(block)
                return body.finish()

            good = good and canonically() == from_stored() == slow_hash(wire, form)
            work[f"{form.value}, {name}"] = rate(canonically, len(wire))
            work[f"{form.value}, {name}, LF"] = rate(from_stored, len(wire))
        times = in_turns(work, runs)
        peer = {"hashlib": times[f"hashlib, {name}"]}
        for one, values in times.items():
            print(line(one, values, "MB/s", beside=peer))
    return good


def rate(work: Callable[[], bytes], size: int) -> Callable[[], float]:
    """MB/s of one run over ``size`` octets."""

    def measured() -> float:
        started = time.process_time()
        work()
        return size / 1e6 / (time.process_time() - started)

    return measured


def main() -> int:
    parser = argparse.ArgumentParser(description="What a DKIM signature costs.")
    parser.add_argument("--messages", type=int, default=300, help="messages in a run (default: 300)")
    parser.add_argument("--megabytes", type=int, default=20, help="size of the large body (default: 20)")
    parser.add_argument("--runs", type=int, default=9, help="runs of each, in turns (default: 9)")
    options = parser.parse_args()
    if min(options.messages, options.megabytes) < 1 or options.runs < 5:
        parser.error("at least 1 message, 1 megabyte and 5 runs")
    print(f"DKIM; {machine()}")
    good = small(options.messages, options.runs)
    good = large(options.megabytes, options.runs) and good
    if not good:
        print("a signature or a hash is wrong: the figures mean nothing", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
