"""``zsmtp send`` to receivers on loopback: lines, exit statuses, and what is never done."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.signing.sent import arrived, is_good, written
from tests.support.nameserver import Failure, NameServer, Zone
from tests.support.receiver import receiving
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

from zsmtp.cli.main import main
from zsmtp.observers.codec import load_trace

ZONE: Zone = {
    "example.com": {"MX": ("10 mx.example.com.",)},
    "mx.example.com": {"A": ("127.0.0.1",)},
    "other.example": {"A": ("127.0.0.1",)},
    "later.example": Failure.SERVFAIL,
    "null.example": {"MX": ("0 .",)},
}
LETTER = """From: Me <me@example.org>
To: you@example.com
Bcc: secret@example.com
Subject: test
Message-ID: <m1@example.org>

Hello.
"""
EIGHT_BIT = """From: me@example.org
To: you@example.com
Subject: test
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße.
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def letter(tmp_path: Path) -> str:
    path = tmp_path / "letter.eml"
    path.write_text(LETTER)
    return str(path)


def test_one_line_for_a_recipient_and_the_header_s_envelope(send: Run, letter: str) -> None:
    with receiving() as receiver:
        status, out, err = send(letter, "--relay", f"127.0.0.1:{receiver.port}", "--to", "a@example.com")
    assert (status, err) == (0, "")
    assert out == f"delivered  a@example.com: [127.0.0.1]:{receiver.port}: 250 2.0.0 taken as 1\n"
    assert receiver.messages[0].mail_from == "me@example.org"
    assert b"secret@" not in (receiver.messages[0].original_content or b"")


def test_sender_and_recipients_of_the_header(send: Run, letter: str) -> None:
    with receiving() as receiver:
        status, out, _ = send(letter, "--relay", f"127.0.0.1:{receiver.port}")
    assert status == 0
    assert receiver.messages[0].rcpt_tos == ["you@example.com", "secret@example.com"]
    assert out.splitlines()[-1] == "2 delivered"


def test_straight_to_the_exchangers(send: Run, letter: str) -> None:
    with NameServer(ZONE) as dns, receiving() as receiver:
        direct = ("--resolver", dns.address, "--port", str(receiver.port))
        status, out, err = send(letter, *direct, "--from", "<>", "--to", "a@example.com", "--to", "b@other.example")
        assert send(letter, *direct, "--to", "a@example.com")[2] == "", "a process is warned once"
    assert status == 0
    assert err == ("zsmtp send: there is no DANE: the name servers do not validate DNSSEC, or are not trusted\n")
    assert len(receiver.messages) == 3
    assert {one.mail_from for one in receiver.messages[:2]} == {"<>"}
    assert f"delivered  a@example.com: mx.example.com [127.0.0.1]:{receiver.port}: 250" in out


def test_a_refusal_wins_over_a_deferral(send: Run, letter: str) -> None:
    with NameServer(ZONE) as dns, receiving() as receiver:
        receiver.refuse.add("no@example.com")
        direct = ("--resolver", dns.address, "--port", str(receiver.port))
        to = ("--to", "yes@example.com", "--to", "no@example.com", "--to", "a@later.example", "--to", "b@null.example")
        status, out, _ = send(letter, *direct, *to)
    assert status == 69
    lines = sorted(out.splitlines())
    assert lines[0] == "1 delivered, 1 deferred, 2 refused"
    assert re.match(r"deferred   a@later.example: lookup of MX for later.example failed: .* \(4\.4\.3\)", lines[1])
    assert lines[2].startswith("delivered  yes@example.com: mx.example.com [127.0.0.1]:")
    assert lines[3].startswith("refused    b@null.example: null.example does not accept mail (null MX) (5.1.10)")
    assert re.match(
        r"refused    no@example\.com: mx\.example\.com \[127.0.0.1\]:\d+: 550 5\.1\.1 no such user", lines[4]
    )


