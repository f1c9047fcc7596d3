"""Completion scripts: the commands as text for bash, zsh and fish.

In each script a command is found by its words, as ``zsmtp queue why``: the program, and every following word that is a
subcommand of the command found so far. Other words, options among them, are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from zsmtp.cli.completable import CompletableCommand, CompletableOption, Operand, OperandKind


def bash_script(commands: Sequence[CompletableCommand]) -> str:
    """The script for bash 4 or later; the package bash-completion is not needed."""
    below = " | ".join(_quoted(_called(one)) for one in commands if len(one.words) > 1)
    cases = "".join(_bash_case(one) for one in commands)
    return _BASH.format(names=_programs(commands), below=below, cases=cases)


def zsh_script(commands: Sequence[CompletableCommand]) -> str:
    """The script for zsh, to autoload as ``_zsmtp`` or to source."""
    return _ZSH.format(names=_programs(commands), cases="".join(_zsh_case(one) for one in commands))


def fish_script(commands: Sequence[CompletableCommand]) -> str:
    """The script for fish 3 or later."""
    below = " ".join(_quoted(_called(one)) for one in commands if len(one.words) > 1)
    lines = [f"complete -c {program} -e\ncomplete -c {program} -f\n" for program in _programs(commands).split()]
    lines += [line for one in commands for line in _fish_lines(one)]
    return _FISH.format(below=below, lines="".join(lines))


SCRIPTS: dict[str, Callable[[Sequence[CompletableCommand]], str]] = {
    "bash": bash_script,
    "fish": fish_script,
    "zsh": zsh_script,
}
"""The function that writes the script of each shell."""


def _called(command: CompletableCommand) -> str:
    return " ".join(command.words)


def _programs(commands: Sequence[CompletableCommand]) -> str:
    return " ".join(one.words[0] for one in commands if len(one.words) == 1)


def _quoted(text: str) -> str:
    """A text as one word of bash or zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


# ------------------------------------------------------------------------- bash

_BASH = """\
# Completion in bash: {names}. "zsmtp completion bash" writes this.

_zsmtp() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
    local command=${{COMP_WORDS[0]##*/}} word options='' value=text words=''
    if [[ $cur == = ]]; then  # of --option=value bash makes three words
        cur=
    elif [[ $prev == = ]]; then
        prev=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$command $word" in
            {below})
                command="$command $word" ;;
        esac
    done
    case $command in
{cases}    esac
    [[ $cur == -* && -n $options ]] && value=words words=$options
    case $value in
        files) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        folders) mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
        text) COMPREPLY=() ;;
    esac
    [[ $value == f* ]] && compopt -o filenames 2>/dev/null
    return 0
}}

complete -F _zsmtp {names}
"""


def _bash_case(command: CompletableCommand) -> str:
    options = " ".join(name for option in command.options for name in option.names)
    lines = [f"        {_quoted(_called(command))})\n            options={_quoted(options)}\n"]
    if command.subcommands:
        words = tuple(name for name, _ in command.subcommands)
        lines.append(f"            {_bash_value(Operand(OperandKind.WORDS, '', words))}\n")
    elif command.operand is not None:
        lines.append(f"            {_bash_value(command.operand)}\n")
    valued = [(option, option.value) for option in command.options if option.value is not None]
    if valued:
        lines.append("            case $prev in\n")
        for option, value in valued:
            alone = "options='' " if option.value_needed else ""
            lines.append(f"                {' | '.join(option.names)}) {alone}{_bash_value(value)} ;;\n")
        lines.append("            esac\n")
    return "".join((*lines, "            ;;\n"))


def _bash_value(operand: Operand) -> str:
    words = f" words={_quoted(' '.join(operand.words))}" if operand.words else ""
    return f"value={operand.kind.value}{words}"


# -------------------------------------------------------------------------- zsh

_ZSH = """\
#compdef {names}
# "zsmtp completion zsh" writes this.

compdef _zsmtp {names}

_zsmtp() {{
    _zsmtp_command ${{service:t}}
}}

_zsmtp_command() {{
    local curcontext=$curcontext state line
    local -a subcommands
    typeset -A opt_args
    case $1 in
{cases}    esac
    case $state in
        subcommand) _describe -t commands command subcommands ;;
        rest) _zsmtp_command "$1 $words[1]" ;;
    esac
}}

if [[ $funcstack[1] == _zsmtp ]]; then
    _zsmtp "$@"
fi
"""


