"""How long the library holds the event loop: with one message of 50 MB, and with 200 TLS handshakes at once.

A turn of the loop is the time from one wait for descriptors to the next: whatever else the program does on its loop
waits that long. Each line is a process of its own that has sent a small message before; a run gives its longest turn
and the turn that one in a thousand exceeds, as time, and the longest in CPU of the loop's thread, which other programs
on the machine do not change.

- *ASCII text*: nothing is to be done but line ends and dots, with DATA and with BDAT; from memory and from a file that
  the system has not in memory.
- *8-bit text*: a receiver that takes 7-bit content only, so that quoted-printable is made of it; once with one line of
  20 that begins with a dot, once with NULs, which are encoded one by one.
- *binary*: a multipart with 8-bit octets of every value in it, made base64.
- *object*: the message is an object of the ``email`` package, parsed before the time begins.
- *signed*: with DKIM; 8-bit text becomes quoted-printable first and goes through a temporary file.
- *queued*: the message is put into a queue on disk, with an idempotency key, and not delivered.
- *handshakes*: 200 destinations, a connection with TLS and a message of 4 KB to each, all at once.
"""

from __future__ import annotations

import argparse
import asyncio
import email
import gc
import os
import random
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))

from destinations import make_certificate
from sinks import ready_sinks
from spool import HEADER, BenchError
from table import in_turns, machine

if TYPE_CHECKING:
    from email.message import Message

    import zsmtp

SENDER = "sender@example.org"
RECIPIENT = "r@d.example.com"
DATE = "Date: Thu, 01 Jan 2026 00:00:00 +0000\n"
PATIENCE = 300  # seconds for one run


