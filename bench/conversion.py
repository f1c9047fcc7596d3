"""How fast bodies are converted, beside what Python's own C code does to the same octets, and in how much memory.

Each form is measured as the agent makes it: block by block, out of a body in memory. Its peer is the least that could
be done: ``binascii`` on the whole body in one call, or smtplib's data preparation. The runs alternate and are measured
in processor time, so that a busy machine is unfair to both; results are checked by decoding them. The memory is what a
message of ``--memory-megabytes`` needs over a small one of the same kind, as the process sees it.
``python bench/conversion.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import binascii
import random
import smtplib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from zsmtp.body.convert import ConvertedBody, Segment, SegmentForm
from zsmtp.body.dots import DotStuffer
from zsmtp.body.encode import MessageContent
from zsmtp.body.lines import LineConverter, canonical_blocks
from zsmtp.body.mime import PartKind, StructureScan
from zsmtp.body.source import Source
from zsmtp.body.stored import prepare
from zsmtp.body.target import Target

WORDS = ["a", "the", "of", "mail", "größe", "server,", "päivää", "delivery.", "señor:", "(see", "above)", "and", "dot"]
HEADER = b"MIME-Version: 1.0\nContent-Type: text/plain; charset=ISO-8859-1\nContent-Transfer-Encoding: %s\n"
PARTS = b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=next\n"
ALLOWED_MEMORY = 8 * 1024  # KiB


@dataclass(frozen=True)
class Rate:
    """One form: what makes it, what makes as little as possible of the same body, and the ratio to be reached."""

    name: str
    work: Callable[[], object]
    peer_name: str
    peer: Callable[[], object]
    target: float


def text_body(size: int) -> bytes:
    """About ``size`` octets of Latin-1 lines as people write them, one in 500 starting with a dot."""
    chance = random.Random(2045)  # the same body in every run
    lines = []
    for _ in range(2000):
        words = " ".join(chance.choices(WORDS, k=chance.randint(0, 14)))
        lines.append(("." if chance.random() < 0.002 else "") + words[:78].rstrip())
    page = "\n".join(lines) + "\n"
    return (page * (size // len(page) + 1)).encode("iso-8859-1")


def drain(blocks: Iterator[bytes]) -> int:
    return sum(map(len, blocks))


def as_it_is(source: Source) -> int:
    dots = DotStuffer()
    return sum(len(dots.stuff(block)) for block in canonical_blocks(source.blocks(), LineConverter()))


def by_smtplib(text: str) -> int:
    return len(smtplib._quote_periods(smtplib._fix_eols(text).encode("iso-8859-1")))  # type: ignore[attr-defined]


def converted(source: Source, form: SegmentForm) -> ConvertedBody:
    return ConvertedBody(source, (Segment(0, source.size, form),))


def parts_body(text: bytes) -> bytes:
    part = b"--next\nContent-Type: text/plain; charset=iso-8859-1\n\n%s\n"
    third = len(text) // 3
    return b"".join(part % text[n * third : (n + 1) * third] for n in range(3)) + b"--next--\n"


def scanned(body: bytes) -> int:
    scan = StructureScan(PARTS)
    for block in Source.from_bytes(body).blocks():
        scan.feed(block)
    return sum(part.kind is PartKind.LEAF for part in scan.finish().parts())


def rates(text: bytes) -> list[Rate]:
    """All forms of ``text``, each checked to be right before it is measured."""
    source = Source.from_bytes(text)
    qp = b"".join(converted(source, SegmentForm.QP).blocks())
    stored_qp = qp.replace(b"\r\n", b"\n")
    decoded = b"".join(converted(Source.from_bytes(stored_qp), SegmentForm.DECODE_QP).blocks())
    encoded = b"".join(converted(source, SegmentForm.BASE64_OCTETS).blocks())
    body = parts_body(text)
    unicode_text = text.decode("iso-8859-1")
    checks = {
        "as it is": as_it_is(source) == by_smtplib(unicode_text),
        "to quoted-printable": binascii.a2b_qp(stored_qp) == text,
        "to 8-bit": decoded == text.replace(b"\n", b"\r\n"),
        "to base64": binascii.a2b_base64(encoded) == text,
        "structure": scanned(body) == 3,
    }
    wrong = [name for name, right in checks.items() if not right]
    if wrong:
        raise SystemExit(f"wrong results, nothing was measured: {', '.join(wrong)}")
    return [
        Rate("as it is", lambda: as_it_is(source), "smtplib", lambda: by_smtplib(unicode_text), 6.0),
        Rate(
            "text to quoted-printable",
            lambda: drain(converted(source, SegmentForm.QP).blocks()),
            "binascii.b2a_qp",
            lambda: binascii.b2a_qp(text),
            0.9,
        ),
        Rate(
            "octets to base64",
            lambda: drain(converted(source, SegmentForm.BASE64_OCTETS).blocks()),
            "binascii.b2a_base64",
            lambda: binascii.b2a_base64(text),
            0.3,
        ),
        Rate(
            "quoted-printable to 8-bit",
            lambda: drain(converted(Source.from_bytes(stored_qp), SegmentForm.DECODE_QP).blocks()),
            "binascii.a2b_qp",
            lambda: binascii.a2b_qp(stored_qp),
            0.15,
        ),
        Rate("structure scan", lambda: scanned(body), "bytes.count", lambda: body.count(b"\n--"), 0.2),
    ]


def measure(rate: Rate, megabytes: float, runs: int) -> str:
    """One line of the report."""
    spent: dict[str, list[float]] = {"work": [], "peer": []}
    for _ in range(runs):
        for name, one in (("work", rate.work), ("peer", rate.peer)):
            started = time.process_time()
            one()
            spent[name].append(time.process_time() - started)
    work, peer = (statistics.median(spent[name]) for name in ("work", "peer"))
    speeds = [megabytes / each for each in spent["work"]]
    return (
        f"  {rate.name:26}{megabytes / work:6.0f} MB/s   (from {min(speeds):.0f} to {max(speeds):.0f})"
        f"   {peer / work:5.2f} x {rate.peer_name} (wanted: {rate.target:g})"
    )


MEMORY_KINDS = {
    "as it is": (HEADER % b"8bit", b"p\xe4iv\xe4\xe4 and plain text\n", Target(eight_bit_mime=True)),
    "text to quoted-printable": (HEADER % b"8bit", b"p\xe4iv\xe4\xe4 and plain text \n", Target()),
    "quoted-printable to 8-bit": (HEADER % b"quoted-printable", b"p=E4iv=E4=E4 text\n", Target(send_eight_bit=True)),
    "octets to base64": (
        b"MIME-Version: 1.0\nContent-Type: image/png\nContent-Transfer-Encoding: binary\n",
        bytes(range(256)),
        Target(),
    ),
    "multipart": (PARTS, b"--next\n\n" + b"p\xe4iv\xe4\xe4 and plain text\n" * 400_000, Target()),
}


def peak_memory(kind: str, size: int) -> int:
    """Send one message of about ``size`` octets; the most memory this process ever had, in KiB."""
    header, page, target = MEMORY_KINDS[kind]
    with tempfile.TemporaryFile() as file:
        for _ in range(max(size // len(page), 1)):
            file.write(page)
        end = file.tell()
        content = prepare(header, Source(file, 0, end)).content(target)
        assert isinstance(content, MessageContent)
        if drain(content.chunk_blocks()) != content.size:
            raise SystemExit(f"{kind}: not the size that was announced")
    # Not ru_maxrss: that counts what the parent had before this program was started.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def memory_over_baseline(kind: str, megabytes: int) -> int:
    """KiB that a large message needs more than a small one of two blocks, each in a process of its own."""
    peaks = []
    for size in (600_000, megabytes * 1_000_000):
        command = [sys.executable, __file__, "--peak", kind, str(size)]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    return peaks[1] - peaks[0]


def main() -> int:
    parser = argparse.ArgumentParser(description="Conversion of bodies in MB/s and memory, beside Python's own C code.")
    parser.add_argument("--megabytes", type=int, default=20, help="size of the body (default: 20)")
    parser.add_argument("--runs", type=int, default=7, help="runs of each, in turns (default: 7)")
    parser.add_argument("--memory-megabytes", type=int, default=200, help="size for the memory (default: 200)")
    parser.add_argument(
        "--peak", nargs=2, metavar=("KIND", "SIZE"), help="print the peak memory of one message, in KiB"
    )
    options = parser.parse_args()
    if options.peak:
        print(peak_memory(options.peak[0], int(options.peak[1])))
        return 0
    if options.megabytes < 1 or options.memory_megabytes < 1 or options.runs < 5:
        parser.error("at least 1 megabyte and 5 runs")

    text = text_body(options.megabytes * 1_000_000)
    print(f"conversion, {len(text) / 1e6:.0f} MB of 8-bit text, {options.runs} runs of each in turns")
    for rate in rates(text):
        print(measure(rate, len(text) / 1e6, options.runs))
    print(f"memory for {options.memory_megabytes} MB over that for a small message (allowed: {ALLOWED_MEMORY} KiB)")
    needed = {kind: memory_over_baseline(kind, options.memory_megabytes) for kind in MEMORY_KINDS}
    for kind, over in needed.items():
        print(f"  {kind:26}{over:6} KiB")
    return 0 if max(needed.values()) < ALLOWED_MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
