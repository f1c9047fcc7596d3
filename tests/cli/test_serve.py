"""``zsmtp serve`` as a process: what it accepts it delivers, whatever ends it in between."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.queue import reports
from tests.support.patience import LIMIT
from tests.support.serveprocess import NotifySocket, ServeProcess, free_port
from tests.support.serving import Committing, Serving, serving

from zsmtp.cli.main import main
from zsmtp.cli.sysexits import Exit
from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.reply import Reply
from zsmtp.proto.server_passwords import parse_passwords
from zsmtp.proto.server_replies import OK, make_reply
from zsmtp.server.intake import MemoryIntake, ReceivedEnvelope, SessionInfo

HAND_OVER = """
import os, sys
if sys.argv[1] != "3":
    os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def receiver() -> Iterator[Serving]:
    with serving(MemoryIntake()) as server:
        yield server


def through(server: Serving) -> str:
    """The configuration of a service that delivers to a receiver."""
    return f'[delivery]\nrelay = "smtp://127.0.0.1:{server.port}"\n'


def subjects(server: Serving) -> list[str]:
    """The subjects of all messages a receiver has."""
    found = server.call(lambda: [bytes(one.content) for one in server.intake.messages])
    return [match[1].decode() for one in found if (match := re.search(rb"Subject: (\S+)", one))]


def envelopes(server: Serving) -> list[tuple[bytes, list[bytes]]]:
    """The envelopes of all messages a receiver has, sorted."""
    found = server.call(lambda: [one.envelope for one in server.intake.messages])
    return sorted((one.sender, [recipient.address for recipient in one.recipients]) for one in found)


def test_what_is_accepted_is_delivered_under_one_id(tmp_path: Path, receiver: Serving) -> None:
    with ServeProcess(tmp_path, through(receiver) + '[log]\nformat = "json"\n') as serve:
        serve.send("first")
        serve.wait_until(lambda: receiver.intake.messages)
        serve.wait_for('"event": "attempt"')
        assert serve.end() == 0
        lines = [json.loads(line) for line in serve.logged.splitlines()]
    accepted, attempt = (next(one for one in lines if one.get("event") == name) for name in ("accepted", "attempt"))
    assert accepted["id"] == attempt["id"]
    assert (accepted["sender"], accepted["recipients"], accepted["origin"]) == ("a@example.org", 1, "smtp 127.0.0.1")
    assert (attempt["recipient"], attempt["outcome"], attempt["attempt"]) == ("b@example.net", "delivered", 1)
    (message,) = receiver.intake.messages
    assert message.content.startswith(
        b"Received: from client.example ([127.0.0.1])\r\n\tby mail.example.org with ESMTP"
    )


def test_sigterm_waits_for_what_is_under_way(tmp_path: Path) -> None:
    """A message whose last octet is sent, and one that is being received, both come to their end."""
    intake = Committing()
    with serving(intake) as server, ServeProcess(tmp_path, through(server)) as serve:
        serve.send("first")
        server.wait_until(lambda: intake.waiting)
        late = serve.client()
        late.mail("a@example.org")
        late.rcpt("b@example.net")
        assert late.docmd("DATA")[0] == 354
        late.send(b"Subject: late\r\n\r\n")
        serve.process.send_signal(signal.SIGTERM)
        serve.wait_for("stopping (SIGTERM)")
        late.send(b"hello\r\n.\r\n")
        code, words = late.getreply()
        assert (code, b"queued as" in words) == (250, True)
        with pytest.raises((ConnectionError, smtplib.SMTPException)):
            serve.send("refused")
        server.call(lambda: intake.waiting[0].set_result(OK))
        assert serve.process.wait(LIMIT) == 0
        late.close()
        assert "stopped" in serve.logged.splitlines()[-1]
        counters = serve.counters()
        assert (counters["accepted"], counters["delivered"], counters.get("deferred", 0)) == (2, 1, 0)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """What was under way is in doubt then; what was only being received was not accepted."""
    intake = Committing()
    with serving(intake) as server, ServeProcess(tmp_path, through(server)) as serve:
        serve.send("first")
        server.wait_until(lambda: intake.waiting)
        late = serve.client()
        late.mail("a@example.org")
        serve.process.send_signal(signal.SIGTERM)
        serve.wait_for("stopping (SIGTERM)")
        assert serve.end(signal.SIGINT) == 0
        late.close()
        counters = serve.counters()
        assert (counters["accepted"], counters.get("delivered", 0)) == (1, 0)


