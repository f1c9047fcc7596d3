"""``zsmtp trace show FILE``: draws a recorded delivery in the terminal, or as one page of HTML.

Traces are written by ``zsmtp send --trace``, by the library, and by the agent (``smtp -O trace=DIR``).
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TextIO

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.failure import CommandFailed, read_file, reason
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.terminal import MAX_WIDTH, MIN_WIDTH, look_of
from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.observers.codec import parse_trace
from zsmtp.observers.document import Trace
from zsmtp.observers.waterfall import draw
from zsmtp.text.lines import painted

MAX_FILE = 32 << 20  # octets


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    options = _parse(arguments)
    trace = _read(options.file)
    if options.html is not None:
        if options.html != "-" and options.file != "-" and _is_same(options.html, options.file):
            raise CommandFailed(Exit.USAGE, f"--html: {escape(options.html)} is the trace itself")
        _write_page(options.html, trace)
    else:
        _draw(sys.stdout, trace, options)
    return Exit.OK


def _parse(arguments: list[str]) -> argparse.Namespace:
    commands = Parser(prog="zsmtp trace", description="Recorded deliveries.", allow_abbrev=False)
    shown = commands.add_subparsers(title="commands", dest="COMMAND", metavar="COMMAND", required=True)
    shown.add_parser("show", help="draw a trace, as text or as a page of HTML", add_help=False)
    if arguments[:1] != ["show"]:
        commands.parse_args(arguments[:1])
    parser = _show_parser()
    options = parser.parse_args(arguments[1:])
    if options.file is None and options.html not in (None, "-"):  # in "--html FILE" the option takes FILE as its value
        options.file, options.html = options.html, "-"
    if options.file is None:
        parser.error("the following arguments are required: FILE")
    return options


def _show_parser() -> Parser:
    parser = command_parser("trace show", "Draw a recorded delivery: what happened when, and why.")
    parser.add_argument("file", metavar="FILE", nargs="?", help="a trace (- for standard input)")
    parser.add_argument(
        "--html", metavar="OUT", nargs="?", const="-", help="write one page of HTML to OUT, or to standard output"
    )
    parser.add_argument("--width", type=_width, help="columns to draw in (default: those of the terminal)")
    return parser


def subcommand_parsers() -> dict[str, Parser]:
    """The command line of each subcommand."""
    return {"show": _show_parser()}


def _is_same(one: str, other: str) -> bool:
    return os.path.exists(one) and os.path.samefile(one, other)


def _width(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not MIN_WIDTH <= number <= 1000:
        raise argparse.ArgumentTypeError(f"not a number of columns from {MIN_WIDTH} to 1000: {escape(text[:80])}")
    return number


def _read(path: str) -> Trace:
    data = read_file(path, MAX_FILE)
    try:
        return parse_trace(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise CommandFailed(Exit.DATA, f"{escape(path)}: not a trace: not UTF-8") from None
    except ConfigError as error:
        raise CommandFailed(Exit.DATA, f"{escape(path)}: {escape(str(error))}") from None


def _draw(stream: TextIO, trace: Trace, options: argparse.Namespace) -> None:
    look = look_of(stream, options.color)
    for line in draw(trace, width=options.width or min(look.width, MAX_WIDTH), unicode=look.unicode):
        stream.write(f"{painted(line, look).rstrip()}\n")


def _write_page(path: str, trace: Trace) -> None:
    from zsmtp.observers.page import page

    text = page(trace)
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        status = Exit.NO_PERMISSION if isinstance(error, PermissionError) else Exit.CANNOT_CREATE
        raise CommandFailed(status, f"{escape(path)}: {reason(error)}") from error
