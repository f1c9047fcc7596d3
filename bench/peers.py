"""Who else sends mail: the clients the agent is measured beside, each sending N messages over one connection.

``smtp-source`` (Postfix's load generator, in C; it makes its messages in memory, reads no file and reports to nobody),
the standard library's ``smtplib``, and ``aiosmtplib`` where it is installed. A peer that is not there is named and
left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import resource
import shutil
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sinks import Receiver
from spool import HEADER, BenchError, Cost, body

SENDER, RECIPIENT = "sender@example.org", "rcpt@example.com"

Client = Callable[[int, int, int, Sequence[str]], Cost]
"""A peer: port, messages, octets of each, words that pin it to a CPU."""


def interop_root() -> Path | None:
    """Where ``tests/interop/install.sh`` unpacks servers from Debian; None if it has not."""
    directory = os.environ.get("ZSMTP_INTEROP_DIR")
    root = (Path(directory) if directory else Path.home() / ".cache" / "zsmtp-interop") / "root"
    return root.resolve() if root.is_dir() else None


def postfix_tool(name: str) -> list[str] | None:
    """The command of one of Postfix's tools: installed, or unpacked for the interoperation tests; None without it."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path:
        return [path]
    root = interop_root()
    if root is not None and (root / "usr/sbin" / name).exists() and os.geteuid() == 0:
        return ["chroot", str(root), f"/usr/sbin/{name}"]
    return None


@contextlib.contextmanager
def ready_smtp_sink(pin: Sequence[str] = ()) -> Iterator[Receiver | None]:
    """``smtp-sink``, the receiver that comes with ``smtp-source``; None where it is not, or is kept from starting."""
    words = postfix_tool("smtp-sink")
    if words is None or os.geteuid() != 0:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([*pin, *words, "-u", "root", f"127.0.0.1:{port}", "1000"]) as process:
        try:
            _wait_for(port)
            yield Receiver("smtp-sink", port)
        finally:
            process.kill()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as there:
                there.recv(100)
                there.sendall(b"QUIT\r\n")
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"smtp-sink does not answer: {error}") from error
        time.sleep(0.05)


def by_smtp_source(port: int, messages: int, octets: int, pin: Sequence[str] = (), *, sessions: int = 1) -> Cost:
    words = postfix_tool("smtp-source")
    assert words is not None
    size = octets - 250  # its header
    return _timed(
        [
            *pin,
            *words,
            "-d",
            "-s",
            str(sessions),
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
    if postfix_tool("smtp-source") is not None:
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
