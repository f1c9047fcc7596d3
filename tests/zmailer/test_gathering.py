"""The reporter with ``gather``: one write for what is due together, and nothing late that must not be."""

from __future__ import annotations

from dataclasses import dataclass, field

from zsmtp.delivery.outcome import Disposition, Verdict
from zsmtp.proto.status import EnhancedStatus
from zsmtp.zmailer.control import ControlFile, ControlRecipient, parse
from zsmtp.zmailer.locks import StateTag
from zsmtp.zmailer.reporter import ReportWriter

HEADER = "Subject: x\n"
CONTROL = (
    "i 1001\no 0\ns local - s@example.org 99\nr  smtp h a@example.org 99\nr  smtp h b@example.org 99\n"
    f"N NOTIFY=SUCCESS\nm\n{HEADER}\n"
).encode()
OK = Verdict(Disposition.DELIVERED, EnhancedStatus(2, 0, 0), "smtp; 250 (ok)", "\r->> 250 ok", at_final_dot=True)
NO = Verdict(Disposition.FAILED, EnhancedStatus(5, 1, 1), "smtp; 550 (no)", "\r->> 550 no")
LATER = Verdict(Disposition.DEFERRED, EnhancedStatus(4, 2, 1), "smtp; 450 (later)", "\r->> 450 later")


@dataclass
class Scene:
    """A control file that is written to in memory, and what was done in which order."""

    done: list[str] = field(default_factory=list)
    control: ControlFile = field(default_factory=lambda: parse("1001", CONTROL))

    def release(self, recipient: ControlRecipient, mark: StateTag) -> bool:
        self.done.append(f"mark {mark.value.decode()}")
        return True

    def append(self, record: bytes) -> None:
        self.done.append("record")

    def sync(self) -> None:
        self.done.append("sync")

    def write(self, lines: bytes) -> None:
        words = [line.rsplit("\t", 1)[-1].split(" ")[0] for line in lines.decode().split("\n")[:-1]]
        self.done.append("write " + " ".join(words))

    def settle(self, reporter: ReportWriter, verdict: Verdict, *, number: int = 0) -> None:
        reporter.settle(self, self.control.recipients[number], verdict, epoch=0, lmtp=False)


def scene(*, gather: bool = True, extended: bool = False) -> tuple[Scene, ReportWriter]:
    there = Scene()
    return there, ReportWriter(there.write, pid=1, extended=extended, gather=gather)


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
    assert there.done == ["mark +", "record", "sync", "mark -"], "what nobody heard goes into the control file"


def test_one_wait_for_the_disk_serves_all_records_of_a_file() -> None:
    there, reporter = scene(extended=True)
    for _ in range(3):
        there.settle(reporter, NO)
    there.settle(reporter, OK)
    there.settle(reporter, OK, number=1)
    reporter.hungry()
    assert there.done == ["record", "record", "record", "mark +", "record"], "no mark before the wait"
    reporter.flush()
    assert there.done[5:] == [
        "sync",
        *["mark -"] * 3,
        "mark +",
        "write error2 error2 error2 ok3 ok2 #hungry",
    ]
    reporter.flush()
    assert len(there.done) == 11


def test_each_file_is_waited_for_by_itself() -> None:
    one, reporter = scene(extended=True)
    other = Scene(done=one.done)
    for there in (one, other, one):
        there.settle(reporter, NO)
    reporter.flush()
    assert one.done == ["record"] * 3 + ["sync", "mark -", "sync", "mark -", "mark -", "write error2 error2 error2"]


def test_before_a_file_is_closed_its_recipients_are_marked() -> None:
    one, reporter = scene(extended=True)
    other = Scene(done=one.done)
    one.settle(reporter, OK)
    one.settle(reporter, NO)
    other.settle(reporter, NO)
    one.settle(reporter, NO)
    reporter.finish(one)
    assert one.done == ["mark +", *["record"] * 3, "sync", "mark -", "mark -"]
    reporter.finish(one)
    assert len(one.done) == 7
    reporter.finish(other)
    reporter.flush()
    assert one.done[7:] == ["sync", "mark -", "write ok3 error2 error2 error2"]


def test_whatever_leaves_takes_the_records_along() -> None:
    """Nothing overtakes a report that is held, and none leaves before its mark."""
    for leave, word in ((lambda r: r.comment("x"), "#"), (lambda r: r.resync(b"1"), "#resync")):
        there, reporter = scene(extended=True)
        there.settle(reporter, NO)
        leave(reporter)
        assert there.done == ["record", "sync", "mark -", f"write error2 {word}"]
    there, reporter = scene(extended=True)
    there.settle(reporter, NO)
    there.settle(reporter, LATER)
    assert there.done == ["record", "sync", "mark -", "write error2 deferred", "mark  "]


def test_with_the_channel_closed_records_and_marks_are_still_made() -> None:
    there, reporter = scene(extended=True)
    reporter.stdout_closed = True
    there.settle(reporter, NO)
    there.settle(reporter, OK)
    reporter.flush()
    assert there.done == ["record", "mark +", "sync", "mark -"]


def test_so_many_lines_are_held_and_no_more() -> None:
    there, reporter = scene()
    while not reporter.full:
        there.settle(reporter, OK)
        reporter.hungry()
    assert there.done == ["mark +"] * 8
    reporter.flush()
    assert not reporter.full
    assert there.done[-1] == "write " + " ".join(["ok #hungry"] * 8)
