"""The order of marks and reports, so that a crash between two steps loses no fact and no bounce.

The agent's stdout is a pipe of one page that is hardly read: it stops in the middle of its reports again and again,
and at each stop the control file must hold neither more nor less than the order allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.support.agent import Agent
from tests.support.patience import LIMIT
from tests.support.postoffice import PostOffice
from tests.support.script import Script, Step
from tests.support.sink import Sink

RECIPIENTS = 40


def watch(office: PostOffice, reply: str, *flags: str, check: Callable[[bytes, bytes, bytes], None]) -> None:
    """Deliver to many; ``check`` hears the control file before and after output was taken, and all output so far."""
    job = office.post([f"u{n}@example.com" for n in range(RECIPIENTS)])
    gate = threading.Event()
    with (
        Sink(Script(caps=("PIPELINING",), replies={"DOT": (Step(reply, gate=gate),)})) as sink,
        Agent(office, "-h", "me.example", "-p", str(sink.port), *flags, held=True) as agent,
    ):
        agent.feed(job.line("[127.0.0.1]"))
        output = b""
        deadline = time.monotonic() + LIMIT
        looks = 0
        while output.count(b"\n1001/") < RECIPIENTS or not output.endswith(b"\n"):
            assert time.monotonic() < deadline
            assert agent.process.poll() is None
            before = office.control(job)
            if marked(before, b"~") == RECIPIENTS:
                gate.set()
            output += agent.take_output(512)  # so that there are many looks, however late each is
            check(before, office.control(job), output)
            looks += 1
            time.sleep(0.02)  # the agent gets ahead until it must wait
            while agent.is_running():
                assert time.monotonic() < deadline
                time.sleep(0.005)
        assert looks > 5


def reports(output: bytes) -> int:
    """The reports in it that are whole."""
    return output[: output.rfind(b"\n") + 1].count(b"\n1001/")


def marked(control: bytes, mark: bytes) -> int:
    return control.count(b"\nr" + mark)


def test_a_success_is_marked_before_it_is_reported(office: PostOffice) -> None:
    ahead = 0

    def check(before: bytes, after: bytes, output: bytes) -> None:
        nonlocal ahead
        assert reports(output) <= marked(after, b"+")
        ahead += marked(before, b"+") > reports(output)

    watch(office, "250 ok", check=check)
    assert ahead, "no mark was ever seen before its report"


def test_with_the_old_words_a_failure_is_reported_before_it_is_marked(office: PostOffice) -> None:
    def check(before: bytes, after: bytes, output: bytes) -> None:
        assert marked(before, b"-") <= reports(output)

    watch(office, "554 no", "-O", "no-ta-diagnostics", check=check)


def test_a_deferral_is_reported_before_its_lock_is_taken_off(office: PostOffice) -> None:
    all_locked = False

    def check(before: bytes, after: bytes, output: bytes) -> None:
        nonlocal all_locked
        locked = marked(before, b"~")
        all_locked = all_locked or locked == RECIPIENTS
        assert not all_locked or RECIPIENTS - locked <= reports(output)

    watch(office, "451 no", check=check)


def test_a_record_comes_before_its_mark_and_that_before_its_report(office: PostOffice) -> None:
    ahead = 0

    def check(before: bytes, after: bytes, output: bytes) -> None:
        nonlocal ahead
        assert reports(output) <= marked(after, b"-") <= after.count(b"\nd ")
        ahead += marked(before, b"-") > reports(output)

    watch(office, "554 no", check=check)
    assert ahead, "no mark was ever seen before its report"
