"""Queued mail for the benchmarks: control and message files as ZMailer's router leaves them, and the agent on them.

:func:`fill` writes them into a temporary post office, :func:`run_agent` starts the agent there, feeds it as the
scheduler does (up to 151 job lines ahead of the answers) and returns what it cost, having seen that every message was
reported ``ok`` and marked as delivered.
"""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
HOST = "[127.0.0.1]"
OVERFEED = 151  # job lines that the scheduler writes ahead
HEADER = "From: sender@example.org\nTo: rcpt@example.com\nSubject: benchmark\nMessage-Id: <m@example.org>\n"


class BenchError(Exception):
    """What was measured was not right, and so its time means nothing."""


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds from the first octet of the feed to the last answer, and of CPU in that process.

    ``memory`` is the largest resident set in octets (0: not known).
    """

    seconds: float
    cpu: float
    memory: int = 0


def body(octets: int) -> bytes:
    """So many octets of text lines ended by LF."""
    line = b"The quick brown fox jumps over the lazy dog, and so on and so on.\n"
    return (line * (octets // len(line) + 1))[: octets - 1] + b"\n"


def fill(office: Path, count: int, octets: int) -> list[str]:
    """Queue ``count`` messages whose content is ``octets`` long as SMTP counts; their names."""
    for name in ("transport", "queue"):
        (office / name).mkdir(parents=True, exist_ok=True)
    (office / "zmailer.conf").write_text(f"POSTOFFICE={office}\nSYSLOGFLG=none\n")
    envelope = b"external\nrcvdfrom STDIN\nfrom <sender@example.org>\nenv-end\n" + HEADER.encode() + b"\n"
    text = body(octets - len(HEADER) - HEADER.count("\n") - 2 - octets // 67)
    names = []
    for number in range(1000, 1000 + count):
        name = str(number)
        (office / "queue" / name).write_bytes(envelope + text)
        (office / "transport" / name).write_text(
            f"@ 0x00000007\ni {name}\no {len(envelope)}\nl <m{number}@example.org>\ne <sender@example.org>\n"
            f"s local - sender@example.org 99\nr           smtp {HOST} rcpt@example.com 99\nm\n{HEADER}\n"
        )
        names.append(name)
    return names


def rearm(office: Path, names: Sequence[str]) -> None:
    """Make the messages queued again; raises BenchError if one of them was not delivered."""
    for name in names:
        path = office / "transport" / name
        data = path.read_bytes()
        if b"\nr+" not in data:
            raise BenchError(f"message {name} is not marked as delivered")
        path.write_bytes(data.replace(b"\nr+", b"\nr "))


def run_agent(office: Path, names: Sequence[str], port: int, *flags: str, pin: Sequence[str] = ()) -> Cost:
    """Deliver the queued messages over one connection to ``port``."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "ZCONFIG": str(office / "zmailer.conf")}
    command = [*pin, sys.executable, "-m", "zsmtp.zmailer.agent", "-p", str(port), "-h", "bench.example.org", *flags]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=office / "transport",
        env=environment,
        bufsize=0,
    ) as process:
        try:
            seconds, delivered, odd = _converse(process, [f"{n}\t{HOST}\n".encode() for n in names])
            memory = _peak(process.pid)
            process.stdin.close()  # type: ignore[union-attr]
            process.wait(60)
        finally:
            process.kill()
    if delivered != len(names) or process.returncode:
        raise BenchError(f"{delivered} of {len(names)} delivered, status {process.returncode}: {odd!r}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, cpu, memory)


def _converse(process: subprocess.Popen[bytes], lines: list[bytes]) -> tuple[float, int, bytes]:
    """Play the scheduler from the first ``#hungry`` to the last: seconds, messages delivered, a complaint if any."""
    assert process.stdin is not None
    assert process.stdout is not None
    feed, reports = process.stdin.fileno(), process.stdout.fileno()
    heard, fed, hungry, delivered, odd = b"", 0, 0, 0, b""
    began = 0.0
    while hungry <= len(lines):
        if not select.select([reports], [], [], 60)[0]:
            raise BenchError(f"silence after {hungry} answers: {odd!r}")
        data = os.read(reports, 1 << 18)
        if not data:
            raise BenchError(f"the agent ended after {hungry} answers: {odd!r}")
        heard += data
        whole, _, heard = heard.rpartition(b"\n")
        hungry += whole.split(b"\n").count(b"#hungry")
        delivered += whole.count(b"\tok3 ")
        if not began:
            began = time.perf_counter()
        if b"\tdeferred" in whole or b"\terror" in whole:
            odd = whole[-500:]
        if fed < len(lines) and (fed - hungry < OVERFEED // 2 or fed == 0):
            batch = lines[fed : hungry + OVERFEED - 1]
            os.write(feed, b"".join(batch))
            fed += len(batch)
    return time.perf_counter() - began, delivered, odd


def _peak(pid: int) -> int:
    """The largest resident set of a living process, in octets."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
