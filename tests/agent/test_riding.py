"""Jobs that ride along: each answered in its turn, whatever flew with it, and none that must not.

The scheduler writes many job lines ahead (its ``overfeed``); those for the same host leave together where the peer
offers PIPELINING or CHUNKING.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from tests.support.agent import Agent, Result, run
from tests.support.postoffice import Job, PostOffice, Rcpt
from tests.support.script import Script, Step
from tests.support.sink import Sink

HOST = "[127.0.0.1]"
PIPELINING = ("PIPELINING",)
CHUNKING = ("PIPELINING", "CHUNKING")
BOTH = pytest.mark.parametrize("keywords", [PIPELINING, CHUNKING], ids="-".join)


def flags(sink: Sink) -> tuple[str, ...]:
    return "-h", "me.example", "-p", str(sink.port)


def post_many(office: PostOffice, count: int, *, first: int = 1000, extra: str = "") -> list[Job]:
    return [
        office.post([f"u{n}@example.com"], name=str(n), header=f"Subject: {n}\n", extra=extra)
        for n in range(first, first + count)
    ]


def answers(result: Result) -> list[bytes]:
    """What was said, in order: ids of reports, ``#hungry`` and ``#resync`` lines."""
    return [line if line.startswith(b"#") else line.split(b"/")[0] for line in result.stdout]


def rode(sink: Sink, verb: str) -> int:
    """How many commands of this name came with octets of another one behind content."""
    return sum(command.followed for one in sink.connections for command in one.commands if command.verb == verb)


@BOTH
def test_each_line_is_answered_in_its_turn(office: PostOffice, keywords: tuple[str, ...]) -> None:
    jobs = post_many(office, 60)
    with Sink(Script(caps=keywords)) as sink:
        result = run(office, *flags(sink), stdin=b"".join(job.line(HOST) for job in jobs))
        sink.wait_until_finished()
    expected = [b"#hungry"] + [word for job in jobs for word in (job.id, b"#hungry")]
    assert answers(result) == expected
    assert {office.marks(job) for job in jobs} == {"+"}
    assert len(sink.connections) == 1
    assert rode(sink, "MAIL") >= 50


@BOTH
def test_a_line_that_is_no_job_is_answered_in_its_turn(office: PostOffice, keywords: tuple[str, ...]) -> None:
    before, after = post_many(office, 3), post_many(office, 3, first=2000)
    lines = [*(j.line(HOST) for j in before), b"nothing-here\t[127.0.0.1]\n", *(j.line(HOST) for j in after)]
    with Sink(Script(caps=keywords)) as sink:
        result = run(office, *flags(sink), stdin=b"".join(lines))
        sink.wait_until_finished()
    said = answers(result)
    place = said.index(b"#resync nothing-here")
    assert [one for one in said[:place] if one.isdigit()] == [job.id for job in before]
    assert [one for one in said[place:] if one.isdigit()] == [job.id for job in after]
    assert said[place + 1] == b"#hungry"
    assert said.count(b"#hungry") == 8
    assert len(sink.connections) == 1


@BOTH
@pytest.mark.parametrize("between", [b"#idle\n", b"1001\t[127.0.0.2]\n", b"\n"], ids=["idle", "other host", "end"])
def test_what_ends_the_riding(office: PostOffice, keywords: tuple[str, ...], between: bytes) -> None:
    jobs, later = post_many(office, 5), post_many(office, 2, first=2000)
    lines = [*(j.line(HOST) for j in jobs), between, *(j.line(HOST) for j in later)]
    with Sink(Script(caps=keywords)) as sink:
        result = run(office, *flags(sink), stdin=b"".join(lines))
        sink.wait_until_finished()
    assert {office.marks(job) for job in jobs} == {"+"}
    if between == b"\n":
        assert result.hungry == 6
        assert {office.marks(job) for job in later} == {" "}
        return
    assert result.hungry == 9
    assert {office.marks(job) for job in later} == {"+"}
    other = between.endswith(b"2]\n")
    assert result.resyncs == ([b"1001"] if other else [])
    assert len(sink.connections) == (2 if other else 1)


