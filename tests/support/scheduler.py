"""A model of ZMailer's scheduler, as far as its transport agents can tell it from the real one.

It reads the spool, starts agents with one socket pair on descriptors 0, 1 and 2 and a soft limit of 32 descriptors,
feeds each up to 151 job lines ahead of the answers, believes what they report, forgets a file after 30 ``#resync``,
makes the notices, and removes files that are done. What it knows beside the spool it has in memory: :meth:`die` forgets
it, with reports unread, and a new one starts from the files. The habits that decide what becomes of mail:

- The notary data of the last report about a host's recipients in a file are kept, and are the notice when these expire.
- With ``ok`` and ``error`` the scheduler writes the ``d`` record itself, with the wishes of the first recipient of the
  host; with ``ok2``, ``ok3`` and ``error2`` none.
- A report about a file that it does not know is lost.
- A file in which a living process holds a lock is left for later; a lock of one that is gone is taken off.
- A new agent gets one line, and after that 151; the next are written when all before have had their ``#hungry``. After
  ``retryat`` and ``deferall`` no more of this host are, for a while. Which comes first is up to chance.

Whatever the real one would log as misformed or unknown is an AssertionError here::

    scheduler = Scheduler(office, ["-p", str(sink.port)], book := Book())
    scheduler.run(lambda: not scheduler.files)
    assert [notice.address for notice in book.notices] == [b"a@example.com"]
"""

from __future__ import annotations

import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.agent import usual_environment
from tests.support.notices import Entry, Notice, alive, append_diagnostic, entries, set_tag, tell
from tests.support.postoffice import PostOffice, Report

DESCRIPTORS = 32
OVERFEED = 150
MAX_RESYNCS = 30
PAUSE = 0.05  # seconds before what was not settled is fed again; the real interval is a minute or more


@dataclass
class Book:
    """What outlives a scheduler: the notices it made, and the state tags of recipients whose files are gone."""

    notices: list[Notice] = field(default_factory=list)
    ended: dict[tuple[str, int], bytes] = field(default_factory=dict)
    expired: set[tuple[str, int]] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    most_descriptors: int = 0


@dataclass(eq=False)
class Vertex:
    """The recipients of one file at one host that are to do."""

    file: SpoolFile
    host: bytes
    entries: dict[int, Entry]
    wishes: int
    notify: set[bytes]
    notary: bytes = b""
    message: bytes = b""
    attempts: int = 0
    fed: bool = False
    wakeup: float = 0.0


@dataclass(eq=False)
class SpoolFile:
    """One control file as the scheduler has it in memory."""

    name: str
    vertices: dict[bytes, Vertex]
    resyncs: int = 0


