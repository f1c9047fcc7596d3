"""What a start costs: the scheduler starts agents all day, so they import only what the work before them needs."""

from __future__ import annotations

import re

from tests.support.agent import Agent
from tests.support.postoffice import PostOffice
from tests.support.sink import Sink

import zsmtp

HEAVY = re.compile(r"(asyncio|dns|cryptography|ssl|idna)(\.|$)")


def imported(lines: tuple[bytes, ...]) -> set[str]:
    """The modules that ``-X importtime`` names."""
    matches = (re.fullmatch(rb"import time: +\d+ \| +\d+ \| +(\S+)", line) for line in lines)
    return {match[1].decode() for match in matches if match is not None}


def test_version_is_one_line_and_costs_little(office: PostOffice) -> None:
    with Agent(office, "-V", python=("-X", "importtime")) as agent:
        result = agent.wait()
    assert result.status == 0
    (line,) = result.stdout
    assert zsmtp.__version__.encode() in line
    modules = imported(result.stderr)
    assert "zsmtp" in modules
    assert not {name for name in modules if HEAVY.match(name)}


def test_a_literal_host_needs_neither_resolver_nor_event_loop(office: PostOffice) -> None:
    job = office.post(["a@example.com"])
    flags = ("-h", "me.example")
    with Sink() as sink, Agent(office, *flags, "-p", str(sink.port), python=("-X", "importtime")) as agent:
        agent.wait_until_hungry(1)
        agent.feed(job.line("[127.0.0.1]"))
        result = agent.finish()
    assert [line for line in result.stdout if line.startswith(b"1001/")]
    assert office.marks(job) == "+"
    modules = imported(result.stderr)
    assert "zsmtp.zmailer.options" in modules
    assert not {name for name in modules if HEAVY.match(name)}


def test_help_lists_every_option(office: PostOffice) -> None:
    with Agent(office, "--help") as agent:
        result = agent.wait()
    assert result.status == 0
    text = b"\n".join(result.stdout + result.stderr).decode()
    for flag in "1678cdDeEFhHlLMOpPrsSTvVwWxXZA":
        assert re.search(rf"(^|[\s,])-{flag}\b", text), f"-{flag} is not in the help"
