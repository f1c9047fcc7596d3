"""What a command waits for is said on a terminal, once for each wait that lasts."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from tests.support.nameserver import Failure, NameServer

from zsmtp.cli.waiting import PATIENCE, WaitingNotices, waits_printed
from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.events import Connected, ConnectFailed, Connecting, FetchStarted, HandshakeStarted, LookupDone, LookupStarted

MX = Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET)
QUESTION = Query("example.org", RecordType.MX)


def test_a_wait_is_told_once_when_it_lasts() -> None:
    said: list[str] = []
    now = 0.0
    notices = WaitingNotices(said.append, lambda: now)
    hear = notices.observer()
    hear(LookupStarted(QUESTION))
    notices.look()
    assert said == []
    now = PATIENCE
    notices.look()
    notices.look()
    assert said == ["waiting for the name server: example.org MX"]
    hear(LookupDone(Answer(QUESTION, Status.TIMEOUT)))
    now += 10 * PATIENCE
    notices.look()
    assert len(said) == 1


def test_what_there_is_to_wait_for() -> None:
    said: list[str] = []
    now = 0.0
    notices = WaitingNotices(said.append, lambda: now)
    hear = notices.observer()
    for event in (
        FetchStarted("mta-sts.example.org"),
        Connecting(MX),
        ConnectFailed(MX, "Connection refused"),
        Connected(MX, None),
        HandshakeStarted("mx.example.org"),
        Connecting(Endpoint("/run/lmtp", "/run/lmtp", 0, Family.UNIX)),
        Connecting(Endpoint("\x1b[2J", "192.0.2.2", 25, Family.INET)),
    ):
        hear(event)
        now += PATIENCE
        notices.look()
    assert said == [
        "waiting for mta-sts.example.org: MTA-STS policy",
        "waiting for a connection to mx.example.org [192.0.2.1]:25",
        "waiting for the greeting of mx.example.org [192.0.2.1]:25",
        "waiting for the TLS handshake with mx.example.org",
        "waiting for a connection to /run/lmtp",
        "waiting for a connection to \\x1b[2J [192.0.2.2]:25",
    ]


def test_drivers_that_wait_for_the_same_are_told_of_once() -> None:
    said: list[str] = []
    now = 0.0
    notices = WaitingNotices(said.append, lambda: now)
    for hear in (notices.observer(), notices.observer()):
        hear(LookupStarted(QUESTION))
    now = PATIENCE
    notices.look()
    assert len(said) == 1


def test_a_name_server_that_keeps_silent_is_named_on_a_terminal() -> None:
    terminal, standard_error = pty.openpty()
    with NameServer({"silent.example": Failure.SILENCE}) as dns:
        command = [sys.executable, "-m", "zsmtp.cli.main", "explain", "--resolver", dns.address, "silent.example"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=standard_error) as process:
            os.close(standard_error)
            try:
                with open(terminal, "rb") as screen:
                    shown = screen.readline()
            finally:
                process.kill()
    assert shown == b"zsmtp explain: waiting for the name server: silent.example MX\r\n"


def test_nothing_is_said_where_nobody_looks() -> None:
    assert not sys.stderr.isatty()
    with waits_printed("zsmtp explain") as notices:
        assert notices is None