@dataclass(eq=False)
class Kid:
    """One agent. ``lines`` are the jobs it has been given and not answered; None stands for ``#idle``."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    host: bytes
    lines: deque[Vertex | None] = field(default_factory=deque)
    hungry: bool = False
    larva: bool = True
    finishing: bool = False
    idle: bool = False
    rest: bytes = b""
    hungries: int = 0


class Scheduler:
    """One incarnation. ``flags`` are the agents', ``hard_limit`` is that of their descriptors, None the usual one."""

    def __init__(
        self,
        office: PostOffice,
        flags: Sequence[str],
        book: Book,
        *,
        hard_limit: int | None = None,
        overfeed: int = OVERFEED,
        chance: random.Random | None = None,
    ) -> None:
        self.office = office
        self.book = book
        self.files: dict[str, SpoolFile] = {}
        self.kids: list[Kid] = []
        self.log: list[bytes] = []
        self._flags = list(flags)
        self._hard = hard_limit
        self._overfeed = overfeed
        self._chance = chance or random.Random(1)
        self._left_for_later = 0.0
        self.scan()

    # ----------------------------------------------------------------- spool

    def _path(self, name: str) -> Path:
        return self.office.transport / name

    def scan(self) -> None:
        """Take up the control files that are not known yet."""
        for path in sorted(self.office.transport.rglob("[0-9]*")):
            name = str(path.relative_to(self.office.transport))
            if path.is_file() and name not in self.files:
                self._take_up(name)

    def _take_up(self, name: str) -> None:
        """Read a file; whatever is done already is told of, and it is removed if nothing is left to do."""
        found = self._read(name)
        if found is None:
            self._left_for_later = time.monotonic() + PAUSE
        elif found.vertices:
            self.files[name] = found
        else:
            self._complete(name)

    def _read(self, name: str) -> SpoolFile | None:
        """The file as it is on disk; None if a living process holds a lock in it."""
        path = self._path(name)
        found = SpoolFile(name, {})
        for entry in entries(path.read_bytes()):
            if entry.tag == b"~":
                if alive(entry.lock):
                    return None
                set_tag(path, entry.offset, b"~", b" ")
            if entry.tag in b" ~":
                host = entry.host.lower()
                if host not in found.vertices:
                    found.vertices[host] = Vertex(found, host, {}, entry.wishes, entry.notify)
                found.vertices[host].entries[entry.offset] = entry
        return found

    def _complete(self, name: str) -> None:
        """Everybody is done: tell the sender, and remove the files."""
        path = self._path(name)
        self.book.notices += tell(path, name)
        for entry in entries(path.read_bytes()):
            self.book.ended[name, entry.offset] = entry.tag
        (self.office.queue / name).unlink()
        path.unlink()
        self.files.pop(name, None)

    def report_interim(self) -> None:
        """Tell senders of what is known by now; the real one does so every few minutes."""
        for name in self.files:
            self.book.notices += tell(self._path(name), name)

    def expire(self, choose: Callable[[Vertex], bool] = lambda vertex: True) -> None:
        """Give up on what was tried at least once and is not being tried: it has waited too long."""
        for file in list(self.files.values()):
            for vertex in list(file.vertices.values()):
                if vertex.attempts and not vertex.fed and choose(vertex):
                    self._expire(vertex)

    def _expire(self, vertex: Vertex) -> None:
        notary = vertex.notary or b"\x01".join((b"\x03", b"failed", b"5.4.7 (timeout)", b"smtp; 500 (Expired)", b""))
        for entry in list(vertex.entries.values()):
            append_diagnostic(self._path(vertex.file.name), entry, vertex.wishes, notary, b"expired")
            self.book.expired.add((vertex.file.name, entry.offset))
            self._settled(vertex, entry.offset)

    def _settled(self, vertex: Vertex, offset: int) -> None:
        file = vertex.file
        del vertex.entries[offset]
        if not vertex.entries:
            file.vertices.pop(vertex.host, None)
            if not file.vertices and self.files.get(file.name) is file:
                self._complete(file.name)

    # ---------------------------------------------------------------- agents

    def _start(self, host: bytes) -> None:
        ours, theirs = socket.socketpair()
        soft = min(DESCRIPTORS, self._hard or DESCRIPTORS)
        limits = f"ulimit -S -n {soft}; " + (f"ulimit -H -n {self._hard}; " if self._hard else "")
        command = [sys.executable, "-m", "zsmtp.zmailer.agent", *self._flags]
        with theirs:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f'{limits}exec "$@"', "sh", *command],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                cwd=self.office.transport,
                env=usual_environment(self.office),
            )
        self.kids.append(Kid(process, ours, host))

    def step(self, timeout: float = 0.02) -> None:
        """Start and feed agents, and take in what they say within this time."""
        if self._left_for_later and time.monotonic() >= self._left_for_later:
            self._left_for_later = 0.0
            self.scan()
        self._staff()
        for kid in self.kids:
            self._feed(kid)
        poll = select.poll()
        kids = {kid.sock.fileno(): kid for kid in self.kids}
        for fileno in kids:
            poll.register(fileno, select.POLLIN)
        for fileno, _ in poll.poll(timeout * 1000):
            self._hear(kids[fileno])

    def run(self, until: Callable[[], bool], timeout: float = 100.0) -> None:
        """Work until something is so; raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"still there: {sorted(self.files)}; heard: {self.log[-20:]}")
            self.step()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do, now or later."""
        return not self.files and not self._left_for_later

    def _ready(self, host: bytes) -> list[Vertex]:
        now = time.monotonic()
        vertices = (file.vertices.get(host) for file in self.files.values())
        ready = [one for one in vertices if one is not None and not one.fed and one.wakeup <= now]
        self._chance.shuffle(ready)
        return ready

    def _staff(self) -> None:
        """An agent for every host with work: one at rest, or a new one."""
        at_work = {kid.host for kid in self.kids if not kid.idle}
        for host in {host for file in self.files.values() for host in file.vertices} - at_work:
            if self._ready(host):
                idle = next((kid for kid in self.kids if kid.idle and kid.hungry), None)
                if idle is None:
                    self._start(host)
                else:
                    idle.host, idle.idle = host, False

    def _feed(self, kid: Kid) -> None:
        if not kid.hungry or kid.idle or kid.lines:
            return
        work = [] if kid.finishing else self._ready(kid.host)[: 1 if kid.larva else self._overfeed + 1]
        kid.larva = kid.finishing = kid.hungry = False
        if work:
            kid.lines += work
            for vertex in work:
                vertex.fed = True
            lines = b"".join(b"%b\t%b\n" % (one.file.name.encode(), kid.host) for one in work)
        else:
            kid.lines.append(None)
            lines = b"#idle\n"
        with suppress(OSError):  # that it is gone is seen when it is read from
            kid.sock.sendall(lines)

    def _hear(self, kid: Kid) -> None:
        self._count_descriptors(kid)
        try:
            data = kid.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._reap(kid)
            return
        *lines, kid.rest = (kid.rest + data).split(b"\n")
        for line in lines:
            self._obey(kid, line)

    def _count_descriptors(self, kid: Kid) -> None:
        with suppress(OSError):
            count = len(os.listdir(f"/proc/{kid.process.pid}/fd"))
            self.book.most_descriptors = max(self.book.most_descriptors, count)

    def _reap(self, kid: Kid) -> None:
        """An agent is gone: what it was given is to be given again."""
        self.kids.remove(kid)
        kid.sock.close()
        kid.process.wait(100)
        for vertex in kid.lines:
            self._put_back(vertex)

    def _put_back(self, vertex: Vertex | None) -> None:
        if vertex is not None:
            vertex.fed = False
            vertex.wakeup = time.monotonic() + PAUSE

    # --------------------------------------------------------------- reports

    def _obey(self, kid: Kid, line: bytes) -> None:
        self.log.append(line)
        if line == b"#hungry":
            kid.hungries += 1
            if kid.hungries > 1:
                assert kid.lines, "more #hungry than lines"
                answered = kid.lines.popleft()
                self._put_back(answered)
                kid.idle = answered is None
            kid.hungry = not kid.lines
        elif line.startswith(b"#resync "):
            self._resync(line.removeprefix(b"#resync ").decode())
        elif not line.startswith(b"#"):
            self._report(kid, Report.parse(line), line)

    def _resync(self, name: str) -> None:
        file = self.files.get(name)
        if file is None:
            return
        file.resyncs += 1
        if file.resyncs > MAX_RESYNCS:
            self.book.forgotten.add(name)
            del self.files[name]
            return
        found = self._read(name)
        if found is None:
            del self.files[name]
            self._left_for_later = time.monotonic() + PAUSE
            return
        for host, vertex in list(file.vertices.items()):
            still = found.vertices[host].entries if host in found.vertices else {}
            for offset in set(vertex.entries) - set(still):
                self._settled(vertex, offset)

    def _vertices(self, number: bytes) -> Iterator[Vertex]:
        """The vertices of the file that reports name by this number."""
        for file in self.files.values():
            if re.match(rb"\d+", Path(file.name).name.encode())[0] == number:
                yield from list(file.vertices.values())

    def _report(self, kid: Kid, report: Report, line: bytes) -> None:
        vertex = next((one for one in self._vertices(report.id) if report.offset in one.entries), None)
        if vertex is None:
            return  # "cannot find control file", "multiple processing of address"
        entry = vertex.entries[report.offset]
        vertex.attempts += 1
        vertex.notary = line.split(b"\t")[1]
        if report.word in ("ok", "error"):
            asked = b"SUCCESS" if report.word == "ok" else b"FAILURE"
            if asked in vertex.notify:
                append_diagnostic(self._path(vertex.file.name), entry, vertex.wishes, vertex.notary, report.message)
            self._settled(vertex, report.offset)
        elif report.word in ("ok2", "ok3", "error2"):
            self._settled(vertex, report.offset)
        else:
            vertex.message = report.message
            if report.word in ("retryat", "deferall"):
                kid.finishing = True
                wakeup = time.monotonic() + PAUSE  # the same for all, so that they are fed together
                for file in self.files.values():
                    if vertex.host in file.vertices:
                        file.vertices[vertex.host].wakeup = wakeup

    # ------------------------------------------------------------------- end

    def kill(self, kid: Kid, number: signal.Signals) -> None:
        """Send an agent a signal."""
        kid.process.send_signal(number)

    def die(self) -> list[subprocess.Popen[bytes]]:
        """End at once, with whatever was not read; the agents live on."""
        for kid in self.kids:
            kid.sock.close()
        orphans = [kid.process for kid in self.kids]
        self.kids = []
        self.files = {}
        return orphans

    def stop(self) -> None:
        """End the feeds and wait for the agents; reports that still come count."""
        for kid in self.kids:
            with suppress(OSError):
                kid.sock.shutdown(socket.SHUT_WR)
        while self.kids:
            self._hear(self.kids[0])
