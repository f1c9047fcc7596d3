"""The library where connections are what costs: TLS, ten thousand destinations, and peers that hardly move.

Each line is a process of its own, started anew for each run, that has sent one message before, so that nothing is
imported in the time. CPU is that of the client's process alone.

- *TLS*: messages of 4 KB over one kept connection in clear and under TLS (STARTTLS), with PIPELINING and with CHUNKING;
  and a new connection for each message, one after the other, in clear and under TLS, beside ``smtplib`` doing the same.
- *many destinations*: one message to each of so many domains, every one with an exchanger and an address of its own
  (127.0.0.0/8), no TLS, no MTA-STS. Names are answered by a table in memory, then by name servers that are 0, 20 and
  100 ms away: three questions for each destination.
- *policies*: the same with MTA-STS, names answered at once: three questions more for each, and a policy from a policy
  host that is 0 and 100 ms away, kept in memory only or in a file.
- *slow peers*: mail is under way to so many servers that send and read 10 octets a second; then messages are sent to
  20 fast ones, with the limits that the library has by itself. Time and CPU are those of the fast messages.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from nameserver import ready_nameserver
from policyhosts import ready_policy_hosts
from sinks import ready_sinks
from spool import HEADER, BenchError, body
from table import in_turns, line, machine

SENDER = "sender@example.org"
OCTETS = 4096
FIRST = 256  # the number of the first domain
FAST = 20  # destinations that are fast, beside slow ones
DISTANCES = (0, 20, 100)  # milliseconds to name servers
POLICY_DISTANCES = (0, 100)  # milliseconds to policy hosts
MOST_POLICIES = 1000  # destinations with policy hosts
DRIP = 10  # octets a second that a slow server sends
BEGUN_WITHIN = 6.0  # seconds in which connections to slow servers are opened; they last about 15
PATIENCE = 600  # seconds for one run


class Stopwatch:
    """The time and the CPU of this process between :meth:`start` and :meth:`stop`."""

    def start(self) -> None:
        self._began, self._used = time.perf_counter(), _used()

    def stop(self) -> None:
        self.seconds, self.cpu = time.perf_counter() - self._began, _used() - self._used


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def content() -> bytes:
    return HEADER.encode() + b"\n" + body(OCTETS - len(HEADER))


# -------------------------------------------------------------------- the work


async def kept(watch: Stopwatch, ports: list[int], messages: int) -> None:
    """Messages over one connection."""
    import zsmtp

    octets = content()
    relay = zsmtp.Relay(host="127.0.0.1", port=ports[0])
    many = (zsmtp.Submission(message=octets, sender=SENDER, recipients="r@d.example.com") for _ in range(messages))
    limits = zsmtp.Limits(per_destination=1)
    watch.start()
    async with zsmtp.aio.Client(zsmtp.Config(relay=relay, helo_name="bench.example.org", limits=limits)) as client:
        await _count(client, many, messages)
    watch.stop()


async def each(watch: Stopwatch, ports: list[int], messages: int) -> None:
    """A connection for each message, one after the other."""
    import zsmtp

    octets = content()
    relay = zsmtp.Relay(host="127.0.0.1", port=ports[0])
    limits = zsmtp.Limits(idle=0.0)
    watch.start()
    async with zsmtp.aio.Client(zsmtp.Config(relay=relay, helo_name="bench.example.org", limits=limits)) as client:
        for _ in range(messages):
            report = await client.deliver(octets, sender=SENDER, recipients="r@d.example.com")
            assert report.ok, report
    watch.stop()


async def by_smtplib(watch: Stopwatch, ports: list[int], messages: int) -> None:
    """The same with the standard library; STARTTLS where it is offered, with a session to resume kept by nobody."""
    import smtplib
    import ssl

    octets = content()
    context = ssl._create_unverified_context()  # noqa: S323 - the library's default asks for no more of a loopback
    watch.start()
    for _ in range(messages):
        with smtplib.SMTP("127.0.0.1", ports[0], local_hostname="bench.example.org") as connection:
            connection.ehlo()
            if connection.has_extn("starttls"):
                connection.starttls(context=context)
            connection.sendmail(SENDER, ["r@d.example.com"], octets)
    watch.stop()


class Table:
    """Names answered from memory: ``dN.example.com`` has one exchanger with one address."""

    def lookup(self, query: Any, deadline: float) -> Any:
        from zsmtp.dns.answer import MX, Answer, RecordType, Status

        name, _, domain = query.name.partition(".")
        if query.type is RecordType.MX and domain == "example.com":
            records: tuple[Any, ...] = (MX(10, f"mx{name[1:]}.example.net"),)
        elif query.type is RecordType.A and domain == "example.net":
            number = int(name[2:])
            records = (f"127.{number >> 16 & 255}.{number >> 8 & 255}.{(number & 255) or 255}",)
        else:
            return Answer(query, Status.NODATA, canonical=query.name)
        return Answer(query, Status.OK, records, canonical=query.name, ttl=3600)

    async def resolve(self, query: Any, deadline: float) -> Any:
        """The same without a thread for each question."""
        return self.lookup(query, deadline)


async def destinations(watch: Stopwatch, ports: list[int], count: int) -> None:
    """One message to each of so many domains; names come from memory, or from the name server at the second port."""
    import zsmtp

    names: dict[str, Any] = {"nameserver": f"127.0.0.1:{ports[1]}"} if len(ports) > 1 else {"resolver": Table()}
    direct = zsmtp.Direct(
        port=ports[0], dane=False, mta_sts=zsmtp.STSUse.OFF, tls=zsmtp.TLS(level=zsmtp.Level.NONE), **names
    )
    await _to_each(watch, direct, count)


async def policies(watch: Stopwatch, ports: list[int], count: int, cache: str = "") -> None:
    """The same with a policy for each, from the policy hosts at the third port."""
    import zsmtp
    from zsmtp.tls import https

    sink, nameserver, https.HTTPS_PORT = ports
    direct = zsmtp.Direct(port=sink, dane=False, nameserver=f"127.0.0.1:{nameserver}", mta_sts_cache=cache)
    await _to_each(watch, direct, count)


async def policies_in_file(watch: Stopwatch, ports: list[int], count: int) -> None:
    """The same, with policies kept in a file."""
    with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as directory:
        await policies(watch, ports, count, f"{directory}/policies.db")


async def _to_each(watch: Stopwatch, direct: Any, count: int) -> None:
    import zsmtp

    octets = content()
    many = (
        zsmtp.Submission(message=octets, sender=SENDER, recipients=f"r@d{FIRST + number}.example.com")
        for number in range(count)
    )
    watch.start()
    async with zsmtp.aio.Client(zsmtp.Config(direct=direct, helo_name="bench.example.org")) as client:
        await _count(client, many, count)
    watch.stop()


async def beside_slow(watch: Stopwatch, ports: list[int], messages: int) -> None:
    """Messages to the first ``FAST`` ports, a message to each further one under way already; the time of the former."""
    import zsmtp

    octets = content()
    fast, slow = ports[:FAST], ports[FAST:]
    routes = {f"d{port}.example.com": zsmtp.Relay(host="127.0.0.1", port=port) for port in ports}
    client = zsmtp.aio.Client(zsmtp.Config(routes=routes, helo_name="bench.example.org"))
    beside = []
    for port in slow:  # one after the other: they say something new at different times
        beside.append(
            asyncio.create_task(client.deliver(octets, sender=SENDER, recipients=f"slow@d{port}.example.com"))
        )
        await asyncio.sleep(BEGUN_WITHIN / len(slow))
    gc.collect()  # what 1,000 connections cost to open is in the table above, and this is part of it
    many = (
        zsmtp.Submission(message=octets, sender=SENDER, recipients=f"r@d{fast[n % len(fast)]}.example.com")
        for n in range(messages)
    )
    watch.start()
    await _count(client, many, messages)
    watch.stop()
    assert not any(task.done() for task in beside), "the slow ones are not slow"
    await client.aclose(polite=False)
    await asyncio.gather(*beside)


async def _count(client: Any, many: Any, count: int) -> None:
    delivered = 0
    async for result in client.stream(many):
        assert result.ok, result
        delivered += 1
    assert delivered == count, delivered


WORK: dict[str, Callable[[Stopwatch, list[int], int], Any]] = {
    "kept": kept,
    "each": each,
    "smtplib": by_smtplib,
    "destinations": destinations,
    "policies": policies,
    "policies in file": policies_in_file,
    "slow": beside_slow,
}


def child(work: str, count: int, ports: list[int]) -> None:
    """One run in this process: says how long it took, and what it cost."""
    open_all_files()
    watch = Stopwatch()
    with asyncio.Runner() as runner:
        runner.run(WORK[work](watch, ports[:FAST] if work == "slow" else ports, 1))
        runner.run(WORK[work](watch, ports, count))
    print(f"took {watch.seconds} {watch.cpu} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}")


def open_all_files() -> None:
    """Let this process open as many files as it may."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(work: str, count: int, ports: list[int], cost: list[tuple[float, float]]) -> float:
    """How many a second in a process of its own; its CPU in us for each, and its memory in MB, go into ``cost``."""
    words = [sys.executable, __file__, "--child", work, "--count", str(count)]
    ended = subprocess.run([*words, *map(str, ports)], capture_output=True, check=False, timeout=PATIENCE)
    if ended.returncode or not ended.stdout.startswith(b"took "):
        raise BenchError(f"{work}: {ended.stderr[-800:].decode(errors='replace')}")
    _, seconds, cpu, memory = ended.stdout.split()
    cost.append((float(cpu) * 1e6 / count, float(memory) / 1000))
    return count / float(seconds)


