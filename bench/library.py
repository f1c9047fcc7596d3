"""Messages per second of the library beside aiosmtplib: many messages to many destinations, on the same receivers.

Every destination is a receiver of its own (``bench/sinks.py``), one process for all of them. The library's client has
one relay per domain and is given all messages as one stream; it keeps its connections. aiosmtplib is used in its two
ways: ``send()`` for each message, a connection each time, and one kept connection per destination with ``sendmail()``
on it, destinations side by side. Each way is a process of its own, started anew for each run, that has sent one message
before, so that nothing is imported in the time; that is from the first message asked for to the last answer,
connections and good-byes included. The last table has a distance between them and the receivers (``bench/relay.py``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from relay import relay
from sinks import ready_sinks
from spool import HEADER, BenchError, body
from table import in_turns, line, machine

SENDER = "sender@example.org"
OCTETS = 4096
FAR = 0.02  # seconds there and back, in the last table


def content() -> bytes:
    return HEADER.encode() + b"\n" + body(OCTETS - len(HEADER))


# ------------------------------------------------------------------- the ways


async def by_zsmtp(ports: list[int], messages: int) -> None:
    import zsmtp

    octets = content()
    routes = {f"d{port}.example.com": zsmtp.Relay(host="127.0.0.1", port=port) for port in ports}
    config = zsmtp.Config(routes=routes, helo_name="bench.example.org")
    submissions = (
        zsmtp.Submission(message=octets, sender=SENDER, recipients=f"r@d{ports[n % len(ports)]}.example.com")
        for n in range(messages)
    )
    delivered = 0
    async with zsmtp.aio.Client(config) as client:
        async for result in client.stream(submissions):
            delivered += result.ok
    assert delivered == messages, delivered


async def by_aiosmtplib_send(ports: list[int], messages: int) -> None:
    import aiosmtplib  # type: ignore[import-not-found,unused-ignore]

    octets = content()
    places = {port: asyncio.Semaphore(5) for port in ports}  # as many at a time as the library's limit

    async def send(port: int) -> None:
        async with places[port]:
            await aiosmtplib.send(
                octets,
                sender=SENDER,
                recipients=[f"r@d{port}.example.com"],
                hostname="127.0.0.1",
                port=port,
                local_hostname="bench.example.org",
            )

    await asyncio.gather(*(send(ports[n % len(ports)]) for n in range(messages)))


async def by_aiosmtplib_kept(ports: list[int], messages: int) -> None:
    import aiosmtplib  # type: ignore[import-not-found,unused-ignore]

    octets = content()

    async def send(port: int, count: int) -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, local_hostname="bench.example.org") as client:
            for _ in range(count):
                await client.sendmail(SENDER, [f"r@d{port}.example.com"], octets)

    shares = [messages // len(ports) + (n < messages % len(ports)) for n in range(len(ports))]
    await asyncio.gather(*(send(port, share) for port, share in zip(ports, shares, strict=True)))


WAYS = {"zsmtp": by_zsmtp, "send": by_aiosmtplib_send, "kept": by_aiosmtplib_kept}


def child(way: str, loop: str, messages: int, ports: list[int]) -> None:
    """One run in this process: says how long it took, and what it cost."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(WAYS[way](ports[:1], 1))
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        runner.run(WAYS[way](ports, messages))
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"took {seconds} {cpu} {after.ru_maxrss}")


def run(way: str, loop: str, messages: int, ports: list[int], cost: list[tuple[float, float]]) -> float:
    """Messages per second of one way in a process of its own."""
    words = [sys.executable, __file__, "--child", way, "--loop", loop, "--messages", str(messages)]
    ended = subprocess.run([*words, *map(str, ports)], capture_output=True, check=False, timeout=300)
    if ended.returncode or not ended.stdout.startswith(b"took "):
        raise BenchError(f"{way}: {ended.stderr[-800:].decode(errors='replace')}")
    _, seconds, cpu, memory = ended.stdout.split()
    cost.append((float(cpu), float(memory) / 1000))
    return messages / float(seconds)


def compare(messages: int, destinations: int, runs: int, *, chunking: bool, round_trip: float = 0.0) -> None:
    """Print one table; receivers are ``round_trip`` seconds away."""
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(ready_sinks(destinations, chunking=chunking))
        if round_trip:
            ports = [stack.enter_context(relay(port, round_trip)) for port in ports]
        ways: dict[str, tuple[str, str]] = {"zsmtp, asyncio": ("zsmtp", "asyncio")}
        uvloop = importlib.util.find_spec("uvloop") is not None
        if uvloop:
            ways["zsmtp, uvloop"] = ("zsmtp", "uvloop")
        if importlib.util.find_spec("aiosmtplib"):
            ways["aiosmtplib, kept"] = ("kept", "asyncio")
            ways["aiosmtplib, send()"] = ("send", "asyncio")
            if uvloop:
                ways["aiosmtplib, kept, uvloop"] = ("kept", "uvloop")
        else:
            print("aiosmtplib is not installed: left out", file=sys.stderr)
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        calls = {name: partial(run, way, loop, messages, ports, costs[name]) for name, (way, loop) in ways.items()}
        results = in_turns(calls, runs)
    offered = "PIPELINING, CHUNKING" if chunking else "PIPELINING"
    far = f", {round_trip * 1000:.0f} ms there and back" if round_trip else ""
    print(f"{messages} messages of 4 KB to {destinations} destinations ({offered}){far}, {runs} runs of each in turns")
    beside = {name: values for name, values in results.items() if name.startswith("aiosmtplib")}
    for name, values in results.items():
        print(line(name, values, "msg/s", beside=beside))
    words = ", ".join(
        f"{name} {statistics.median(c for c, _ in cost) * 1000 / messages:.3f}" for name, cost in costs.items()
    )
    print(f"  CPU seconds per 1,000 messages: {words}")
    words = ", ".join(f"{name} {max(m for _, m in cost):.0f}" for name, cost in costs.items())
    print(f"  largest memory in MB: {words}")


def main() -> int:
    parser = argparse.ArgumentParser(description="The library beside aiosmtplib, many messages to many destinations.")
    parser.add_argument("--messages", type=int, default=500, help="messages of 4 KB (default: 500)")
    parser.add_argument("--destinations", type=int, default=20, help="destinations (default: 20)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns (default: 5)")
    parser.add_argument("--child", choices=sorted(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--loop", default="asyncio", help=argparse.SUPPRESS)
    parser.add_argument("ports", type=int, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.loop, options.messages, options.ports)
        return 0
    if not 1 <= options.destinations <= options.messages or options.runs < 1:
        parser.error("at least 1 run, and no more destinations than messages")
    print(f"library; {machine()}")
    try:
        for chunking in (False, True):
            compare(options.messages, options.destinations, options.runs, chunking=chunking)
        compare(options.messages, options.destinations, options.runs, chunking=True, round_trip=FAR)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
