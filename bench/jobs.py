"""``zsmtp send`` by one process and by two: messages in files, sent to many destinations, and to one relay.

Each run is the command as it is started from a shell, its start included; receiver and name server are processes on the
same machine. Where all of them share two processors, the time cannot tell what a second process is worth, so CPU stands
beside it: that of all processes of the command together, and that of the one which has used most. As long as other
processors do the receiving, a run takes about as long as the work of the process that was started before the others
begin and of the busiest one from there on: the last line of a table is that ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from destinations import OCTETS, PATIENCE, open_all_files
from nameserver import ready_nameserver
from sinks import ready_sinks
from spool import BenchError, body
from table import in_turns, line, machine

TICK = os.sysconf("SC_CLK_TCK")
GLANCE = 0.02  # seconds between two looks at the CPU of processes
FIRST = 256  # the number of the first domain: each has an address of its own
JOBS = (1, 2)


@dataclass
class Cost:
    """The CPU seconds of the runs of one kind."""

    total: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    """What one process does after the other: reading, then the work of the busiest."""


def write_messages(folder: Path, count: int) -> None:
    """A message of 4 KB to each of so many domains, in a file of its own."""
    text = body(OCTETS)
    for number in range(count):
        header = (
            f"From: sender@example.org\nTo: r@d{FIRST + number}.example.com\nSubject: {number}\n"
            f"Date: Sun, 29 Nov 2026 10:00:00 +0000\nMessage-ID: <{number}@bench.example.org>\n\n"
        )
        (folder / f"{number:06}.eml").write_bytes(header.encode() + text)


class ProcessTimes(threading.Thread):
    """Looks at the CPU that a process and those it has started have used, until it is over."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.own = 0.0
        self.before = 0.0  # of ``own``, until the others were there
        self.others: dict[int, float] = {}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(GLANCE):
            with contextlib.suppress(OSError, IndexError):
                self.own = _used(self._pid)
                for word in Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split():
                    self.others[int(word)] = _used(int(word))
            if not self.others:
                self.before = self.own


def _used(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICK


def run(jobs: int, count: int, where: list[str], folder: Path, cost: Cost) -> float:
    """Send everything by so many processes; messages a second."""
    words = [sys.executable, "-m", "zsmtp.cli.main", "send", "--jobs", str(jobs), *where, str(folder)]
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        times = ProcessTimes(process.pid)
        times.start()
        said, err = process.communicate(timeout=PATIENCE)
        took = time.perf_counter() - began
        times.over.set()
        times.join()
    if process.returncode or said.splitlines()[-1] != b"%d delivered" % count:
        raise BenchError(f"--jobs {jobs}: {err[-800:].decode(errors='replace')}")
    cost.total.append(times.own + sum(times.others.values()))
    cost.longest.append(max([times.own, *(times.before + used for used in times.others.values())]))
    return count / took


def table(title: str, count: int, where: list[str], folder: Path, runs: int) -> None:
    costs = {jobs: Cost() for jobs in JOBS}
    results = in_turns({f"--jobs {jobs}": partial(run, jobs, count, where, folder, costs[jobs]) for jobs in JOBS}, runs)
    print(f"{title}, {runs} runs of each in turns")
    for jobs, (name, values) in zip(JOBS, results.items(), strict=True):
        total, longest = (statistics.median(times) * 1e6 / count for times in (costs[jobs].total, costs[jobs].longest))
        beside = {"--jobs 1": results["--jobs 1"]}
        told = f"   {total:5.0f} us of CPU for each, one after the other {longest:5.0f}"
        print(line(name, values, "msg/s", beside=beside) + told)
    ratios = [one / two for one, two in zip(costs[1].longest, costs[2].longest, strict=True)]
    middle, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"  with processors for all: {middle:.2f} times as fast by two ({spread})")


def main() -> int:
    parser = argparse.ArgumentParser(description="zsmtp send by one process and by two.")
    parser.add_argument("--only", choices=["destinations", "relay"], help="one of the tables")
    parser.add_argument("--messages", type=int, default=4000, help="messages, each to a domain of its own (4000)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns (default: 5)")
    options = parser.parse_args()
    open_all_files()
    print(f"processes that send; {machine()}")
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(ready_sinks(1, chunking=False, host="0.0.0.0"))  # noqa: S104 - all of 127.0.0.0/8
        server = stack.enter_context(ready_nameserver(0))
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zsmtp-bench-")))
        folder, config = top / "out", top / "zsmtp.toml"
        folder.mkdir()
        config.write_text(
            'helo_name = "bench.example.org"\n[direct]\ndane = false\nmta_sts = "off"\n[direct.tls]\nlevel = "none"\n'
        )
        write_messages(folder, options.messages)
        common = ["--config", str(config)]
        direct = [*common, "--resolver", server, "--port", str(ports[0])]
        try:
            if options.only in (None, "destinations"):
                title = f"{options.messages} messages of 4 KB to as many destinations"
                table(title, options.messages, direct, folder, options.runs)
            if options.only in (None, "relay"):
                title = f"{options.messages} messages of 4 KB through one relay"
                table(title, options.messages, [*common, "--relay", f"127.0.0.1:{ports[0]}"], folder, options.runs)
        except BenchError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
