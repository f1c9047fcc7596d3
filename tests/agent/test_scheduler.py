"""The agent under a scheduler as ZMailer's: many job lines at once, one ``#hungry`` for each, one report per recipient.

The scheduler gives its agents one end of a socket pair as descriptors 0, 1 and 2, and writes up to 151 job lines ahead
of the answers (its ``overfeed``).
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.support.agent import Agent, Channel, run
from tests.support.postoffice import BODY, HEADER, Job, PostOffice, Rcpt, wire_content
from tests.support.script import Script, Step
from tests.support.sink import Sink
from tests.support.wire import Way

HOST = "[127.0.0.1]"


def flags(sink: Sink) -> tuple[str, ...]:
    return "-h", "me.example", "-p", str(sink.port)


def post_many(office: PostOffice, count: int, *, recipients: int = 2, first: int = 1000) -> list[Job]:
    """Messages that can be told apart, in hash directories."""
    return [
        office.post(
            [f"u{number}.{n}@example.com" for n in range(recipients)],
            name=f"{chr(65 + number % 3)}/{number}-{number}",
            header=f"Subject: {number}\n",
        )
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize("caps", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")], ids="-".join)
def test_a_feed_of_151_lines_and_more_later(office: PostOffice, caps: tuple[str, ...]) -> None:
    jobs = post_many(office, 151)
    later = post_many(office, 5, first=2000)
    with Sink(Script(caps=caps)) as sink:
        with Agent(office, *flags(sink), channel=Channel.SOCKET_PAIR) as agent:
            agent.feed(*(job.line(HOST) for job in jobs))
            agent.wait_until_hungry(152)
            agent.feed(b"#idle\n")
            agent.wait_until_hungry(153)
            agent.feed(*(job.line(HOST) for job in later))
            agent.wait_until_hungry(158)
            result = agent.finish()
        sink.wait_until_finished()
    assert (result.status, result.hungry, agent.left_blocking) == (0, 158, True)
    expected = [(job.id, offset) for job in (*jobs, *later) for offset in job.offsets]
    assert [(report.id, report.offset) for report in result.reports] == expected
    assert {report.word for report in result.reports} == {"ok3"}
    assert {office.marks(job) for job in (*jobs, *later)} == {"++"}
    assert len(sink.connections) == 1
    assert sink.connections[0].verbs[-1] == "QUIT"
    numbers = [*range(1000, 1151), *range(2000, 2005)]
    stuffed = "CHUNKING" not in caps
    assert [t.content for t in sink.transactions] == [
        wire_content(f"Subject: {number}\n", BODY, stuffed=stuffed) for number in numbers
    ]
    assert [t.recipients for t in sink.transactions] == [
        [b"u%d.%d@example.com" % (n, i) for i in (0, 1)] for n in numbers
    ]


def test_each_answer_comes_before_its_hungry(office: PostOffice) -> None:
    jobs = post_many(office, 4)
    with Sink(Script(caps=("PIPELINING",))) as sink:
        result = run(office, *flags(sink), stdin=b"".join(job.line(HOST) for job in jobs))
    kinds = [line if line.startswith(b"#") else line.split(b"/")[0] for line in result.stdout]
    # a job is answered by the time its #hungry is said, however the jobs overlap on the wire
    for count, job in enumerate(jobs, start=1):
        hungry = [index for index, kind in enumerate(kinds) if kind == b"#hungry"][count]
        assert kinds[:hungry].count(job.id) == 2
    assert kinds[0] == b"#hungry"


@pytest.mark.parametrize(
    ("zenv", "keywords", "words"),
    [
        (None, None, ["ok3", "error2"]),
        ("0", None, ["ok", "error"]),
        ("1", None, ["ok3", "error2"]),
        (None, "no-ta-diagnostics", ["ok", "error"]),
        ("0", "ta-diagnostics", ["ok3", "error2"]),
        ("1", "no-ta-diagnostics", ["ok", "error"]),
    ],
)
def test_who_writes_the_diagnostics(
    office: PostOffice, zenv: str | None, keywords: str | None, words: list[str]
) -> None:
    """The agent, unless the option or else ZENV says that the scheduler does."""
    if zenv is not None:
        office.write_zenv(TA_DIAGNOSTICS=zenv)
    job = office.post(["a@example.com", "b@example.com"])
    script = Script(replies={"RCPT": (Step("250 ok"), Step("550 5.1.1 no such user"))})
    with Sink(script) as sink:
        options = () if keywords is None else ("-O", keywords)
        result = run(office, *flags(sink), *options, stdin=job.line(HOST))
    assert sorted(report.word for report in result.reports) == sorted(words)
    failure = next(report for report in result.reports if report.fate == "error")
    assert office.notary(failure)[:3] == (b"b@example.com", b"failed", b"5.1.1")
    assert len(office.diagnostics(job)) == words.count("error2")
    assert (failure.notary == ()) == ("error2" in words)


def test_job_lines_may_come_in_pieces(office: PostOffice) -> None:
    jobs = post_many(office, 2)
    with Sink() as sink, Agent(office, *flags(sink), channel=Channel.SOCKET_PAIR) as agent:
        agent.wait_until_hungry(1)
        octets = b"".join(job.line(HOST) for job in jobs)
        for octet in octets:
            agent.feed(bytes([octet]))
        agent.wait_until_hungry(3)
        result = agent.finish()
    assert (result.status, result.hungry) == (0, 3)
    assert [office.marks(job) for job in jobs] == ["++", "++"]


def test_another_host_ends_the_connection_first(office: PostOffice) -> None:
    with Sink() as one, Sink(host="127.0.0.2") as two:
        hosts = [f"[127.0.0.1]:{one.port}", f"[127.0.0.2]:{two.port}", f"[127.0.0.1]:{one.port}"]
        jobs = [office.post([Rcpt("a@example.com", host)], name=str(n)) for n, host in enumerate(hosts)]
        result = run(office, "-h", "me.example", stdin=b"".join(j.line(h) for j, h in zip(jobs, hosts, strict=True)))
        one.wait_until_finished(2)
        two.wait_until_finished()
    assert result.hungry == 4
    assert [office.marks(job) for job in jobs] == ["+"] * 3
    connections = [one.connections[0], two.connections[0], one.connections[1]]
    for before, after in pairwise(connections):
        assert before.verbs[-1] == "QUIT"
        said_quit = next(s.at for s in reversed(before.wire) if s.way is Way.CLIENT)
        opened = next(s.at for s in after.wire if s.way is Way.OPEN)
        assert said_quit < opened


def test_with_d_it_tells_for_whom_it_looked_in_vain(office: PostOffice) -> None:
    other = office.post([Rcpt("a@example.com", "elsewhere.example")], name="7")
    result = run(office, "-d", stdin=other.line(HOST))
    assert result.resyncs == [b"7"]
    assert any(HOST.encode() in line and b"c='smtp'" in line and b"#resync 7" in line for line in result.comments)


def test_lines_that_are_no_jobs_are_answered_too(office: PostOffice) -> None:
    (good,) = post_many(office, 1)
    other = office.post([Rcpt("a@example.com", "elsewhere.example")], name="7")
    lines = [b"nothing-here\t[127.0.0.1]\n", good.line(), other.line(HOST), b"#idle\n", good.line(HOST)]
    with Sink() as sink:
        result = run(office, *flags(sink), stdin=b"".join(lines), channel=Channel.SOCKET_PAIR)
    assert (result.status, result.hungry) == (0, 6)
    assert result.resyncs == [b"nothing-here", b"7"]
    assert b"# smtp needs defined host!" in result.comments
    assert office.marks(good) == "++"
    assert office.marks(other) == " "


def test_host_names_are_compared_ignoring_case(office: PostOffice) -> None:
    job = office.post([Rcpt("a@example.com", "Some.Example"), Rcpt("b@example.com", "other.example")])
    with Sink() as sink:
        result = run(office, *flags(sink), "-F", HOST, stdin=job.line("sOME.eXAMPLE"))
    assert office.marks(job) == "+ "
    assert len(result.reports) == 1


def test_the_host_of_the_command_line(office: PostOffice) -> None:
    jobs = post_many(office, 2)
    with Sink() as sink:
        result = run(office, *flags(sink), HOST, stdin=jobs[0].line() + jobs[1].line(HOST))
    assert [office.marks(job) for job in jobs] == ["++", "++"]
    assert result.hungry == 3


@pytest.mark.parametrize(
    ("end", "hungry"), [(b"\n", 2), (b" \t\n", 2), (b"", 2), (b"1001-1001\t[127.0.0.1]", 2)], ids=repr
)
def test_the_feed_ends(office: PostOffice, end: bytes, hungry: int) -> None:
    first, second = post_many(office, 1)[0], office.post(["a@example.com"], name="1001-1001")
    tail = second.line(HOST) if end.endswith(b"\n") else b""
    before = office.control(second)
    with Sink() as sink:
        result = run(office, *flags(sink), stdin=first.line(HOST) + end + tail)
        sink.wait_until_finished()
    assert (result.status, result.hungry) == (0, hungry)
    assert office.marks(first) == "++"
    assert office.control(second) == before
    assert sink.connections[0].verbs[-1] == "QUIT"


def test_nothing_is_touched_without_a_job(office: PostOffice) -> None:
    with Sink() as sink:
        result = run(office, *flags(sink), channel=Channel.SOCKET_PAIR)
    assert (result.status, result.stdout, sink.connections) == (0, (b"#hungry",), [])


def test_one_message_per_connection(office: PostOffice) -> None:
    jobs = post_many(office, 3)
    with Sink(Script(caps=("PIPELINING", "CHUNKING"))) as sink:
        run(office, "-1", *flags(sink), stdin=b"".join(job.line(HOST) for job in jobs))
        sink.wait_until_finished(3)
    assert [connection.verbs[-1] for connection in sink.connections] == ["QUIT"] * 3
    assert [len(connection.transactions) for connection in sink.connections] == [1, 1, 1]
    assert [office.marks(job) for job in jobs] == ["++"] * 3


def test_channel_and_state_choose_the_recipients(office: PostOffice) -> None:
    job = office.post(
        [
            "a@example.com",
            Rcpt("b@example.com", channel="SMTP"),
            Rcpt("c@example.com", channel="local"),
            Rcpt("d@example.com", state="+"),
            Rcpt("e@example.com", state="-"),
            Rcpt("f@example.com", state="~", lock=" 99999"),
            "g@example.com",
        ]
    )
    with Sink() as sink:
        result = run(office, *flags(sink), stdin=job.line(HOST))
    assert office.marks(job) == "+  +-~+"
    assert sink.deliveries() == {b"a@example.com": 1, b"g@example.com": 1}
    assert [report.offset for report in result.reports] == [job.offsets[0], job.offsets[6]]


def test_more_than_100_recipients_go_in_several_transactions(office: PostOffice) -> None:
    job = office.post([f"u{n}@example.com" for n in range(250)])
    with Sink(Script(caps=("PIPELINING",))) as sink:
        result = run(office, *flags(sink), stdin=job.line(HOST))
    assert [len(t.rcpts) for t in sink.transactions] == [100, 100, 50]
    assert len(sink.connections) == 1
    assert [to for t in sink.transactions for to in t.recipients] == [b"u%d@example.com" % n for n in range(250)]
    assert [report.offset for report in result.reports] == list(job.offsets)
    assert {t.content for t in sink.transactions} == {wire_content(HEADER, BODY)}


def test_a_refused_message_does_not_stop_the_next(office: PostOffice) -> None:
    jobs = post_many(office, 3)
    replies = {"MAIL": (Step("250 ok"), Step("550 5.7.1 no"), Step("250 ok"))}
    with Sink(Script(caps=("PIPELINING",), replies=replies)) as sink:
        result = run(office, *flags(sink), stdin=b"".join(job.line(HOST) for job in jobs))
    assert [office.marks(job) for job in jobs] == ["++", "--", "++"]
    assert [report.word for report in result.reports] == ["ok3", "ok3", "error2", "error2", "ok3", "ok3"]
