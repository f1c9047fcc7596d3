"""How fast message bodies are made ready for DATA: line ends and dot-stuffing, beside the standard library's smtplib.

Both get the same body of text lines ended by LF, in memory, and must give the same octets: this project block by
block through ``zsmtp.body.lines`` and ``zsmtp.body.dots``, smtplib through the two functions its ``sendmail`` uses for
text. The runs alternate, so that a busy machine is unfair to both. ``python bench/body.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import random
import smtplib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from zsmtp.body.dots import DotStuffer
from zsmtp.body.lines import LineConverter, canonical_blocks
from zsmtp.body.source import Source

WORDS = [
    "a",
    "the",
    "of",
    "mail",
    "message",
    "server,",
    "exchanger",
    "delivery.",
    "queue:",
    "(see",
    "above)",
    "...",
    "dot",
]


def text_body(size: int) -> bytes:
    """About ``size`` octets of lines as people and programs write them, one in forty starting with a dot."""
    chance = random.Random(5321)  # the same body in every run
    lines = []
    for _ in range(2000):
        words = " ".join(chance.choices(WORDS, k=chance.randint(0, 24)))
        lines.append(("." if chance.random() < 0.025 else "") + words[:78])
    page = "\n".join(lines) + "\n"
    return (page * (size // len(page) + 1)).encode("ascii")


def by_zsmtp(body: bytes) -> bytes:
    dots = DotStuffer()
    blocks = canonical_blocks(Source.from_bytes(body).blocks(), LineConverter())
    return b"".join(map(dots.stuff, blocks))


def by_smtplib(body: str) -> bytes:
    return smtplib._quote_periods(smtplib._fix_eols(body).encode("ascii"))  # type: ignore[attr-defined,no-any-return]


def seconds(work: Callable[[], bytes]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description="Body preparation in MB/s, beside smtplib.")
    parser.add_argument("--megabytes", type=int, default=20, help="size of the body (default: 20)")
    parser.add_argument("--runs", type=int, default=7, help="runs of each, in turns (default: 7)")
    options = parser.parse_args()
    if options.megabytes < 1 or options.runs < 5:
        parser.error("at least 1 megabyte and 5 runs")

    body = text_body(options.megabytes * 1_000_000)
    text = body.decode("ascii")
    if by_zsmtp(body) != by_smtplib(text):
        print("the two results differ: the comparison means nothing", file=sys.stderr)
        return 1

    work = {"zsmtp": lambda: by_zsmtp(body), "smtplib": lambda: by_smtplib(text)}
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.runs):
        for name, one in work.items():
            times[name].append(seconds(one))

    print(f"line ends and dot-stuffing, {len(body) / 1e6:.0f} MB of text, {options.runs} runs of each in turns")
    for name, spent in times.items():
        speeds = [len(body) / 1e6 / each for each in spent]
        print(f"  {name:8} {statistics.median(speeds):6.0f} MB/s   (from {min(speeds):.0f} to {max(speeds):.0f})")
    ratio = statistics.median(times["smtplib"]) / statistics.median(times["zsmtp"])
    print(f"  zsmtp is {ratio:.1f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
