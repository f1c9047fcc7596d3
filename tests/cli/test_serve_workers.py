"""``zsmtp serve --workers``: processes that deliver, which die with the service, or alone, and lose nothing."""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.patience import LIMIT, wait_until
from tests.support.postgres import cluster, needs_postgres
from tests.support.serveprocess import ServeProcess
from tests.support.serving import Committing, Serving, serving

from zsmtp.cli.main import main
from zsmtp.cli.sysexits import Exit
from zsmtp.queue.location import locate
from zsmtp.queue.stores import open_store
from zsmtp.server.intake import MemoryIntake

AGAIN = '[queue.retry.schedules]\nin-doubt = "1s"\n'


@pytest.fixture
def receiver() -> Iterator[Serving]:
    with serving(MemoryIntake()) as server:
        yield server


class ServeWorkers(ServeProcess):
    """The service with two workers, with mail to a receiver; in a database if there is a ``url``."""

    def __init__(self, folder: Path, server: Serving, config: str = "", *, url: str = "") -> None:
        super().__init__(folder, f'[delivery]\nrelay = "smtp://127.0.0.1:{server.port}"\n{config}', url=url)

    def write(self, config: str, first: str = "workers = 2", queue: str = "") -> None:
        super().write(config, first, queue)

    @property
    def workers(self) -> list[int]:
        """The processes of the workers, by the log."""
        last = re.findall(r"2 workers deliver: processes (\d+), (\d+)", self.logged)[-1]
        return [int(pid) for pid in last]

    def ask(self, path: str) -> tuple[int, str]:
        """Ask for health or metrics at a socket in the folder."""
        connection = http.client.HTTPConnection("localhost", timeout=LIMIT)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(LIMIT)
        connection.sock.connect(str(self.folder / "health"))
        connection.request("GET", path)
        answer = connection.getresponse()
        status, text = answer.status, answer.read().decode()
        connection.close()
        return status, text

    @property
    def metrics(self) -> dict[str, int]:
        """The metrics now."""
        text = self.ask("/metrics")[1]
        return {name: int(float(value)) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def copies(server: Serving) -> Counter[bytes]:
    """How often a receiver has a message, by recipient."""
    return server.call(lambda: Counter(one.envelope.recipients[0].address for one in server.intake.messages))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def send_many(serve: ServeProcess, count: int) -> None:
    """Send messages to as many recipients, over some connections at a time."""

    def send(first: int) -> None:
        with serve.client() as client:
            for number in range(first, count, 4):
                client.sendmail("a@example.org", [f"r{number}@example.net"], "Subject: x\r\n\r\nhello\r\n")

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)


def test_workers_are_shown_and_end_with_the_service(tmp_path: Path, receiver: Serving) -> None:
    with ServeWorkers(tmp_path, receiver, f'[health]\naddress = "{tmp_path}/health"\n') as serve:
        workers = serve.workers
        assert workers == children(serve.process.pid)
        title = Path(f"/proc/{workers[0]}/cmdline").read_bytes()
        assert title.startswith(b"zsmtp serve: worker 1")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # as a service manager sends them to all
            os.kill(workers[0], number)
        send_many(serve, 20)
        serve.wait_until(lambda: serve.metrics.get("zsmtp_queue_delivered_total") == 20)
        assert serve.ask("/health") == (200, "ok\n")
        assert (serve.metrics["zsmtp_workers"], serve.metrics["zsmtp_worker_restarts_total"]) == (2, 0)
        assert serve.workers == workers
        assert serve.end() == 0
        assert not any(map(alive, workers))
        assert "Traceback" not in serve.logged
        assert " error " not in serve.logged
        assert " warning " not in serve.logged


def test_health_says_that_a_worker_is_gone_until_it_runs_again(tmp_path: Path, receiver: Serving) -> None:
    with ServeWorkers(tmp_path, receiver, f'[health]\naddress = "{tmp_path}/health"\n') as serve:
        os.kill(serve.workers[0], signal.SIGKILL)
        serve.wait_for("worker 1 does not run: it was killed by SIGKILL; it is started again after 1 s")
        seen: list[str] = []

        def well_again() -> bool:
            status, text = serve.ask("/health")
            seen.append(text)
            return status == 200 and serve.metrics["zsmtp_worker_restarts_total"] == 1

        serve.wait_until(well_again)
        assert serve.metrics["zsmtp_workers"] == 2
        assert set(seen) <= {"ok\n", "worker 1 does not run: it was killed by SIGKILL\n"}
        assert serve.end() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_whatever_ends_the_service_its_workers_end(tmp_path: Path, number: int) -> None:
    """They have sessions under way, in which a message is complete and not answered."""
    intake = Committing()
    with serving(intake) as server, ServeWorkers(tmp_path, server, AGAIN) as serve:
        workers = serve.workers
        serve.send("first")
        server.wait_until(lambda: intake.waiting)
        serve.process.send_signal(number)
        if number == signal.SIGTERM:
            serve.wait_for("stopping (SIGTERM)")
            assert all(map(alive, workers)), "what is under way is brought to its end"
        server.call(intake.answer)
        assert serve.process.wait(LIMIT) == (0 if number == signal.SIGTERM else -number)
        wait_until(lambda: not any(map(alive, workers)))
        delivered = serve.counters().get("delivered", 0)
        assert delivered == (1 if number == signal.SIGTERM else 0)
        if number == signal.SIGKILL:
            serve.start()
            server.wait_until(lambda: len(intake.waiting) == 2)  # it was in doubt, and is sent again
            server.call(intake.answer)
            serve.wait_for("b@example.net> delivered")
            assert serve.end() == 0
            counters = serve.counters()
            assert (counters["doubtful"], counters["delivered"], counters["repeated"]) == (1, 1, 1)