def test_nobody_refused_but_somebody_waits(send: Run, letter: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        status, out, _ = send(letter, "--relay", f"127.0.0.1:{nobody.getsockname()[1]}", "--to", "a@example.com")
    assert status == 75
    assert "deferred   a@example.com: " in out
    assert "Connection refused" in out


def test_in_doubt_is_named(send: Run, letter: str) -> None:
    with Sink(Script(replies={"DOT": (Step(None, Then.CLOSE),)})) as sink:
        status, out, _ = send(letter, "--relay", f"127.0.0.1:{sink.port}", "--to", "a@example.com")
    assert status == 75
    assert out.startswith("in doubt   a@example.com: ")


def test_lmtp_over_a_socket(send: Run, letter: str, tmp_path: Path) -> None:
    with Sink(Script(lmtp=True), unix=tmp_path / "lmtp") as sink:
        status, out, _ = send(letter, "--lmtp", "--relay", str(tmp_path / "lmtp"), "--to", "a@example.com")
    assert status == 0
    assert out.startswith(f"delivered  a@example.com: {tmp_path}/lmtp: 250")
    assert sink.deliveries() == {b"a@example.com": 1}


def test_standard_input_and_several_messages(send: Run, letter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(EIGHT_BIT.encode())))
    with receiving() as receiver:
        status, out, _ = send(letter, "-", "--relay", f"127.0.0.1:{receiver.port}", "--to", "a@example.com")
    assert status == 0
    assert f"delivered  a@example.com ({letter}): " in out
    assert "delivered  a@example.com (standard input): " in out
    assert any("Grüße" in (one.original_content or b"").decode() for one in receiver.messages)


def test_a_pipe_is_read_once(send: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(LETTER,))
    writer.start()
    with receiving() as receiver:
        status, _, _ = send(str(pipe), "--relay", f"127.0.0.1:{receiver.port}", "--to", "a@example.com")
    writer.join()
    assert status == 0
    assert b"Hello." in (receiver.messages[0].original_content or b"")


def test_json(send: Run, letter: str) -> None:
    with receiving() as receiver:
        receiver.refuse.add("no@example.com")
        relay = ("--relay", f"127.0.0.1:{receiver.port}")
        status, out, _ = send(letter, "--json", *relay, "--to", "a@example.com", "--to", "no@example.com")
    document = json.loads(out)
    assert (status, document["schema"], document["status"]) == (69, "zsmtp.send/1", 69)
    fates = {one["recipient"]: one["fate"] for one in document["results"]}
    assert fates == {"a@example.com": "delivered", "no@example.com": "failed"}


def test_hostile_words_of_a_server_are_escaped(send: Run, letter: str) -> None:
    with Sink(Script(replies={"RCPT": (Step(b"550 \x1b[31m\xff gone\r\n"),)})) as sink:
        _, out, _ = send(letter, "--relay", f"127.0.0.1:{sink.port}", "--to", "a@example.com")
    assert r"550 \x1b[31m\xff gone" in out
    assert "\x1b" not in out


