"""Postfix delivering from its own queue, as a peer of the benchmarks: its queue manager, its smtp clients, its files.

Debian's Postfix, as ``tests/interop/install.sh`` unpacks it, is run with a configuration, a queue and a data directory
of its own beside those of the interoperation tests. Messages are put into its queue over SMTP, on hold, while no queue
manager runs; then they are released and the queue manager is let in, and what counts is the time from the first message
that leaves the queue to the last, and the CPU of every process that works in that queue meanwhile. All
settings that decide on speed are Postfix's defaults: up to 20 connections, kept open and handed on between its
processes. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from peers import by_smtp_source, interop_root
from spool import BenchError, Cost
from tests.interop.confined import Confined

START_SECONDS = 30.0
DELIVERY_SECONDS = 300.0
TICKS = os.sysconf("SC_CLK_TCK")

MAIN = """compatibility_level = 3.6
maillog_file = /dev/stdout
queue_directory = /var/spool/postfix-bench
data_directory = /var/lib/postfix-bench
myhostname = postfix.bench.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{receiver}
smtp_host_lookup = native
local_recipient_maps =
alias_maps =
alias_database =
biff = no
"""
HOLD = "smtpd_client_restrictions = check_client_access static:HOLD\n"
MASTER = """127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
scache unix - - n - 1 scache
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""
QUEUE_MANAGER = "qmgr unix n - n 300 1 qmgr\n"


def available() -> bool:
    """Whether there is a Postfix to measure."""
    root = interop_root()
    return root is not None and (root / "usr/lib/postfix/sbin/qmgr").exists() and os.geteuid() == 0


def by_postfix(receiver: int, messages: int, octets: int, pin: Sequence[str] = ()) -> Cost:
    """Queue so many messages and have them delivered to the port ``receiver``: what the delivery took."""
    root = interop_root()
    assert root is not None
    with _running(root, receiver, pin, hold=True) as (queue, port):
        by_smtp_source(port, messages, octets)
        queued = _release(queue)
        if queued != messages:
            raise BenchError(f"{queued} of {messages} messages are in Postfix's queue")
        cpu = _cpu(queue)
        _let_in_the_queue_manager(root, queue, port)
        seconds = _watch(queue, messages)
        return Cost(seconds, _cpu(queue) - cpu)


@contextlib.contextmanager
def relaying_postfix(receiver: int) -> Iterator[tuple[int, Callable[[], float]]]:
    """Postfix that passes all mail on to the port ``receiver``: its port, and what gives the CPU seconds it had."""
    root = interop_root()
    assert root is not None
    with _running(root, receiver, (), hold=False) as (queue, port):
        yield port, lambda: _cpu(queue)


@contextlib.contextmanager
def _running(root: Path, receiver: int, pin: Sequence[str], *, hold: bool) -> Iterator[tuple[Path, int]]:
    """Postfix: its queue directory and the port where it takes mail. ``hold``: it has no queue manager, and waits."""
    configuration, queue, data = (
        root / "etc/postfix-bench",
        root / "var/spool/postfix-bench",
        root / "var/lib/postfix-bench",
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for directory in (configuration, queue, data):
        shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(root / "etc/postfix", configuration, symlinks=True)
    queue.mkdir()
    data.mkdir()
    owner = (root / "var/lib/postfix").stat()
    os.chown(data, owner.st_uid, owner.st_gid)
    (configuration / "main.cf").write_text(MAIN.format(receiver=receiver) + (HOLD if hold else ""))
    (configuration / "master.cf").write_text(MASTER.format(port=port) + ("" if hold else QUEUE_MANAGER))
    log = root.parent / "log" / "postfix-bench.log"
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(b"")
    command = ["/usr/sbin/postfix", "-c", "/etc/postfix-bench", "start-fg"]
    server = Confined("postfix-bench", root, command, log, launcher=pin)
    try:
        _await_greeting(server, port, log)
        yield queue, port
    finally:
        server.stop()
        for directory in (configuration, queue, data):
            shutil.rmtree(directory, ignore_errors=True)


def _await_greeting(server: Confined, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            if connection.recv(512).startswith(b"220 "):
                return
        if server.ended or time.monotonic() > deadline:
            raise BenchError(f"Postfix did not start: {log.read_text()[-1000:]}")
        time.sleep(0.05)


def _let_in_the_queue_manager(root: Path, queue: Path, port: int) -> None:
    """Have the master process read a configuration with a queue manager in it; that starts it."""
    (root / "etc/postfix-bench/master.cf").write_text(MASTER.format(port=port) + QUEUE_MANAGER)
    masters = [pid for pid in _processes(queue) if _name(pid) == "master"]
    if len(masters) != 1:
        raise BenchError(f"{len(masters)} master processes of Postfix")
    os.kill(masters[0], 1)  # SIGHUP: what "postfix reload" sends


def _release(queue: Path) -> int:
    """Let the messages that are on hold into the queue, as ``postsuper -H`` does; how many they are."""
    held = [Path(directory, name) for directory, _, names in os.walk(queue / "hold") for name in names]
    for path in held:
        path.rename(queue / "incoming" / path.name)
    return len(held)


def _watch(queue: Path, messages: int) -> float:
    """Seconds from the first message that leaves the queue to the last."""
    deadline = time.monotonic() + DELIVERY_SECONDS
    began = 0.0
    left = messages
    while left:
        left = _queued(queue)
        now = time.monotonic()
        if left < messages and not began:
            began, first = now, left
        if now > deadline:
            raise BenchError(f"{left} of {messages} messages are still in Postfix's queue")
        time.sleep(0.01)
    return (time.monotonic() - began) * messages / max(first, 1)


def _queued(queue: Path) -> int:
    """The messages in the queue directories."""
    return sum(
        len(names) for name in ("incoming", "active", "deferred", "maildrop") for _, _, names in os.walk(queue / name)
    )


def _processes(queue: Path) -> list[int]:
    """The processes that work in the queue directory, as all of this Postfix do and none of another one."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/cwd") == str(queue):
                    found.append(int(entry))
    return found


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _cpu(queue: Path) -> float:
    """CPU seconds of all processes that work in the queue directory, and of those of their children that have ended."""
    total = 0
    for pid in _processes(queue):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / TICKS
