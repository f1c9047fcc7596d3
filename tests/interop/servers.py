"""Real mail servers on loopback: Postfix, Exim, OpenSMTPD, and Dovecot's LMTP service.

``install.sh`` unpacked them into one root directory; here they are configured (from ``conf/``), started, watched and
stopped. Each is final destination for ``interop.test``, knows the recipients ``user000`` to ``user299`` and keeps what
it takes as files, one Maildir per recipient; :meth:`Server.stored` reads them.

A server runs as ``confined.py`` says, with a certificate of the farm's own authority (``pki.py``).

By hand: ``python -m tests.interop.servers [NAME...]`` starts them, tells where they listen, and stops them at Ctrl-C.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.interop.confined import Confined
from tests.interop.pki import Authority

MAILBOXES = tuple(f"user{number:03}" for number in range(300))
"""The local parts every server knows, at ``DOMAIN``; any other is refused with 550."""
DOMAIN = "interop.test"

_CONF = Path(__file__).parent / "conf"
_VMAIL = 36007  # the owner of all stored mail: its number in install.sh
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_PATIENCE = 60.0


class TLS(Enum):
    """How TLS is to be had at a listener."""

    NONE = "none"  # or not used
    STARTTLS = "STARTTLS"
    IMPLICIT = "implicit"  # from the first octet


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a server listens (a TCP port of 127.0.0.1, or a UNIX socket below its root) and what it announces there."""

    name: str
    program: str
    port: int | None
    path: str | None = None
    lmtp: bool = False
    pipelining: bool = True
    chunking: bool = True
    eight_bit: bool = True
    tls: TLS = TLS.NONE
    broken: bool = False  # every handshake fails


LISTENERS = (
    Listener("postfix", "postfix", 3601),
    Listener("postfix-data", "postfix", 3611, chunking=False),
    Listener("postfix-bare", "postfix", 3621, pipelining=False, chunking=False, eight_bit=False),
    Listener("exim", "exim", 3602),
    Listener("exim-data", "exim", 3612, chunking=False),
    Listener("opensmtpd", "opensmtpd", 3603, pipelining=False, chunking=False),
    Listener("dovecot", "dovecot", 3604, lmtp=True),
    Listener("dovecot-unix", "dovecot", None, path="run/lmtp", lmtp=True),
    Listener("postfix-starttls", "postfix", 3601, tls=TLS.STARTTLS),
    Listener("postfix-data-starttls", "postfix", 3611, chunking=False, tls=TLS.STARTTLS),
    Listener("postfix-smtps", "postfix", 3631, tls=TLS.IMPLICIT),
    Listener("exim-starttls", "exim", 3602, tls=TLS.STARTTLS),
    Listener("exim-data-starttls", "exim", 3612, chunking=False, tls=TLS.STARTTLS),
    Listener("exim-smtps", "exim", 3632, tls=TLS.IMPLICIT),
    Listener("dovecot-starttls", "dovecot", 3604, lmtp=True, tls=TLS.STARTTLS),
    Listener("dovecot-lmtps", "dovecot", 3634, lmtp=True, tls=TLS.IMPLICIT),
)
"""Those that take mail; the ones with STARTTLS are the ones without, used differently."""

BROKEN = (
    Listener("opensmtpd-starttls", "opensmtpd", 3613, pipelining=False, chunking=False, tls=TLS.STARTTLS, broken=True),
    Listener("opensmtpd-smtps", "opensmtpd", 3623, pipelining=False, chunking=False, tls=TLS.IMPLICIT, broken=True),
)
"""Debian's OpenSMTPD 6.8 ends every handshake with alert 80: a peer whose TLS is not to be mended from here."""

LOGINS = (
    Listener("login", "postfix", 3651),
    Listener("login-plain", "postfix", 3652),
    Listener("login-login", "postfix", 3653),
    Listener("login-cram", "postfix", 3654),
    Listener("login-scram", "postfix", 3655),
    Listener("login-xoauth2", "postfix", 3656),
    Listener("login-oauthbearer", "postfix", 3657),
    Listener("login-others", "postfix", 3658),
    Listener("login-tls", "postfix", 3661),
)
"""Those that take mail only after a login, which Dovecot judges: it must run as well. The first offers all mechanisms,
the last does so after STARTTLS; ``login-others`` has none that is known here."""


