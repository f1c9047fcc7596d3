"""The queue under SIGKILL: a real service that is killed again and again, and worlds with 2,000 deaths in virtual time.

The receiver's ledger is held against the queue's own: every message that got 250 came, and second copies are there only
where the queue says that an attempt was in doubt.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import smtplib
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.queue.test_runner import test_worlds_in_which_nodes_die as world_in_which_nodes_die
from tests.queue.test_runner import test_worlds_without_deaths as world_without_deaths
from tests.support.serveprocess import ServeProcess
from tests.support.serving import Serving, serving

from zsmtp.server.intake import MemoryIntake

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

KILLS = 15


def taken(server: Serving) -> Counter[str]:
    """How many copies of each message the receiver has, by subject."""
    found = server.call(lambda: [bytes(one.content) for one in server.intake.messages])
    return Counter(match[1].decode() for one in found if (match := re.search(rb"Subject: (\S+)", one)))


def left(queue: Path) -> int:
    """How many recipients have no end."""
    with contextlib.closing(sqlite3.connect(queue)) as database:
        (count,) = database.execute("SELECT count(*) FROM zsmtp_recipient").fetchone()
        return int(count)


def test_a_service_that_is_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(12)
    confirmed: set[str] = set()
    over = threading.Event()

    def submit(serve: ServeProcess, thread: int) -> None:
        number = 0
        while not over.is_set():
            try:
                with serve.client() as client:
                    while not over.is_set():
                        number += 1
                        text = f"Subject: {thread}-{number}\r\n\r\nhello\r\n"
                        client.sendmail("a@example.org", ["b@example.net"], text)
                        confirmed.add(f"{thread}-{number}")
            except (OSError, smtplib.SMTPException):
                time.sleep(0.05)

    with serving(MemoryIntake()) as receiver:
        config = f'[delivery]\nrelay = "smtp://127.0.0.1:{receiver.port}"\n[queue.retry.schedules]\nin-doubt = "1s"\n'
        with ServeProcess(tmp_path, config) as serve:
            threads = [threading.Thread(target=submit, args=(serve, number)) for number in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(KILLS):
                if chance.random() < 0.3:
                    time.sleep(chance.random())  # perhaps while it starts
                else:
                    wanted = len(confirmed) + chance.randint(1, 40)
                    serve.wait_until(lambda wanted=wanted: len(confirmed) >= wanted)
                assert serve.end(signal.SIGKILL) == -signal.SIGKILL
                serve.start()
            before = len(confirmed)
            serve.wait_until(lambda: len(confirmed) > before)  # it serves again
            over.set()
            for thread in threads:
                thread.join(60)
            serve.wait_until(lambda: confirmed <= taken(receiver).keys())
            serve.wait_until(lambda: left(tmp_path / "queue.db") == 0)
            assert serve.end() == 0
            counters = serve.counters()
        copies = taken(receiver)
    assert len(confirmed) > KILLS
    assert counters["delivered"] == counters["accepted"] >= len(confirmed)
    assert sum(copies.values()) - len(copies) <= counters.get("doubtful", 0)


@pytest.mark.parametrize("seed", range(1000, 1080))
def test_worlds_with_2000_deaths(seed: int) -> None:
    world_in_which_nodes_die(seed)


@pytest.mark.parametrize("seed", range(1000, 1020))
def test_worlds_without_deaths(seed: int) -> None:
    world_without_deaths(seed)
