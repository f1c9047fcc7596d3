"""``zsmtp``: the command with its subcommands, among them the agent.

Each subcommand is a module with the function ``run(arguments) -> status``, and with ``make_parser()`` or, if it has
subcommands of its own, ``subcommand_parsers()``; it is imported only when it is used. This module handles their
errors: one line on standard error, an exit status of sysexits(3), never a traceback. ``zsmtp smtp ...`` runs the
transport agent as the command ``smtp`` does, for installations where another program of that name comes first on the
PATH.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from zsmtp import __version__

TYPE_CHECKING = False  # as in typing, whose import would cost milliseconds
if TYPE_CHECKING:
    from zsmtp.cli.arguments import Parser

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("zsmtp.cli.serve", "take mail, keep it in the queue, and deliver it"),
    "send": ("zsmtp.cli.send", "deliver messages now"),
    "receive": ("zsmtp.cli.receive", "take mail on this machine and show it"),
    "explain": ("zsmtp.cli.explain", "show what a delivery would do, and why"),
    "check": ("zsmtp.cli.check", "show how receivers will judge mail from a sender"),
    "trace": ("zsmtp.cli.trace", "draw a recorded delivery"),
    "smtp": ("zsmtp.cli.agent", "run the transport agent: the same as the command smtp(8)"),
    "tlsrpt": ("zsmtp.cli.tlsrpt", "make the TLS reports of a day (RFC 8460)"),
    "queue": ("zsmtp.cli.queue", "show what is in the queue and why, and change it"),
    "bounce": ("zsmtp.cli.bounce", "take in mail that came back, make keys for return paths"),
    "dkim": ("zsmtp.cli.dkim", "make keys for DKIM, and verify signatures (RFC 6376)"),
    "completion": ("zsmtp.cli.completion", "write a completion script for a shell"),
}
"""The module of each subcommand, and its description in one line."""


def main(argv: list[str] | None = None) -> int:
    """Run the command with these arguments (without the program's name); return the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else ""
    if name != "smtp":  # with stdout closed the agent must see the write of a report fail
        _open_streams()
    if name in COMMANDS:
        run: Callable[[list[str]], int] = import_module(COMMANDS[name][0]).run
        return run(arguments[1:]) if name == "smtp" else _guarded(name, run, arguments[1:])
    _parse(arguments)
    return 0


def _open_streams() -> None:
    """Replace a stream that was closed before the start (``>&-``): it discards output, or is empty."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the life of the process


def _parse(arguments: list[str]) -> None:
    """Handle ``--help``, ``--version`` and unknown commands: exits."""
    make_parser().parse_args(arguments)


def make_parser() -> Parser:
    """The command line up to the command."""
    from zsmtp.cli.arguments import Parser

    parser = Parser(
        prog="zsmtp",
        description="The outbound half of a mail system.",
        epilog="zsmtp COMMAND --help shows its options; zsmtp(1) describes everything.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zsmtp {__version__}", help="show the version and exit")
    commands = parser.add_subparsers(title="commands", dest="COMMAND", metavar="COMMAND", required=True)
    for name, (_, help_text) in COMMANDS.items():
        commands.add_parser(name, help=help_text, add_help=False)
    return parser


def _guarded(name: str, run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a subcommand; errors become a line and an exit status."""
    from zsmtp.cli.failure import CommandFailed, reason
    from zsmtp.cli.sysexits import Exit
    from zsmtp.errors import ConfigError, ZsmtpError
    from zsmtp.escape import escape

    try:
        status = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone
        _drop_output()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except CommandFailed as error:
        status, text = error.status, str(error)
    except ConfigError as error:
        status, text = Exit.CONFIG, escape(str(error))
    except (ZsmtpError, RecursionError, MemoryError) as error:
        status, text = Exit.SOFTWARE, escape(str(error) or type(error).__name__)
    except OSError as error:
        _drop_output()
        status, text = Exit.IO, escape(reason(error))
    else:
        return status
    sys.stderr.write(f"zsmtp {name}: {text}\n")
    return status


def _drop_output() -> None:
    """Discard output that is still buffered: the interpreter would try to write it at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