@dataclass(frozen=True, slots=True)
class Program:
    """A server program: how it is set up and run. All paths are below its root directory.

    ``files`` pairs a file of ``conf/`` with the place it is copied to; ``mailboxes`` is the file that lists the
    recipients and the form of its lines; ``state`` are directories whose content no start may inherit from the one
    before; ``opened`` and ``closed`` are patterns of the lines it logs once for each connection; ``log`` is its log
    file if it does not log to standard output. ``rsa`` tells that it takes no other keys.
    """

    name: str
    command: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    mailboxes: tuple[str, str]
    state: tuple[str, ...]
    opened: str
    closed: str
    log: str | None = None
    certificate_owner: int = 0  # its number in install.sh
    rsa: bool = False


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "postfix",
            ("/usr/sbin/postfix", "start-fg"),
            (("main.cf", "etc/postfix/main.cf"), ("master.cf", "etc/postfix/master.cf")),
            ("etc/postfix/mailboxes", "{0}@interop.test {0}/\n"),
            ("var/spool/postfix", "var/lib/postfix"),
            r": connect from ",
            r": disconnect from ",
        ),
        Program(
            "exim",
            ("/usr/sbin/exim4", "-bdf", "-q1m"),
            (("exim4.conf", "etc/exim4/exim4.conf"),),
            ("etc/exim4/mailboxes", "{0}: {0}\n"),
            ("var/spool/exim4", "var/log/exim4"),
            r" SMTP connection from \S+ \(TCP/IP connection count = ",
            r" SMTP connection from .*\]:\d+ (?!\(TCP)",
            log="var/log/exim4/mainlog",
            certificate_owner=36002,
        ),
        Program(
            "opensmtpd",
            ("/usr/sbin/smtpd", "-d", "-f", "/etc/opensmtpd/smtpd.conf"),
            (("smtpd.conf", "etc/opensmtpd/smtpd.conf"),),
            ("etc/opensmtpd/mailboxes", "{0}@interop.test vmail\n"),
            ("var/spool/smtpd",),
            r" smtp connected ",
            r" smtp disconnected ",
            rsa=True,
        ),
        Program(
            "dovecot",
            ("/usr/sbin/dovecot", "-F", "-c", "/etc/dovecot/dovecot.conf"),
            (
                ("dovecot.conf", "etc/dovecot/dovecot.conf"),
                ("oauth2.conf", "etc/dovecot/oauth2.conf"),
                ("logins", "etc/dovecot/logins"),
            ),
            ("etc/dovecot/mailboxes", "{0}:{{PLAIN}}-:36007:36007::/store/dovecot/{0}\n"),
            ("run/dovecot", "var/lib/dovecot"),
            r": Connect from ",
            r": Disconnect from ",
        ),
    )
}


class Server:
    """One running server program."""

    def __init__(self, program: Program, directory: Path, authority: Authority) -> None:
        self.program = program
        self.authority = authority
        self.root = directory / "root"
        self.store = self.root / "store" / program.name
        output = directory / "log" / f"{program.name}.log"
        self.log = output if program.log is None else self.root / program.log
        self._listeners = [listener for listener in (*LISTENERS, *BROKEN) if listener.program == program.name]
        self._configure()
        output.parent.mkdir(exist_ok=True)
        output.write_bytes(b"")
        self._process = Confined(program.name, self.root, program.command, output)
        try:
            self._await_greetings()
        except BaseException:
            self.stop()
            raise

    def _configure(self) -> None:
        for listener in self._listeners:
            if listener.port is not None:
                await_free(listener.port)
        for directory in (*self.program.state, f"store/{self.program.name}"):
            _empty(self.root / directory)
        for source, target in self.program.files:
            (self.root / target).parent.mkdir(exist_ok=True)
            shutil.copyfile(_CONF / source, self.root / target)
        self.authority.issue(self.program.name, owner=self.program.certificate_owner, rsa=self.program.rsa)
        name, form = self.program.mailboxes
        (self.root / name).write_text("".join(form.format(mailbox) for mailbox in MAILBOXES))
        self.store.mkdir(exist_ok=True)
        shutil.chown(self.store, _VMAIL, _VMAIL)

    def _await_greetings(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        for listener in self._listeners:
            while not _greets(listener, self.root):
                if time.monotonic() > deadline or self._process.ended:
                    raise RuntimeError(f"{self.program.name} did not start; its log:\n{self.log_since(0)}")
                time.sleep(0.05)

    def stop(self) -> None:
        """End every process of this server; returns when they are gone."""
        self._process.stop()

    def log_size(self) -> int:
        """Octets of log so far, to be given to :meth:`log_since`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_since(self, position: int) -> str:
        """What the server logged after ``position``."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(position)
            return file.read().decode("utf-8", "replace")

    def await_log(self, position: int, pattern: str, *, count: int = 1) -> list[re.Match[str]]:
        """Wait until the log after ``position`` has ``count`` matches; returns all there are. Raises TimeoutError."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            text = self.log_since(position)
            matches = list(re.finditer(pattern, text, re.MULTILINE))
            if len(matches) >= count:
                return matches
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(matches)} of {count} times {pattern!r} in the log of {self.program.name}:\n{text}"
                )
            time.sleep(0.02)

    def await_rest(self) -> None:
        """Wait until the log shows the end of every connection: its lines come late. Raises TimeoutError."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            text = self.log_since(0)
            opened, closed = (len(re.findall(form, text)) for form in (self.program.opened, self.program.closed))
            if len(self._listeners) <= opened == closed:  # each was greeted once at the start
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.program.name} has logged {opened} connections and the end of {closed}")
            time.sleep(0.02)

    def connections_since(self, position: int) -> int:
        """How many connections the server logged after ``position``."""
        return len(re.findall(self.program.opened, self.log_since(position)))

    def await_stored(self, count: int) -> None:
        """Wait until the mailboxes hold ``count`` messages (servers answer before they store). Raises TimeoutError."""
        deadline = time.monotonic() + _PATIENCE
        while self.count() < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.program.name} has stored {self.count()} of {count} messages")
            time.sleep(0.02)

    def stored(self, mailbox: str) -> list[bytes]:
        """The messages in a mailbox, as the server keeps them: LF line ends, trace headers on top."""
        return [path.read_bytes() for path in sorted(self.store.glob(f"{mailbox}/new/*"))]

    def count(self) -> int:
        """How many messages lie in all mailboxes together."""
        return sum(1 for _ in self.store.glob("*/new/*"))

    def clear(self) -> None:
        """Remove all stored messages."""
        for path in self.store.glob("*/new/*"):
            path.unlink()


