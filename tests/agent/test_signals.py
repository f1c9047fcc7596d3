"""Signals and a scheduler that goes away: what is known is written down, what is undecided is deferred.

Between the final dot and its reply the agent waits for the reply, that is what prevents duplicates (RFC 1047).
"""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.support.agent import Agent, Channel, Result
from tests.support.patience import wait_until
from tests.support.postoffice import Job, PostOffice
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

HOST = "[127.0.0.1]"
BIG = "a line of some length, to fill more than all buffers hold\n" * 300_000
STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]


@contextmanager
def agent_on(office: PostOffice, sink: Sink, channel: Channel = Channel.PIPES) -> Iterator[Agent]:
    with Agent(office, "-h", "me.example", "-p", str(sink.port), channel=channel) as agent:
        agent.wait_until_hungry(1)
        yield agent


def settled(office: PostOffice, result: Result, job: Job, fate: str) -> None:
    """Every recipient has one report of this fate and the mark that goes with it."""
    mark = {"ok": "+", "deferred": " ", "error": "-"}[fate]
    assert [report.offset for report in result.reports if report.id == job.id] == list(job.offsets)
    assert {report.fate for report in result.reports if report.id == job.id} == {fate}
    assert office.marks(job) == mark * len(job.offsets)
    assert office.locked() == []


@pytest.mark.parametrize("number", STOPPING)
def test_while_idle(office: PostOffice, number: signal.Signals) -> None:
    job = office.post(["a@example.com"])
    with Sink() as sink, agent_on(office, sink) as agent:
        agent.feed(job.line(HOST))
        agent.wait_until_hungry(2)
        agent.signal(number)
        result = agent.wait()
        sink.wait_until_finished()
    assert result.status == 0
    settled(office, result, job, "ok")


def test_before_the_first_job(office: PostOffice) -> None:
    with Sink() as sink, agent_on(office, sink, Channel.SOCKET_PAIR) as agent:
        agent.signal(signal.SIGTERM)
        result = agent.wait()
    assert (result.status, result.hungry, agent.left_blocking) == (0, 1, True)


