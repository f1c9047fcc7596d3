"""One agent and many servers: plays a message to each, and tells what became of its recipients.

The agent lives as long as the :class:`Player`; so each server also shows that the one before left no trace. Every
server has a loopback address of its own (:func:`sink_for`): what one host did must not be laid at another's door.
In the words for fates ``O`` is delivered, ``E`` refused for good, ``D`` deferred.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.support.agent import Agent
from tests.support.postoffice import Job, PostOffice, Rcpt, Report
from tests.support.script import Script, Step
from tests.support.sink import Sink

FATES = {"O": "ok", "E": "error", "D": "deferred"}
MARKS = {"O": "+", "E": "-", "D": " "}
TWO = ("a@example.com", "b@example.com")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one message."""

    fates: str
    reports: list[Report]
    log: bytes


class Player:
    """One agent for many servers; started again only if it is gone, which is a failure of the test that lost it."""

    def __init__(self, root: Path, *flags: str) -> None:
        self.office = PostOffice(root / "office")
        self._flags = ("-h", "me.example", "-l", str(self.office.log), *flags)
        self._numbers = count(1000)
        self._agent: Agent | None = None
        self._hungry = 0
        self._heard = 0

    def close(self) -> None:
        if self._agent is not None:
            self._agent.__exit__()
            self._agent = None

    def deliver(self, sink: Sink, recipients: tuple[str, ...] = TWO, body: str = "hello\n") -> Outcome:
        """Send one message through this server."""
        host = f"[{sink.host}]:{sink.port}"
        number = str(next(self._numbers))
        job = self.office.post([Rcpt(to, host) for to in recipients], name=number, body=body)
        if self._agent is None:
            self._agent = Agent(self.office, *self._flags)
            self._hungry = 1
            self._agent.wait_until_hungry(1)
        logged = len(self.office.log.read_bytes()) if self.office.log.exists() else 0
        self._agent.feed(job.line(host))
        self._hungry += 1
        try:
            self._agent.wait_until_hungry(self._hungry)
        except TimeoutError:
            self.close()
            raise
        (self.office.queue / job.path).unlink()  # some are large, and temporary folders are kept for a while
        return self._outcome(job, self.office.log.read_bytes()[logged:])

    def _outcome(self, job: Job, log: bytes) -> Outcome:
        assert self._agent is not None
        lines = [line for line in self._agent.lines if not line.startswith(b"#")]
        reports = [report for report in map(Report.parse, lines) if report.id == job.id]
        reports.sort(key=lambda report: report.offset)  # each is said as soon as it is known
        assert [report.offset for report in reports] == list(job.offsets), "not one report for each recipient"
        fates = "".join(next(o for o, fate in FATES.items() if fate == report.fate) for report in reports)
        assert self.office.marks(job) == "".join(MARKS[fate] for fate in fates)
        return Outcome(fates, reports, log)


_addresses = count(1)


def sink_for(*scripts: Script) -> Sink:
    """A server on an address of its own: what one host did must not be laid at another's door."""
    number = next(_addresses)
    return Sink(*scripts, host=f"127.1.{number // 250}.{number % 250 + 1}")


def at(verb: str, *steps: str | bytes | Step) -> dict[str, tuple[Step, ...]]:
    return {verb: tuple(step if isinstance(step, Step) else Step(step) for step in steps)}


def assert_over_after(sink: Sink, phase: str) -> None:
    """After the breach no command may follow on this connection but a polite QUIT."""
    connection = sink.connections[0]
    known = {"EHLO": 1, "MAIL": 2, "RCPT": 3, "DATA": 5, "DOT": 5}[phase]
    rest = [command.verb for command in connection.commands[known:]]
    pipelined = connection.commands[min(known, len(connection.commands)) - 1].followed
    if not pipelined and phase != "RCPT":
        allowed: tuple[list[str], ...] = (
            ([], ["QUIT"], ["HELO"], ["HELO", "QUIT"]) if phase == "EHLO" else ([], ["QUIT"])
        )
        assert rest in allowed
    assert sum(verb == "MAIL" for verb in connection.verbs) <= 1
