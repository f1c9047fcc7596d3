"""Servers that take their time: each wait has one deadline for all of it, however slowly octets come (4.5.3.2).

These tests wait for the smallest timeouts that can be set, 5 and 10 seconds, or for 20 where some answers must have
come before; so all cases run side by side.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.agent import Agent
from tests.support.postoffice import PostOffice
from tests.support.script import Drip, Script, Step, Then
from tests.support.sink import Sink

BIG = "a line of some length, to fill more than all buffers hold\n" * 300_000
HANG = Step(None, Then.HANG)
DRIP = Drip(1, 0.2)
IMPATIENT = ("-T", "cmd=5", "-T", "data=10,dot=10,tcpw=10")
IN_TIME = ("-T", "cmd=20", "-T", "data=1m,dot=1m,tcpw=1m")  # long enough for what a server does answer
PATIENT = ("-T", "cmd=1m", "-T", "data=1m,dot=1m,tcpw=1m")


@dataclass(frozen=True, slots=True)
class Case:
    """A server, and what its slowness must lead to, for an agent with these flags."""

    script: Script
    marks: str = "  "
    body: str = "hello\n"
    flags: tuple[str, ...] = IMPATIENT


CASES = {
    "no greeting": Case(Script(banner=HANG)),
    "endless greeting": Case(Script(banner=Step("220-still here\r\n" * 100_000), drip=DRIP)),
    "no answer to EHLO": Case(Script(replies={"EHLO": (HANG,)})),
    "dripping answer to EHLO": Case(Script(replies={"EHLO": (Step("250-X\r\n" * 100_000),)}, drip=Drip(7, 0.1))),
    "no answer to MAIL": Case(Script(caps=("PIPELINING",), replies={"MAIL": (HANG,)})),
    "dripping answer to MAIL": Case(Script(replies={"MAIL": (Step("250 " + "x" * 9999),)}, drip=Drip(30, 0.2))),
    "no answer to RCPT": Case(Script(replies={"RCPT": (Step("250 ok"), HANG)})),
    "a refusal, then nothing": Case(
        Script(caps=("PIPELINING",), replies={"RCPT": (Step("550 no"), HANG)}), "- ", flags=IN_TIME
    ),
    "no answer to DATA": Case(Script(replies={"DATA": (HANG,)})),
    "no answer to the dot": Case(Script(replies={"DOT": (HANG,)})),
    "does not read the content": Case(Script(replies={"DATA": (Step("354 go", Then.HANG),)}), body=BIG),
    "stops reading chunks": Case(Script(caps=("CHUNKING",), in_content=(1000, HANG)), body=BIG),
    "no answer to QUIT": Case(Script(replies={"QUIT": (HANG,)}), "++", flags=IN_TIME),
    "slow but in time": Case(Script(drip=Drip(10, 0.1)), "++", flags=PATIENT),
    "reads slowly": Case(Script(read_size=1 << 16, read_pause=0.01), "++", BIG, PATIENT),
}


def test_every_wait_ends(tmp_path: Path) -> None:
    with ExitStack() as stack:
        running = {}
        for number, (name, case) in enumerate(CASES.items()):
            office = PostOffice(tmp_path / str(number))
            job = office.post(["a@example.com", "b@example.com"], body=case.body)
            sink = stack.enter_context(Sink(case.script))
            agent = stack.enter_context(Agent(office, "-h", "me.example", "-p", str(sink.port), *case.flags))
            agent.feed(job.line("[127.0.0.1]"))
            agent.close_feed()
            running[name] = office, job, sink, agent
        for name, (office, job, sink, agent) in running.items():
            result = agent.wait(100)
            assert (result.status, result.hungry) == (0, 2), name
            assert office.marks(job) == CASES[name].marks, name
            assert [report.offset for report in result.reports] == list(job.offsets), name
            assert sum(sink.deliveries().values()) == CASES[name].marks.count("+"), name
