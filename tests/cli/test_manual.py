"""The manual page and the help tell of the same things."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from zsmtp.cli.arguments import Parser
from zsmtp.cli.bounce import key_parser as bounce_key
from zsmtp.cli.bounce import take_parser
from zsmtp.cli.check import make_parser as check
from zsmtp.cli.completion import make_parser as completion
from zsmtp.cli.dkim import key_parser, verify_parser
from zsmtp.cli.explain import make_parser as explain
from zsmtp.cli.main import COMMANDS
from zsmtp.cli.queue import VERBS, verb_parser
from zsmtp.cli.receive import make_parser as receive
from zsmtp.cli.send import make_parser as send
from zsmtp.cli.serve import make_parser as serve
from zsmtp.cli.sysexits import Exit
from zsmtp.cli.tlsrpt import make_parser as tlsrpt
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.returnpath import BounceConfig
from zsmtp.queue.schedule import RetryPolicy
from zsmtp.queue.shaping import SiteLimits
from zsmtp.server.access import ClientRights
from zsmtp.server.serviceconfig import HealthConfig, ListenConfig, LogConfig

MANUAL = (Path(__file__).parents[2] / "man" / "zsmtp.1").read_text()
OPTION = re.compile(r"(?<![\w-])(--?[a-z0-9][a-z0-9-]*)")


PARSERS = [
    check(),
    completion(),
    explain(),
    send(),
    receive(),
    key_parser(),
    verify_parser(),
    bounce_key(),
    take_parser(),
]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_every_option_is_in_the_manual(parser: Parser) -> None:
    known = set(OPTION.findall(MANUAL.replace("\\-", "-")))
    mine = {name for action in parser._actions for name in action.option_strings if name not in ("-h", "--help")}
    assert mine <= known


def test_every_option_of_the_manual_is_there() -> None:
    known = {name for parser in PARSERS for action in parser._actions for name in action.option_strings}
    page = re.sub(r"^\.SH TRACE\n.*?(?=^\.SH )", "", MANUAL, flags=re.DOTALL | re.MULTILINE)  # that has its own parser
    told = re.findall(r"^\.(?:B|BI|BR) (\\-.*)$", page, re.MULTILINE)
    mine = {name for line in told for name in OPTION.findall(line.replace("\\-", "-"))}
    assert "--connect" in mine
    assert mine - {"--help", "--version"} <= known


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_the_queue_and_its_options_are_in_their_manual(verb: str) -> None:
    page = (Path(__file__).parents[2] / "man" / "zsmtp-queue.1").read_text()
    assert re.search(rf"^\.It Ic {verb}\b", page, re.MULTILINE)
    known = {f"--{name}" for name in re.findall(r"\bFl -([a-z-]+)", page)}
    parser = verb_parser(verb)
    assert {name for action in parser._actions for name in action.option_strings} <= known | {"-h", "--help"}


def test_every_option_of_the_queue_s_manual_is_there() -> None:
    page = (Path(__file__).parents[2] / "man" / "zsmtp-queue.1").read_text()
    known = {name for verb in VERBS for action in verb_parser(verb)._actions for name in action.option_strings}
    assert "\n.Ic import\n" in page
    assert {f"--{name}" for name in re.findall(r"\bFl -([a-z-]+)", page)} <= known


def test_every_command_and_every_exit_status_is_in_the_manual() -> None:
    for name in COMMANDS:
        assert re.search(rf"^\.B {name}$", MANUAL, re.MULTILINE), name
    statuses = {int(one) for one in re.findall(r"^\.TP 5\n\.B (\d+)$", MANUAL, re.MULTILINE)}
    unused = {Exit.NO_USER}
    assert statuses == {int(one) for one in Exit if one not in unused}


def test_every_option_of_tlsrpt_is_in_its_manual_and_none_else() -> None:
    page = (Path(__file__).parents[2] / "man" / "zsmtp-tlsrpt.1").read_text()
    known = {f"-{name}" for name in re.findall(r"\bFl (-[a-z-]+|[46])\b", page)}
    mine = {name for action in tlsrpt()._actions for name in action.option_strings}
    assert mine - {"-h", "--help"} == known - {"-S"}


def test_the_word_no_is_not_taken_for_a_macro() -> None:
    """In mdoc(7) ``No`` behind a literal ends it, and is not printed; ``\\&No`` is."""
    for page in (Path(__file__).parents[2] / "man").iterdir():
        assert not re.search(r"^\.(?:Li|Ql) .*: No\b", page.read_text(), re.MULTILINE), page.name


def test_every_option_of_serve_is_in_its_manual() -> None:
    page = (Path(__file__).parents[2] / "man" / "zsmtp-serve.1").read_text()
    told = {f"-{name}" for name in re.findall(r"^\.It Fl (-[a-z-]+)", page, re.MULTILINE)}
    assert told == {name for one in serve()._actions for name in one.option_strings if name not in ("-h", "--help")}


def test_every_key_of_a_service_is_in_its_manual() -> None:
    page = (Path(__file__).parents[2] / "man" / "zsmtp-serve.1").read_text()
    told = set(re.findall(r"[a-z_]+", page))
    for kind in (
        ListenConfig,
        ClientRights,
        LogConfig,
        HealthConfig,
        QueueConfig,
        SiteLimits,
        RetryPolicy,
        BounceConfig,
    ):
        keys = {field.name for field in fields(kind) if field.init} - {"retry", "sites", "tenants", "idempotency"}
        assert keys <= told, keys - told
