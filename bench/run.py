"""All benchmarks of a mail's way, one after the other: what ``make bench`` prints.

``--results FILE`` also writes them down with the facts of the machine and draws ``roundtrips.svg`` beside FILE, as
``bench/RESULTS.md`` keeps the last run. The exit status is not 0 if one of them found that what it measured was wrong.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from table import machine

HERE = Path(__file__).resolve().parent
PROGRAMS = (
    "startup.py",
    "body.py",
    "throughput.py",
    "roundtrips.py",
    "tls.py",
    "library.py",
    "destinations.py",
    "looplag.py",
    "dkim.py",
    "receiving.py",
    "queue_store.py",
    "queue_delivery.py",
)
PLOT = "roundtrips.svg"


def output(program: str, *options: str) -> tuple[str, bool]:
    """Run a program, showing what it prints; that again, and whether it ended well."""
    heard = []
    with subprocess.Popen(
        [sys.executable, str(HERE / program), *options], stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        for text in process.stdout:
            print(text, end="", flush=True)
            heard.append(text)
    return "".join(heard), process.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="All benchmarks, one after the other.")
    parser.add_argument("--results", metavar="FILE", type=Path, help="write them down in FILE, with a plot beside it")
    parser.add_argument("--note", metavar="TEXT", default="", help="with --results: a sentence on this run")
    options = parser.parse_args()
    parts, well = [], True
    for program in PROGRAMS:
        words = ["--plot", str(options.results.parent / PLOT)] if options.results and "round" in program else []
        text, good = output(program, *words)
        parts.append(text)
        well = well and good
    if options.results and well:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        drawn = f"![messages/s over round-trip time]({PLOT})\n" if (options.results.parent / PLOT).exists() else ""
        blocks = "\n".join(f"```\n{text.rstrip()}\n```\n" for text in parts)
        options.results.write_text(
            f"# The last run\n\n{day}; {machine()}. `README.md` explains the lines.\n"
            f"{' '.join(filter(None, (options.note, 'Figures of one machine on one day: believe the ratios.')))}\n\n"
            f"{blocks}\n{drawn}"
        )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
