"""One delivery in a process of its own: what it must not load, since whoever starts a program for one message waits."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.agent import COVERAGE

from zsmtp.testing import MailReceiver

NEEDLESS = {
    "concurrent.futures.thread",
    "cryptography",
    "dataclasses",
    "dns",
    "email.message",
    "h11",
    "hashlib",
    "hmac",
    "json",
    "lzma",
    "pathlib",
    "random",
    "rich",
    "sqlite3",
    "tempfile",
    "zsmtp.delivery.login",
    "zsmtp.delivery.retry",
    "zsmtp.delivery.tlsreport",
    "zsmtp.net.filecache",
    "zsmtp.proto.sasl",
    "zsmtp.queue",
    "zsmtp.tls.certificate",
    "zsmtp.tls.tlsrpt",
}
PROGRAM = """
import sys, zsmtp
report = zsmtp.deliver(b"From: ann@example.org\\nTo: bob@example.net\\n\\nAt one?\\n", relay=sys.argv[1])
print(*sorted(sys.modules))
sys.exit(0 if report.ok else str(report))
"""


def test_a_delivery_to_a_relay_loads_only_what_it_needs() -> None:
    unmeasured = {name: value for name, value in os.environ.items() if name not in COVERAGE}
    with MailReceiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, receiver.url], capture_output=True, text=True, check=False, env=unmeasured
        )
    assert (done.returncode, done.stderr) == (0, "")
    loaded = set(done.stdout.split())
    assert "zsmtp.client.client" in loaded
    assert loaded & NEEDLESS == set()