@pytest.mark.seeds
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgres", marks=needs_postgres)])
def test_kill_9_of_workers_at_any_time_loses_nothing(tmp_path: Path, receiver: Serving, store: str) -> None:
    """The ledger of the receiver against the queue's: what came twice was in doubt."""
    chance = random.Random(store)
    url = cluster().database() if store == "postgres" else ""
    count = 200
    with ServeWorkers(tmp_path, receiver, AGAIN, url=url) as serve:
        sending = threading.Thread(target=send_many, args=(serve, count))
        sending.start()
        for kills in range(3):
            reached = (kills * count) // 4 + chance.randrange(count // 8)
            serve.wait_until(lambda: len(copies(receiver)) >= reached)  # noqa: B023
            serve.wait_until(lambda: children(serve.process.pid))
            os.kill(chance.choice(children(serve.process.pid)), signal.SIGKILL)
            serve.wait_for("does not run: it was killed by SIGKILL", kills + 1)
        sending.join(LIMIT)
        serve.wait_until(lambda: serve.logged.count("> delivered") == count)
        assert serve.end() == 0
        doubts = Counter(re.findall(r"to <(r\d+@example.net)> in doubt", serve.logged))
        found = copies(receiver)
        assert len(found) == count
        assert all(times <= 1 + doubts[one.decode()] for one, times in found.items())
        assert "> deferred" not in serve.logged

    async def check() -> tuple[dict[str, int], list[str]]:
        opened = await open_store(locate(url or str(tmp_path / "queue.db")))
        try:
            return dict(await opened.counters()), [str(one) async for one in opened.check()]
        finally:
            await opened.close()

    counters, problems = asyncio.run(check())
    assert (counters["accepted"], counters["delivered"], problems) == (count, count, [])
    assert counters.get("doubtful", 0) == sum(doubts.values())


def test_reload_reaches_workers_and_their_number_takes_a_restart(tmp_path: Path, receiver: Serving) -> None:
    with serving(MemoryIntake()) as other, ServeWorkers(tmp_path, receiver) as serve:
        workers = serve.workers
        serve.send("first", "b@example.net")
        receiver.wait_until(lambda: receiver.intake.messages)
        serve.write(
            f'[delivery]\nrelay = "smtp://127.0.0.1:{receiver.port}"\n'
            f'[delivery.routes]\n"example.com" = "smtp://127.0.0.1:{other.port}"\n',
            first="workers = 3",
        )
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for("info reloaded")
        assert "reload: workers changed, which takes a restart" in serve.logged
        serve.send("second", "b@example.com")
        other.wait_until(lambda: other.intake.messages)
        assert serve.end() == 0
        assert serve.logged.count("workers deliver") == 1
        assert not any(map(alive, workers))


def test_the_option_counts_more_than_the_configuration(
    tmp_path: Path, receiver: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = ServeWorkers(tmp_path, receiver)
    assert main(["serve", "--check", "--config", str(serve.file)]) == 0
    assert capsys.readouterr().out.endswith("  workers: 2\n")
    assert main(["serve", "--check", "--config", str(serve.file), "--workers", "3"]) == 0
    assert capsys.readouterr().out.endswith("  workers: 3\n")
    assert main(["serve", "--check", "--config", str(serve.file), "--workers", "0"]) == 0
    assert "workers" not in capsys.readouterr().out
    for wrong in ("65", "-1", "two", "1.5", ""):
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--check", f"--workers={wrong}"])
        assert ended.value.code == Exit.USAGE
        assert f"{wrong} is not 0 to 64" in capsys.readouterr().err
    serve.write("", first="workers = 65")
    assert main(["serve", "--check", "--config", str(serve.file)]) == Exit.CONFIG
    assert "workers: 65 is not 0 to 64" in capsys.readouterr().err
