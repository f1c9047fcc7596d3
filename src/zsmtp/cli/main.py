"""``zsmtp``: everything that is not the agent itself, by subcommand.

``zsmtp smtp ...`` runs the transport agent as the command ``smtp`` does; it is there for installations where another
program of that name comes first on the PATH.
"""

from __future__ import annotations

import argparse
import sys

from zsmtp import __version__


def main(argv: list[str] | None = None) -> int:
    """Run the command with these arguments (without the program's name); the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["smtp"]:
        from zsmtp.zmailer.agent import main as agent

        return agent(arguments[1:])
    parser = argparse.ArgumentParser(prog="zsmtp", description="The outbound half of a mail system.")
    parser.add_argument("--version", action="version", version=f"zsmtp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("smtp", help="run the transport agent: the same as the command smtp(8)", add_help=False)
    parser.parse_args(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
