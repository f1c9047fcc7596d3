"""Round trips per message over a long line, beside others who send mail.

A relay on the loopback interface holds every octet back for half the round-trip time (``bench/relay.py``); its accuracy
is measured and printed first. Each client sends the same number of messages over one connection to the same kind of
receiver; the time without connecting, greeting and QUIT is not told apart, so it is in the figure of everybody.
Round trips per message are the whole time divided by the round-trip time and the number of messages.

``--plot FILE`` measures messages per second over several distances and draws them (with matplotlib, if installed).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import available
from relay import measured_round_trip, relay
from sinks import ready_sink
from spool import BenchError, fill, rearm, run_agent
from table import in_turns, machine

OCTETS = 4096
DISTANCES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
TOLERANCE = 0.02  # of the round-trip time, and a millisecond


@contextlib.contextmanager
def senders(round_trip: float, messages: int, office: Path) -> Iterator[dict[str, Callable[[], float]]]:
    """Every way of sending the messages over the distance, each returning the seconds it took."""
    names = fill(office, messages, OCTETS)

    def agent(port: int) -> float:
        seconds = run_agent(office, names, port).seconds
        rearm(office, names)
        return seconds

    def peer(client: Callable[..., object], port: int, count: int) -> float:
        # fewer messages where each costs several round trips: the figure is per message
        return client(port, count, OCTETS).seconds * messages / count  # type: ignore[attr-defined,no-any-return]

    with contextlib.ExitStack() as stack:
        ports = {}
        for chunking in (False, True):
            receiver = stack.enter_context(ready_sink(chunking=chunking))
            ports[chunking] = stack.enter_context(relay(receiver.port, round_trip)) if round_trip else receiver.port
        ways: dict[str, Callable[[], float]] = {
            "zsmtp, PIPELINING": partial(agent, ports[False]),
            "zsmtp, CHUNKING": partial(agent, ports[True]),
        }
        fewer = messages if not round_trip else max(messages // 8, 20)
        ways |= {name: partial(peer, client, ports[False], fewer) for name, client in available().items()}
        yield ways


def plot(path: str, speeds: dict[str, list[float]]) -> None:
    """Messages per second over round-trip time, both on logarithmic scales."""
    try:
        import matplotlib  # type: ignore[import-not-found,unused-ignore]

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("matplotlib is not installed: no plot")
        return
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, values in speeds.items():
        style = "o-" if name.startswith("zsmtp") else "s--"
        axes.plot([d * 1000 for d in DISTANCES[1:]], values[1:], style, label=name)
    axes.set(xscale="log", yscale="log", xlabel="round-trip time, ms", ylabel="messages per second")
    axes.set_title("Messages of 4 KB over one connection")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    print(f"plot: {Path(path).name}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Round trips per message over a long line.")
    parser.add_argument("--messages", type=int, default=200, help="messages of 4 KB (default: 200)")
    parser.add_argument("--milliseconds", type=float, default=50.0, help="round-trip time (default: 50)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns (default: 5)")
    parser.add_argument("--plot", metavar="FILE", help="messages/s over several distances, drawn into FILE")
    options = parser.parse_args()
    round_trip = options.milliseconds / 1000
    if round_trip <= 0 or options.messages < 20 or options.runs < 1:
        parser.error("a positive round-trip time, at least 20 messages and one run")

    print(f"round trips, {options.messages} messages of 4 KB, one connection; {machine()}")
    measured = measured_round_trip(round_trip)
    print(f"  the relay takes {measured * 1000:.2f} ms there and back where {options.milliseconds:.2f} were asked for")
    if abs(measured - round_trip) > TOLERANCE * round_trip + 0.001:
        print("the relay is not accurate enough on this machine now", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as office:
            with senders(round_trip, options.messages, Path(office)) as ways:
                results = in_turns(ways, options.runs)
            for name, times in results.items():
                trips = [seconds / measured / options.messages for seconds in times]
                speed = options.messages / statistics.median(times)
                print(
                    f"  {name:20}{statistics.median(trips):7.3f} round trips per message"
                    f"   ({min(trips):.3f} to {max(trips):.3f})   {speed:7.0f} messages/s"
                )
        if options.plot:
            plot(options.plot, speeds_over_distance())
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def speeds_over_distance() -> dict[str, list[float]]:
    """Messages per second by every way over every distance."""
    speeds: dict[str, list[float]] = {}
    for distance in DISTANCES:
        with tempfile.TemporaryDirectory(prefix="zsmtp-bench-") as office:
            messages = 1000 if distance < 0.01 else 200
            with senders(distance, messages, Path(office)) as ways:
                for name, way in ways.items():
                    speeds.setdefault(name, []).append(messages / way())
    return speeds


if __name__ == "__main__":
    sys.exit(main())
