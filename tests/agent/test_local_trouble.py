"""Trouble of this machine: no descriptor, no space, no way to write. The mail waits, with the reason, and is not lost.

``#resync`` is not the answer: the scheduler forgets a file that it got 30 times, and nothing has changed in the file.
"""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
from pathlib import Path

import pytest
from tests.support.agent import Agent, Result
from tests.support.postoffice import Job, PostOffice
from tests.support.script import Script, Step
from tests.support.sink import Sink

HOST = "[127.0.0.1]"
CHUNKING = ("PIPELINING", "CHUNKING")


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    return found


def put_off(result: Result, job: Job, reason: bytes) -> None:
    """Everybody of a job is deferred, for this reason and with a status that blames no host and no mailbox."""
    assert result.resyncs == []
    reports = [report for report in result.reports if report.id == job.id]
    assert [report.offset for report in reports] == list(job.offsets)
    for report in reports:
        assert (report.word, report.notary[1], report.notary[2]) == ("deferred", b"failed", b"4.3.0")
        assert reason in report.message
        assert reason in report.notary[3]


def test_a_control_file_for_which_there_is_no_descriptor(office: PostOffice) -> None:
    jobs = [office.post(["a@example.com", "b@example.com"], name=name) for name in ("1001", "1002", "1003")]
    before = office.control(jobs[0])
    with Sink(Script(caps=CHUNKING)) as sink, Agent(office, "-h", "me.example", "-p", str(sink.port)) as agent:
        agent.feed(b"#idle\n")
        agent.wait_until_hungry(2)
        hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (len(descriptors(agent.pid)), hard))
        agent.feed(jobs[0].line(HOST), jobs[1].line(HOST))
        agent.wait_until_hungry(4)
        assert office.control(jobs[0]) == before
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (hard, hard))
        agent.feed(jobs[0].line(HOST), jobs[2].line(HOST))
        agent.wait_until_hungry(6)
        result = agent.finish()
    put_off(result, jobs[1], b"Too many open files")
    assert office.marks(jobs[0]) == office.marks(jobs[2]) == "++"
    assert office.marks(jobs[1]) == "  "


def test_a_message_file_for_which_there_is_no_descriptor(office: PostOffice) -> None:
    job = office.post(["a@example.com", "b@example.com"])
    with Sink(Script(caps=CHUNKING)) as sink, Agent(office, "-h", "me.example", "-p", str(sink.port)) as agent:
        agent.feed(b"#idle\n")
        agent.wait_until_hungry(2)
        hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (len(descriptors(agent.pid)) + 1, hard))
        agent.feed(job.line(HOST))
        agent.wait_until_hungry(3)
        result = agent.finish()
    put_off(result, job, b"Too many open files")
    assert office.marks(job) == "  "


def test_no_descriptor_for_the_connection_is_not_the_host_s_fault(office: PostOffice) -> None:
    """It is deferred, and the next job tries again at once: nothing was learned of the host."""
    jobs = [office.post(["a@example.com"], name=name) for name in ("1001", "1002")]
    with Sink(Script(caps=CHUNKING)) as sink, Agent(office, "-h", "me.example", "-p", str(sink.port)) as agent:
        agent.feed(b"#idle\n")
        agent.wait_until_hungry(2)
        hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (len(descriptors(agent.pid)) + 2, hard))
        agent.feed(jobs[0].line(HOST))
        agent.wait_until_hungry(3)
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (hard, hard))
        agent.feed(jobs[1].line(HOST))
        agent.wait_until_hungry(4)
        result = agent.finish()
    first, second = result.reports
    assert (first.word, second.word) == ("deferred", "ok3")
    assert b"Too many open files" in first.message
    assert first.notary[1:3] == (b"failed", b"4.3.0")


@pytest.mark.parametrize("body", ["hello\n", "a line of text, again and again\n" * 20_000], ids=["small", "large"])
def test_messages_under_way_hold_one_descriptor_each(office: PostOffice, body: str) -> None:
    """While replies are waited for: the message files are read, and let go of."""
    jobs = [office.post(["a@example.com"], name=str(1000 + n), body=body) for n in range(5)]
    slow = (*(Step("250 ok") for _ in range(20)), Step("250 ok", delay=0.5))
    warm = [office.post(["a@example.com"], name=str(2000 + n)) for n in range(20)]
    with (
        Sink(Script(caps=CHUNKING, replies={"BDAT": slow}), keep_content=False) as sink,
        Agent(office, "-h", "me.example", "-p", str(sink.port)) as agent,
    ):
        agent.feed(*(job.line(HOST) for job in warm))
        agent.wait_until_hungry(21)
        agent.feed(*(job.line(HOST) for job in jobs))
        sink.wait_for(lambda s: sum(t.complete for t in s.transactions) >= 21)
        held = descriptors(agent.pid)
        result = agent.finish()
    assert {report.fate for report in result.reports} == {"ok"}
    assert len([name for name in held if "/transport/" in name]) <= 5
    assert len([name for name in held if "/queue/" in name]) <= 1


def test_a_failure_that_cannot_be_recorded_waits(office: PostOffice) -> None:
    """A file system that is full: the mail must not be gone before its sender is told."""
    job = office.post(["a@example.com", "b@example.com"])
    size = len(office.control(job))
    replies = {"RCPT": (Step("550 5.1.1 no such user"), Step("550 5.1.1 no such user"), Step("250 ok"))}
    with Sink(Script(replies=replies)) as sink, Agent(office, "-h", "me.example", "-p", str(sink.port)) as agent:
        agent.wait_until_hungry(1)
        resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
        agent.feed(job.line(HOST))
        agent.wait_until_hungry(2)
        marks = office.marks(job)
        resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        agent.feed(job.line(HOST))
        agent.wait_until_hungry(3)
        result = agent.finish()
    assert marks == "  "
    first, second, *rest = result.reports
    for report in (first, second):
        assert (report.word, report.notary[1], report.notary[2]) == ("deferred", b"failed", b"4.3.0")
        assert b"550 5.1.1 no such user\rput off, since this cannot be recorded: " in report.message
    assert [report.fate for report in rest] == ["ok", "ok"]
    assert office.marks(job) == "++"
    assert b"\nd " not in office.control(job), "what there is of a record is none"


def test_a_control_file_that_cannot_be_written_to(office: PostOffice, tmp_path: Path) -> None:
    """Its recipients can be read, so they have their answer."""
    job = office.post(["a@example.com", "b@example.com"])
    folder = office.transport / "A"
    folder.mkdir()
    (office.queue / "A").mkdir()
    (office.transport / job.path).rename(folder / "1001")
    moved = Job("A/1001", job.offsets)
    mount = ["unshare", "-m", "sh", "-c", f'mount --bind -o ro {folder} {folder} && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no read-only mount without privilege")
    with Agent(office, "-h", "me.example", "-p", "1", before=mount) as agent:
        agent.feed(moved.line(HOST))
        result = agent.finish()
    put_off(result, moved, b"Read-only file system")


def test_a_lock_that_somebody_sits_on(office: PostOffice) -> None:
    job = office.post(["a@example.com", "b@example.com"])
    with open(office.transport / job.path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        with Agent(office, "-h", "me.example", "-p", "1") as agent:
            agent.feed(job.line(HOST))
            result = agent.finish()
    put_off(result, job, b"another process keeps the record lock")
    assert office.marks(job) == "  "
