"""What bash, fish and zsh offer for command lines, when they have read the completion script."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

MARK = "== "

# A line is given as words, the last of which is being typed, as bash has them.
_BASH = """
source "$1"; shift
for line in "$@"; do
    echo "== $line"
    mapfile -t COMP_WORDS < <(tr ' ' '\\n' <<<"${line//=/ = }")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
    _zsmtp
    [[ ${#COMPREPLY[@]} == 0 ]] || printf '%s\\n' "${COMPREPLY[@]}"
done
"""

_FISH = """
source $argv[1]
for line in $argv[2..-1]
    echo "== $line"
    complete -C $line | string replace -r '\\t.*' ''
end
"""

# zsh completes at a terminal only: a second one runs on a terminal of its own, until it has done all lines. What it
# reads before its editor starts is one command.
_ZSH = """
zmodload zsh/zpty
export SCRIPT=$1 FOUND=$2; shift 2
print -rl -- "$@" > $FOUND.lines
zpty inner zsh -f -i
zpty -w inner ". $SCRIPT/setup"
while zpty -r inner line; do :; done
cat $FOUND
"""
_ZSH_SETUP = """
unsetopt auto_menu auto_list list_beep zle_bracketed_paste
fpath=($SCRIPT $fpath)
autoload -Uz compinit
compinit -u -D
compadd() {
    local -a matches
    if [[ " ${(j. .)@[1,(i)(-|--)]}" != *' -'[OAD]* ]]; then
        builtin compadd -A matches "$@"
        (( $#matches )) && print -rl -- $matches >> $FOUND
    fi
    builtin compadd "$@"
}
zle-line-init() {
    local line
    for line in "${(@f)$(<$FOUND.lines)}"; do
        print -r -- "== $line" >> $FOUND
        BUFFER=$line CURSOR=$#BUFFER
        zle complete-word
    done
    BUFFER=exit
    zle accept-line
}
zle -N zle-line-init
"""


def offered(shell: str, script: str, lines: Sequence[str], folder: Path) -> dict[str, set[str]]:
    """What ``shell`` offers for each line, in ``folder``, when it has read ``script``."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [*_STARTED[shell](script, home), *lines],
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "TERM": "dumb", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    found: dict[str, set[str]] = {}
    for text in done.stdout.splitlines():
        if text.startswith(MARK):
            current = found.setdefault(text.removeprefix(MARK), set())
        else:
            current.add(text)
    return found


def _bash(script: str, home: Path) -> list[str]:
    (home / "script").write_text(script)
    return ["bash", "--norc", "-c", _BASH, "bash", str(home / "script")]


def _fish(script: str, home: Path) -> list[str]:
    (home / "script").write_text(script)
    return ["fish", "--no-config", "-c", _FISH, str(home / "script")]


def _zsh(script: str, home: Path) -> list[str]:
    (home / "_zsmtp").write_text(script)
    (home / "setup").write_text(_ZSH_SETUP)
    return ["zsh", "-f", "-c", _ZSH, "zsh", str(home), str(home / "found")]


_STARTED: dict[str, Callable[[str, Path], list[str]]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
