"""``zsmtp serve`` with a shared folder for large bodies, which goes and comes back, and nodes that are killed."""

from __future__ import annotations

import signal
import smtplib
from pathlib import Path

import psycopg
import pytest
from tests.support.postgres import cluster, needs_postgres
from tests.support.serveprocess import ServeProcess
from tests.support.serving import serving

from zsmtp.cli.main import main
from zsmtp.queue.postgres.folder import MARKER
from zsmtp.server.intake import MemoryIntake

pytestmark = needs_postgres

LARGE = b"From: a@example.org\r\nSubject: large\r\n\r\n" + b"0123456789abcde\r\n" * (400 << 10)


def send(serve: ServeProcess, recipient: str, content: bytes, *options: str) -> int:
    """Send a message; the code of the last reply."""
    with serve.client() as client:
        try:
            client.sendmail("a@example.org", [recipient], content, options)
        except smtplib.SMTPDataError as error:
            return error.smtp_code
        return 250


def test_mail_flows_while_the_folder_goes_and_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, folder = cluster().database(), tmp_path / "bodies"
    folder.mkdir()
    queue = f"--queue={url}"
    assert main(["queue", "migrate", queue, "--bodies", str(folder)]) == 0
    with serving(MemoryIntake()) as receiver:

        def received(number: int) -> bool:
            return len(receiver.intake.messages) == number

        delivery = f'[delivery]\nrelay = "smtp://127.0.0.1:{receiver.port}"\n'
        with ServeProcess(tmp_path, delivery, url=url) as serve:
            assert send(serve, "first@example.net", LARGE) == 250
            receiver.wait_until(lambda: received(1))
            (message,) = receiver.intake.messages
            assert message.content.endswith(LARGE[-LARGE.index(b"\r\n\r\n") :])
            assert send(serve, "second@example.net", LARGE, "HOLDFOR=3600") == 250
            folder.rename(tmp_path / "away")
            assert main(["queue", "now", queue, "--all", "--yes"]) == 0
            serve.wait_for(f"{folder}, cannot be used on this machine")
            assert send(serve, "third@example.net", LARGE) == 451
            assert send(serve, "small@example.net", b"Subject: small\r\n\r\nhello\r\n") == 250
            receiver.wait_until(lambda: received(2))
            capsys.readouterr()
            assert main(["queue", "check", queue]) == 1
            assert str(folder) in capsys.readouterr().out
            (tmp_path / "away").rename(folder)
            assert main(["queue", "now", queue, "--all", "--yes"]) == 0
            receiver.wait_until(lambda: received(3))
            assert serve.end() == 0
    assert main(["queue", "check", queue]) == 0


def test_kill_9_during_uploads_leaves_no_half_message(tmp_path: Path) -> None:
    url, folder = cluster().database(), tmp_path / "bodies"
    folder.mkdir()
    queue = f"--queue={url}"
    assert main(["queue", "migrate", queue, "--bodies", str(folder), "--bodies-above", "1M"]) == 0
    config = '[delivery]\nrelay = "smtp://127.0.0.1:1"\n'
    for _ in range(3):
        with ServeProcess(tmp_path, config, queue='deliver = "none"', url=url) as serve:
            assert send(serve, "whole@example.net", LARGE) == 250
            known = set(folder.iterdir())
            with serve.client() as client:
                client.mail("a@example.org")
                client.rcpt("half@example.net")
                client.docmd("DATA")
                client.send(LARGE[: 5 << 20])
                serve.wait_until(lambda: set(folder.iterdir()) - known)  # noqa: B023
                assert serve.end(signal.SIGKILL) == -signal.SIGKILL
                client.close()
    assert main(["queue", "check", queue]) == 0
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT address FROM zsmtp_recipient").fetchall()
        assert rows == [("whole@example.net",)] * 3
        uploads = connection.execute("SELECT count(*) FROM zsmtp_upload").fetchone()
    assert uploads == (3,)
    assert len([path for path in folder.iterdir() if path.name != MARKER]) == 6
