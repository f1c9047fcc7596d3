"""``zsmtp send --retry-for``: deferred recipients are tried again, and whoever waits is told of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.retries import retry_soon
from tests.support.script import Script, Step
from tests.support.sink import Sink

from zsmtp.cli.main import main
from zsmtp.cli.retrynotice import BUNCH, RetryNotice, shown_wait
from zsmtp.cli.sysexits import Exit
from zsmtp.client.report import Fate, Result

Run = Callable[..., tuple[int, str, str]]
LATER = Step("450 4.2.1 later")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    retry_soon(monkeypatch)


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    path = tmp_path / "1.eml"
    path.write_text("From: me@example.org\nTo: a@example.net, b@example.net\nSubject: x\n\nHello.\n")
    return path


def test_whoever_was_deferred_is_delivered_to_later(send: Run, letter: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Sink(Script(replies={"RCPT": (Step("250 ok"), LATER, Step("250 ok"))})) as sink:
        words = ("--relay", f"127.0.0.1:{sink.port}", "--retry-for", "1h", "--journal", journal)
        status, out, err = send(*words, letter)
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "delivered  a@example.net",
        "delivered  b@example.net",
        "2 delivered",
    ]
    told = r"zsmtp send: 1 recipient is deferred \(450 4\.2\.1 later\) and tried again at \d\d:\d\d:\d\d, in [01] s\n"
    assert re.fullmatch(told, err)
    fates = [one["fate"] for one in map(json.loads, journal.read_text().splitlines()[1:]) if one["recipient"][0] == "b"]
    assert fates == ["deferred", "sending", "delivered"]


def test_each_deferral_is_a_line_of_json(send: Run, letter: Path) -> None:
    with Sink(Script(replies={"RCPT": (LATER, Step("550 5.1.1 no"))})) as sink:
        words = ("--relay", f"127.0.0.1:{sink.port}", "--retry-for", "1h", "--to", "a@example.net", "--jsonl")
        status, out, _ = send(*words, letter)
    first, last = map(json.loads, out.splitlines())
    assert status == Exit.UNAVAILABLE
    assert (first["fate"], last["fate"]) == ("deferred", "failed")
    assert 0 < first["again_in"] < 2
    assert last["again_in"] is None
    assert (len(first["attempts"]), len(last["attempts"])) == (1, 2)


def result(reply: str) -> Result:
    told = {"reply": reply, "reason": reply}
    return Result(message="1.eml", recipient="a@example.net", fate=Fate.DEFERRED, status="4.2.1", **told)


def test_a_bunch_of_deferrals_is_one_line() -> None:
    said: list[str] = []

    async def work() -> None:
        notice = RetryNotice(said.append, lambda: 1_795_946_400.0)
        notice.flush()
        for number in range(3):
            notice.add(result("450 4.2.1 later"), 300.0 - number)
        notice.flush()
        notice.add(result("450 4.2.1 later"), 300.0)
        notice.add(result("451 4.7.1 Greylisted"), 7200.0)
        await asyncio.sleep(BUNCH + 0.2)

    asyncio.run(work())
    assert [re.sub(r"\d\d:\d\d:\d\d", "TIME", text) for text in said] == [
        "3 recipients are deferred (450 4.2.1 later) and tried again, the first of them at TIME, in 5 min",
        "2 recipients are deferred (450 4.2.1 later, and for other reasons) and tried again,"
        " the first of them at TIME, in 5 min",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (45, "45 s"), (300, "5 min"), (9000, "2.5 h")])
def test_waits_for_people(seconds: float, text: str) -> None:
    assert shown_wait(seconds) == text


@pytest.mark.parametrize("time", ["soon", "0", "-5m"])
def test_what_is_no_time(time: str, letter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["send", f"--retry-for={time}", str(letter)])
    assert ended.value.code == 64
    assert "argument --retry-for: " in capsys.readouterr().err
