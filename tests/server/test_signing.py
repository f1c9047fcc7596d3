"""What a listener signs, and for whom: only mail of domains that its client may send as."""

from __future__ import annotations

import errno
import os
import threading
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.test_queueintake import (
    INTAKE,
    LOGINS,
    NOON,
    PASSWORDS,
    WITH_LOGINS,
    Queueing,
    queueing,
    send,
)
from tests.signing.samples import published, results, signing_key
from tests.signing.sent import written
from tests.support.patience import LIMIT
from tests.support.serving import ENVELOPE

from zsmtp.body.target import Target
from zsmtp.errors import ConfigError
from zsmtp.queue.limits import CHUNK
from zsmtp.server.access import Access, ClientRights, granted_domains
from zsmtp.server.service import needs_restart, read_entrances
from zsmtp.server.serviceconfig import service_config
from zsmtp.signing.finalform import MessageSigning
from zsmtp.signing.keyring import Keyring
from zsmtp.signing.signature import Algorithm

KEYS = [signing_key(Algorithm.RSA_SHA256), signing_key(Algorithm.ED25519_SHA256, domain="shop.example")]
OWN = replace(INTAKE, default_domain="example.org")


def signing() -> MessageSigning:
    return MessageSigning(Keyring(KEYS), Target(), lambda: NOON)


def message(sender: str, body: bytes = b"Hi.\r\n..\r\n", more: bytes = b"") -> bytes:
    return f"From: {sender}\r\nTo: b@example.net\r\n".encode() + more + b"\r\n" + body


def signed_by(queue: Queueing) -> list[str]:
    """Which domains have signed the one message, all signatures being good."""
    _, content = queue.only()
    found = results(content, published(KEYS), now=NOON)
    assert found == ["pass"] * len(found)
    return [line.split(b"d=")[1].split(b";")[0].decode() for line in content.split(b"\r\n") if line[:5] == b"DKIM-"]


@pytest.mark.parametrize(
    ("sender", "domains"),
    [
        ("Ann <ann@example.org>", ["example.org"]),
        ("ann@shop.example", []),
        ("ann@elsewhere.example", []),
    ],
)
def test_without_a_login_only_mail_of_the_default_domain_is_signed(sender: str, domains: list[str]) -> None:
    with queueing(OWN, signing=signing()) as queue, queue.client() as client:
        assert send(client, message(sender)).startswith(b"250")
        assert signed_by(queue) == domains
        _, content = queue.only()
        assert content.startswith(b"Received: from ")
        assert content.count(b"\r\nDate: ") == content.count(b"\r\nMessage-ID: ") == 1


@pytest.mark.parametrize(
    ("senders", "sender", "reply", "domains"),
    [
        (("*@shop.example",), "ann@shop.example", b"250", ["shop.example"]),
        (("ann@SHOP.example", "*@x.example"), "ann@shop.example", b"250", ["shop.example"]),
        (("*@shop.example",), "ann@example.org", b"553", []),
        (("*@shop.example", "*@example.org"), "ann@example.org", b"250", ["example.org"]),
        (("*",), "ann@shop.example", b"250", []),
        (("*",), "ann@example.org", b"250", ["example.org"]),
        (("*@*",), "ann@shop.example", b"250", ["shop.example"]),
    ],
)
def test_a_login_signs_for_the_domains_that_its_senders_name(
    senders: tuple[str, ...], sender: str, reply: bytes, domains: list[str]
) -> None:
    access = Access(networks=(), clients=(ClientRights(login="ann", senders=senders),))
    settings = replace(WITH_LOGINS, default_domain="example.org")
    with (
        queueing(settings, access, signing=signing(), settings=LOGINS, passwords=PASSWORDS) as queue,
        queue.client() as client,
    ):
        assert client.ask(b"AUTH PLAIN " + b64encode(b"\0ann\0geheim")).startswith(b"235 ")
        envelope = b"MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\n"
        assert send(client, message(sender), envelope).startswith(reply)
        if reply == b"250":
            assert signed_by(queue) == domains