# ---------------------------------------------------------------- slow servers


class SlowServers:
    """Servers on many ports that send what they have to say at ``DRIP`` octets a second, and read as slowly."""

    def __init__(self, count: int) -> None:
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=16) for _ in range(count)]
        self.ports = [listener.getsockname()[1] for listener in self._listeners]
        self._selector = selectors.DefaultSelector()
        self._unsent: dict[socket.socket, bytes] = {}
        self._over = False
        for listener in self._listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until :meth:`close`: once a second every connection gets its octets, and is read that much."""
        while not self._over:
            until = time.monotonic() + 1.0
            while (left := until - time.monotonic()) > 0 and not self._over:
                for key, _ in self._selector.select(min(left, 0.2)):
                    with contextlib.suppress(OSError):
                        connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                        connection.setblocking(False)
                        self._unsent[connection] = b"220 slow.example ESMTP\r\n"
            for connection in list(self._unsent):
                try:
                    self._move(connection)
                except OSError:
                    del self._unsent[connection]
                    connection.close()

    def _move(self, connection: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            asked = connection.recv(DRIP)
            if not asked:
                raise ConnectionError
            self._unsent[connection] += b"250 ok\r\n" * asked.count(b"\n")
        sent = connection.send(self._unsent[connection][:DRIP])
        self._unsent[connection] = self._unsent[connection][sent:]

    def close(self) -> None:
        self._over = True


@contextlib.contextmanager
def slow_servers(count: int) -> Iterator[list[int]]:
    """So many slow servers in a process of their own; their ports."""
    words = [sys.executable, __file__, "--serve-slowly", str(count)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield [int(word) for word in process.stdout.readline().split()]
        finally:
            process.kill()


def serve_slowly(count: int) -> None:
    open_all_files()
    servers = SlowServers(count)
    print(*servers.ports, flush=True)
    threading.Thread(target=servers.serve, daemon=True).start()
    threading.Event().wait()


# ------------------------------------------------------------------ the tables


def make_certificate(directory: Path) -> Path:
    """A self-signed certificate with a P-256 key, both in one file."""
    path = directory / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(path), "-out", str(directory / "cert.pem")]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    with open(path, "ab") as file:
        file.write((directory / "cert.pem").read_bytes())
    return path


def table(title: str, calls: dict[str, tuple[str, int, list[int]]], runs: int, unit: str) -> None:
    """Print one table: what each of ``calls`` (work, count, ports) gave in turns, with its CPU."""
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    work = {name: partial(run, *call, costs[name]) for name, call in calls.items()}
    results = in_turns(work, runs)
    print(title)
    for name, values in results.items():
        cpu, memory = statistics.median(c for c, _ in costs[name]), max(m for _, m in costs[name])
        lowest = min(c for c, _ in costs[name])
        words = f"   {cpu:6.0f} us of CPU for each (least {lowest:.0f}), {memory:.0f} MB"
        print(line(name, values, unit, beside={}) + words)


def compare_tls(messages: int, runs: int) -> None:
    """Messages and connections, in clear and under TLS."""
    with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as directory, contextlib.ExitStack() as stack:
        certificate = make_certificate(Path(directory))
        sink = partial(ready_sinks, 1)
        for chunking in (False, True):
            clear = stack.enter_context(sink(chunking=chunking))
            secure = stack.enter_context(sink(chunking=chunking, certificate=certificate))
            offered = "PIPELINING, CHUNKING" if chunking else "PIPELINING"
            table(
                f"{messages} messages of 4 KB over one connection ({offered}), {runs} runs of each in turns",
                {"in clear": ("kept", messages, clear), "TLS": ("kept", messages, secure)},
                runs,
                "msg/s",
            )
        few = max(messages // 10, 10)
        table(
            f"{few} connections with a message of 4 KB each, one after the other, {runs} runs of each in turns",
            {
                "in clear": ("each", few, clear),
                "TLS": ("each", few, secure),
                "smtplib, in clear": ("smtplib", few, clear),
                "smtplib, TLS": ("smtplib", few, secure),
            },
            runs,
            "conn/s",
        )


def compare_destinations(count: int, runs: int) -> None:
    """One message to each destination: for a tenth of them and for all, then for all with name servers."""
    with ready_sinks(1, chunking=False, host="0.0.0.0") as ports, contextlib.ExitStack() as stack:  # noqa: S104 - every address of 127.0.0.0/8
        calls = {f"{n} destinations": ("destinations", n, ports) for n in (max(count // 10, 1), count)}
        for distance in DISTANCES:
            server = stack.enter_context(ready_nameserver(distance / 1000))
            asked = [*ports, int(server.rpartition(":")[2])]
            calls[f"name server {distance} ms away"] = ("destinations", count, asked)
        table(f"a message of 4 KB to each destination, {runs} runs of each in turns", calls, runs, "dest/s")


def compare_policies(count: int, runs: int) -> None:
    """One message to each destination, without MTA-STS and with a policy of each."""
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(ready_sinks(1, chunking=False, host="0.0.0.0"))  # noqa: S104 - every address of 127.0.0.0/8
        server = stack.enter_context(ready_nameserver(0.0))
        asked = [*ports, int(server.rpartition(":")[2])]
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zsmtp-bench-")))
        calls = {"without MTA-STS": ("destinations", count, asked)}
        authorities = directory / "authorities.pem"
        authorities.touch()
        for distance in POLICY_DISTANCES:
            ca_file = directory / f"{distance}.pem"
            hosts = stack.enter_context(ready_policy_hosts(FIRST, count, distance / 1000, ca_file))
            authorities.write_bytes(authorities.read_bytes() + ca_file.read_bytes())
            calls[f"policy hosts {distance} ms away"] = ("policies", count, [*asked, hosts])
        calls[f"policy hosts {distance} ms away, file"] = ("policies in file", count, [*asked, hosts])
        os.environ["SSL_CERT_FILE"] = str(authorities)  # what OpenSSL takes for the system's
        table(f"a message of 4 KB to each of {count} destinations, {runs} runs of each in turns", calls, runs, "dest/s")


def compare_slow(slow: int, messages: int, runs: int) -> None:
    """Fast messages with and without slow peers beside them."""
    with ready_sinks(FAST, chunking=False) as fast, slow_servers(slow) as sluggish:
        table(
            f"{messages} messages of 4 KB to {FAST} fast destinations, {runs} runs of each in turns",
            {
                "no slow peer": ("slow", messages, fast),
                f"beside {slow} slow peers": ("slow", messages, [*fast, *sluggish]),
            },
            runs,
            "msg/s",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="The library where connections are what costs.")
    parser.add_argument("--only", choices=["tls", "destinations", "policies", "slow"], help="one of the tables")
    parser.add_argument("--messages", type=int, default=2000, help="messages over a connection (default: 2000)")
    parser.add_argument("--destinations", type=int, default=10_000, help="destinations (default: 10000)")
    parser.add_argument("--slow", type=int, default=1000, help="slow peers (default: 1000)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns (default: 5)")
    parser.add_argument("--child", choices=sorted(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--serve-slowly", type=int, help=argparse.SUPPRESS)
    parser.add_argument("ports", type=int, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_slowly:
        serve_slowly(options.serve_slowly)
    if options.child:
        child(options.child, options.count, options.ports)
        return 0
    print(f"destinations; {machine()}")
    try:
        if options.only in (None, "tls"):
            compare_tls(options.messages, options.runs)
        if options.only in (None, "destinations"):
            compare_destinations(options.destinations, options.runs)
        if options.only in (None, "policies"):
            compare_policies(min(options.destinations, MOST_POLICIES), options.runs)
        if options.only in (None, "slow"):
            compare_slow(options.slow, 10_000, options.runs)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
