"""How long the agent's users wait for it to start, beside what Python itself costs.

A scheduler starts one agent per host and waits for its first ``#hungry``; people run ``smtp -V``. Measured as wall
time from starting the process to that line, or to the end of the process where there is no such line. The floor is
the same interpreter importing the two modules that anything talking to a network needs, once as it usually starts and
once isolated without site directories (``-I -S``). The runs alternate, so that a busy machine is unfair to all; one
run of each, not counted, fills the caches. ``python bench/startup.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
PATIENCE = 30.0  # seconds


@dataclass(frozen=True)
class Start:
    """One program whose start is measured: up to ``line`` on its standard output, or to its end if that is None."""

    name: str
    command: tuple[str, ...]
    line: bytes | None = None


AGENT = (sys.executable, "-m", "zsmtp.zmailer.agent")
IMPORTS = ("-c", "import socket, selectors")
STARTS = (
    Start("python, bare", (sys.executable, "-I", "-S", *IMPORTS)),
    Start("python", (sys.executable, *IMPORTS)),
    Start("smtp -V", (*AGENT, "-V")),
    Start("smtp, to #hungry", (*AGENT, "-h", "bench.example.org"), b"#hungry\n"),
)


class StartError(Exception):
    """A program did not start as it must."""


def seconds(start: Start, directory: str) -> float:
    """Start the program once, in ``directory``; the time it took. Raises StartError."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(SOURCE), "ZCONFIG": os.devnull}
    began = time.perf_counter()
    with subprocess.Popen(
        start.command,
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            heard = b""
            if start.line is not None:
                heard = first_output(process.stdout.fileno())
                took = time.perf_counter() - began
            process.stdin.close()
            process.stdin = None
            _, complaint = process.communicate(timeout=PATIENCE)
            if start.line is None:
                took = time.perf_counter() - began
        except subprocess.TimeoutExpired:
            raise StartError(f"{start.name}: no end after {PATIENCE:.0f} s") from None
        finally:
            process.kill()
    if process.returncode != 0 or (start.line is not None and heard != start.line):
        last_words = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise StartError(f"{start.name}: said {heard!r}, exit status {process.returncode}: {last_words}")
    return took


def first_output(descriptor: int) -> bytes:
    """What the program writes first; nothing if it ends or takes too long."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return os.read(descriptor, 4096) if selector.select(PATIENCE) else b""


def main() -> int:
    parser = argparse.ArgumentParser(description="Start-up times of the agent, beside Python's own.")
    parser.add_argument("--runs", type=int, default=21, help="runs of each, in turns (default: 21, at least 11)")
    options = parser.parse_args()
    if options.runs < 11:
        parser.error("fewer than 11 runs say little")

    times: dict[str, list[float]] = {start.name: [] for start in STARTS}
    try:
        with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as directory:
            for run in range(options.runs + 1):
                for start in STARTS:
                    took = seconds(start, directory)
                    if run:
                        times[start.name].append(took)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1

    bare, usual = (statistics.median(times[start.name]) for start in STARTS[:2])
    print(f"start-up, {options.runs} runs of each in turns; milliseconds, median (from least to most)")
    for name, spent in times.items():
        middle = statistics.median(spent)
        print(
            f"  {name:18}{middle * 1e3:6.1f}   ({min(spent) * 1e3:.1f} to {max(spent) * 1e3:.1f})"
            f"   {middle / bare:4.1f} x python bare   {middle / usual:4.1f} x python"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