class TurnTimer(selectors.DefaultSelector):
    """A selector that keeps the length of each turn of the loop it is for: seconds, and seconds of CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[tuple[float, float]] = []
        self._woke = time.perf_counter(), time.thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns.append((time.perf_counter() - self._woke[0], time.thread_time() - self._woke[1]))
        ready = super().select(timeout)
        self._woke = time.perf_counter(), time.thread_time()
        return ready


# ----------------------------------------------------------------- the messages


def text(octets: int, words: str) -> bytes:
    line = f"The quick brown {words} jumps over the lazy dog, and so on and so on.\n".encode()
    return (line * (octets // len(line) + 1))[:octets]


def ascii_text(octets: int) -> bytes:
    return (HEADER + DATE).encode() + b"\n" + text(octets, "fox")


def eight_bit_text(octets: int) -> bytes:
    mime = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
    return (HEADER + DATE + mime).encode() + b"\n" + text(octets, "f\u00f6x")


def dotted_text(octets: int) -> bytes:
    lines = text(octets, "f\u00f6x").splitlines(keepends=True)
    for n in range(0, len(lines), 20):
        lines[n] = b"." + lines[n]
    header, _, _ = eight_bit_text(0).partition(b"\n\n")
    return header + b"\n\n" + b"".join(lines)


def escaped_text(octets: int) -> bytes:
    header, _, _ = eight_bit_text(0).partition(b"\n\n")
    every = bytes(n for n in range(256) if n not in (10, 13))
    line = b"." + every * 3 + b" \n"
    return header + b"\n\n" + line * (octets // len(line))


def binary(octets: int) -> bytes:
    noise = random.Random(2045).randbytes(octets // 16) * 16
    mime = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="=_b"\nContent-Transfer-Encoding: binary\n'
    part = b"--=_b\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: binary\n\n"
    return (HEADER + DATE + mime).encode() + b"\n" + part + noise + b"\n--=_b--\n"


MESSAGES: dict[str, Callable[[int], bytes]] = {
    "ascii": ascii_text,
    "8-bit": eight_bit_text,
    "dots": dotted_text,
    "escapes": escaped_text,
    "binary": binary,
}


# -------------------------------------------------------------------- the work


def config(port: int, folder: Path, *, seven_bit: bool, signed: bool) -> zsmtp.Config:
    import zsmtp

    content = zsmtp.Content(seven_bit=seven_bit)
    keys = ()
    if signed:
        from zsmtp.signing.keys import generate_key
        from zsmtp.signing.signature import Algorithm

        pem = folder / "key.pem"
        pem.write_bytes(generate_key(Algorithm.ED25519_SHA256).pem())
        pem.chmod(0o600)
        keys = (zsmtp.DKIMKey(domain="example.org", selector="s", key_file=str(pem)),)
    relay = zsmtp.Relay(host="127.0.0.1", port=port)
    return zsmtp.Config(relay=relay, helo_name="bench.example.org", content=content, dkim=keys)


async def large(timer: TurnTimer, kind: str, how: str, ports: list[int], megabytes: int) -> None:
    """One large message, behind a small one that has everything imported."""
    import zsmtp

    octets = MESSAGES[kind](megabytes * 1_000_000)
    with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as directory:
        message: bytes | Path | Message = octets
        if how == "object":
            message = email.message_from_bytes(octets)
        if how == "file":
            message = Path(directory) / "message"
            message.write_bytes(octets)
            with open(message, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        one = config(ports[0], Path(directory), seven_bit=kind != "ascii", signed=how == "signed")
        async with zsmtp.aio.Client(one) as client:
            report = await client.deliver(MESSAGES[kind](2000), sender=SENDER, recipients=RECIPIENT)
            assert report.ok, report
            gc.freeze()
            timer.turns.clear()
            report = await client.deliver(message, sender=SENDER, recipients=RECIPIENT)
            assert report.ok, report


async def queued(timer: TurnTimer, kind: str, megabytes: int) -> None:
    """One large message put into a queue, behind a small one."""
    import zsmtp

    octets = MESSAGES[kind](megabytes * 1_000_000)
    with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as directory:
        async with zsmtp.aio.Queue.open(Path(directory) / "queue.db", deliver=False) as queue:
            for number, message in enumerate((MESSAGES[kind](2000), octets)):
                gc.freeze()
                timer.turns.clear()
                await queue.submit(message, sender=SENDER, recipients=RECIPIENT, idempotency_key=str(number))


async def handshakes(timer: TurnTimer, ports: list[int]) -> None:
    """A message to each destination, all at once."""
    import zsmtp

    routes = {f"d{port}.example.com": zsmtp.Relay(host="127.0.0.1", port=port) for port in ports}
    octets = ascii_text(4096)
    one = zsmtp.Config(routes=routes, helo_name="bench.example.org")
    async with zsmtp.aio.Client(one) as client:
        for count in (1, len(ports)):
            gc.freeze()
            timer.turns.clear()
            many = (
                zsmtp.Submission(message=octets, sender=SENDER, recipients=f"r@d{port}.example.com")
                for port in ports[:count]
            )
            delivered = [result.ok async for result in client.stream(many)]
            assert all(delivered), delivered


def child(kind: str, how: str, megabytes: int, ports: list[int]) -> None:
    """One run in this process: prints the longest turn, the 99.9th percentile, the longest in CPU, and all CPU."""
    timer = TurnTimer()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(timer)) as runner:
        if kind == "handshakes":
            runner.run(handshakes(timer, ports))
        elif how == "queued":
            runner.run(queued(timer, kind, megabytes))
        else:
            runner.run(large(timer, kind, how, ports, megabytes))
    times = sorted(seconds for seconds, _ in timer.turns)
    cpu = [used for _, used in timer.turns]
    print("took", times[-1], times[int(len(times) * 0.999)], max(cpu), sum(cpu))


def run(kind: str, how: str, megabytes: int, ports: list[int], kept: list[list[float]]) -> float:
    words = [sys.executable, __file__, "--child", kind, how, "--megabytes", str(megabytes), *map(str, ports)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    if done.returncode or not done.stdout.startswith("took "):
        raise BenchError(f"{kind}, {how}: the run failed")
    kept.append([float(word) for word in done.stdout.split()[1:]])
    return kept[-1][0]


CASES = (
    ("ASCII text, DATA", "ascii", "memory"),
    ("ASCII text, BDAT", "ascii", "chunking"),
    ("ASCII text, DATA, file", "ascii", "file"),
    ("8-bit text", "8-bit", "memory"),
    ("8-bit text, file", "8-bit", "file"),
    ("8-bit text, dots", "dots", "memory"),
    ("8-bit text, escapes", "escapes", "memory"),
    ("binary", "binary", "memory"),
    ("8-bit text, object", "8-bit", "object"),
    ("ASCII text, queued", "ascii", "queued"),
    ("ASCII text, signed", "ascii", "signed"),
    ("8-bit text, signed", "8-bit", "signed"),
    ("handshakes", "handshakes", "tls"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="How long the library holds the event loop.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns (default: 5)")
    parser.add_argument("--megabytes", type=int, default=50, help="the size of the message (default: 50)")
    parser.add_argument("--handshakes", type=int, default=200, help="destinations with TLS (default: 200)")
    parser.add_argument("--only", help="only the lines that begin so")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "HOW"), help=argparse.SUPPRESS)
    parser.add_argument("ports", type=int, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.megabytes, options.ports)
        return 0
    print(f"turns of the loop; {machine()}; {options.megabytes} MB, {options.runs} runs of each in turns")
    kept: dict[str, list[list[float]]] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as directory,
            ready_sinks(1, chunking=False) as plain,
            ready_sinks(1, chunking=True) as chunking,
            ready_sinks(options.handshakes, chunking=False, certificate=make_certificate(Path(directory))) as secure,
        ):
            places = {"chunking": chunking, "tls": secure}
            work: dict[str, Callable[[], float]] = {}
            for name, kind, how in CASES:
                if name.startswith(options.only or ""):
                    results = kept.setdefault(name, [])
                    ports = places.get(how, plain)
                    work[name] = lambda k=kind, h=how, p=ports, r=results: run(k, h, options.megabytes, p, r)  # type: ignore[misc]
            in_turns(work, options.runs)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    for name, results in kept.items():
        longest, most, used, cpu = (statistics.median(column) for column in zip(*results, strict=True))
        worst = max(one[0] for one in results)
        print(
            f"  {name:24} longest turn {longest * 1000:7.1f} ms (at most {worst * 1000:.1f})   99.9 % "
            f"{most * 1000:6.1f} ms"
            f"   longest in CPU {used * 1000:7.1f} ms   CPU in all {cpu:.2f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
