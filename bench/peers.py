"""Who else sends mail: the clients the agent is measured beside, each sending N messages over one connection.

``smtp-source`` (Postfix's load generator, in C; it makes its messages in memory, reads no file and reports to nobody),
the standard library's ``smtplib``, and ``aiosmtplib`` where it is installed. A peer that is not there is named and
left out.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import resource
import shutil
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from spool import HEADER, BenchError, Cost, body

SENDER, RECIPIENT = "sender@example.org", "rcpt@example.com"

Client = Callable[[int, int, int, Sequence[str]], Cost]
"""A peer: port, messages, octets of each, words that pin it to a CPU."""


def interop_root() -> Path | None:
    """Where ``tests/interop/install.sh`` unpacks servers from Debian; None if it has not."""
    directory = os.environ.get("ZSMTP_INTEROP_DIR")
    root = (Path(directory) if directory else Path.home() / ".cache" / "zsmtp-interop") / "root"
    return root.resolve() if root.is_dir() else None


def smtp_source() -> list[str] | None:
    """The command of ``smtp-source``: installed, or unpacked for the interoperation tests; None if there is none."""
    path = shutil.which("smtp-source", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path:
        return [path]
    root = interop_root()
    if root is not None and (root / "usr/sbin/smtp-source").exists() and os.geteuid() == 0:
        return ["chroot", str(root), "/usr/sbin/smtp-source"]
    return None


def by_smtp_source(port: int, messages: int, octets: int, pin: Sequence[str] = ()) -> Cost:
    words = smtp_source()
    assert words is not None
    size = octets - 250  # its header
    return _timed(
        [
            *pin,
            *words,
            "-d",
            "-m",
            str(messages),
            "-l",
            str(size),
            "-f",
            SENDER,
            "-t",
            RECIPIENT,
            f"inet:127.0.0.1:{port}",
        ]
    )


def by_smtplib(port: int, messages: int, octets: int, pin: Sequence[str] = ()) -> Cost:
    return _timed([*pin, sys.executable, __file__, "smtplib", str(port), str(messages), str(octets)])


def by_aiosmtplib(port: int, messages: int, octets: int, pin: Sequence[str] = ()) -> Cost:
    return _timed([*pin, sys.executable, __file__, "aiosmtplib", str(port), str(messages), str(octets)])


def available() -> dict[str, Client]:
    """The peers that are here; the absent ones are named on standard error."""
    found: dict[str, Client] = {}
    if smtp_source() is not None:
        found["smtp-source"] = by_smtp_source
    else:
        print("smtp-source is not here (Debian: postfix; make interop unpacks it): left out", file=sys.stderr)
    found["smtplib"] = by_smtplib
    if importlib.util.find_spec("aiosmtplib"):
        found["aiosmtplib"] = by_aiosmtplib
    else:
        print("aiosmtplib is not installed: left out", file=sys.stderr)
    return found


def _timed(command: Sequence[str]) -> Cost:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(command, capture_output=True, check=False, timeout=300)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise BenchError(f"{command}: {ended.stderr[-500:]!r}")
    if ended.stdout.startswith(b"took "):  # without the start of the interpreter: the agent's is not counted either
        seconds = float(ended.stdout.split()[1])
    return Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _content(octets: int) -> bytes:
    return HEADER.encode() + b"\n" + body(octets - len(HEADER) - octets // 67)


def _smtplib(port: int, messages: int, octets: int) -> None:
    content = _content(octets).replace(b"\n", b"\r\n")
    with smtplib.SMTP("127.0.0.1", port, local_hostname="bench.example.org") as client:
        for _ in range(messages):
            client.sendmail(SENDER, [RECIPIENT], content)


async def _aiosmtplib(port: int, messages: int, octets: int) -> None:
    import aiosmtplib  # type: ignore[import-not-found,unused-ignore]

    content = _content(octets)
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, local_hostname="bench.example.org") as client:
        for _ in range(messages):
            await client.sendmail(SENDER, [RECIPIENT], content)


def main() -> None:
    which, *numbers = sys.argv[1:]
    port, messages, octets = map(int, numbers)
    began = time.perf_counter()
    if which == "smtplib":
        _smtplib(port, messages, octets)
    else:
        asyncio.run(_aiosmtplib(port, messages, octets))
    print(f"took {time.perf_counter() - began}")


if __name__ == "__main__":
    main()
