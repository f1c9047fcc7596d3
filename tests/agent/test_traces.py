"""``-O trace=DIR``: a document for each delivery, and nothing of it loaded by those who do not ask."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.support.agent import Agent, run
from tests.support.postoffice import PostOffice, Rcpt
from tests.support.script import Script
from tests.support.sink import Sink

from zsmtp.observers.codec import load_trace
from zsmtp.observers.document import ExchangeItem, Trace

HOST = "[127.0.0.1]"


def flags(sink: Sink, directory: Path, *more: str) -> tuple[str, ...]:
    return "-h", "me.example", "-p", str(sink.port), "-O", ",".join((*more, f"trace={directory}"))


def traces(directory: Path) -> list[Trace]:
    names = sorted(os.listdir(directory), key=lambda name: int(name.removesuffix(".json").split("-")[-1]))
    return [load_trace(directory / name) for name in names]


def test_each_of_the_messages_that_ride_has_its_document(office: PostOffice, tmp_path: Path) -> None:
    directory = tmp_path / "traces"
    directory.mkdir()
    jobs = [office.post([f"u{n}@example.com"], name=str(n)) for n in range(1000, 1020)]
    with Sink(Script(caps=("PIPELINING", "CHUNKING"))) as sink:
        result = run(office, *flags(sink, directory), stdin=b"".join(job.line(HOST) for job in jobs))
        sink.wait_until_finished()
    assert result.status == 0
    found = traces(directory)
    assert [r.address for trace in found for r in trace.recipients] == [f"u{n}@example.com" for n in range(1000, 1020)]
    assert {r.fate for trace in found for r in trace.recipients} == {"delivered"}
    assert all(re.fullmatch(r"S\d+[\w=-]+", trace.name) for trace in found)
    assert len(found) == 20
    last = [item.phase for item in found[-1].items if isinstance(item, ExchangeItem)]
    assert (last[0], last[-1]) == ("greeting", "QUIT")
    assert found[-1].connections[0].deliveries == 20


def test_hashed_on_wish(office: PostOffice, tmp_path: Path) -> None:
    job = office.post(["walter@example.com"])
    with Sink() as sink:
        run(office, *flags(sink, tmp_path / "office", "hash-addresses"), stdin=job.line(HOST))
    (file,) = (tmp_path / "office").glob("S*.json")
    text = file.read_text()
    assert "walter" not in text
    assert "@example.com" in text


def test_a_host_left_alone_is_traced_too(office: PostOffice, tmp_path: Path) -> None:
    directory = tmp_path / "traces"
    directory.mkdir()
    jobs = [office.post([f"u{n}@example.com"], name=str(n)) for n in (1000, 1001)]
    with Sink() as sink:
        port = sink.port
    arguments = ("-h", "me.example", "-p", str(port), "-O", f"trace={directory}")
    run(office, *arguments, stdin=b"".join(job.line(HOST) for job in jobs))
    first, second = traces(directory)
    assert first.recipients[0].fate == second.recipients[0].fate == "deferred"
    assert "not tried for another" in repr(second.items)


def test_no_such_directory_is_told_and_mail_goes_on(office: PostOffice, tmp_path: Path) -> None:
    job = office.post(["a@example.com"])
    with Sink() as sink:
        result = run(office, *flags(sink, tmp_path / "missing"), stdin=job.line(HOST))
    assert office.marks(job) == "+"
    assert [line for line in result.stderr if b"is not a directory" in line]
    assert len([line for line in result.stderr if b"traces" in line]) == 1


def test_nothing_of_it_is_loaded_without_the_option(office: PostOffice) -> None:
    job = office.post(["a@example.com"])
    with Sink() as sink, Agent(office, "-p", str(sink.port), "-h", "me", python=("-X", "importtime")) as agent:
        agent.feed(job.line(HOST))
        result = agent.finish()
    assert b"zsmtp.zmailer.journal" in b"".join(result.stderr)
    assert b"zsmtp.observers" not in b"".join(result.stderr)


def test_a_host_that_is_no_text_ends_no_traces(office: PostOffice, tmp_path: Path) -> None:
    directory = tmp_path / "traces"
    directory.mkdir()
    host = "\xff\xfe.example"
    odd, job = office.post([Rcpt("a@example.com", host)]), office.post(["b@example.com"], name="1002")
    with Sink() as sink:
        line = odd.path.encode() + b"\t" + host.encode("latin-1") + b"\n"
        result = run(office, *flags(sink, directory), stdin=line + job.line(HOST))
    assert not result.stderr
    first, second = traces(directory)
    assert (first.destination, first.recipients[0].fate) == ("\\xff\\xfe.example", "failed")
    assert second.recipients[0].fate == "delivered"
