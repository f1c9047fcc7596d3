"""``zsmtp bounce``: what belongs to mail that comes back.

``zsmtp bounce key`` makes the file of the keys that prove return paths, or puts a new key into it.
"""

from __future__ import annotations

import argparse
import sys

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.failure import CommandFailed, reason
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import ConfigError
from zsmtp.escape import escape

_PROGRAM = "zsmtp bounce"

_KEY_EPILOG = """\
The file is readable by its owner only, and never overwritten; all processes that deliver from a queue have the same.
exit status: 0; 64 wrong usage, 73 the file cannot be made, 78 with --rotate: it has no keys."""


def key_parser() -> Parser:
    """The command line of ``zsmtp bounce key``."""
    parser = command_parser("bounce key", "Make the file of the keys that prove return paths.", epilog=_KEY_EPILOG)
    parser.add_argument("file", metavar="FILE", help="the file; [queue.bounces] key_file names it")
    parser.add_argument(
        "--rotate", action="store_true", help="put a new key in front of those that are there, which go on proving"
    )
    return parser


def run(arguments: list[str]) -> int:
    """Run the command; the exit status."""
    if arguments[:1] == ["key"]:
        return make_key(key_parser().parse_args(arguments[1:]))
    commands = Parser(prog=_PROGRAM, description="Mail that comes back.", allow_abbrev=False)
    known = commands.add_subparsers(title="commands", dest="COMMAND", metavar="COMMAND", required=True)
    known.add_parser("key", help="make the file of the keys that prove return paths", add_help=False)
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
        raise CommandFailed(Exit.CANNOT_CREATE, f"{shown} is there already; --rotate puts a new key into it") from error
    except ConfigError as error:
        raise CommandFailed(Exit.CONFIG, escape(str(error).removeprefix("key_file: "))) from error
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise CommandFailed(Exit.CANNOT_CREATE, f"{shown} cannot be made: {why}") from error
    return Exit.OK
