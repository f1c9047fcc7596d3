"""Command lines: argparse with the status of sysexits(3), errors in one line, and options that all commands have."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and status 64; help goes by the terminal's width as everywhere in argparse."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end."""
        sys.stderr.write(f"{self.prog}: {escape(message)}; try {self.prog} --help\n")
        raise SystemExit(int(Exit.USAGE))


def command_parser(name: str, description: str, *, epilog: str = "") -> Parser:
    """The parser of one subcommand, with the options that every one has."""
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
    """A time in seconds, more than nothing and at most a day."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"not a time in seconds: {escape(text[:80])}")
    return value
