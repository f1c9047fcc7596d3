"""Recorded deliveries explained: what was planned, what each candidate came to, how it ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.network import message, numbered
from tests.support.traces import TracedWorld

from zsmtp.cli.explainjson import explain_document
from zsmtp.cli.failure import CommandFailed
from zsmtp.cli.picture import picture
from zsmtp.cli.replay import replay
from zsmtp.cli.sysexits import Exit
from zsmtp.net.script import Reaction, Script, Then
from zsmtp.net.scripted import Unreachable
from zsmtp.observers.codec import trace_text
from zsmtp.observers.document import Trace
from zsmtp.text.look import Look
from zsmtp.text.tree import draw


def kept(trace: Trace, folder: Path) -> str:
    path = folder / "trace.json"
    path.write_text(trace_text(trace))
    return str(path)


def test_a_dead_exchanger_a_refusing_one_and_one_that_was_not_needed(tmp_path: Path) -> None:
    refusing = Script(greeting=Reaction("554 not you"))
    there = TracedWorld(Unreachable(), refusing, Script(replies={"RCPT": [Reaction("550 no")]}), Script())
    found = replay(kept(there.deliver(message(*numbered(2)))[0], tmp_path))
    assert found.status is Exit.UNAVAILABLE
    lines = draw(picture(found), Look(120))
    assert lines[0] == "example.org: a recorded delivery, 4 addresses of 4 hosts"
    assert any(line.endswith("2 refused") or "1 delivered, 1 refused" in line for line in lines[:3])
    tried = [line.partition("tried")[2].strip() for line in lines if "tried" in line]
    assert tried[0] == "no connection: Connection refused"
    assert tried[1].startswith("no session: ")
    assert "554 (not you)" in tried[1]
    assert tried[2] == "used, in clear"
    assert len(tried) == 3
    (one,) = explain_document([found])["explanations"]
    assert [candidate["trial"] and candidate["trial"]["good"] for candidate in one["candidates"]] == [
        False, False, True, None,
    ]  # fmt: skip
    assert one["limits"] is None
    assert [left["why"] for left in one["undelivered"]] == ["refused: 550 (no) (5.1.1)"] * 2
    assert sum("to " in line and line.endswith(": refused: 550 (no) (5.1.1)") for line in lines) == 2


@pytest.mark.parametrize(
    ("script", "status", "word"),
    [
        (Script(), Exit.OK, "1 delivered"),
        (Script(replies={"RCPT": [Reaction("450 later")]}), Exit.TEMPORARY, "1 deferred"),
        (Script(replies={"DOT": [Reaction(b"", then=Then.CLOSE)]}), Exit.TEMPORARY, "1 deferred (1 in doubt)"),
    ],
)
def test_how_it_ended_is_the_status(script: Script, status: Exit, word: str, tmp_path: Path) -> None:
    found = replay(kept(TracedWorld(script).deliver()[0], tmp_path))
    assert found.ended is not None
    assert (found.status, found.ended[0].rpartition(": ")[2]) == (status, word)


def test_a_trace_without_a_plan_has_nothing_to_explain(tmp_path: Path) -> None:
    trace = replace(TracedWorld(Script()).deliver()[0], plan=None)
    with pytest.raises(CommandFailed, match=r"trace\.json: there is no plan in the trace") as failed:
        replay(kept(trace, tmp_path))
    assert failed.value.status is Exit.DATA
