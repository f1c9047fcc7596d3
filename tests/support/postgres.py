"""A PostgreSQL of the tests' own: a cluster in a temporary folder, reached by its UNIX socket.

The server's programs are those of the system (Debian: ``postgresql-15``); they refuse to run as root, so root starts
them as another user. One cluster serves a process of tests and ends with it, even if it is killed; each test has a
database, which is a copy of one that the queue's tables were made in::

    url = cluster().database()
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from tests.support.patience import wait_until

from zsmtp.queue.postgres.schema import migrate

_PLACES = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt/postgresql")
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "autovacuum_naptime": "5s",
    "TimeZone": "UTC",
}
_IN_MEMORY = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",  # its workers would visit the databases of all earlier tests
}
_ENDS_WITH_ITS_MAKER = """
read -r _  # which comes to nothing when whoever made the cluster has ended
server=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$server"
tries=0
while [ -e "$1/data/postmaster.pid" ] && [ $tries -lt 600 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
rm -rf "$1"
"""


def programs() -> Path | None:
    """The folder with the server's programs, of the latest release that is there; None if there is none."""
    found = [path.parent for place in _PLACES for path in Path(place).glob("**/bin/initdb")]
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path).resolve().parent)
    return max(found, key=lambda path: [int(part) for part in path.parts if part.isdecimal()], default=None)


def installed() -> bool:
    """Whether the server's programs are there."""
    return programs() is not None


needs_postgres = pytest.mark.skipif(not installed(), reason="the programs of a PostgreSQL server are not installed")


class Cluster:
    """A server. ``durable``: what it commits is on the disk then, and tables are vacuumed, as by PostgreSQL's defaults.

    ``standby_of`` makes it a standby of another one, which from then on commits nothing that the standby has not.
    """

    def __init__(self, *, durable: bool = False, standby_of: Cluster | None = None) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self.folder = Path(tempfile.mkdtemp(prefix="zsmtp-pg-"))
        self._settings = _SETTINGS | ({} if durable else _IN_MEMORY)
        self._user = _unprivileged() if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        self.folder.chmod(0o755)
        self._names = itertools.count(1)
        self._template = ""
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _ENDS_WITH_ITS_MAKER, "sh", str(self.folder)],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if standby_of is None:
            self._run("initdb", "-D", self._data, "-U", "zsmtp", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        else:
            primary = str(standby_of.folder)
            self._run("pg_basebackup", "-D", self._data, "-h", primary, "-U", "zsmtp", "-R", "-c", "fast", "--no-sync")
        self._server: subprocess.Popen[bytes] | None = None
        self.start()
        if standby_of is not None:
            with psycopg.connect(standby_of.url("postgres"), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                connection.execute("SELECT pg_reload_conf()")
                asked = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
                wait_until(lambda: connection.execute(asked).fetchone(), lambda: (self.folder / "log").read_text())

    def promote(self) -> None:
        """Let a standby be the primary."""
        self._run("pg_ctl", "promote", "-w", "-D", self._data)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, user=self._user, extra_groups=self._groups, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    @property
    def _groups(self) -> list[int] | None:
        return None if self._user is None else []

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [f"{name}={value}" for name, value in self._settings.items()]
        settings.append(f"unix_socket_directories={self.folder}")
        options = [part for setting in settings for part in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", self._data, *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                extra_groups=self._groups,
                start_new_session=True,
            )
        wait_until(self._answers, lambda: (self.folder / "log").read_text())

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.folder / "log").read_text()
        try:
            with psycopg.connect(self.url("postgres"), connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    @property
    def pid(self) -> int:
        """The first process of the server."""
        assert self._server is not None
        return self._server.pid

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is ``-m fast``, SIGQUIT is ``-m immediate``."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(60)
            self._server = None

    def crash(self) -> None:
        """Let it die as with its machine, and start it anew."""
        self.stop(signal.SIGQUIT)
        self.start()

    def remove(self) -> None:
        """Stop it, and remove all it had."""
        self.stop(signal.SIGQUIT)
        self._keeper.communicate()

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql:///{database}?host={quote(str(self.folder), safe='')}&user=zsmtp"

    def database(self, *, template: bool = True) -> str:
        """The URL of a new database; with the queue's tables, unless they are to be made by the test."""
        if template and not self._template:
            self._template = "zsmtp_template"
            self._create(self._template, "template1")
            with psycopg.connect(self.url(self._template)) as connection:
                migrate(connection)
        name = f"test_{next(self._names)}"
        self._create(name, self._template if template else "template1")
        return self.url(name)

    def make(self, name: str) -> None:
        """Make an empty database."""
        self._create(name, "template1")

    def _create(self, name: str, template: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            # The default since PostgreSQL 15 writes each page to the log, which takes twice the processor time.
            how = "STRATEGY FILE_COPY" if connection.info.server_version >= 150000 else ""
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {how}")


def _unprivileged() -> int:
    """A user that is not root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise AssertionError("there is no user that the server could run as")


@functools.cache
def cluster() -> Cluster:
    """The cluster of this process of tests."""
    made = Cluster()
    process = os.getpid()
    atexit.register(lambda: made.remove() if os.getpid() == process else None)
    return made
