"""Signed mail as servers stored it: OpenDKIM, dkimpy and our own verifier believe it, whatever the session was."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from tests.interop.servers import DOMAIN, LISTENERS, TLS, Farm, Listener
from tests.signing.sent import EIGHT_BIT, LARGE, LONG_LINES, PLAIN, RECORDS, RSA, is_good, written

import zsmtp
from zsmtp.client.config import Config
from zsmtp.client.message import MessageLike

pytestmark = pytest.mark.interop

_PASSED = re.compile(r"dkim=pass .*?header\.s=(\w+)")


@pytest.fixture
def opendkim(farm: Farm) -> Iterator[Path]:
    """The root directory of OpenDKIM, where ``tmp/opendkim.conf`` names our records."""
    root = farm.directory / "root"
    (root / "tmp/records").write_text("".join(f"{name} {text}\n" for name, text in RECORDS.items()))
    (root / "tmp/opendkim.conf").write_text("Mode v\nTestDNSData file:/tmp/records\nSyslog no\n")
    yield root
    for name in ("records", "opendkim.conf", "message"):
        (root / "tmp" / name).unlink(missing_ok=True)


def selectors(root: Path, message: bytes) -> list[str]:
    """The selectors of the signatures that OpenDKIM believes."""
    (root / "tmp/message").write_bytes(message)
    command = ["chroot", str(root), "/usr/sbin/opendkim", "-x", "/tmp/opendkim.conf", "-t", "/tmp/message", "-vv"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=60)
    return _PASSED.findall(done.stdout + done.stderr)


def relay_at(listener: Listener, root: Path) -> zsmtp.Relay:
    """The listener as the library reaches it; who its certificate speaks for is no matter here."""
    level = zsmtp.Level.NONE if listener.tls is TLS.NONE else zsmtp.Level.ENCRYPT
    return zsmtp.Relay(
        host="127.0.0.1" if listener.port is not None else str(root / (listener.path or "")),
        port=listener.port,
        lmtp=listener.lmtp,
        implicit=listener.tls is TLS.IMPLICIT,
        tls=zsmtp.TLS(level=level),
    )


@pytest.mark.parametrize("listener", LISTENERS, ids=lambda listener: listener.name)
def test_every_verifier_believes_what_is_in_the_mailbox(
    listener: Listener, farm: Farm, opendkim: Path, tmp_path: Path
) -> None:
    by_program = EmailMessage()
    by_program["From"], by_program["To"] = "Ännchen <ann@example.org>", "b@example.net"
    by_program.set_content("Grüße\n.\n..\n", cte="8bit")
    messages: list[MessageLike] = [PLAIN, EIGHT_BIT, LONG_LINES, LARGE, by_program]
    server = farm.server(listener.program)
    server.await_rest()
    server.clear()
    keys = written(tmp_path, "rsa", RSA), written(tmp_path, "ed")
    config = Config(relay=relay_at(listener, server.root), helo_name="client.interop.test", dkim=keys)
    with zsmtp.Client(config) as client:
        submissions = [
            zsmtp.Submission(message=one, sender="ann@example.org", recipients=f"user0{number:02}@{DOMAIN}")
            for number, one in enumerate(messages)
        ]
        for result in client.stream(submissions):
            assert result.ok, result
    server.await_stored(len(messages))
    for number in range(len(messages)):
        (stored,) = server.stored(f"user0{number:02}")
        arrived = stored.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        assert is_good(arrived, ["rsa", "ed"])
        assert selectors(opendkim, arrived) == ["rsa", "ed"]
        assert selectors(opendkim, arrived.replace(b"\r\n\r\n", b"\r\n\r\n!", 1)) == []