@pytest.mark.parametrize("after", [3, 40])
def test_kill_9_loses_nothing_that_got_250(tmp_path: Path, receiver: Serving, after: int) -> None:
    confirmed: list[str] = []

    def submit(serve: ServeProcess, thread: int) -> None:
        try:
            with serve.client() as client:
                for number in range(200):
                    subject = f"{thread}-{number}"
                    client.sendmail("a@example.org", ["b@example.net"], f"Subject: {subject}\r\n\r\nhello\r\n")
                    confirmed.append(subject)
        except (OSError, smtplib.SMTPException):
            pass

    with ServeProcess(tmp_path, through(receiver) + '[queue.retry.schedules]\nin-doubt = "1s"\n') as serve:
        threads = [threading.Thread(target=submit, args=(serve, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        serve.wait_until(lambda: len(confirmed) >= after)
        assert serve.end(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join(LIMIT)
        serve.start()
        serve.wait_until(lambda: set(confirmed) <= set(subjects(receiver)))
        assert serve.end() == 0
        counters = serve.counters()
        assert counters["accepted"] >= len(confirmed)


def test_a_second_process_is_refused_and_says_by_whom(tmp_path: Path) -> None:
    with ServeProcess(tmp_path) as serve:
        second = subprocess.run(
            [sys.executable, "-m", "zsmtp.cli.main", "serve", "--config", str(serve.file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == Exit.TEMPORARY
        assert f"(process {serve.process.pid}) delivers already; one process at a time" in second.stderr
        serve.send()


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    serve = ServeProcess(tmp_path)
    with socket.create_server(("127.0.0.1", serve.port)):
        serve.begin()
        assert serve.process.wait(LIMIT) == Exit.OS
    assert (
        f"zsmtp serve: listen.local.addresses: 127.0.0.1:{serve.port}: another process listens there; stop it, or"
        in serve.logged
    )


def test_a_queue_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--queue", str(tmp_path / "missing" / "queue.db")]) == Exit.TEMPORARY
    assert str(tmp_path / "missing" / "queue.db") in capsys.readouterr().err


def test_reload(tmp_path: Path, receiver: Serving) -> None:
    """What can change changes; what cannot is named; a file that cannot be used changes nothing."""
    with ServeProcess(tmp_path, through(receiver)) as serve:
        serve.send("before")
        serve.write(
            through(receiver)
            + 'helo_name = "other.example"\n'
            + f'[listen.local]\naddresses = ["127.0.0.1:{serve.port}"]\nsenders = ["*@example.net"]\n[listen.more]\n'
        )
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for("info reloaded")
        assert "reload: delivery changed, which takes a restart" in serve.logged
        assert "reload: listen.more changed, which takes a restart" in serve.logged
        with pytest.raises(smtplib.SMTPSenderRefused):
            serve.send("other")
        serve.write("[queue.retry]\nexpires = 5\n")
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for("not reloaded, everything stays as it was")
        assert f"{serve.file}: queue.retry.expires: there is no such key; is expire meant?" in serve.logged
        with pytest.raises(smtplib.SMTPSenderRefused):
            serve.send("other")
        serve.file.unlink()
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for(f"not reloaded, everything stays as it was: {serve.file}: No such file or directory")
        assert "Traceback" not in serve.logged
        serve.write(through(receiver))
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for("info reloaded", 2)
        serve.send("after")
        serve.wait_until(lambda: len(receiver.intake.messages) == 2)
        assert serve.end() == 0


def test_a_relay_that_is_gone_and_comes_again(
    tmp_path: Path, receiver: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its mail waits without an attempt, everybody says why, and it goes when the relay is configured again."""
    where = tmp_path / "health.sock"
    health = f'[health]\naddress = "{where}"\n'
    route = f'[delivery.routes]\n"example.net" = "smtp://127.0.0.1:{receiver.port}"\n'
    gone = f"no relay 127.0.0.1:{receiver.port} is configured any more"

    def reload(serve: ServeProcess, text: str, times: int) -> None:
        serve.write(text)
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for("info reloaded", times)

    def said(*words: str) -> tuple[int, str]:
        status = main(["queue", *words, "--queue", str(tmp_path / "queue.db"), "--config", str(serve.file)])
        return status, capsys.readouterr().out

    with ServeProcess(tmp_path, health + route, queue='deliver = "none"') as serve:
        serve.send("kept")
        reload(serve, health, 1)
        serve.wait_for(f"mail to relay:127.0.0.1:{receiver.port} waits: {gone}")
        serve.wait_until(lambda: gone in said("why", "to=b@example.net")[1])
        words = " ".join(said("why", "to=b@example.net")[1].split())
        assert words.startswith(gone)
        assert f"route relay:127.0.0.1:{receiver.port}, as it was submitted or rerouted; the conf" in words
        assert said("check") == (1, f"mail to relay:127.0.0.1:{receiver.port} waits: {gone}\n")
        serve.wait_until(lambda: gone[:24] in said("top")[1])
        assert asked_at(where) == f"mail to relay:127.0.0.1:{receiver.port} waits: {gone}\n"
        assert receiver.intake.messages == []
        reload(serve, health + route, 2)
        serve.wait_until(lambda: receiver.intake.messages)
        serve.wait_until(lambda: said("check")[0] == 0)
        assert asked_at(where) == "ok\n"
        assert serve.end() == 0
        assert serve.counters()["attempts"] == 1


def asked_at(path: Path) -> str:
    """The health at a socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT)
        connection.connect(str(path))
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as answer:
            return answer.read().partition(b"\r\n\r\n")[2].decode()


class WithoutGone(MemoryIntake):
    """Knows no gone@example.com."""

    def recipient(self, session: SessionInfo, envelope: ReceivedEnvelope, recipient: EnvelopeRecipient) -> Reply | None:
        return make_reply(550, "5.1.1", "no such user") if recipient.address == b"gone@example.com" else None


def test_aliases_and_rewritten_senders(tmp_path: Path) -> None:
    """Notices go by them, too."""
    addresses = """
[queue.addresses]
aliases = { root = ["ops@example.org", "gone@example.com"], ops = "duty@example.org" }
senders = { "@mail.example.org" = "@example.org", "cron@host" = "ops@mail.example.org" }
"""
    with serving(WithoutGone()) as receiver, ServeProcess(tmp_path, through(receiver) + addresses) as serve:
        with serve.client() as client:
            client.sendmail("www", ["root"], "Subject: x\r\n\r\nhello\r\n")
            client.sendmail("cron@host", ["root@MAIL.example.org"], "Subject: y\r\n\r\nhello\r\n")
        serve.wait_until(lambda: len(receiver.intake.messages) == 4)
        assert serve.end() == 0
        assert envelopes(receiver) == [
            (b"", [b"duty@example.org"]),
            (b"", [b"www@example.org"]),
            (b"ops@mail.example.org", [b"ops@example.org"]),
            (b"www@example.org", [b"ops@example.org"]),
        ]


def test_a_machine_that_sends_nobody_mail(
    tmp_path: Path, receiver: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    """With deliver = "none" all is kept, and why says so; afterwards it goes, to the one address that is named."""
    configuration = through(receiver) + '[queue.addresses]\nredirect_to = "dev@example.org"\n'
    with ServeProcess(tmp_path, configuration, queue='deliver = "none"') as serve:
        serve.send("kept")

        def why() -> str:
            main(["queue", "why", "--queue", str(tmp_path / "queue.db"), "--domain", "example.org"])
            return capsys.readouterr().out

        serve.wait_until(lambda: "held by rule 1 of configuration" in why())
        assert receiver.intake.messages == []
        main(["queue", "show", "--queue", str(tmp_path / "queue.db"), "--domain", "example.org"])
        assert "b@example.net" in capsys.readouterr().out
        serve.write(configuration)
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_until(lambda: receiver.intake.messages)
        assert serve.end() == 0
    assert envelopes(receiver) == [(b"a@example.org", [b"dev@example.org"])]


def test_systemd_is_told(tmp_path: Path) -> None:
    notify = NotifySocket(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": "400000"}
    try:
        with ServeProcess(tmp_path, environment=environment) as serve:
            notify.wait_for("READY=1")
            notify.wait_for("WATCHDOG=1", 3)
            serve.process.send_signal(signal.SIGHUP)
            notify.wait_for("RELOADING=1")
            notify.wait_for("READY=1", 2)
            assert any(re.fullmatch(r"MONOTONIC_USEC=\d+", word) for word in notify.said)
            assert "STOPPING=1" not in notify.said
            serve.process.send_signal(signal.SIGTERM)
            notify.wait_for("STOPPING=1")
            assert serve.process.wait(LIMIT) == 0
    finally:
        notify.close()


def test_a_socket_of_systemd_is_served(tmp_path: Path, receiver: Serving) -> None:
    """The socket comes as descriptor 3, of whatever name: there is one listener. Its own addresses are not used."""
    with socket.create_server(("127.0.0.1", 0)) as handed:
        descriptor = handed.fileno()
        launcher = [sys.executable, "-c", HAND_OVER, str(descriptor)]
        serve = ServeProcess(tmp_path, through(receiver), launcher=launcher, descriptors=[descriptor])
        addressed, serve.port = serve.port, handed.getsockname()[1]
        with serve:
            serve.send("activated")
            serve.wait_until(lambda: receiver.intake.messages)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", addressed))
            assert serve.end() == 0


def test_health_and_metrics(tmp_path: Path, receiver: Serving) -> None:
    port = free_port()
    with ServeProcess(tmp_path, through(receiver) + f'[health]\naddress = "127.0.0.1:{port}"\n') as serve:
        serve.send()
        serve.wait_for("b@example.net> delivered")

        def asked(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        assert asked("/health") == (200, "ok\n")
        status, text = asked("/metrics")
        assert status == 200
        assert "zsmtp_queue_accepted_total 1\n" in text
        assert "zsmtp_queue_delivered_total 1\n" in text
        assert "zsmtp_queue_recipients 0\n" in text
        assert "zsmtp_intake_messages_total 1\n" in text
        assert asked("/health", Host="attacker.example")[0] == 403
        assert asked("/health", method="POST")[0] == 405
        assert asked("/")[0] == 404
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock:
            sock.sendall(b"x" * 20_000)
        assert asked("/health")[0] == 200
        assert serve.end() == 0


def test_a_bounce_is_taken_in_and_the_address_suppressed(
    tmp_path: Path, receiver: Serving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    config = (
        through(receiver)
        + f"""
[queue.bounces]
return_path = "bounce+{{id}}@example.org"
key_file = "{keys}"
[listen.back]
addresses = ["127.0.0.1:PORT"]
bounces = true
"""
    )
    serve = ServeProcess(tmp_path, config)
    assert main(["serve", "--config", str(serve.file), "--check"]) == Exit.CONFIG
    assert f"queue.bounces.key_file: {keys} is not there" in capsys.readouterr().err
    assert main(["bounce", "key", str(keys)]) == 0
    with serve:
        serve.send("first", "bob@example.net")
        serve.send("second", "eve@example.net")
        serve.wait_for("@example.net> delivered", 2)
        senders = {to[0]: sender.decode() for sender, to in envelopes(receiver)}
        with serve.client() as client:
            report = reports.postfix("bob@example.net").decode()
            client.sendmail("", [senders[b"bob@example.net"]], report)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("", ["bounce+" + "0" * 34 + "@example.org"], report)
        serve.wait_for("to <bob@example.net> bounced: 5.1.1")
        serve.send("third", "BOB@example.net")
        capsys.readouterr()
        queue = f"{tmp_path}/queue.db"
        assert main(["queue", "ends", "--queue", queue, "--reason", "suppressed", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["recipient"] == "BOB@example.net"
        assert main(["queue", "why", "--queue", queue, "bob@example.net", "--limit", "5"]) == 0
        assert "Then it bounced" in capsys.readouterr().out
        for text, address, status in (
            (reports.exim("eve@example.net"), "eve@example.net", 0),
            (b"Subject: x\r\n\r\nI am away\r\n", "eve@example.net", 0),
        ):
            file = tmp_path / "report"
            file.write_bytes(b"Delivered-To: " + senders[address.encode()].encode() + b"\r\n" + text)
            assert main(["bounce", "take", "--config", str(serve.file), str(file)]) == status
        assert capsys.readouterr().out == "recorded\nignored\n"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(reports.exim("eve@example.net"))))
        assert main(["bounce", "take", "--config", str(serve.file), "--to", "bounce@example.org"]) == 1
        assert main(["queue", "suppress", "list", "--queue", queue, "--json"]) == 0
        listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()[1:]]
        assert [(one["address"], one["source"]) for one in listed] == [
            ("bob@example.net", "bounce"),
            ("eve@example.net", "bounce"),
        ]
        serve.wait_for("to <a@example.org> delivered")  # the notice of what was suppressed
        assert serve.end() == 0
    assert [serve.counters()[name] for name in ("delivered", "failed", "suppressed", "bounced")] == [3, 1, 1, 2]


def test_check_reads_what_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve = ServeProcess(tmp_path, '[delivery]\nrelay = "smtp://relay.example"\n')
    assert main(["serve", "--config", str(serve.file), "--check"]) == 0
    assert capsys.readouterr().out == (
        f"{serve.file} can be used\n  local: smtp on 127.0.0.1:{serve.port}\n  queue: {tmp_path}/queue.db\n"
    )
    assert not (tmp_path / "queue.db").exists()
    serve.write('[listen.x]\naddresses = ["*:25"]\ntls = "required"\ncertificate_file = "/nowhere/cert.pem"\n')
    assert main(["serve", "--config", str(serve.file), "--check"]) == Exit.CONFIG
    assert "listen.x: /nowhere/cert.pem: No such file or directory" in capsys.readouterr().err
    assert main(["serve", "--config", str(tmp_path / "missing"), "--check"]) == Exit.NO_INPUT
    assert "missing: No such file or directory" in capsys.readouterr().err


def test_a_line_for_a_file_of_passwords(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:

    monkeypatch.setattr(sys, "stdin", io.StringIO("geheim\n"))
    assert main(["serve", "--password-line", "ann@example.org"]) == 0
    line = capsys.readouterr().out.encode()
    passwords = parse_passwords(line, key=os.urandom(32))
    assert passwords.plain(b"ann@example.org").matches(b"geheim")
    assert not passwords.plain(b"ann@example.org").matches(b"geheim2")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["serve", "--password-line", "ann"]) == Exit.DATA


def test_a_login_over_tls(tmp_path: Path, receiver: Serving, web_authority: object, ca_file: str) -> None:
    import ssl

    import trustme

    assert isinstance(web_authority, trustme.CA)
    certificate = web_authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    line = subprocess.run(
        [sys.executable, "-m", "zsmtp.cli.main", "serve", "--password-line", "ann"],
        input=b"geheim\n",
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "passwords").write_bytes(line)
    config = f"""
[listen.submission]
addresses = ["127.0.0.1:PORT"]
tls = "required"
certificate_file = "{tmp_path}/cert.pem"
passwords_file = "{tmp_path}/passwords"
login_required = true
[[clients]]
login = "ann"
senders = ["ann@example.org"]
tenant = "ann"
"""
    with ServeProcess(tmp_path, config + through(receiver)) as serve:
        with serve.client() as client:
            assert client.docmd("MAIL FROM:<ann@example.org>")[0] == 530
            client.starttls(context=ssl.create_default_context(cafile=ca_file))
            client.ehlo("client.example")
            assert client.docmd("MAIL FROM:<ann@example.org>")[0] == 530
            client.login("ann", "geheim")
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail("boss@example.org", ["b@example.net"], "Subject: x\r\n\r\n")
            client.sendmail("ann@example.org", ["b@example.net"], "From: ann@example.org\r\n\r\nhello\r\n")
        serve.wait_until(lambda: receiver.intake.messages)
        (message,) = receiver.intake.messages
        assert b"with ESMTPSA" in message.content
        assert serve.end() == 0


def test_the_demonstration_ends_as_expected() -> None:
    example = Path(__file__).parents[2] / "examples" / "system.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waits after a failure (connection): attempt 2 at " in done.stdout
    assert "to be tried now" in done.stdout
    assert "to <bob@grey.example> delivered, attempt 2" in done.stdout
    assert "Subject: Not delivered: Hello nobody@refusing.example" in done.stdout