@pytest.mark.parametrize("octets", [100, CHUNK - 400, CHUNK * 3])
@pytest.mark.parametrize("line", [b"Hallo, Welt!\r\n", "Grüße\r\n".encode(), b".x\r\n"])
def test_messages_of_every_size_are_signed_in_their_final_form(octets: int, line: bytes) -> None:
    body = line * (octets // len(line) + 1)
    with queueing(OWN, signing=signing()) as queue, queue.client() as client:
        assert send(client, message("ann@example.org", body)).startswith(b"250")
        assert signed_by(queue) == ["example.org"]
        row, content = queue.only()
        assert content.isascii()
        assert row.message.size == len(content)
        assert row.message.name.endswith("@mail.example.org>")


def test_a_large_message_that_breaks_off_or_is_refused_leaves_nothing() -> None:
    body = b"x" * 70 + b"\r\n"
    with queueing(OWN, signing=signing()) as queue:
        with queue.client() as client:
            client.send(ENVELOPE + b"DATA\r\n")
            assert client.codes(3) == [250, 250, 354]
            client.send(message("ann@example.org", body * (CHUNK // 30)))
        with queue.client() as client:
            many = b"Received: from x\r\n" * 200
            reply = send(client, message("ann@example.org", body * (CHUNK // 30), many))
            assert reply.startswith(b"554 5.4.6")
        assert queue.rows() == []
        assert queue.intake.refused == 1


@pytest.mark.parametrize(
    ("senders", "found"),
    [
        (("*",), {"example.org"}),
        (("*@shop.example",), {"shop.example"}),
        (("*@*.example",), {"shop.example", "xn--bcher-kva.example"}),
        (("*@sub.shop.example",), set()),
        (("*@bücher.example",), {"xn--bcher-kva.example"}),
        (("*@XN--BCHER-KVA.example",), {"xn--bcher-kva.example"}),
        (("*", "*@shop.example"), {"shop.example"}),
        (("*@*",), {"example.org", "shop.example", "xn--bcher-kva.example"}),
    ],
)
def test_domains_that_are_granted(senders: tuple[str, ...], found: set[str]) -> None:
    domains = ("example.org", "shop.example", "xn--bcher-kva.example")
    assert granted_domains(senders, domains, "Example.ORG") == found


# ------------------------------------------------------------------ the service


def test_keys_stand_in_the_configuration_of_a_service(tmp_path: Path) -> None:
    key = {"domain": "example.org", "selector": "ed", "key_file": written(tmp_path, "ed").key_file}
    config = service_config({"name": "mail.example.org", "delivery": {"dkim": [key]}})
    read_entrances(config)
    lost = service_config({"name": "mail.example.org", "delivery": {"dkim": [key | {"key_file": "/nowhere/x.pem"}]}})
    with pytest.raises(ConfigError, match=r"^delivery\.dkim\[0\]\.key_file: /nowhere/x\.pem cannot be read"):
        read_entrances(lost)
    assert needs_restart(config, lost) == []
    other = service_config({"name": "mail.example.org", "delivery": {"helo_name": "x.example"}})
    assert needs_restart(config, other) == ["delivery changed, which takes a restart"]


def test_a_reload_does_not_touch_the_message_that_is_coming() -> None:
    """The keys of a message are those of its beginning, also if none is configured at its end."""
    body = b"x" * 70 + b"\r\n"
    chosen = threading.Event()

    def clock() -> float:
        chosen.set()
        return NOON

    with (
        queueing(OWN, signing=MessageSigning(Keyring(KEYS), Target(), clock)) as queue,
        queue.client() as client,
    ):
        intake = queue.intake
        client.send(ENVELOPE + b"DATA\r\n")
        assert client.codes(3) == [250, 250, 354]
        client.send(message("ann@example.org", body * (CHUNK // 30)))
        assert chosen.wait(LIMIT)
        queue.server.call(lambda: intake.reconfigure(OWN, intake.access, intake.submitter))
        client.send(b".\r\n")
        assert client.reply().startswith(b"250")
        assert signed_by(queue) == ["example.org"]


def test_new_keys_sign_after_a_reload() -> None:
    with queueing(OWN) as queue, queue.client() as client:
        intake = queue.intake
        assert send(client, message("ann@example.org")).startswith(b"250")
        assert signed_by(queue) == []
        intake.reconfigure(OWN, intake.access, intake.submitter, signing())
        assert send(client, message("ann@example.org")).startswith(b"250")
        assert sorted(b"DKIM-Signature" in queue.content(row) for row in queue.rows()) == [False, True]


@pytest.mark.parametrize(("number", "reply"), [(errno.ENOSPC, b"452 4.3.1"), (errno.EROFS, b"451 4.3.0")])
def test_without_room_for_it_a_large_message_is_put_off(
    monkeypatch: pytest.MonkeyPatch, number: int, reply: bytes
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    body = b"x" * 70 + b"\r\n"
    with queueing(OWN, signing=signing()) as queue, queue.client() as client:
        assert send(client, message("ann@example.org", body * (CHUNK // 30))).startswith(reply)
        assert send(client, message("ann@example.org")).startswith(b"250")
        assert signed_by(queue) == ["example.org"]
