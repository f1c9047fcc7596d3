"""The programs for web frameworks in the documentation: each in a process of its own, asked as its users ask it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.newcomer import Newcomer
from tests.support.script import Script, Step
from tests.support.sink import Sink

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(program: str, folder: Path, **environment: str) -> str:
    """What a program prints that can import the examples."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=Newcomer(folder).environment | {"PYTHONPATH": str(EXAMPLES)} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_flask_puts_mail_into_the_queue(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    program = """
from flask_shop import app
import zsmtp
client = app.test_client()
first = client.post("/orders/7", data={"address": "bob@example.net"})
again = client.post("/orders/7", data={"address": "bob@example.net"})
bad = client.post("/orders/8", data={"address": "nobody"})
print(first.status_code, first.json == again.json, bad.status_code)
with zsmtp.Queue.open("mail.db") as queue:
    print([row.recipient.address.decode() for row in queue.status(first.json["mail"]).waiting])
"""
    assert run(program, tmp_path, MAIL_QUEUE="mail.db") == "200 True 400\n['bob@example.net']\n"


def test_fastapi_delivers_beside_its_requests(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    program = """
import time
from fastapi.testclient import TestClient
from fastapi_shop import app
with TestClient(app) as client:
    answer = client.post("/orders/7?address=bob@example.net")
    while not (ends := client.get(f"/mail/{answer.json()['mail']}").json()):
        time.sleep(0.01)
    print(answer.status_code, ends, client.post("/orders/8?address=nobody").status_code)
"""
    with Sink() as sink:
        relay = f"smtp://127.0.0.1:{sink.port}"
        out = run(program, tmp_path, MAIL_QUEUE="mail.db", MAIL_RELAY=relay)
    assert out == "200 {'bob@example.net': 'delivered'} 400\n"
    assert sink.deliveries() == {b"bob@example.net": 1}


def test_celery_tries_the_deferred_again_and_nobody_else(tmp_path: Path) -> None:
    pytest.importorskip("celery")
    program = r"""
from celery_shop import app, send
app.conf.task_always_eager = True
letter = "From: shop@example.org\nTo: x@example.net\n\nhello\n"
print(send.delay(letter, ["ann@example.net", "bob@example.net", "cy@example.net"]).get())
"""
    # ann is taken, bob is to come again, cy is refused; then bob is taken
    answers = (Step("250 ok"), Step("451 4.3.0 later"), Step("550 5.1.1 nobody"), Step("250 ok"))
    with Sink(Script(replies={"RCPT": answers}), Script()) as sink:
        relay = f"smtp://127.0.0.1:{sink.port}"
        out = run(program, tmp_path, MAIL_RELAY=relay, BROKER="memory://")
        sink.wait_until_finished(2)
    assert out == "None\n"
    assert sink.deliveries() == {b"ann@example.net": 1, b"bob@example.net": 1}
    asked = [line for connection in sink.connections for line in connection.lines if line.startswith(b"RCPT")]
    assert [line.partition(b"<")[2].partition(b"@")[0] for line in asked] == [b"ann", b"bob", b"cy", b"bob"]
