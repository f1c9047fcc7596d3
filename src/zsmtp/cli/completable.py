"""The completions of all commands as values, read from the parsers and tables of their command lines.

:func:`commands` yields every command and subcommand of ``zsmtp``, ``zsmtp-sendmail`` and ``smtp``. There is no second
list: a new option is completed because its parser has it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from enum import Enum
from importlib import import_module
from typing import NamedTuple

from zsmtp.cli.main import COMMANDS, make_parser

AGENT = "smtp"


class OperandKind(Enum):
    """The kind of an operand or of the value of an option."""

    TEXT = "text"
    """Free text, without completions."""
    FILES = "files"
    FOLDERS = "folders"
    WORDS = "words"
    """One of a fixed list of words."""


class Operand(NamedTuple):
    """An operand, or the value of an option."""

    kind: OperandKind
    name: str
    """Its name in the help."""
    words: tuple[str, ...] = ()
    """The list, for the kind WORDS."""


class CompletableOption(NamedTuple):
    """An option of a command."""

    names: tuple[str, ...]
    meaning: str
    value: Operand | None = None
    """None: it takes no value."""
    value_needed: bool = True
    """Whether the option needs its value."""
    repeats: bool = False
    """Whether it may be given more than once."""


class CompletableCommand(NamedTuple):
    """A command, or a subcommand."""

    words: tuple[str, ...]
    """Its words on the command line: ("zsmtp", "queue", "why")."""
    meaning: str
    options: tuple[CompletableOption, ...]
    subcommands: tuple[tuple[str, str], ...] = ()
    """Name and meaning of each subcommand."""
    operand: Operand | None = None
    """Its operands; None if they have no completions."""


_KINDS = {
    **dict.fromkeys(("FILE", "LIST", "OUT", "PATH", "TRACE", "URL", "file"), OperandKind.FILES),
    **dict.fromkeys(("DIR", "DIRECTORY"), OperandKind.FOLDERS),
}
"""Names of values that are paths. A URL is that of a queue, which may be a file."""


def commands() -> Iterator[CompletableCommand]:
    """Every command, each followed by its subcommands."""
    frame = make_parser()
    named = tuple((name, meaning) for name, (_, meaning) in COMMANDS.items())
    yield CompletableCommand(("zsmtp",), frame.description or "", _options(frame), named)
    for name, (module, meaning) in COMMANDS.items():
        if name == AGENT:
            yield _agent(("zsmtp", AGENT))
        else:
            yield from _of_module(name, module, meaning)
    yield _sendmail()
    yield _agent((AGENT,))


def _of_module(name: str, module: str, meaning: str) -> Iterator[CompletableCommand]:
    """A command of ``zsmtp`` and its subcommands."""
    loaded = import_module(module)
    if not hasattr(loaded, "subcommand_parsers"):
        yield _command(("zsmtp", name), loaded.make_parser())
        return
    parsers: dict[str, argparse.ArgumentParser] = loaded.subcommand_parsers()
    below = tuple((word, _sentence(parser)) for word, parser in parsers.items())
    anywhere = set(getattr(loaded, "ANYWHERE", ()))
    any_one = _options(next(iter(parsers.values())))
    leading = (_HELP, *(option for option in any_one if anywhere & set(option.names)))
    yield CompletableCommand(("zsmtp", name), meaning, leading, below)
    for word, parser in parsers.items():
        yield _command(("zsmtp", name, word), parser)


_HELP = CompletableOption(("-h", "--help"), "show the help and exit")


def _command(words: tuple[str, ...], parser: argparse.ArgumentParser) -> CompletableCommand:
    operands = [_operand(action) for action in parser._actions if not action.option_strings]
    listed = next((one for one in operands if one.kind is not OperandKind.TEXT), None)
    return CompletableCommand(words, _sentence(parser), _options(parser), operand=listed)


def _sentence(parser: argparse.ArgumentParser) -> str:
    """The description of a command, as the meaning of a word: ``List recipients.`` is ``list recipients``."""
    text = (parser.description or "").removesuffix(".")
    return text[:1].lower() + text[1:]


def _options(parser: argparse.ArgumentParser) -> tuple[CompletableOption, ...]:
    return tuple(
        CompletableOption(
            tuple(action.option_strings),
            " ".join((action.help or "").split()) % {**vars(action), "prog": parser.prog},
            None if action.nargs == 0 else _operand(action),
            action.nargs != argparse.OPTIONAL,
            action.nargs != 0 and isinstance(action.default, list),
        )
        for action in parser._actions
        if action.option_strings
    )


def _operand(action: argparse.Action) -> Operand:
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    if action.choices is not None:
        return Operand(OperandKind.WORDS, name, tuple(str(choice) for choice in action.choices))
    return Operand(_KINDS.get(name, OperandKind.TEXT), name)


def _agent(words: tuple[str, ...]) -> CompletableCommand:
    """The transport agent, whose options are in a table of its own."""
    from zsmtp.zmailer.options import OPTIONS

    table = [*((f"-{letter}", value, meaning) for letter, value, meaning in OPTIONS), ("--help", "", "show the help")]
    return CompletableCommand(words, COMMANDS[AGENT][1], _tabled(table))


def _sendmail() -> CompletableCommand:
    """``zsmtp-sendmail``: the options with an effect here."""
    from zsmtp.cli.sendmailoptions import OPTIONS

    return CompletableCommand(("zsmtp-sendmail",), "queue a message, as sendmail(8) does", _tabled(OPTIONS))


def _tabled(table: Sequence[tuple[str, str, str]]) -> tuple[CompletableOption, ...]:
    """The options in a table: names, name of the value, meaning."""
    return tuple(
        CompletableOption(
            tuple(names.split(", ")),
            meaning,
            Operand(_KINDS.get(value, OperandKind.TEXT), value) if value else None,
        )
        for names, value, meaning in table
    )
