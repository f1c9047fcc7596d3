"""The client of programs without an event loop: the same deliveries, connections kept, in any thread."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.support.patience import wait_until
from tests.support.receiver import receiving

import zsmtp
from zsmtp.errors import ConfigError, LocalError

NOTE = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: x\r\n\r\nhello\r\n"


def to(recipient: str) -> zsmtp.Submission:
    return zsmtp.Submission(message=NOTE, recipients=[recipient])


def test_deliveries_share_a_connection() -> None:
    with receiving() as receiver:
        with zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}") as client:
            assert client.deliver(NOTE).ok
            report = client.deliver(NOTE, recipients=["c@example.net", "d@example.net"], name="<1@example.org>")
        assert [(one.recipient, one.message) for one in report] == [
            ("c@example.net", "<1@example.org>"),
            ("d@example.net", "<1@example.org>"),
        ]
        assert receiver.connections[receiver.port] == 1


@pytest.mark.parametrize("number", [0, 1, 40, 1500])
def test_a_stream_has_a_result_for_each_recipient(number: int) -> None:
    """More of them than are asked for in one go, and than may wait."""
    with receiving() as receiver, zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}") as client:
        results = list(client.stream(to(f"r{one}@example.net") for one in range(number)))
        assert {one.recipient for one in results} == {f"r{one}@example.net" for one in range(number)}
        assert len(results) == number
        assert {one.fate for one in results} <= {zsmtp.Fate.DELIVERED}


def test_submissions_are_taken_in_the_thread_of_the_program() -> None:
    threads = set()

    def submissions() -> Iterator[zsmtp.Submission]:
        for one in range(50):
            threads.add(threading.current_thread())
            yield to(f"r{one}@example.net")

    with receiving() as receiver, zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}") as client:
        assert len(list(client.stream(submissions()))) == 50
    assert threads == {threading.current_thread()}


def test_what_the_submissions_raise_comes_behind_the_results() -> None:
    def submissions() -> Iterator[zsmtp.Submission]:
        yield to("b@example.net")
        raise ValueError("no more")

    results = []
    with receiving() as receiver, zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}") as client:
        with pytest.raises(ValueError, match="no more"):
            results.extend(client.stream(submissions()))  # keeps what came before
        results += client.stream([to("c@example.net")])
    assert [(one.recipient, one.fate) for one in results] == [
        ("b@example.net", zsmtp.Fate.DELIVERED),
        ("c@example.net", zsmtp.Fate.DELIVERED),
    ]


def test_one_that_cannot_be_sent_fails_alone() -> None:
    with receiving() as receiver, zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}") as client:
        results = list(client.stream([None, NOTE, 17]))  # type: ignore[list-item]
    assert sorted(one.fate.value for one in results) == ["delivered", "failed", "failed"]


def test_leaving_a_stream_ends_what_is_on_its_way() -> None:
    with receiving(delay=0.01) as receiver, zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}") as client:
        taken = 0

        def submissions() -> Iterator[zsmtp.Submission]:
            nonlocal taken
            while True:
                taken += 1
                yield to(f"r{taken}@example.net")

        for _ in client.stream(submissions()):
            break
        before = taken
        assert client.deliver(NOTE).ok, "the client goes on"
        assert taken == before


def test_threads_deliver_side_by_side() -> None:
    reports = []
    with receiving(delay=0.05) as receiver, zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}") as client:
        threads = [threading.Thread(target=lambda: reports.append(client.deliver(NOTE))) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [report.ok for report in reports] == [True] * 10


def test_a_closed_client_says_so() -> None:
    client = zsmtp.Client(relay="smtp://127.0.0.1:9")
    client.close()
    client.close()
    with pytest.raises(LocalError, match="this client is closed"):
        client.deliver(NOTE)
    with pytest.raises(LocalError, match="this client is closed"):
        list(client.stream([NOTE]))
    assert not [thread for thread in threading.enumerate() if thread.name == "zsmtp client"]


def test_a_stream_whose_client_is_closed_ends() -> None:
    """By another thread, while submissions still come: each that was taken has a result, then it is said."""
    with receiving(delay=0.02) as receiver:
        client = zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}")
        closing = threading.Thread(target=client.close)

        def submissions() -> Iterator[zsmtp.Submission]:
            number = 0
            while True:
                number += 1
                if number == 20:
                    closing.start()
                yield to(f"r{number}@example.net")

        with pytest.raises(LocalError, match="closed"):
            for _ in client.stream(submissions()):
                pass
        closing.join(60)


def test_after_a_fork_it_is_refused() -> None:
    with zsmtp.Client(relay="smtp://127.0.0.1:9") as client:
        child = os.fork()
        if child == 0:
            try:
                client.deliver(NOTE)
            except LocalError as error:
                os._exit(0 if "before a fork" in str(error) else 2)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_ctrl_c_ends_a_stream() -> None:
    """The receiver never answers; the program is over at once all the same."""
    script = (
        "import signal, sys, zsmtp\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with zsmtp.Client(relay=sys.argv[1]) as client:\n"
        "    print('begun', flush=True)\n"
        "    for result in client.stream([b'From: a@example.org\\nTo: b@example.net\\n\\nx\\n']):\n"
        "        print(result)\n"
    )
    with receiving(delay=3600) as receiver:
        process = subprocess.Popen(
            [sys.executable, "-c", script, f"smtp://127.0.0.1:{receiver.port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: receiver.connections[receiver.port] or process.poll() is not None)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_it_works_where_a_loop_runs_already() -> None:
    async def notebook() -> bool:
        with receiving() as receiver, zsmtp.Client(relay=f"smtp://127.0.0.1:{receiver.port}") as client:
            return client.deliver(NOTE).ok

    assert asyncio.run(notebook())


def test_a_configuration_that_cannot_be_used_is_named() -> None:
    with pytest.raises(ConfigError, match="relay"):
        zsmtp.Client(relay="http://example.org")