def test_while_connecting(office: PostOffice) -> None:
    job = office.post(["a@example.com"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(8)]  # a full backlog: no further connection is answered
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        with Agent(office, "-h", "me.example", "-p", str(port)) as agent:
            agent.feed(job.line(HOST))
            _wait_until_locked(office, job)
            agent.signal(signal.SIGTERM)
            result = agent.wait()
        for filler in fillers:
            filler.close()
    assert result.status == 0
    settled(office, result, job, "deferred")


WAITING = {
    "greeting": Script(banner=Step(None, Then.HANG)),
    "EHLO": Script(replies={"EHLO": (Step(None, Then.HANG),)}),
    "MAIL": Script(replies={"MAIL": (Step(None, Then.HANG),)}),
    "RCPT": Script(replies={"RCPT": (Step("250 ok"), Step(None, Then.HANG))}),
    "DATA": Script(replies={"DATA": (Step(None, Then.HANG),)}),
    "content": Script(in_content=(1000, Step(None, Then.HANG))),
}


@pytest.mark.parametrize("phase", WAITING)
def test_before_the_final_dot(office: PostOffice, phase: str) -> None:
    job = office.post(["a@example.com", "b@example.com"], body=BIG if phase == "content" else "x\n")
    with Sink(WAITING[phase]) as sink, agent_on(office, sink) as agent:
        agent.feed(job.line(HOST))
        if phase == "greeting":
            sink.wait_for(lambda s: bool(s.connections))
        elif phase == "content":
            sink.wait_for(lambda s: any(t.octets for t in s.transactions))
        else:
            sink.wait_for_command(phase, 2 if phase == "RCPT" else 1)
        _wait_until_locked(office, job)
        agent.signal(signal.SIGTERM)
        result = agent.wait()
    assert result.status == 0
    settled(office, result, job, "deferred")
    assert sink.deliveries() == {}


@pytest.mark.parametrize(
    ("caps", "verb"), [((), "DOT"), (("PIPELINING",), "DOT"), (("PIPELINING", "CHUNKING"), "BDAT")], ids=str
)
@pytest.mark.parametrize(("reply", "fate"), [("250 ok", "ok"), ("451 no", "deferred"), ("554 no", "error")])
def test_between_the_final_dot_and_its_reply(
    office: PostOffice, caps: tuple[str, ...], verb: str, reply: str, fate: str
) -> None:
    job = office.post(["a@example.com", "b@example.com"])
    gate = threading.Event()
    with Sink(Script(caps=caps, replies={verb: (Step(reply, gate=gate),)})) as sink, agent_on(office, sink) as agent:
        agent.feed(job.line(HOST))
        sink.wait_for(lambda s: any(t.complete for t in s.transactions))
        agent.signal(signal.SIGTERM)
        time.sleep(0.3)  # time to do the wrong thing
        assert agent.process.poll() is None
        assert office.locked() == [job.path]
        gate.set()
        result = agent.wait()
    assert result.status == 0
    settled(office, result, job, fate)


@pytest.mark.parametrize("caps", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")], ids="-".join)
def test_jobs_read_ahead_stay_untouched(office: PostOffice, caps: tuple[str, ...]) -> None:
    jobs = [office.post([f"u{n}@example.com"], name=str(1000 + n)) for n in range(40)]
    before = [office.control(job) for job in jobs]
    gate = threading.Event()
    verb = "BDAT" if "CHUNKING" in caps else "DOT"
    with Sink(Script(caps=caps, replies={verb: (Step("250 ok", gate=gate),)})) as sink, agent_on(office, sink) as agent:
        agent.feed(*(job.line(HOST) for job in jobs))
        sink.wait_for(lambda s: any(t.complete for t in s.transactions))
        agent.signal(signal.SIGTERM)
        time.sleep(0.3)
        gate.set()
        result = agent.wait()
        sink.wait_until_finished()
    assert result.status == 0
    delivered = sink.deliveries()
    fates = result.fates
    for number, (job, control) in enumerate(zip(jobs, before, strict=True)):
        fate = fates.get((job.id, job.offsets[0]))
        if fate is None:
            assert office.control(job) == control
        else:
            assert office.marks(job) == {"ok": "+", "deferred": " "}[fate]
        assert (fate == "ok") == (delivered[b"u%d@example.com" % number] == 1)
    assert fates[jobs[0].id, jobs[0].offsets[0]] == "ok"
    assert len(fates) < len(jobs), "no job was left to be untouched: the test shows nothing"
    assert office.locked() == []


def test_a_signal_ignored_at_the_start_stays_ignored(office: PostOffice) -> None:
    job = office.post(["a@example.com"])
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Sink() as sink:
            agent = Agent(office, "-h", "me.example", "-p", str(sink.port))
            signal.signal(signal.SIGINT, former)
            with agent:
                agent.wait_until_hungry(1)
                for _ in range(3):
                    agent.signal(signal.SIGINT)
                agent.feed(job.line(HOST))
                agent.wait_until_hungry(2)
                agent.signal(signal.SIGINT)
                result = agent.finish()
    finally:
        signal.signal(signal.SIGINT, former)
    assert (result.status, result.hungry) == (0, 2)
    settled(office, result, job, "ok")


@pytest.mark.parametrize(("reply", "marks"), [("250 ok", {"+"}), ("451 no", {" "}), ("554 no", {"-", " "})])
def test_stdout_goes_away(office: PostOffice, reply: str, marks: set[str]) -> None:
    job = office.post(["a@example.com"])
    gate = threading.Event()
    with Sink(Script(replies={"DOT": (Step(reply, gate=gate),)})) as sink, agent_on(office, sink) as agent:
        agent.feed(job.line(HOST))
        sink.wait_for_command("DATA")
        agent.close_output()
        gate.set()
        status = agent.process.wait(60)
    assert status >= 0, f"killed by signal {-status}"
    assert office.marks(job) in marks
    if office.marks(job) == "-":
        assert office.diagnostics(job), "the failure is known to nobody: the bounce is lost"
    assert office.locked() == []


def test_stderr_goes_away(office: PostOffice) -> None:
    job = office.post(["a@example.com"])
    with Sink() as sink, Agent(office, "-h", "me.example", "-p", str(sink.port)) as agent:
        agent.close_error()
        agent.feed(b"nothing\tx\n", job.line(HOST))
        result = agent.finish()
    assert result.hungry == 3
    assert office.marks(job) == "+"


def _wait_until_locked(office: PostOffice, job: Job) -> None:
    """The lock of the first recipient shows that the agent has begun with the job."""
    wait_until(lambda: re.search(rb"^r~", office.control(job), re.MULTILINE))
