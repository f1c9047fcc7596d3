"""``zsmtp bounce``: keys of return paths, and mail that was returned.

``zsmtp bounce key`` makes the file of keys that authenticate return paths, or adds a key to it. ``zsmtp bounce take``
takes a returned message from another mail system that has the address, and processes it as listeners do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.failure import CommandFailed, reading, reason
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import ConfigError, QueueError, QueueUnavailable
from zsmtp.escape import escape
from zsmtp.queue.location import VARIABLE

_PROGRAM = "zsmtp bounce"

_KEY_EPILOG = """\
The file is readable by its owner only, and never overwritten; all processes that deliver from a queue have the same.
exit status: 0; 64 wrong usage, 73 the file cannot be made, 78 with --rotate: it has no keys."""


def key_parser() -> Parser:
    """The command line of ``zsmtp bounce key``."""
    parser = command_parser("bounce key", "Make the file of keys that authenticate return paths.", epilog=_KEY_EPILOG)
    parser.add_argument("file", metavar="FILE", help="the file; [queue.bounces] key_file names it")
    parser.add_argument("--rotate", action="store_true", help="put a new key before the present ones, which stay valid")
    return parser


_TAKE_EPILOG = """\
exit status: 0 it was recorded, or is no report; 1 no return path is authentic, or its message is no longer
known; 64 wrong usage, 66 or 77 a file cannot be read, 75 try again later, 78 the configuration has no
return path."""


def take_parser() -> Parser:
    """The command line of ``zsmtp bounce take``."""
    parser = command_parser("bounce take", "Take in a returned message.", epilog=_TAKE_EPILOG)
    parser.add_argument("message", metavar="FILE", nargs="?", default="-", help="the message (standard input)")
    parser.add_argument("--config", metavar="FILE", required=True, help="the configuration of zsmtp serve")
    parser.add_argument("--queue", metavar="URL", help="the queue, if it is not that of the configuration")
    parser.add_argument(
        "--to",
        metavar="ADDRESS",
        action="append",
        help="its recipient; without it those in Delivered-To, X-Original-To and To of the message",
    )
    return parser


def subcommand_parsers() -> dict[str, Parser]:
    """The command line of each subcommand."""
    return {"key": key_parser(), "take": take_parser()}


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    if arguments[:1] == ["key"]:
        return make_key(key_parser().parse_args(arguments[1:]))
    if arguments[:1] == ["take"]:
        return asyncio.run(take_message(take_parser().parse_args(arguments[1:])))
    commands = Parser(prog=_PROGRAM, description="Returned mail.", allow_abbrev=False)
    known = commands.add_subparsers(title="commands", dest="COMMAND", metavar="COMMAND", required=True)
    known.add_parser("key", help="make the file of keys that authenticate return paths", add_help=False)
    known.add_parser("take", help="take in a returned message", add_help=False)
    commands.parse_args(arguments)
    return Exit.OK


def make_key(options: argparse.Namespace) -> int:
    """``zsmtp bounce key``."""
    from zsmtp.queue.bouncekeys import make_keys, put_new_key

    path, shown = options.file, escape(options.file)
    try:
        if options.rotate:
            number = put_new_key(path)
            sys.stdout.write(f"{shown}: a new key signs from the next start on; {number - 1} before it prove as well\n")
        else:
            make_keys(path)
            sys.stdout.write(f"{shown}: made; [queue.bounces] key_file names it\n")
    except FileExistsError as error:
        raise CommandFailed(Exit.CANNOT_CREATE, f"{shown} exists already; --rotate puts a new key into it") from error
    except ConfigError as error:
        raise CommandFailed(Exit.CONFIG, escape(str(error).removeprefix("key_file: "))) from error
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise CommandFailed(Exit.CANNOT_CREATE, f"{shown} cannot be made: {why}") from error
    return Exit.OK


async def take_message(options: argparse.Namespace) -> int:
    """``zsmtp bounce take``."""
    from zsmtp.cli.queuestore import open_store
    from zsmtp.queue.bouncekeys import keys_of
    from zsmtp.queue.bouncereport import MAX_OCTETS, addressed_to
    from zsmtp.queue.bounces import BounceTaker, Taken
    from zsmtp.queue.returnpath import ReturnPath
    from zsmtp.server.serviceconfig import read_service

    with reading(options.config):
        service = read_service(options.config, queue=options.queue or "", usual=os.environ.get(VARIABLE, ""))
    bounces = service.queue.bounces
    if not bounces.return_path:
        raise CommandFailed(Exit.CONFIG, f"{escape(options.config)}: queue.bounces.return_path: it is not set")
    octets = _read(options.message, MAX_OCTETS)
    addresses = [os.fsencode(one) for one in options.to] if options.to else addressed_to(octets)
    try:
        async with open_store(service.path) as store:
            taken = await BounceTaker(store, ReturnPath(bounces, keys_of(bounces), store.shard)).take(addresses, octets)
    except QueueUnavailable as error:
        raise CommandFailed(Exit.TEMPORARY, escape(str(error))) from error
    except QueueError as error:
        raise CommandFailed(Exit.USAGE, escape(str(error))) from error
    if taken is Taken.EARLY:
        raise CommandFailed(Exit.TEMPORARY, "the message it is about is not done with yet")
    sys.stdout.write(f"{taken.value}\n")
    return Exit.NEGATIVE if taken in (Taken.UNPROVEN, Taken.UNKNOWN) else Exit.OK


def _read(path: str, limit: int) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(limit)
    with reading(path), open(path, "rb") as file:
        return file.read(limit)
