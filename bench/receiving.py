"""What receiving a message costs: the server session alone, and a listener beside aiosmtpd, fed by two clients.

*In memory* is the session of ``zsmtp.proto.server`` with an application that agrees to everything and a driver of a
few lines, in this process: CPU time per message of 4 KB. *A listener* is a process of its own that counts messages and
keeps nothing, pinned to one CPU; the client is pinned to the other. Clients are the library (one connection, many
messages under way) and ``smtp-source`` (which waits for each answer), where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import RECIPIENT, SENDER, postfix_tool
from spool import HEADER, BenchError, body
from table import in_turns, line, machine

from zsmtp.proto.reply import Reply
from zsmtp.proto.server import ServerSession
from zsmtp.proto.server_events import MailFrom, MessageEnd, MessageStart, Opened, RcptTo
from zsmtp.proto.server_replies import GO_AHEAD, OK, RECIPIENT_OK, SENDER_OK
from zsmtp.proto.server_settings import ServerSettings

OCTETS = 4096
HUGE = 1 << 30
PINS = (["taskset", "-c", "0"], ["taskset", "-c", "1"])

ANSWERS = {
    Opened: Reply(220, (b"mx.example.org ESMTP",)),
    MailFrom: SENDER_OK,
    RcptTo: RECIPIENT_OK,
    MessageStart: GO_AHEAD,
    MessageEnd: OK,
}


def content(octets: int) -> bytes:
    """A message with CRLF lines, none of which starts with a dot."""
    text = HEADER.encode() + b"\n" + body(octets)
    return text.replace(b"\n", b"\r\n")[: octets - 2] + b"\r\n"


# -------------------------------------------------------------------------------------------------------- in memory


def pump(session: ServerSession, now: float) -> int:
    """Answer what there is; the octets of the replies."""
    while (event := session.next_event()) is not None:
        answer = ANSWERS.get(type(event))
        if answer is not None:
            session.answer(event.slot, answer, now)  # type: ignore[union-attr]
    session.deadline()
    return len(session.data_to_send())


def ready_session(max_size: int = 64 << 20) -> ServerSession:
    session = ServerSession(ServerSettings(name=b"mx.example.org", max_size=max_size), now=0.0)
    pump(session, 0.0)
    session.receive_data(b"EHLO client.example.org\r\n", 0.0)
    pump(session, 0.0)
    return session


def segments(way: str, messages: int) -> Iterator[bytes]:
    """What a client sends, as it may arrive; no two messages have the same addresses."""
    text = content(OCTETS)
    mail, rcpt = b"MAIL FROM:<sender%d@example.org> SIZE=%d\r\n", b"RCPT TO:<rcpt%d@example.com>\r\n"
    if way == "CHUNKING":
        for start in range(0, messages, 16):
            numbers = range(start, min(start + 16, messages))
            chunk = b"BDAT %d LAST\r\n" % len(text) + text
            yield b"".join(mail % (number, len(text)) + rcpt % number + chunk for number in numbers)
        return
    end = b""
    for number in range(messages):
        if way == "PIPELINING":
            yield end + mail % (number, len(text)) + rcpt % number + b"DATA\r\n"
        else:
            yield from (end, mail % (number, len(text)), rcpt % number, b"DATA\r\n")
        end = text + b".\r\n"
    yield end


def in_memory(way: str, messages: int) -> float:
    """Microseconds of CPU time for each message."""
    session, stream = ready_session(), list(segments(way, messages))
    before, now, said = time.process_time(), 1.0, 0
    for segment in stream:
        now += 1e-4
        session.receive_data(segment, now)
        said += pump(session, now)
    cost = (time.process_time() - before) / messages * 1e6
    if said < messages * len(b"250 2.0.0 ok\r\n"):
        raise BenchError("not every message was taken")
    return cost


def huge(way: str) -> None:
    """One message of 1 GB in this process: says how many MB/s, and how much memory that took beyond what was there."""
    session = ready_session(2 << 30)
    block = (b"x" * 74 + b"\r\n") * ((256 << 10) // 76)
    count = HUGE // len(block)
    start = b"DATA\r\n" if way == "DATA" else b"BDAT %d LAST\r\n" % (count * len(block))
    session.receive_data(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n" + start, 1.0)
    pump(session, 1.0)
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = 0
    for _ in range(count):
        session.receive_data(block, 2.0)
        said += pump(session, 2.0)
    session.receive_data(b".\r\n" if way == "DATA" else b"", 3.0)
    said += pump(session, 3.0)
    seconds = time.process_time() - began
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(f"{count * len(block) / seconds / 1e6:.0f} {more / 1000:.1f} {said}")


# -------------------------------------------------------------------------------------------------------- listeners


def serve(kind: str, port: int) -> None:
    """A receiver until SIGTERM; then it says how many messages there were, and what they cost."""

    async def listen() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        counter = await (listen_aiosmtpd if kind == "aiosmtpd" else listen_zsmtp)(kind, port)
        print("ready", flush=True)
        before = resource.getrusage(resource.RUSAGE_SELF)
        await stop.wait()
        after = resource.getrusage(resource.RUSAGE_SELF)
        print(counter.messages, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, flush=True)

    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if kind.endswith("uvloop"):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(listen())


class Counter(Protocol):
    """What knows how many messages were taken."""

    messages: int


async def listen_zsmtp(kind: str, port: int) -> Counter:
    from zsmtp.server.intake import DiscardingIntake
    from zsmtp.server.listener import Listener, ListenerSettings

    intake = DiscardingIntake()
    settings = ServerSettings(name=b"mx.example.org", chunking="DATA" not in kind)
    await Listener(intake, ListenerSettings(settings)).listen_tcp("127.0.0.1", port)
    return intake


async def listen_aiosmtpd(kind: str, port: int) -> Counter:
    from aiosmtpd.smtp import SMTP

    class Counting:
        messages = 0

        async def handle_DATA(self, server: object, session: object, envelope: object) -> str:  # noqa: N802
            self.messages += 1
            return "250 2.0.0 ok"

    handler, loop = Counting(), asyncio.get_running_loop()
    await loop.create_server(lambda: SMTP(handler, loop=loop), "127.0.0.1", port)
    return handler


@contextlib.contextmanager
def receiver(kind: str) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """A receiver as a process of its own: its port, and what it says at the end: messages, and seconds of CPU."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said: list[tuple[int, float]] = []
    words = [*PINS[1], sys.executable, __file__, "--serve", kind, "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise BenchError(f"{kind} does not start")
        try:
            yield port, said
        finally:
            process.terminate()
            count, cpu = process.stdout.readline().split()
            said.append((int(count), float(cpu)))


def send(port: int, messages: int) -> None:
    """The library's client, in a process of its own."""
    import zsmtp

    text = HEADER.encode() + b"\n" + body(OCTETS - len(HEADER))

    async def stream() -> None:
        config = zsmtp.Config(relay=zsmtp.Relay(host="127.0.0.1", port=port), helo_name="bench.example.org")
        async with zsmtp.aio.Client(config) as client:
            submissions = (
                zsmtp.Submission(message=text, sender=SENDER, recipients=[RECIPIENT]) for _ in range(messages)
            )
            async for result in client.stream(submissions):
                if not result.ok:
                    raise BenchError(str(result))

    began = time.perf_counter()
    asyncio.run(stream())
    print(f"took {time.perf_counter() - began}")


def by_library(port: int, messages: int) -> float:
    words = [*PINS[0], sys.executable, __file__, "--send", str(messages), "--port", str(port)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    if ended.returncode or not ended.stdout.startswith("took "):
        raise BenchError(ended.stderr[-500:])
    return float(ended.stdout.split()[1])


def by_smtp_source(sessions: int, port: int, messages: int) -> float:
    tool = postfix_tool("smtp-source")
    assert tool is not None
    words = [*PINS[0], *tool, "-d", "-s", str(sessions), "-m", str(messages), "-l", str(OCTETS - 250)]
    began = time.perf_counter()
    subprocess.run(
        [*words, "-f", SENDER, "-t", RECIPIENT, f"inet:127.0.0.1:{port}"], check=True, capture_output=True, timeout=300
    )
    return time.perf_counter() - began


def measured(kind: str, client: Callable[[int, int], float], messages: int, cost: list[float]) -> float:
    """Messages per second; ``cost`` gets the receiver's CPU time for each, in microseconds."""
    with receiver(kind) as (port, said):
        seconds = client(port, messages)
    count, cpu = said[0]
    if count != messages:
        raise BenchError(f"{kind} took {count} of {messages} messages")
    cost.append(cpu / count * 1e6)
    return messages / seconds


# ------------------------------------------------------------------------------------------------------------ tables


def memory_table(messages: int, runs: int) -> None:
    ways = ("CHUNKING", "PIPELINING", "stepwise")
    print(f"the session in memory, {messages} messages of 4 KB, {runs} runs of each in turns: CPU time of a message")
    for way, values in in_turns({way: partial(in_memory, way, messages) for way in ways}, runs).items():
        print(line(way, values, "us", beside={}, digits=1))
    print("the session in memory, one message of 1 GB")
    for way in ("DATA", "BDAT"):
        words = [sys.executable, __file__, "--huge", way]
        speed, memory, said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
        if not int(said):
            raise BenchError("the large message was not taken")
        print(f"  {way:26}{speed:>9} MB/s, in {memory} MB more than at its start")


def listener_table(messages: int, runs: int) -> None:
    kinds = ["zsmtp", "zsmtp DATA", "zsmtp uvloop", "aiosmtpd"]
    if importlib.util.find_spec("uvloop") is None:
        kinds.remove("zsmtp uvloop")
    clients: dict[str, Callable[[int, int], float]] = {"the library": by_library}
    if postfix_tool("smtp-source") is not None:
        clients["smtp-source"] = partial(by_smtp_source, 1)
        clients["smtp-source, 10 sessions"] = partial(by_smtp_source, 10)
    else:
        print("smtp-source is not here (Debian: postfix; make interop unpacks it): left out", file=sys.stderr)
    for name, client in clients.items():
        costs: dict[str, list[float]] = {kind: [] for kind in kinds}
        calls = {kind: partial(measured, kind, client, messages, costs[kind]) for kind in kinds}
        print(f"a listener on one CPU, fed by {name}, {messages} messages of 4 KB, {runs} runs of each in turns")
        results = in_turns(calls, runs)
        for kind, values in results.items():
            beside = {} if kind == "aiosmtpd" else {"aiosmtpd": results["aiosmtpd"]}
            print(line(kind, values, "msg/s", beside=beside))
        print("  CPU time of the receiver for a message: " + _words(costs))


def _words(costs: dict[str, list[float]]) -> str:
    return ", ".join(f"{kind} {sorted(values)[len(values) // 2]:.0f} us" for kind, values in costs.items())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What receiving mail costs, in memory and on sockets.")
    parser.add_argument("--messages", type=int, default=5000, help="messages of 4 KB (default: 5000)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns (default: 5)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--huge", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve, options.port)
    elif options.send:
        send(options.port, options.send)
    elif options.huge:
        huge(options.huge)
    else:
        print(f"receiving; {machine()}")
        try:
            memory_table(options.messages, options.runs)
            listener_table(options.messages, options.runs)
        except BenchError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
