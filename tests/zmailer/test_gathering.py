"""The reporter with ``gather``: one write for what is due together, and nothing late that must not be."""

from __future__ import annotations

from dataclasses import dataclass, field

from zsmtp.delivery.outcome import Fate, Verdict
from zsmtp.proto.status import EnhancedStatus
from zsmtp.zmailer.control import ControlFile, Recipient, parse
from zsmtp.zmailer.diagnostics import Reporter
from zsmtp.zmailer.locks import Mark

HEADER = "Subject: x\n"
CONTROL = (
    "i 1001\no 0\ns local - s@example.org 99\nr  smtp h a@example.org 99\nr  smtp h b@example.org 99\n"
    f"N NOTIFY=SUCCESS\nm\n{HEADER}\n"
).encode()
OK = Verdict(Fate.DELIVERED, EnhancedStatus(2, 0, 0), "smtp; 250 (ok)", "\r->> 250 ok", at_final_dot=True)
NO = Verdict(Fate.FAILED, EnhancedStatus(5, 1, 1), "smtp; 550 (no)", "\r->> 550 no")
LATER = Verdict(Fate.DEFERRED, EnhancedStatus(4, 2, 1), "smtp; 450 (later)", "\r->> 450 later")


@dataclass
class Scene:
    """A control file that is written to in memory, and what was done in which order."""

    done: list[str] = field(default_factory=list)
    control: ControlFile = field(default_factory=lambda: parse("1001", CONTROL))

    def release(self, recipient: Recipient, mark: Mark) -> bool:
        self.done.append(f"mark {mark.value.decode()}")
        return True

    def append(self, record: bytes) -> None:
        self.done.append("record")

    def write(self, lines: bytes) -> None:
        words = [line.rsplit("\t", 1)[-1].split(" ")[0] for line in lines.decode().split("\n")[:-1]]
        self.done.append("write " + " ".join(words))

    def settle(self, reporter: Reporter, verdict: Verdict, *, number: int = 0) -> None:
        reporter.settle(self, self.control.recipients[number], verdict, epoch=0, lmtp=False)


def scene(*, gather: bool = True) -> tuple[Scene, Reporter]:
    there = Scene()
    return there, Reporter(there.write, pid=1, extended=False, gather=gather)


def test_successes_and_hungry_leave_together() -> None:
    there, reporter = scene()
    for _ in range(3):
        there.settle(reporter, OK)
        reporter.hungry()
    assert there.done == ["mark +"] * 3
    reporter.flush()
    assert there.done == ["mark +"] * 3 + ["write ok #hungry ok #hungry ok #hungry"]
    reporter.flush()
    assert len(there.done) == 4


def test_without_gathering_each_leaves_at_once() -> None:
    there, reporter = scene(gather=False)
    there.settle(reporter, OK)
    reporter.hungry()
    assert there.done == ["mark +", "write ok", "write #hungry"]


def test_a_failure_is_out_before_its_mark_and_behind_what_was_held() -> None:
    for verdict, word, mark in ((NO, "error", "-"), (LATER, "deferred", " ")):
        there, reporter = scene()
        there.settle(reporter, OK)
        reporter.hungry()
        there.settle(reporter, verdict)
        assert there.done == ["mark +", f"write ok #hungry {word}", f"mark {mark}"]


def test_a_success_that_somebody_waits_to_hear_of_is_not_held() -> None:
    there, reporter = scene()
    there.settle(reporter, OK, number=1)
    assert there.done == ["mark +", "write ok"]


def test_comments_and_resyncs_keep_their_place() -> None:
    there, reporter = scene()
    reporter.hungry()
    reporter.resync(b"1001")
    reporter.hungry()
    reporter.comment("smtp: something")
    assert there.done == ["write #hungry #resync", "write #hungry #"]


def test_a_closed_channel_is_noticed_at_the_flush() -> None:
    there, reporter = scene()

    def broken(lines: bytes) -> None:
        raise BrokenPipeError

    reporter._write = broken
    there.settle(reporter, OK)
    assert not reporter.stdout_closed
    reporter.flush()
    assert reporter.stdout_closed
    reporter.flush()
    there.settle(reporter, NO)
    assert there.done == ["mark +", "record", "mark -"], "what nobody heard goes into the control file"


def test_so_many_lines_are_held_and_no_more() -> None:
    there, reporter = scene()
    while not reporter.full:
        there.settle(reporter, OK)
        reporter.hungry()
    assert there.done == ["mark +"] * 8
    reporter.flush()
    assert not reporter.full
    assert there.done[-1] == "write " + " ".join(["ok #hungry"] * 8)