def test_a_login_with_the_secret_from_the_environment_or_a_file(
    send: Run, letter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(caps=("AUTH PLAIN",), replies={"AUTH": (Step("235 welcome"),)})
    (tmp_path / "secret").write_text("s3cret\n")
    monkeypatch.setenv("ZSMTP_PASSWORD", "s3cret")
    with Sink(script) as sink:
        relay = ("--relay", f"127.0.0.1:{sink.port}", "--to", "a@example.com", "--user", "me")
        assert send(letter, *relay)[0] == 0
        status, _, err = send(letter, *relay, "--password-file", str(tmp_path / "secret"))
        assert (status, err.count("every user of this machine can read this secret")) == (0, 1)
        assert err.startswith(f"zsmtp send: {tmp_path}/secret: ")
        (tmp_path / "secret").chmod(0o600)
        url = ("--relay", f"smtp://me@127.0.0.1:{sink.port}", "--to", "a@example.com")
        assert send(letter, *url)[0] == 0
        assert send(letter, *url, "--password-file", str(tmp_path / "secret"))[0] == 0
        status, out, err = send(letter, *relay, "--password-env", "NOT_SET_ANYWHERE")
        assert (status, out) == (78, "")
        assert err == "zsmtp send: the secret for me: the environment variable NOT_SET_ANYWHERE is empty\n"
        status, _, err = send(letter, *relay, "--password-file", str(tmp_path / "missing"))
        assert (status, err) == (
            78,
            f"zsmtp send: the secret for me in {tmp_path}/missing: No such file or directory\n",
        )
    logins = [line for one in sink.connections for line in one.lines if line.startswith(b"AUTH")]
    assert len(logins) == 4
    assert len(set(logins)) == 1


def test_a_secret_from_elsewhere_leaves_the_rest_of_a_configured_login(send: Run, letter: str, tmp_path: Path) -> None:
    script = Script(caps=("AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER",), replies={"AUTH": (Step("235 welcome"),)})
    (tmp_path / "secret").write_text("a-token\n")
    config = tmp_path / "zsmtp.toml"
    with Sink(script) as sink:
        config.write_text(
            f'[relay]\nhost = "127.0.0.1"\nport = {sink.port}\n'
            'login = { user = "me", password_env = "NOT_SET", bearer = true, mechanisms = ["XOAUTH2"] }\n'
        )
        known = ("--config", str(config), "--to", "a@example.com", "--password-file", str(tmp_path / "secret"))
        assert send(letter, *known)[0] == 0
        assert send(letter, *known, "--user", "me")[0] == 0
        assert send(letter, *known, "--user", "you")[0] == 0
    logins = [line.split()[1] for one in sink.connections for line in one.lines if line.startswith(b"AUTH")]
    assert logins == [b"XOAUTH2", b"XOAUTH2", b"PLAIN"]


def test_a_dry_run_connects_to_nobody(send: Run, letter: str, tmp_path: Path) -> None:
    path = tmp_path / "eight.eml"
    path.write_text(EIGHT_BIT)
    with NameServer(ZONE) as dns, Sink() as sink:
        direct = ("--resolver", dns.address, "--port", str(sink.port))
        to = ("--no-add", "--to", "a@example.com", "--to", "b@example.com")
        status, out, err = send(str(path), "--dry-run", *direct, *to)
        assert not sink.connections
    assert (status, err) == (0, "")
    assert f"{path}: 155 octets, from me@example.org; nothing is sent" in out
    assert "└─ to a@example.com, b@example.com" in out
    assert "example.com: deliverable, 1 address of 1 host" in out
    assert "MAIL FROM:<me@example.org> SIZE=163 BODY=8BITMIME" in out
    assert "BDAT 163 LAST" in out
    assert re.search(r"encoded anew \(quoted-printable or base64\), \d+ octets", out)
    assert re.search(r"then +RCPT TO:<b@example.com>\n", out)
    assert re.search(r"then +DATA\n", out)


def test_a_dry_run_in_json_has_the_plan(send: Run, letter: str) -> None:
    with NameServer(ZONE) as dns:
        to = ("--to", "ü@other.example", "--to", "a@nx.example")
        status, out, _ = send(letter, "--dry-run", "--json", "--resolver", dns.address, "--port", "26", *to)
    assert status == 68
    delivery, impossible = json.loads(out)["deliveries"]
    assert impossible["forms"] == []
    assert delivery["explanation"]["plan"]["schema"] == "zsmtp.plan/1"
    assert delivery["forms"][0]["commands"][0][0].endswith("SMTPUTF8")
    assert "needs SMTPUTF8" in delivery["forms"][1]["refused"][0]


def test_the_plan_that_was_explained_is_executed(
    send: Run, letter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    with NameServer(ZONE) as dns, receiving() as receiver:
        direct = ("--resolver", dns.address, "--port", str(receiver.port))
        assert main(["explain", "--json", *direct, "example.com"]) == 0
        plan.write_text(capsys.readouterr().out)
        asked = len(dns.queries)
        status, out, _ = send(letter, *direct, "--plan", str(plan), "--to", "a@Example.com")
        assert (status, len(dns.queries)) == (0, asked)
        assert out.startswith(f"delivered  a@Example.com: mx.example.com [127.0.0.1]:{receiver.port}: 250")
        status, _, err = send(letter, *direct, "--plan", str(plan), "--to", "a@example.com", "--to", "b@other.example")
        assert (status, err) == (65, "zsmtp send: --plan: there is no plan for other.example\n")
    assert len(receiver.messages) == 1
    plan.write_text("{}")
    status, _, err = send(letter, "--plan", str(plan))
    assert (status, err.count("\n")) == (65, 1)
    assert "neither an explanation" in err
    assert send(letter, "--plan", "/nonexistent")[0] == 66


def test_tls_can_be_required_by_the_sender(send: Run, letter: str) -> None:
    with receiving() as receiver:
        relay = ("--relay", f"127.0.0.1:{receiver.port}", "--to", "a@example.com")
        status, out, _ = send(letter, "--require-tls", *relay)
    assert status in (69, 75)
    assert not receiver.messages
    assert "delivered" not in out


def test_notifications_are_asked_for(send: Run, letter: str) -> None:
    asked = ("--notify", "success,delay", "--ret", "headers", "--envid", "order 17")
    with Sink(Script(caps=("DSN",)), Script(), Script(lmtp=True)) as sink:
        to = ("--to", "a@example.com", "--relay", f"smtp://127.0.0.1:{sink.port}")
        assert send(letter, *asked, *to)[1].endswith(": 250 2.6.0 Message accepted\n")
        assert send(letter, *asked, *to)[1].endswith(
            ": 250 2.6.0 Message accepted; no notification will come (relayed)\n"
        )
        _, out, _ = send(letter, *asked, "--json", *to[:3], f"lmtp://127.0.0.1:{sink.port}")
    (result,) = json.loads(out)["results"]
    assert (result["dsn_passed_on"], result["dsn_action"]) == (False, "delivered")
    assert sink.connections[0].lines[1:3] == [
        b"MAIL FROM:<me@example.org> ENVID=order+2017 RET=HDRS",
        b"RCPT TO:<a@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@example.com",
    ]
    assert sink.connections[1].lines[1:3] == [b"MAIL FROM:<me@example.org>", b"RCPT TO:<a@example.com>"]


def test_a_dry_run_shows_what_notifications_are_asked_for(send: Run, letter: str) -> None:
    asked = ("--notify", "never", "--envid", "7", "--relay", "127.0.0.1:1", "--dry-run")
    _, out, _ = send(letter, *asked)
    assert out.count(" ENVID=7\n") == 1
    assert "RCPT TO:<you@example.com> NOTIFY=NEVER ORCPT=rfc822;you@example.com" in out
    assert out.count("notifications are not requested: no DSN") == 1
    _, out, _ = send(letter, *asked, "--json")
    offered, bare = json.loads(out)["deliveries"][0]["forms"]
    assert offered["commands"][0][0].endswith(" ENVID=7")
    assert bare["remarks"] == ["notifications are not requested: no DSN"]
    assert "ENVID" not in bare["commands"][0][0]


def test_a_dry_run_knows_what_a_message_asks_of_sessions(send: Run, letter: str, tmp_path: Path) -> None:
    optional = tmp_path / "optional.eml"
    optional.write_text("TLS-Required: No\n" + Path(letter).read_text())
    with NameServer(ZONE) as dns:
        dry = ("--resolver", dns.address, "--port", "26", "--to", "a@example.com", "--dry-run")
        plain = send(letter, *dry)
        _, out, _ = send(letter, *dry, "--require-tls")
        _, document, _ = send(letter, *dry, "--require-tls", "--json")
        _, both, _ = send(letter, str(optional), *dry, "--tls", "verify", "--json")
    assert "REQUIRETLS" not in plain[1]
    assert re.search(r"says +MAIL FROM:<me@example.org> SIZE=\d+ REQUIRETLS\n", out)
    assert re.search(
        r"offers nothing\n.*refused +REQUIRETLS was requested, and the server does not offer it \(5\.7\.30\)", out
    )
    assert re.search(r"TLS +secure: required, .*REQUIRETLS, an insecure MX answer", out)
    (delivery,) = json.loads(document)["deliveries"]
    assert delivery["explanation"]["plan"]["wish"] == "requiretls"
    assert [bool(form["refused"]) for form in delivery["forms"]] == [False, True]
    assert [one["explanation"]["plan"]["wish"] for one in json.loads(both)["deliveries"]] == [
        "none",
        "tls-required: no",
    ]


def test_messages_are_signed_by_the_keys_of_the_configuration(send: Run, letter: str, tmp_path: Path) -> None:
    key = written(tmp_path, "ed")
    config = tmp_path / "config.toml"
    table = f'[[dkim]]\ndomain = "example.org"\nselector = "ed"\nkey_file = "{key.key_file}"\n'
    config.write_text(table)
    with Sink(Script()) as sink:
        relay = ("--config", str(config), "--relay", f"127.0.0.1:{sink.port}")
        assert send(letter, *relay)[0] == 0
        assert [is_good(message, ["ed"]) for message in arrived(sink)] == [True]
        _, out, _ = send(letter, *relay, "--dry-run", "--json")
        for form in json.loads(out)["deliveries"][0]["forms"]:
            assert "signed by ed._domainkey.example.org (ed25519-sha256)" in form["remarks"]
            assert form["octets"] > len(LETTER) + 300
        config.write_text(table.replace("ed.pem", "lost.pem"))
        for words in ((), ("--dry-run",)):
            status, out, err = send(letter, *relay, *words)
            assert (status, out) == (78, "")
            assert "dkim[0].key_file: " in err
            assert "lost.pem cannot be read: No such file or directory" in err
        assert len(sink.connections) == 1


def test_a_priority_and_a_time_of_release(send: Run, letter: str) -> None:
    asked = ("--mt-priority=-2", "--hold-for", "1h30m", "--to", "a@example.com")
    with Sink(Script(caps=("MT-PRIORITY", "FUTURERELEASE 86400 2030-01-01T00:00:00Z"))) as sink:
        relay = ("--relay", f"127.0.0.1:{sink.port}")
        assert send(letter, *relay, *asked)[0] == 0
        assert send(letter, *relay, "--hold-until", "2029-12-31T23:00Z", "--to", "a@example.com")[0] == 0
    lines = [line for one in sink.connections for line in one.lines if line.startswith(b"MAIL")]
    assert lines == [
        b"MAIL FROM:<me@example.org> MT-PRIORITY=-2 HOLDFOR=5400",
        b"MAIL FROM:<me@example.org> HOLDUNTIL=2029-12-31T23:00:00Z",
    ]
    with Sink(Script()) as sink:
        status, out, _ = send(letter, "--relay", f"127.0.0.1:{sink.port}", *asked)
    assert status == 69
    assert "FUTURERELEASE" in out
    assert not sink.transactions


def test_a_dry_run_knows_what_is_left_out_and_what_would_come_too_early(send: Run, letter: str) -> None:
    dry = ("--dry-run", "--json", "--relay", "127.0.0.1:1", "--mt-priority", "5")
    offered, bare = json.loads(send(letter, *dry)[1])["deliveries"][0]["forms"]
    assert offered["commands"][0][0].endswith(" MT-PRIORITY=5")
    assert offered["remarks"] == []
    assert "its priority 5 is left out: no MT-PRIORITY" in bare["remarks"]
    offered, bare = json.loads(send(letter, *dry, "--hold-for", "60")[1])["deliveries"][0]["forms"]
    assert offered["commands"][0][0].endswith(" MT-PRIORITY=5 HOLDFOR=60")
    assert (bare["commands"], len(bare["refused"])) == ([], 1)
    assert "held back (FUTURERELEASE)" in bare["refused"][0]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--mt-priority", "10"), "priority 10 is not from -9 to 9"),
        (("--mt-priority", "high"), "argument --mt-priority: invalid int value"),
        (("--hold-for", "soon"), "'soon' is no duration"),
        (("--hold-until", "soon"), "not a time: soon"),
        (("--hold-for", "90000d"), "hold_for: 7776000000.0 is not from 0 to 999999999 seconds"),
        (("--hold-for", "1h", "--hold-until", "14:30"), "not allowed with argument --hold-for"),
    ],
)
def test_options_that_cannot_be(send: Run, letter: str, words: tuple[str, ...], problem: str) -> None:
    status, _, err = send(letter, *words)
    assert status == 64
    assert problem in err


