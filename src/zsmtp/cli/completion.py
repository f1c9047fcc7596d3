"""``zsmtp completion SHELL``: prints the completion script of a shell for ``zsmtp``, ``zsmtp-sendmail`` and ``smtp``.

The script belongs in a file that the shell reads; the epilog names it. Packages write it at build time.
"""

from __future__ import annotations

import argparse
import sys

from zsmtp.cli.arguments import Parser, command_parser
from zsmtp.cli.completable import commands
from zsmtp.cli.completionscripts import SCRIPTS
from zsmtp.cli.sysexits import Exit

_EPILOG = """\
the place of the script, for one user:
  bash  ~/.local/share/bash-completion/completions/zsmtp
  fish  ~/.config/fish/completions/zsmtp.fish
  zsh   a file _zsmtp in a folder of $fpath, before compinit runs
or, for this shell only: source <(zsmtp completion bash)"""


def run(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    options = make_parser().parse_args(arguments)
    sys.stdout.write(SCRIPTS[options.shell](list(commands())))
    return Exit.OK


def make_parser() -> Parser:
    """The options of the command."""
    parser = command_parser("completion", "Write a completion script for a shell.", epilog=_EPILOG)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS), help=f"one of {', '.join(SCRIPTS)}")
    return parser
