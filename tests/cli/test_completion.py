"""What shells complete: real shells, where they are installed, asked for what they offer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests.cli.completionshells import offered

from zsmtp.cli import sendmailoptions
from zsmtp.cli.completable import commands
from zsmtp.cli.completionscripts import SCRIPTS
from zsmtp.cli.main import COMMANDS, main
from zsmtp.cli.queue import VERBS
from zsmtp.zmailer.options import help_text

AGENTS = ("smtp", "zsmtp smtp")
WORDS = [
    "zsmtp",
    *(f"zsmtp {name}" for name in COMMANDS if name != "smtp"),
    *(f"zsmtp queue {verb}" for verb in (*VERBS, "import")),
    *(f"zsmtp {words}" for words in ("dkim key", "dkim verify", "trace show")),
    *AGENTS,
    "zsmtp-sendmail",
]
OPTIONS_BEHIND = {line: f"{line} -" for line in WORDS}
LEVELS = {"none", "may", "encrypt", "verify", "secure", "dane", "dane-only"}
LINES = {
    "zsmtp ": set(COMMANDS),
    "zsmtp queue ": {*VERBS, "import"},
    "zsmtp queue --queue mail.db wh": {"why"},
    "zsmtp dkim ": {"key", "verify"},
    "zsmtp completion ": {"bash", "fish", "zsh"},
    "zsmtp send --color ": {"auto", "always", "never"},
    "zsmtp send --tls ": LEVELS,
    "zsmtp send --keep-going let": {"letter.eml"},
    "zsmtp send --config let": {"letter.eml"},
    "zsmtp send --from let": set(),
    "zsmtp receive --folder let": {"letters"},
    "zsmtp check let": set(),
    "smtp -A let": {"letter.eml"},
    "zsmtp smtp -h let": set(),
    "zsmtp smtp -S let": {"letter.eml"},
    "/opt/zsmtp/bin/smtp -l let": {"letter.eml"},
    "zsmtp-sendmail -f let": set(),
}
"""What must be offered for a line: names of files as they are in :func:`folder`, beside others."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("folder")
    (made / "letter.eml").touch()
    (made / "letters").mkdir()
    return made


@pytest.fixture(scope="module", params=sorted(SCRIPTS))
def offers(request: pytest.FixtureRequest, folder: Path) -> dict[str, set[str]]:
    """What a shell offers for all lines of this module."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    script = SCRIPTS[request.param](list(commands()))
    return offered(request.param, script, [*OPTIONS_BEHIND.values(), *LINES, "zsmtp send --tls=da"], folder)


def test_every_option_of_every_help_is_offered(
    offers: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for line, typed in OPTIONS_BEHIND.items():
        told = _options_told(line, capsys)
        assert told, line
        assert told <= offers[typed], line


def _options_told(line: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options that the help of a command lists."""
    if line == "zsmtp-sendmail":
        text = sendmailoptions.HELP
    elif line in AGENTS:
        text = help_text()
    else:
        with pytest.raises(SystemExit):
            main([*line.split()[1:], "--help"])
        text = capsys.readouterr().out
    heads = re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE)
    return {word.rstrip(",") for head in heads for word in head.split() if word.startswith("-")}


@pytest.mark.parametrize("line", LINES)
def test_what_is_offered(line: str, offers: dict[str, set[str]]) -> None:
    shown = {one.rstrip("/") for one in offers[line]}
    if line.endswith("let") and LINES[line]:
        assert LINES[line] <= shown <= {"letter.eml", "letters"}
        assert ("letter.eml" in shown) == ("letter.eml" in LINES[line])
    else:
        assert shown == LINES[line]


def test_a_value_behind_an_equals_sign(offers: dict[str, set[str]]) -> None:
    values = {one.rpartition("=")[2] for one in offers["zsmtp send --tls=da"]}
    assert values == {"dane", "dane-only"}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_command_writes_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell](list(commands()))


def test_an_unknown_shell_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "tcsh"])
    assert ended.value.code == 64
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