def test_a_dry_run_without_tls_says_that_nothing_would_be_sent(send: Run, letter: str) -> None:
    status, out, _ = send(letter, "--dry-run", "--require-tls", "--relay", "127.0.0.1:1", "--tls", "none")
    assert status == 75
    assert out.count("REQUIRETLS was requested, and no TLS is configured (4.7.10)") == 2
    assert "MAIL FROM" not in out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--notify", "always"), "--notify: 'always' is none of success, failure, delay, never"),
        (("--notify", "never,delay"), "--notify: never cannot be combined"),
        (("--notify", ""), "--notify: there is nothing in it"),
        (("--ret", "half"), "--ret: 'half' is none of full, headers"),
        (("--envid", "x" * 101), "--envid: 101 octets when encoded; 100 are the limit"),
    ],
)
def test_what_cannot_be_asked_for(send: Run, letter: str, words: tuple[str, str], problem: str) -> None:
    status, _, err = send(letter, *words, "--relay", "127.0.0.1:1")
    assert (status, err) == (64, f"zsmtp send: {problem}\n")


def test_traces(send: Run, letter: str, tmp_path: Path) -> None:
    with NameServer(ZONE) as dns, receiving() as receiver:
        direct = ("--resolver", dns.address, "--port", str(receiver.port))
        one = ("--trace", str(tmp_path / "t.json"), "--to", "a@example.com")
        assert send(letter, *direct, *one)[0] == 0
        several = ("--to", "a@example.com", "--to", "b@other.example")
        status, _, err = send(letter, *direct, "--trace", str(tmp_path / "t.json"), *several)
        assert (status, err) == (64, "zsmtp send: --trace: 2 deliveries need a directory\n")
        (tmp_path / "traces").mkdir()
        assert send(letter, *direct, "--trace", str(tmp_path / "traces"), *several)[0] == 0
    assert load_trace(tmp_path / "t.json").fates.delivered == 1
    assert len(list((tmp_path / "traces").iterdir())) == 2


