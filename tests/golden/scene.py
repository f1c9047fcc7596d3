"""Sets the scene of a capture (servers, name server, post office), and lets the agent play in it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.golden.capture import Capture
from tests.support.agent import Agent, Result
from tests.support.nameserver import NameServer
from tests.support.postoffice import Job, PostOffice
from tests.support.script import Script
from tests.support.sink import Sink, refusing_port


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it. ``control`` are the control files as they were written, ports and paths filled in."""

    office: PostOffice
    sinks: dict[str, Sink]
    control: dict[str, str]
    result: Result
    pid: int

    def job(self, file: str, offsets: list[int]) -> Job:
        return Job(file, tuple(offsets))


def play(capture: Capture, root: Path, dns: NameServer, *extra_flags: str) -> Played:
    """Run the agent in the capture's scene until it ends."""
    office = PostOffice(root / "office")
    office.write_zenv(RESOLVER=dns.address)
    with _servers(capture, root) as (sinks, ports):
        places = {**ports, "@LOG@": str(office.log), "@WORK@": str(root)}

        def fill(text: str) -> str:
            for place, value in places.items():
                text = text.replace(place, value)
            return text

        control = {file: fill(text) for file, text in capture.control.items()}
        for file, text in control.items():
            (office.transport / file).write_text(text, "latin-1", newline="")
        for file, text in capture.message.items():
            (office.queue / file).write_text(text, "latin-1", newline="")
        with Agent(office, *extra_flags, *map(fill, capture.flags)) as agent:
            agent.feed(fill(capture.stdin).encode())
            if capture.name == "sig_term_busy":
                sinks["main"].wait_for_command("MAIL")
                agent.signal(signal.SIGTERM)
            result = agent.finish()
        for sink in sinks.values():
            connected = sink.connections or capture.name == "cli_D"  # which is gone before it is accepted
            if connected and capture.name not in {"cmd_timeout", "sig_term_busy"}:
                sink.wait_until_finished()
        return Played(office, sinks, control, result, agent.pid)


@contextmanager
def _servers(capture: Capture, root: Path) -> Iterator[tuple[dict[str, Sink], dict[str, str]]]:
    """The capture's servers on free ports; a port without a server refuses connections."""
    with ExitStack() as stack:
        sinks: dict[str, Sink] = {}
        ports: dict[str, str] = {}
        for name, spec in capture.sinks.items():
            scripts = [Script.from_json(script) for script in spec.get("scripts", [{}])]
            unix = root / "sock" if "unix" in spec else None
            nominal = str(spec.get("port", 2525))
            port = int(ports.get(nominal, 0))
            sink = Sink(*scripts, host=spec.get("host", "127.0.0.1"), port=port, unix=unix)
            sinks[name] = stack.enter_context(sink)
            ports[nominal] = str(sink.port)
        for nominal in ("2525", "2526"):
            if nominal not in ports:
                ports[nominal] = str(stack.enter_context(refusing_port()))
        yield sinks, ports


def read_log(path: Path) -> list[str]:
    """The lines of the ``-l`` file, none if there is no file."""
    with suppress(FileNotFoundError):
        return path.read_text("utf-8").splitlines()
    return []
