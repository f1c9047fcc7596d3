"""Two agents on one spool: every recipient is delivered exactly once, whoever gets it."""

from __future__ import annotations

from collections import Counter

from tests.support.agent import Agent
from tests.support.postoffice import PostOffice
from tests.support.script import Script
from tests.support.sink import Sink

FILES = 200
RECIPIENTS = 3
HOST = "[127.0.0.1]"


def test_two_agents_share_a_spool(office: PostOffice) -> None:
    jobs = [
        office.post([f"u{number}.{n}@example.com" for n in range(RECIPIENTS)], name=str(number))
        for number in range(1000, 1000 + FILES)
    ]
    feed = b"".join(job.line(HOST) for job in jobs)
    with Sink(Script(caps=("PIPELINING",))) as sink:
        flags = ("-h", "me.example", "-p", str(sink.port))
        with Agent(office, *flags) as one, Agent(office, *flags) as two:
            agents = [one, two]
            for agent in agents:
                agent.wait_until_hungry(1)
            for agent in agents:
                agent.feed(feed)
            results = [agent.finish(60) for agent in agents]
        sink.wait_until_finished(1)
    wanted = {b"u%d.%d@example.com" % (1000 + f, n): 1 for f in range(FILES) for n in range(RECIPIENTS)}
    assert sink.deliveries() == wanted
    assert [result.status for result in results] == [0, 0]
    assert [result.hungry for result in results] == [FILES + 1] * 2
    reports = Counter((report.id, report.offset, report.word) for result in results for report in result.reports)
    assert reports == {(job.id, offset, "ok3"): 1 for job in jobs for offset in job.offsets}
    assert {office.marks(job) for job in jobs} == {"+++"}
    for result in results:
        answered = {report.id for report in result.reports} | set(result.resyncs)
        assert answered == {job.id for job in jobs}, "a job line without an answer"
