"""Messages per second of the library beside aiosmtplib: many messages to many destinations, on the same receivers.

Every destination is a receiver of its own (``bench/sinks.py``), one process for all of them. The library's client has
one relay per domain and is given all messages as one stream; it keeps its connections. aiosmtplib is used in its two
ways: ``send()`` for each message, a connection each time, and one kept connection per destination with ``sendmail()``
on it, destinations side by side. Each way is a process of its own, started anew for each run, that has sent one message
before, so that nothing is imported in the time; that is from the first message asked for to the last answer,
connections and good-byes included. The table before the last has a distance between them and the receivers
(``bench/relay.py``).

The last table is about the envelope: what it costs of CPU to take it from the header, beside one that is given, for
each kind of message. One process for each kind sends the same messages both ways in turns, to ever new recipients.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.util
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from email.message import EmailMessage
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


# --------------------------------------------------- the envelope from the header


def addressed(kind: str, folder: Path, number: int, recipient: str) -> bytes | Path | EmailMessage:
    """A message of 4 KB whose header says the whole envelope."""
    fields = {
        "From": f"Sender <{SENDER}>",
        "To": f"Recipient {number} <{recipient}>",
        "Subject": "benchmark",
        "Date": "Thu, 01 Jan 2026 00:00:00 +0000",
        "Message-ID": f"<{number}@example.org>",
    }
    if kind == "EmailMessage":
        message = EmailMessage()
        for name, value in fields.items():
            message[name] = value
        message.set_content(body(OCTETS - 300).decode())
        return message
    octets = "".join(f"{name}: {value}\n" for name, value in fields.items()).encode() + b"\n" + body(OCTETS - 200)
    if kind == "octets":
        return octets
    path = folder / str(number)
    path.write_bytes(octets)
    return path


async def deliver_all(submissions: list[object], ports: list[int]) -> None:
    import zsmtp

    routes = {f"d{port}.example.com": zsmtp.Relay(host="127.0.0.1", port=port) for port in ports}
    async with zsmtp.aio.Client(zsmtp.Config(routes=routes, helo_name="bench.example.org")) as client:
        delivered = sum([result.ok async for result in client.stream(submissions)])  # type: ignore[arg-type]
    assert delivered == len(submissions), delivered


def envelope_child(kind: str, rounds: int, messages: int, ports: list[int]) -> None:
    """Microseconds of CPU a message, given and from the header, one line for each round."""
    import zsmtp

    with tempfile.TemporaryDirectory() as name, asyncio.Runner() as runner:
        for turn in range(rounds + 1):
            costs = {}
            ways = ("given", "header") if turn % 2 else ("header", "given")
            for part, way in enumerate(ways):
                names = [f"r{turn}.{part}.{n}@d{ports[n % len(ports)]}.example.com" for n in range(messages)]
                made = [addressed(kind, Path(name), number, to) for number, to in enumerate(names)]
                submissions: list[object] = list(made)
                if way == "given":
                    submissions = [
                        zsmtp.Submission(message=one, sender=SENDER, recipients=to)
                        for one, to in zip(made, names, strict=True)
                    ]
                gc.collect()
                before = time.process_time()
                runner.run(deliver_all(submissions, ports))
                costs[way] = (time.process_time() - before) / messages * 1e6
            if turn:  # the first one imports
                print(f"took {costs['given']} {costs['header']}")


def compare_envelopes(messages: int, destinations: int, runs: int) -> None:
    """Print the table of what the envelope from the header costs."""
    print(f"envelope from the header, {messages} messages of 4 KB to {destinations} destinations, {runs} runs in turns")
    with ready_sinks(destinations, chunking=False) as ports:
        for kind in KINDS:
            words = [sys.executable, __file__, "--child", kind, "--runs", str(runs), "--messages", str(messages)]
            ended = subprocess.run([*words, *map(str, ports)], capture_output=True, check=False, timeout=600)
            taken = [tuple(map(float, text.split()[1:])) for text in ended.stdout.decode().splitlines()]
            if ended.returncode or len(taken) != runs:
                raise BenchError(f"{kind}: {ended.stderr[-800:].decode(errors='replace')}")
            ratios = [header / given for given, header in taken]
            given, header = (statistics.median(costs) for costs in zip(*taken, strict=True))
            print(
                f"  {kind:14} given {given:6.1f} us of CPU a message   from the header {header:6.1f}"
                f"   {statistics.median(ratios):.3f} times ({min(ratios):.3f} to {max(ratios):.3f})"
            )


KINDS = ("octets", "path", "EmailMessage")


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
    parser.add_argument("--child", choices=[*WAYS, *KINDS], help=argparse.SUPPRESS)
    parser.add_argument("--loop", default="asyncio", help=argparse.SUPPRESS)
    parser.add_argument("ports", type=int, nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child in KINDS:
        envelope_child(options.child, options.runs, options.messages, options.ports)
        return 0
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
        compare_envelopes(options.messages, options.destinations, options.runs)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
