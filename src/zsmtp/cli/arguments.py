"""Command line parsers: argparse with exit statuses of sysexits(3), one-line errors and common options."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and status 64; its help has the terminal's width, as always in argparse."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        sys.stderr.write(f"{self.prog}: {escape(message)}; try {self.prog} --help\n")
        raise SystemExit(int(Exit.USAGE))


def command_parser(name: str, description: str, *, epilog: str = "") -> Parser:
    """The parser of one subcommand, with the options of every subcommand."""
    parser = Parser(
        prog=f"zsmtp {name}",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colours: auto (the default) where output is a terminal and NO_COLOR is not set",
    )
    return parser


def port(text: str) -> int:
    """A port number; argparse turns the ValueError into its message."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"not a port: {escape(text[:80])}")
    return number


def seconds(text: str) -> float:
    """A time in seconds, more than zero and at most a day."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"not a time in seconds: {escape(text[:80])}")
    return value