def _zsh_case(command: CompletableCommand) -> str:
    lines = [f"        {_quoted(_called(command))})\n"]
    if command.subcommands:
        words = [_quoted(f"{name}:{meaning}") for name, meaning in command.subcommands]
        lines.append(f"            subcommands=({' '.join(words)})\n")
    names = [name for option in command.options for name in option.names]
    stacked = " -s" if all(len(name) == 2 or name.startswith("--") for name in names) else ""  # -8H is -8 -H
    specs = [spec for option in command.options for spec in _zsh_option(option)]
    if command.subcommands:
        specs += [_quoted("1: :->subcommand"), _quoted("*:: :->rest")]
    elif command.operand is not None:
        specs.append(_quoted(f"*{_zsh_value(command.operand)}"))
    whole = f"_arguments{stacked} -C {' '.join(specs)}"
    return "".join((*lines, f"            {whole} ;;\n"))


def _zsh_option(option: CompletableOption) -> Iterator[str]:
    """One specification for each name; any of them excludes all, unless the option repeats."""
    meaning = _zsh_escaped(option.meaning, "[]")
    before = "*" if option.repeats else f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    value = "" if option.value is None else _zsh_value(option.value)
    if value and not option.value_needed:
        value = f":{value}"
    for name in option.names:
        joint = "" if option.value is None else "=" if name.startswith("--") else "+"
        yield _quoted(f"{before}{name}{joint}[{meaning}]{value}")


def _zsh_value(operand: Operand) -> str:
    actions = {
        OperandKind.TEXT: " ",
        OperandKind.FILES: "_files",
        OperandKind.FOLDERS: "_files -/",
        OperandKind.WORDS: f"({' '.join(operand.words)})",
    }
    return f":{_zsh_escaped(operand.name, ':')}:{actions[operand.kind]}"


def _zsh_escaped(text: str, characters: str) -> str:
    """A part of a specification, with its special characters escaped."""
    return "".join(f"\\{one}" if one in characters or one == "\\" else one for one in text)


# ------------------------------------------------------------------------- fish

_FISH = """\
# "zsmtp completion fish" writes this.

set -g __zsmtp_commands {below}

function __zsmtp_at -d 'Whether the words before the cursor call this command'
    set -l before (commandline -opc)
    set -l command (string replace -r '.*/' '' -- $before[1])
    for word in $before[2..-1]
        if contains -- "$command $word" $__zsmtp_commands
            set command "$command $word"
        end
    end
    test "$command" = "$argv[1]"
end

{lines}"""


def _fish_lines(command: CompletableCommand) -> Iterator[str]:
    here = f"complete -c {command.words[0]} -n {_fish_quoted(f'__zsmtp_at {_quoted(_called(command))}')}"
    for name, meaning in command.subcommands:
        yield f"{here} -a {name} -d {_fish_quoted(meaning)}\n"
    if command.operand is not None:
        yield f"{here} {_fish_value(command.operand)}\n"
    for option in command.options:
        names = " ".join(_fish_name(name) for name in option.names)
        value = ""
        if option.value is not None:
            value = f" {'-r ' if option.value_needed else ''}{_fish_value(option.value)}"
        yield f"{here} {names}{value} -d {_fish_quoted(option.meaning)}\n"


def _fish_name(name: str) -> str:
    if name.startswith("--"):
        return f"-l {name[2:]}"
    return f"-s {name[1:]}" if len(name) == 2 else f"-o {name[1:]}"


def _fish_value(operand: Operand) -> str:
    match operand.kind:
        case OperandKind.FILES:
            return "-F"
        case OperandKind.FOLDERS:
            return "-f -a '(__fish_complete_directories)'"
        case OperandKind.WORDS:
            return f"-f -a {_fish_quoted(' '.join(operand.words))}"
        case OperandKind.TEXT:
            return "-f"


def _fish_quoted(text: str) -> str:
    """A text as one word of fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
