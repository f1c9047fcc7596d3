"""Instructions of the processor for each message that the agent delivers, counted by ``cachegrind`` (valgrind).

A count hardly depends on what else the machine does, so it shows a change of one per cent where times do not. It leaves
out the kernel's share and says nothing about caches: which of two ways is faster is for ``throughput.py`` to tell. Of
several runs believe the least: where the receiver has to wait for a processor, the agent waits, too, and does more.

The agent delivers a short queue and a long one of 4 KB messages over one connection, as in ``throughput.py``. The
difference, divided by the additional messages, is the cost of one message without start, connection and imports.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sinks import ready_sink
from spool import BenchError, fill, run_agent
from table import in_turns, line, machine

OCTETS = 4096
COUNTED = re.compile(r"I\s+refs:\s+([0-9,]+)")


def instructions(messages: int, port: int) -> int:
    """The instructions of an agent that delivers so many messages, from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as folder:
        office, log = Path(folder) / "office", Path(folder) / "log"
        counter = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
        names = fill(office, messages, OCTETS)
        # Without a fixed seed the order of sets and the collisions of dictionaries differ from run to run.
        run_agent(office, names, port, pin=("env", "PYTHONHASHSEED=0", *counter, f"--log-file={log}"))
        found = COUNTED.search(log.read_text())
    if found is None:
        raise BenchError("cachegrind told no count")
    return int(found[1].replace(",", ""))


def each(short: int, long: int, port: int) -> float:
    """The instructions that one more message takes."""
    return (instructions(long, port) - instructions(short, port)) / (long - short)


def main() -> int:
    parser = argparse.ArgumentParser(description="Instructions of the processor for each message of the agent.")
    parser.add_argument("--short", type=int, default=200, help="messages in the short queue (default: 200)")
    parser.add_argument("--long", type=int, default=1200, help="messages in the long queue (default: 1200)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, in turns (default: 3)")
    options = parser.parse_args()
    if not 0 < options.short < options.long or options.runs < 1:
        parser.error("at least 1 message, more in the long queue, and 1 run")
    if not shutil.which("valgrind"):
        print("valgrind is not here: nothing is counted", file=sys.stderr)
        return 1

    print(f"instructions for each message of 4 KB, the kernel's left out; {machine()}")
    try:
        with ready_sink(chunking=False) as plain, ready_sink(chunking=True) as chunking:
            ways = {
                "zsmtp, PIPELINING": partial(each, options.short, options.long, plain.port),
                "zsmtp, CHUNKING": partial(each, options.short, options.long, chunking.port),
            }
            for name, values in in_turns(ways, options.runs).items():
                print(line(name, values, "", beside={}))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
