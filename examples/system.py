"""The whole system in a temporary folder: a program submits over SMTP, ``zsmtp serve`` keeps the mail and delivers it.

Run it with ``make run``, or ``python examples/system.py``. The receivers are on the loopback interface: one greylists
each recipient once, one refuses an address for good, one is dead at first and comes back. The retry after greylisting
comes after seconds instead of minutes; mail for the dead one waits until ``zsmtp queue now`` has it tried. It shows
what happened by the log, what ``zsmtp queue why`` says of a message that waits, and the notice that the sender of the
refused message gets. Nothing leaves this machine. Exit status: 0 if all went as expected, 1 if not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_replies import make_reply
from zsmtp.proto.server_settings import ServerSettings
from zsmtp.server.intake import MemoryIntake, ReceivedEnvelope, SessionInfo
from zsmtp.server.listener import Listener, ListenerSettings

PATIENCE = 60.0  # seconds for each wait
SENDER = "alice@example.org"
GREYLISTED, REFUSED, DEAD = "bob@grey.example", "nobody@refusing.example", "carol@dead.example"

CONFIG = """
name = "mail.example.org"
[queue]
path = "{folder}/queue.db"
[queue.retry.schedules]
greylisting = "3s jitter 0%"
[listen.local]
addresses = ["127.0.0.1:{submission}"]
[delivery.routes]
"grey.example" = "smtp://127.0.0.1:{grey}"
"refusing.example" = "smtp://127.0.0.1:{refusing}"
"dead.example" = "smtp://127.0.0.1:{dead}"
"example.org" = "smtp://127.0.0.1:{home}"
"""


class SystemFailed(Exception):
    """Something that ends the show; the text is for people."""


class Scripted(MemoryIntake):
    """A receiver that keeps mail. It refuses one address, and greylists each of its recipients once if it does."""

    def __init__(self, *, greylists: bool = False) -> None:
        super().__init__()
        self._greylists = greylists
        self._seen: set[bytes] = set()

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        address = recipient.address
        if address == REFUSED.encode():
            return make_reply(550, "5.1.1", "no such user here")
        if self._greylists and address not in self._seen:
            self._seen.add(address)
            return make_reply(451, "4.7.1", "greylisted, try again later")
        return None


class World:
    """The receivers, on a loop in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listeners: list[Listener] = []
        self._thread.start()

    def open(self, intake: MemoryIntake, name: str, port: int) -> None:
        """Let a receiver listen."""

        async def listen() -> None:
            listener = Listener(intake, ListenerSettings(ServerSettings(name=name.encode())))
            await listener.listen_tcp("127.0.0.1", port)
            self._listeners.append(listener)

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(PATIENCE)

    def close(self) -> None:
        """Close all."""
        for listener in self._listeners:
            asyncio.run_coroutine_threadsafe(listener.close(grace=0.5), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, and none of those that systems give to outgoing connections meanwhile."""
    ports: list[int] = []
    for port in random.sample(range(10_000, 32_000), 1000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise SystemFailed("no port is free")


@contextlib.contextmanager
def serving(folder: Path, ports: dict[str, int]) -> Iterator[Path]:
    """``zsmtp serve`` in a process of its own; gives its log."""
    config, log = folder / "serve.toml", folder / "log"
    config.write_text(CONFIG.format(folder=folder, **ports))
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "zsmtp.cli.main", "serve", "--config", str(config)], stderr=file
        )
    try:
        wait_for(lambda: process.poll() is not None or "is served" in log.read_text(), "the service to begin")
        if process.poll() is not None:
            raise SystemFailed(log.read_text())
        yield log
        process.send_signal(signal.SIGTERM)
        if process.wait(PATIENCE) != 0:
            raise SystemFailed(f"the service ended with status {process.returncode}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemFailed(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.05)


def submit(port: int) -> dict[str, str]:
    """Submit three messages over one connection; the ids they got, by recipient."""
    ids = {}
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo("program.example.org")
        for recipient in (GREYLISTED, REFUSED, DEAD):
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = SENDER, recipient, f"Hello {recipient}"
            message.set_content("Hello,\n\nthis message is looked after until its end.\n")
            client.mail(SENDER)
            client.rcpt(recipient)
            code, words = client.data(message.as_bytes(policy=policy.SMTP))
            if code != 250:
                raise SystemFailed(f"{recipient}: {code} {words.decode()}")
            ids[recipient] = words.decode().rpartition(" ")[2]
    return ids


def say(text: str) -> None:
    """One line, or several."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def ask_queue(folder: Path, message: str, *verb: str) -> None:
    """What ``zsmtp queue`` says of a message."""
    chosen = ["--queue", f"{folder}/queue.db", "--id", message]
    command = [sys.executable, "-m", "zsmtp.cli.main", "queue", *verb, *chosen]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    for line in (found.stdout or found.stderr).splitlines():
        say(f"  {line}")


def show_log(log: Path, ids: dict[str, str]) -> None:
    """The lines of the log that are about messages, by message."""
    lines = [line.split(" ", 2) for line in log.read_text().splitlines()]
    for recipient, message in ids.items():
        say(f"\n{message}  to {recipient}")
        for stamp, _, text in (line for line in lines if len(line) == 3):
            if text.startswith(f"{message}: "):
                say(f"  {stamp[11:23]}  {text[len(message) + 2 :][:150]}")


def show(folder: Path) -> bool:
    """The whole show; whether all went as expected."""
    names = ("submission", "grey", "refusing", "dead", "home")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    world, home, grey, dead = World(), Scripted(), Scripted(greylists=True), Scripted()
    try:
        world.open(grey, "mx.grey.example", ports["grey"])
        world.open(Scripted(), "mx.refusing.example", ports["refusing"])
        world.open(home, "mx.example.org", ports["home"])
        with serving(folder, ports) as log:
            say(f"zsmtp serve takes mail on 127.0.0.1:{ports['submission']}; a program submits three messages.")
            ids = submit(ports["submission"])
            for recipient, message in ids.items():
                say(f"  250 queued as {message}  {recipient}")
            wait_for(lambda: f"{ids[DEAD]}: to" in log.read_text(), "the first attempts")
            say(f"\nThe server of {DEAD} is dead. zsmtp queue why:")
            ask_queue(folder, ids[DEAD], "why")
            world.open(dead, "mx.dead.example", ports["dead"])
            say("\nIt comes back. zsmtp queue now:")
            ask_queue(folder, ids[DEAD], "now", "--yes")
            say("\nEverything that can be delivered is, within seconds.")
            wait_for(lambda: grey.messages and dead.messages, "the deliveries")
            wait_for(lambda: home.messages, "the notice")
        say("\nWhat happened, by the log:")
        show_log(log, ids)
    finally:
        world.close()
    show_notice(bytes(home.messages[0].content))
    return len(grey.messages) == len(dead.messages) == 1


def show_notice(content: bytes) -> None:
    """The notice that the sender got: its subject and its text for people."""
    notice = message_from_bytes(content, policy=policy.default)
    say(f"\nThe notice that {SENDER} got of the refused message:\n")
    say(f"  Subject: {notice['Subject']}\n")
    text = next(part for part in notice.walk() if part.get_content_type() == "text/plain")
    for line in str(text.get_content()).splitlines():
        say(f"  {line}".rstrip())


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="zsmtp-system-") as folder:
        try:
            good = show(Path(folder))
        except SystemFailed as error:
            say(f"system: {error}")
            return 1
    say("\nEach recipient has one end, and nothing is left in the queue." if good else "\nNot all went as expected.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