@BOTH
def test_a_refused_message_among_others(office: PostOffice, keywords: tuple[str, ...]) -> None:
    jobs = post_many(office, 10)
    jobs.insert(5, office.post(["a@example.com", "b@example.com"], name="500"))
    replies = {
        "RCPT": (*[Step("250 ok")] * 5, Step("550 5.1.1 no"), Step("550 5.1.1 no"), Step("250 ok")),
        "BDAT": (*[Step("250 ok")] * 5, Step("503 5.5.1 valid RCPT first"), Step("250 ok")),
    }
    with Sink(Script(caps=keywords, replies=replies)) as sink:
        result = run(office, *flags(sink), stdin=b"".join(job.line(HOST) for job in jobs))
        sink.wait_until_finished()
    assert [office.marks(job) for job in jobs] == ["+"] * 5 + ["--"] + ["+"] * 5
    assert [one for one in answers(result) if one.isdigit()] == [j.id for job in jobs for j in [job] * len(job.offsets)]
    assert len(sink.connections) == 1


@BOTH
def test_who_minds_riding_gets_everything_once_and_strictly_after(
    office: PostOffice, keywords: tuple[str, ...]
) -> None:
    """As Haraka does: PIPELINING is announced, and commands behind content are answered with 503."""
    jobs = post_many(office, 12)
    taken = (Step("250 ok"), Step("250 ok", behind=True), Step("250 ok"))
    replies = {"MAIL": (Step("250 ok"), Step("250 ok"), Step("503 not now")), "DOT": taken, "BDAT": taken}
    with Sink(Script(caps=keywords, replies=replies, in_order=True), Script(caps=keywords)) as sink:
        result = run(office, *flags(sink), stdin=b"".join(job.line(HOST) for job in jobs))
        sink.wait_until_finished(2)
    assert {report.fate for report in result.reports} == {"ok"}
    assert [report.id for report in result.reports] == [job.id for job in jobs]
    assert set(sink.deliveries().values()) == {1}
    assert len(sink.deliveries()) == 12
    strict = sink.connections[1]
    contents = [command for command in strict.commands if command.verb in ("DATA", "BDAT")]
    assert len(contents) >= 9
    if keywords == PIPELINING:
        assert not any(command.followed for command in contents)


@BOTH
def test_a_sign_to_stop_with_several_under_way(office: PostOffice, keywords: tuple[str, ...]) -> None:
    """It waits for those whose last octet is out, starts nobody, and leaves the lines read ahead alone."""
    jobs = post_many(office, 40)
    gate = threading.Event()
    ends = (*[Step("250 ok")] * 8, Step("250 ok", gate=gate))
    with (
        Sink(Script(caps=keywords, replies={"DOT": ends, "BDAT": ends})) as sink,
        Agent(office, *flags(sink)) as agent,
    ):
        agent.feed(*(job.line(HOST) for job in jobs))
        agent.wait_until_hungry(9)
        sink.wait_for(lambda one: sum(t.complete for t in one.transactions) >= 9)
        agent.signal(signal.SIGTERM)
        gate.set()
        result = agent.wait()
        sink.wait_until_finished()
    assert result.status == 0
    taken = sum(transaction.complete for transaction in sink.transactions)
    reported = {report.id: report.fate for report in result.reports}
    assert [reported.get(job.id) for job in jobs[:taken]] == ["ok"] * taken
    assert set(list(reported.values())[taken:]) <= {"deferred"}
    assert [office.marks(job) for job in jobs] == ["+"] * taken + [" "] * (40 - taken)
    assert taken < 40
    assert office.locked() == []


def test_senders_logs_are_not_shared(office: PostOffice, tmp_path: Path) -> None:
    logs = [tmp_path / f"log{n}" for n in range(2)]
    plain = post_many(office, 4)
    own = [office.post([f"v{n}@example.com"], name=str(3000 + n), extra=f"v {log}\n") for n, log in enumerate(logs)]
    jobs = [plain[0], plain[1], own[0], own[1], plain[2], plain[3]]
    with Sink(Script(caps=CHUNKING)) as sink:
        result = run(office, *flags(sink), stdin=b"".join(job.line(HOST) for job in jobs))
        sink.wait_until_finished()
    assert [report.id for report in result.reports] == [job.id for job in jobs]
    assert len(sink.connections) == 1
    for number, log in enumerate(logs):
        text = log.read_text()
        assert f"v{number}@example.com" in text
        assert f"v{1 - number}@example.com" not in text
        assert "u100" not in text


def test_one_message_for_each_host_does_not_ride(office: PostOffice) -> None:
    jobs = [office.post([Rcpt(f"u{n}@example.com", HOST)], name=str(n)) for n in range(1, 5)]
    with Sink(Script(caps=CHUNKING)) as sink:
        run(office, "-P", *flags(sink), stdin=b"".join(job.line(HOST) for job in jobs))
        sink.wait_until_finished()
    assert not rode(sink, "MAIL")
    assert not rode(sink, "BDAT") or all(c.verb == "BDAT" for c in sink.connections[0].commands if c.followed)
