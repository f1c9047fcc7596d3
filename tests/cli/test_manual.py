"""The manual page and the help tell of the same things."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zsmtp.cli.arguments import Parser
from zsmtp.cli.explain import make_parser as explain
from zsmtp.cli.main import COMMANDS
from zsmtp.cli.send import make_parser as send
from zsmtp.cli.sysexits import Exit

MANUAL = (Path(__file__).parents[2] / "man" / "zsmtp.1").read_text()
OPTION = re.compile(r"(?<![\w-])(--?[a-z0-9][a-z-]*)")


@pytest.mark.parametrize("parser", [explain(), send()], ids=lambda parser: parser.prog)
def test_every_option_is_in_the_manual(parser: Parser) -> None:
    known = set(OPTION.findall(MANUAL.replace("\\-", "-")))
    mine = {name for action in parser._actions for name in action.option_strings if name not in ("-h", "--help")}
    assert mine <= known


def test_every_option_of_the_manual_is_there() -> None:
    known = {name for parser in (explain(), send()) for action in parser._actions for name in action.option_strings}
    page = re.sub(r"^\.SH TRACE\n.*?(?=^\.SH )", "", MANUAL, flags=re.DOTALL | re.MULTILINE)  # that has its own parser
    told = re.findall(r"^\.(?:B|BI|BR) (\\-.*)$", page, re.MULTILINE)
    mine = {name for line in told for name in OPTION.findall(line.replace("\\-", "-"))}
    assert "--connect" in mine
    assert mine - {"--help", "--version"} <= known


def test_every_command_and_every_exit_status_is_in_the_manual() -> None:
    for name in COMMANDS:
        assert re.search(rf"^\.B {name}$", MANUAL, re.MULTILINE), name
    statuses = {int(one) for one in re.findall(r"^\.TP 5\n\.B (\d+)$", MANUAL, re.MULTILINE)}
    unused = {Exit.NO_USER, Exit.OS}
    assert statuses == {int(one) for one in Exit if one not in unused}


def test_the_word_no_is_not_taken_for_a_macro() -> None:
    """In mdoc(7) ``No`` behind a literal ends it, and is not printed; ``\\&No`` is."""
    for page in (Path(__file__).parents[2] / "man").iterdir():
        assert not re.search(r"^\.(?:Li|Ql) .*: No\b", page.read_text(), re.MULTILINE), page.name