def test_traces_without_addresses(send: Run, letter: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with NameServer(ZONE) as dns, receiving() as receiver:
        direct = ("--resolver", dns.address, "--port", str(receiver.port))
        assert (
            send(letter, *direct, "--trace", str(path), "--hash-addresses", "--to", "bartholomew@example.com")[0] == 0
        )
    assert "bartholomew" not in path.read_text()
    assert "@example.com" in path.read_text()


def test_a_recorded_delivery_is_explained(
    send: Run, letter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "t.json")
    with NameServer(ZONE) as dns, receiving() as receiver:
        direct = ("--resolver", dns.address, "--port", str(receiver.port))
        assert send(letter, *direct, "--trace", path, "--to", "a@example.com")[0] == 0
    assert main(["explain", "--replay", path]) == 0
    out = capsys.readouterr().out
    assert out.startswith("example.com: a recorded delivery, 1 address of 1 host\n")
    assert re.search(r"ended +\d{4}-\d\d-\d\dT.*: 1 delivered\n", out)
    assert re.search(r"tried +used, in clear\n", out)
    assert re.search(r"TLS +may: if offered", out)


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ([], 64, r"a FILE is required, or --files-from; try zsmtp send --help"),
        (["/nonexistent.eml"], 66, r"/nonexistent\.eml: No such file or directory"),
        (["/dev/zero"], 65, r"/dev/zero: not a file"),
        (["LETTER", "--to", "nobody"], 64, r"--to nobody: no @ and domain"),
        (["LETTER", "--from", "a b@c"], 64, r"--from a b@c: .*"),
        (["LETTER", "--to", "b@x.example; c@x.example"], 64, r"--to b@x.example; c@x.example: .*"),
        (["LETTER", "--to", "b@x.example, C <c@x.example>"], 64, r"--to .*: a comma; .*"),
        (["LETTER", "--user", "me"], 64, r"--user goes with --relay"),
        (["LETTER", "--relay", "h", "--password-file", "x"], 64, r"a password without --user"),
        (["LETTER", "--relay", "h:0"], 64, r"relay: port: 0 is not 1 to 65535"),
        (["LETTER", "--relay", "http://h"], 64, r"relay: .*"),
        (["LETTER", "--helo", "two words"], 64, r"--helo: not a name to greet with: b?'two words'"),
        (["LETTER", "--resolver", "x"], 64, r"--resolver: not the address of a name server: 'x'"),
        (["LETTER", "--relay", "smtp://me:geheim@x"], 64, r"relay: no secret is allowed here, where [^:]*"),
        (["LETTER", "--tls", "most"], 64, r"argument --tls: invalid choice: 'most'.*"),
        (["LETTER", "--password", "x"], 64, r"unrecognized arguments: --password x.*"),
        (["LETTER", "--ca-file", "/nonexistent"], 78, r"/nonexistent: No such file or directory"),
        (["LETTER", "--ca-file", "/etc/passwd"], 78, r"no CA certificate in /etc/passwd"),
        (["-", "-"], 64, r"standard input \(-\) can be one thing only"),
    ],
)
def test_what_cannot_be_sent_is_one_line(send: Run, letter: str, arguments: list[str], status: int, line: str) -> None:
    found, out, err = send(*(letter if one == "LETTER" else one for one in arguments))
    assert (found, out) == (status, "")
    assert re.fullmatch(rf"zsmtp send: {line}\n", err), err


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            b"From: a@x.example\nTo: b@x.example c@x.example\n\n",
            "the field To cannot be read at octet 13 of its value: .*",
        ),
        (b"From: a@x.example\nno field\nTo: b@x.example\n\n", "line 2 of the header is no field: 'no field'; .*"),
    ],
)
def test_a_header_that_is_no_envelope(send: Run, tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "x.eml"
    path.write_bytes(content)
    status, out, err = send(str(path))
    assert (status, out) == (65, "")
    assert re.fullmatch(rf"zsmtp send: .*x\.eml: {line}\n", err), err


@pytest.mark.parametrize("content", [b"", b"no header here\n", b"\x00\x01\x02", b"\n\nbody"])
def test_a_file_that_is_no_message(send: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x\x1b.eml"
    path.write_bytes(content)
    status, out, err = send(str(path), "--from", "a@b.example", "--to", "c@d.example")
    assert (status, out) == (65, "")
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_nothing_is_sent_if_one_message_cannot_be(send: Run, letter: str) -> None:
    with Sink() as sink:
        status, _, err = send(letter, "/nonexistent.eml", "--relay", f"127.0.0.1:{sink.port}")
        assert not sink.connections
    assert status == 66
    assert err == "zsmtp send: /nonexistent.eml: No such file or directory\n"


def test_no_permission(send: Run, letter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by a system that means it: root, who may run the tests, may read everything."""
    really_open = open

    def refuse(path: object, *arguments: Any, **more: Any) -> Any:
        if str(path) == letter:
            raise PermissionError(13, "Permission denied", letter)
        return really_open(path, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", refuse)
    status, _, err = send(letter)
    assert (status, err) == (77, f"zsmtp send: {letter}: Permission denied\n")


def test_a_configuration_file_and_what_the_command_line_changes(send: Run, letter: str, tmp_path: Path) -> None:
    config = tmp_path / "zsmtp.toml"
    with receiving(2) as receiver:
        first, second = receiver.ports
        config.write_text(
            f'relay = "smtp://127.0.0.1:{first}"\nhelo_name = "me.example"\n'
            f'[routes]\n"other.example" = "smtp://127.0.0.1:{second}"\n'
        )
        known = ("--config", str(config), "--to", "a@example.com", "--to", "b@other.example")
        status, _, _ = send(letter, *known)
        assert (status, receiver.connections) == (0, {first: 1, second: 1})
        status, _, _ = send(letter, *known, "--relay", f"127.0.0.1:{second}")  # for all mail: routes are set aside
        assert (status, receiver.connections) == (0, {first: 1, second: 2})
    assert len(receiver.messages) == 3
    config.write_text("[direct]\nport = 'x'\n")
    status, _, err = send(letter, "--config", str(config))
    assert status == 78
    assert re.fullmatch(r"zsmtp send: .*zsmtp\.toml: direct\.port: .*\n", err)


def test_an_interrupt_ends_it_and_everybody_is_told_of(letter: str, tmp_path: Path) -> None:
    config = tmp_path / "zsmtp.toml"
    config.write_text("[limits]\nwaiting = 1\n")  # the second message is not taken to hand before the first is done
    with Sink(Script(replies={"MAIL": (Step(None, Then.HANG),)})) as sink:
        relay = ("--relay", f"127.0.0.1:{sink.port}", "--to", "a@example.com", "--to", "b@example.com")
        command = [sys.executable, "-m", "zsmtp.cli.main", "send", letter, letter, "--config", str(config), *relay]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            sink.wait_for_command("MAIL")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""
    lines = out.splitlines()
    who = ["a@example.com", "a@example.com", "b@example.com", "b@example.com"]
    assert sorted(line.split()[1] for line in lines[:4]) == who
    assert all(line.startswith("deferred ") for line in lines[:4])
    assert sum("interrupted before it was tried" in line for line in lines) == 2
    assert sum(line.endswith(": interrupted (4.3.2)") for line in lines) == 2
    assert lines[4:] == ["4 deferred"]


def test_a_reader_that_goes_away_is_no_trouble(letter: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with receiving() as receiver:
        relay = ("--relay", f"127.0.0.1:{receiver.port}", "--to", "a@example.com")
        command = [sys.executable, "-m", "zsmtp.cli.main", "send", letter, *relay]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_told(letter: str) -> None:
    with receiving() as receiver, open("/dev/full", "w") as full:
        relay = ("--relay", f"127.0.0.1:{receiver.port}", "--to", "a@example.com")
        command = [sys.executable, "-m", "zsmtp.cli.main", "send", letter, *relay]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (74, "zsmtp send: No space left on device\n")


def test_all_that_cannot_be_sent_is_named_and_nothing_is_sent(send: Run, letter: str, tmp_path: Path) -> None:
    (tmp_path / "empty.eml").touch()
    files = (letter, str(tmp_path / "empty.eml"), "/nonexistent.eml")
    with Sink() as sink:
        status, out, err = send(*files, "--relay", f"127.0.0.1:{sink.port}")
        assert not sink.connections
    assert (status, out) == (66, "")
    assert err.splitlines() == [
        f"zsmtp send: {tmp_path}/empty.eml: the message is empty",
        "zsmtp send: /nonexistent.eml: No such file or directory",
        "zsmtp send: 2 of 3 messages cannot be sent, so nothing is sent; --keep-going sends the others",
    ]


def test_the_others_are_sent_if_it_is_to_go_on(send: Run, letter: str, tmp_path: Path) -> None:
    (tmp_path / "empty.eml").touch()
    with receiving() as receiver:
        to = ("--keep-going", "--relay", f"127.0.0.1:{receiver.port}", "--to", "a@example.com")
        status, out, err = send(letter, str(tmp_path / "empty.eml"), *to)
        assert (status, err) == (65, f"zsmtp send: {tmp_path}/empty.eml: the message is empty\n")
        assert out.splitlines()[-1] == "1 delivered, 1 unusable"
        status, out, _ = send(letter, str(tmp_path / "empty.eml"), "--json", *to)
        assert (status, json.loads(out)["status"]) == (65, 65)
        assert json.loads(out)["unusable"] == [{"message": f"{tmp_path}/empty.eml", "text": "the message is empty"}]
        status, out, _ = send(str(tmp_path / "empty.eml"), *to)
        assert (status, out) == (65, "1 unusable\n")
        status, out, _ = send(letter, str(tmp_path / "empty.eml"), "--dry-run", *to)
        assert status == 65
        assert "RCPT TO:<a@example.com>" in out
    assert len(receiver.messages) == 2


def test_json_line_by_line_as_results_come(letter: str, tmp_path: Path) -> None:
    """The second message is never answered: what came before is known all the same."""
    (tmp_path / "empty.eml").touch()
    command = [sys.executable, "-m", "zsmtp.cli.main", "send", "--jsonl", "--keep-going", "--to", "a@example.com"]
    with Sink(Script(replies={"DOT": (Step("250 2.0.0 ok"), Step(None, Then.HANG))})) as sink:
        files = [letter, str(tmp_path / "empty.eml"), letter]
        process = subprocess.Popen([*command, "--relay", f"127.0.0.1:{sink.port}", *files], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            results = [json.loads(process.stdout.readline()) for _ in range(2)]
            first, bad = sorted(results, key=lambda result: result["fate"])  # whichever was known first
            sink.wait_for(lambda _: sum(one.complete for one in sink.transactions) == 2)
            process.send_signal(signal.SIGINT)
            last = json.loads(process.stdout.readline())
            assert process.stdout.read() == b""
        assert process.wait() == 130
    assert (bad["message"], bad["fate"], bad["text"]) == (f"{tmp_path}/empty.eml", "unusable", "the message is empty")
    assert (first["schema"], first["fate"], first["reply"]) == ("zsmtp.send-result/1", "delivered", "250 2.0.0 ok")
    assert (last["recipient"], last["fate"]) == ("a@example.com", "in doubt")


def test_a_rate_of_messages(send: Run, letter: str) -> None:
    """Twelve messages at ten a second: more than a second passes before the eleventh is begun."""
    with Sink() as sink:
        began = time.monotonic()
        status, out, _ = send(
            "--rate", "10/s", "--relay", f"127.0.0.1:{sink.port}", "--to", "a@x.example", *[letter] * 12
        )
        took = time.monotonic() - began
    assert (status, out.splitlines()[-1]) == (0, "12 delivered")
    assert took >= 1.0
    status, _, err = send("--rate", "fast", letter)
    assert status == 64
    assert "argument --rate: 'fast' is no rate (14/s, 100/min, 500/2h, 10000/day)" in err
