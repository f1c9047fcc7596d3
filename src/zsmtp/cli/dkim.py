"""``zsmtp dkim``: makes DKIM keys, and verifies the signatures of a message (RFC 6376).

``zsmtp dkim key`` writes a new private key to a new file and prints the record to publish. ``zsmtp dkim verify``
looks up the keys of all signatures in a message and prints the result and the reason for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, BinaryIO

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.failure import CommandFailed, reading, reason
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import look_of, note
from zsmtp.dns.answer import Answer, Query, RecordType
from zsmtp.errors import ConfigError, ContentError
from zsmtp.escape import escape
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.record import key_record, strings_of, zone_entry
from zsmtp.signing.signature import Algorithm
from zsmtp.signing.verify import DKIMResult, Verification, key_names, read_message, signatures_in, verify
from zsmtp.text.look import Look, Style

LOOKUPS_TIME = 60.0  # seconds for the keys of all signatures of a message
_BLOCK = 1 << 18
_PROGRAM = "zsmtp dkim"

_KEY_EPILOG = """\
The file is readable by its owner only, and never overwritten. What is printed can be pasted into a zone file; the
lines after semicolons are for forms with a name and a value. exit status: 0; 64 wrong usage, 73 the file
cannot be made, 78 with --existing: it holds no key that can sign."""

_VERIFY_EPILOG = """\
exit status: 0 every signature passes; 1 one does not, or there is none; 64 wrong usage, 65 the header is too large, 66
or 77 the file cannot be read."""

_STYLES = {DKIMResult.PASS: Style.GOOD, DKIMResult.TEMPERROR: Style.WARN, DKIMResult.POLICY: Style.WARN}


def key_parser() -> Parser:
    """The command line of ``zsmtp dkim key``."""
    parser = command_parser("dkim key", "Make a key for DKIM, and print the record to publish.", epilog=_KEY_EPILOG)
    parser.add_argument("domain", metavar="DOMAIN", help="the domain that signs")
    parser.add_argument("selector", metavar="SELECTOR", help="the name of this key below _domainkey.DOMAIN")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ed25519", action="store_true", help="an Ed25519 key (RFC 8463); without it RSA")
    kind.add_argument("--bits", type=_bits, help="the size of an RSA key: 2048 (the default) to 4096")
    parser.add_argument("--file", metavar="FILE", help="the file of the private key (SELECTOR.DOMAIN.pem, here)")
    parser.add_argument("--existing", action="store_true", help="make nothing: print the record of the key in the file")
    parser.add_argument("--json", action="store_true", help="print JSON (zsmtp.dkim-key/1)")
    return parser


def verify_parser() -> Parser:
    """The command line of ``zsmtp dkim verify``."""
    parser = command_parser("dkim verify", "Verify the DKIM signatures of a message.", epilog=_VERIFY_EPILOG)
    parser.add_argument("message", metavar="FILE", help="a message as it was received (- for standard input)")
    parser.add_argument("--resolver", metavar="ADDR[:PORT]", help="the name server to ask instead of the system's")
    parser.add_argument("--json", action="store_true", help="print JSON (zsmtp.dkim-verify/1)")
    return parser


def subcommand_parsers() -> dict[str, Parser]:
    """The command line of each subcommand."""
    return {"key": key_parser(), "verify": verify_parser()}


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    if arguments[:1] == ["key"]:
        return make_key(key_parser().parse_args(arguments[1:]))
    if arguments[:1] == ["verify"]:
        return verify_message(verify_parser().parse_args(arguments[1:]))
    commands = Parser(prog=_PROGRAM, description="Keys and signatures of DKIM.", allow_abbrev=False)
    known = commands.add_subparsers(title="commands", dest="COMMAND", metavar="COMMAND", required=True)
    known.add_parser("key", help="make a key, and print the record to publish", add_help=False)
    known.add_parser("verify", help="verify the signatures of a message", add_help=False)
    commands.parse_args(arguments)
    return Exit.OK


def _bits(text: str) -> int:
    from zsmtp.signing.keys import MAX_BITS, MIN_BITS

    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not MIN_BITS <= number <= MAX_BITS:
        raise argparse.ArgumentTypeError(f"not a size from {MIN_BITS} to {MAX_BITS} bits: {escape(text[:80])}")
    return number


# ------------------------------------------------------------------------- keys


def make_key(options: argparse.Namespace) -> int:
    """``zsmtp dkim key``."""
    from zsmtp.signing.keys import MIN_BITS, generate_key, read_key, write_key

    try:
        named = DKIMKey(domain=options.domain, selector=options.selector, key_file=options.file or "-")
    except ConfigError as error:
        raise CommandFailed(Exit.USAGE, str(error)) from error
    path = options.file or f"{named.selector_ascii}.{named.domain_ascii}.pem"
    if options.existing:
        if options.ed25519 or options.bits:
            raise CommandFailed(Exit.USAGE, "--existing does not go with --ed25519 or --bits: the key is made already")
        private = read_key(path, lambda text: note(f"{_PROGRAM} key", text))
    else:
        algorithm = Algorithm.ED25519_SHA256 if options.ed25519 else Algorithm.RSA_SHA256
        private = generate_key(algorithm, options.bits or MIN_BITS)
        try:
            write_key(path, private)
        except FileExistsError as error:
            text = f"{escape(path)} exists already; --existing prints the record of the key in it"
            raise CommandFailed(Exit.CANNOT_CREATE, text) from error
        except OSError as error:
            raise CommandFailed(Exit.CANNOT_CREATE, f"{escape(path)}: {reason(error)}") from error
    text = key_record(private.algorithm, private.public_key)
    kind = private.algorithm.key_type
    if options.json:
        document = {
            "schema": "zsmtp.dkim-key/1",
            "domain": named.domain_ascii,
            "selector": named.selector_ascii,
            "key_file": path,
            "algorithm": private.algorithm.value,
            "bits": private.bits,
            "name": named.key_name,
            "record": text,
            "strings": list(strings_of(text)),
            "zone": zone_entry(named.key_name, text),
        }
        _print_json(document)
        return Exit.OK
    sys.stdout.write(
        f"; the private key ({kind}, {private.bits} bits) is in {escape(path)}\n"
        f"{zone_entry(named.key_name, text)}"
        f"; name:  {named.key_name}\n; type:  TXT\n; value: {text}\n"
    )
    return Exit.OK


# ------------------------------------------------------------------- signatures


def verify_message(options: argparse.Namespace) -> int:
    """``zsmtp dkim verify``."""
    with _opened(options.message) as file, _asking(options.resolver) as lookups:
        try:
            fields, body = read_message(_blocks(file, options.message))
        except ContentError as error:
            raise CommandFailed(Exit.DATA, f"{escape(options.message)}: {error}") from error
        found = signatures_in(fields)
        answers = lookups(key_names(found))
        verified = verify(fields, found, body, answers, now=time.time())
    if options.json:
        signatures = [_document(one) for one in verified]
        _print_json({"schema": "zsmtp.dkim-verify/1", "signatures": signatures})
    else:
        look = look_of(sys.stdout, options.color)
        for one in verified:
            sys.stdout.write(f"{look.fit(_line(one, look))}\n")
        if not verified:
            sys.stdout.write("none       the message has no DKIM-Signature\n")
    passed = bool(verified) and all(one.result is DKIMResult.PASS for one in verified)
    return Exit.OK if passed else Exit.NEGATIVE


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    with reading(path):
        file = open(path, "rb")  # noqa: SIM115 - reading() handles only its errors
    with file:
        yield file


def _blocks(file: BinaryIO, path: str) -> Iterator[bytes]:
    while True:
        with reading(path):
            block = file.read(_BLOCK)
        if not block:
            return
        yield block


@contextmanager
def _asking(nameserver: str | None) -> Iterator[Callable[[tuple[str, ...]], dict[str, Answer]]]:
    """A function from names to the answers to their TXT queries, all within ``LOOKUPS_TIME``."""
    from zsmtp.client.config import Config, Direct
    from zsmtp.client.destinations import Destinations

    try:
        config = Config(direct=Direct(nameserver=nameserver or ""))
    except ConfigError as error:
        raise CommandFailed(Exit.USAGE, f"--resolver: {escape(str(error).partition(': ')[2])}") from error
    with closing(Destinations(config)) as destinations:
        resolver = destinations.resolver()

        def look_up(names: tuple[str, ...]) -> dict[str, Answer]:
            deadline = time.monotonic() + LOOKUPS_TIME
            return {name: resolver.lookup(Query(name, RecordType.TXT), deadline) for name in names}

        yield look_up


def _line(one: Verification, look: Look) -> str:
    result = look.paint(f"{one.result.value:9}", _STYLES.get(one.result, Style.BAD))
    signature = one.found.signature
    if signature is None:
        return f"{result}  signature {one.found.number + 1}: {one.reason}"
    about = f"{signature.domain} ({signature.selector}, {signature.algorithm.value}"
    about += f", {one.bits} bits" if one.bits else ""
    about += ", testing)" if one.testing else ")"
    return f"{result}  {about}" + (f": {one.reason}" if one.reason else "")


def _document(one: Verification) -> dict[str, Any]:
    signature = one.found.signature
    about: dict[str, Any] = {"result": one.result.value, "reason": one.reason, "testing": one.testing, "bits": one.bits}
    if signature is None:
        return about
    return about | {
        "domain": signature.domain,
        "selector": signature.selector,
        "key_name": signature.key_name,
        "identity": escape(signature.identity),
        "algorithm": signature.algorithm.value,
        "canonicalization": f"{signature.header_form.value}/{signature.body_form.value}",
        "signed": [name.decode("ascii") for name in signature.signed],
        "length": signature.length,
        "time": signature.time,
        "expires": signature.expires,
    }


def _print_json(document: dict[str, Any]) -> None:
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")