class Farm:
    """The servers of one directory, each started when first asked for. One process at a time may hold a directory."""

    def __init__(self, directory: Path) -> None:
        if not (directory / "edition").is_file():
            raise RuntimeError(f"no mail servers in {directory}: run tests/interop/install.sh first")
        self.directory = directory
        self._servers: dict[str, Server] = {}
        self._lock = (directory / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RuntimeError(f"{directory} is in use by another run") from None
        self.authority = Authority(directory / "root" / "etc" / "interop-pki")

    def server(self, program: str) -> Server:
        """The running server program of that name (a key of ``PROGRAMS``)."""
        if program not in self._servers:
            self._servers[program] = Server(PROGRAMS[program], self.directory, self.authority)
        return self._servers[program]

    def stop(self) -> None:
        """Stop them all and let go of the directory."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()
        self._lock.close()


@contextlib.contextmanager
def running_farm() -> Iterator[Farm]:
    """The farm below ``$ZSMTP_INTEROP_DIR`` (else ``~/.cache/zsmtp-interop``), stopped at the end."""
    directory = os.environ.get("ZSMTP_INTEROP_DIR") or "~/.cache/zsmtp-interop"
    farm = Farm(Path(directory).expanduser().resolve())
    try:
        yield farm
    finally:
        farm.stop()


def _connect(listener: Listener, root: Path) -> socket.socket:
    if listener.port is not None:
        return socket.create_connection(("127.0.0.1", listener.port), timeout=5)
    assert listener.path is not None
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    try:
        connection.connect(str(root / listener.path))
    except BaseException:
        connection.close()
        raise
    return connection


def _greets(listener: Listener, root: Path) -> bool:
    try:
        with _connect(listener, root) as connection:
            if listener.tls is TLS.IMPLICIT:
                with _unverified().wrap_socket(connection) as secured:
                    return _talks(secured)
            return _talks(connection)
    except ssl.SSLError:
        return listener.broken
    except OSError:
        return False


def _talks(connection: socket.socket) -> bool:
    greeting = connection.recv(4096)
    connection.sendall(b"QUIT\r\n")
    while connection.recv(4096):
        pass
    return greeting.startswith(b"220 ")


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def await_free(port: int) -> None:
    """Wait until nothing listens on a port: the servers of a killed run need a moment to go."""
    deadline = time.monotonic() + _STOP_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"something else listens on port {port} of 127.0.0.1")
        time.sleep(0.1)


def _empty(directory: Path) -> None:
    """Remove what is in a directory; the directory itself keeps its owner and mode."""
    if not directory.is_dir():
        return
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def main() -> None:
    """Run servers by hand."""
    with running_farm() as farm:
        for name in sys.argv[1:] or PROGRAMS:
            server = farm.server(name)
            for listener in (*LISTENERS, *BROKEN, *LOGINS):
                if listener.program == name:
                    place = (
                        f"127.0.0.1:{listener.port}" if listener.port else f"UNIX:{server.root / (listener.path or '')}"
                    )
                    kind = "LMTP" if listener.lmtp else "SMTP"
                    print(f"{listener.name:22} {kind} {place} TLS: {listener.tls.value}", flush=True)
            print(f"{'':22} mail in {server.store}, log {server.log}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()


if __name__ == "__main__":
    main()
