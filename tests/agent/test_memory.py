"""A large message streams: memory does not grow with it, and every octet arrives."""

from __future__ import annotations

import hashlib

import pytest
from tests.support.agent import Agent
from tests.support.postoffice import HEADER, PostOffice, wire_content
from tests.support.script import Script
from tests.support.sink import Sink

MEGABYTES = 200
LIMIT = 40 << 20
BLOCK = b"an ordinary line of text, as long as people write them.\n" + b".a dot\n" + b"\n"
BLOCK *= (1 << 20) // len(BLOCK)


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_200_megabytes(office: PostOffice, chunking: bool) -> None:
    job = office.post(["a@example.com"], body=b"")
    with (office.queue / job.path).open("ab") as message:
        for _ in range(MEGABYTES):
            message.write(BLOCK)
    expected = hashlib.sha256(wire_content(HEADER, ""))
    block = wire_content("", BLOCK, stuffed=not chunking).removeprefix(b"\r\n")
    for _ in range(MEGABYTES):
        expected.update(block)
    script = Script(caps=("CHUNKING", "SIZE") if chunking else ("SIZE",))
    with Sink(script, keep_content=False) as sink, Agent(office, "-h", "me.example", "-p", str(sink.port)) as agent:
        agent.feed(job.line("[127.0.0.1]"))
        agent.wait_until_hungry(2)
        peak = agent.peak_memory()
        result = agent.finish()
    (office.queue / job.path).unlink()  # temporary folders are kept for a while
    assert [report.word for report in result.reports] == ["ok3"]
    assert office.marks(job) == "+"
    (transaction,) = sink.transactions
    assert transaction.sha256 == expected.hexdigest()
    assert peak < LIMIT, f"{peak >> 20} MiB"
