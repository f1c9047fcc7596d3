"""Mail into a queue over real sockets: what is queued, what is refused, and when 250 is said."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.queue import reports
from tests.queue.harness import new
from tests.support.patience import LIMIT
from tests.support.serving import ENVELOPE, SETTINGS, RawClient, Serving, serving

from zsmtp.client.config import Config, Relay
from zsmtp.client.destinations import Destinations
from zsmtp.errors import ConfigError, QueueError, QueueFull, QueueUnavailable
from zsmtp.proto.plan import EnvelopeRecipient
from zsmtp.proto.server_events import MailParameters
from zsmtp.proto.server_passwords import Passwords, scram_verifier
from zsmtp.queue.admission import Admission
from zsmtp.queue.bouncekeys import OCTETS
from zsmtp.queue.bounces import BounceTaker, Taken
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.filter import Filter
from zsmtp.queue.ids import from_text
from zsmtp.queue.limits import CHUNK
from zsmtp.queue.memory import MemoryStore
from zsmtp.queue.operators import Change, Row
from zsmtp.queue.returnpath import BounceConfig, ReturnPath
from zsmtp.queue.shaping import Rate
from zsmtp.queue.states import Outcome as Ending
from zsmtp.queue.submission import Submitter
from zsmtp.queue.suppression import Suppression
from zsmtp.server.access import Access, ClientRights, read_network
from zsmtp.server.intake import PeerInfo, ReceivedEnvelope, SessionInfo
from zsmtp.server.queueintake import MAX_HEADER, QueueIntake, QueueIntakeSettings
from zsmtp.signing.finalform import MessageSigning

T = TypeVar("T")

NOON = 1_764_331_200.0  # 2025-11-28T12:00:00Z
NAME = "mail.example.org"
INTAKE = QueueIntakeSettings(name=NAME)
WITH_LOGINS = replace(INTAKE, logins=True)
EVERYTHING = replace(SETTINGS, priority=True, max_hold=86400)
PASSWORDS = Passwords(
    {name: scram_verifier(b"geheim", salt=b"0123456789abcdef") for name in (b"ann", b"bob")}, {}, key=b"k" * 32
)
LOGINS = replace(SETTINGS, mechanisms=("PLAIN",), cleartext_logins=True)
MESSAGE = (
    b"From: a@example.net\r\nDate: Fri, 28 Nov 2025 12:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n\r\nhello\r\n"
)
NOWHERE = Access(networks=())


class Queueing:
    """A listener whose intake is that of a queue, and the queue behind it."""

    def __init__(self, server: Serving, intake: QueueIntake, store: MemoryStore) -> None:
        self.server = server
        self.intake = intake
        self.store = store

    def client(self) -> RawClient:
        return self.server.client().greet()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.server.loop).result(20)

    def rows(self) -> list[Row]:
        """The recipients that are queued."""

        async def read() -> list[Row]:
            return [row async for row in self.store.select(Filter.parse(""))]

        return self.run(read())

    def content(self, row: Row) -> bytes:
        """The content of a queued message."""

        async def read() -> bytes:
            found: AsyncIterator[bytes] = self.store.content(row.message.id, row.message.size)
            return b"".join([chunk async for chunk in found])

        return self.run(read())

    def octets(self) -> int:
        """The octets of all messages."""
        return sum({row.message.id: row.message.size for row in self.rows()}.values())

    def only(self) -> tuple[Row, bytes]:
        """The one recipient there is, and its content."""
        (row,) = self.rows()
        return row, self.content(row)


@contextmanager
def queueing(
    intake: QueueIntakeSettings = INTAKE,
    access: Access | None = None,
    *,
    config: Config | None = None,
    free: Callable[[], int] = lambda: -1,
    clock: Callable[[], float] = lambda: NOON,
    signing: MessageSigning | None = None,
    queue: QueueConfig | None = None,
    taking: Callable[[MemoryStore], BounceTaker] | None = None,
    **how: Any,
) -> Iterator[Queueing]:
    store = MemoryStore(clock=clock, free_space=free)
    rules = queue or QueueConfig()
    submitter = Submitter(Destinations(config or Config()), rules)
    admission = Admission(store, rules.tenants, clock=clock)
    bounces = None if taking is None else taking(store)
    made = QueueIntake(
        store, submitter, intake, access, admission=admission, signing=signing, bounces=bounces, clock=clock
    )
    with serving(made, how.pop("settings", SETTINGS), **how) as server:
        yield Queueing(server, made, store)
        assert not server.errors, server.errors


def send(client: RawClient, content: bytes, envelope: bytes = ENVELOPE) -> bytes:
    """Send a message, and give the last reply."""
    client.send(envelope + b"DATA\r\n")
    replies = [client.reply() for _ in range(envelope.count(b"\r\n") + 1)]
    if not replies[-1].startswith(b"354"):
        return replies[-1]
    client.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return client.reply()


# ------------------------------------------------------------- what is queued


def test_250_names_the_message_that_is_queued() -> None:
    with queueing() as queue, queue.client() as client:
        reply = send(client, MESSAGE)
        row, content = queue.only()
        match = re.fullmatch(rb"250 2\.0\.0 queued as ([0-9a-z]{15})\r\n", reply)
        assert match
        assert from_text(match[1].decode())[0] == row.message.id
        assert (row.message.sender, row.recipient.address) == (b"a@example.net", b"b@example.org")
        assert (row.recipient.key, row.recipient.due) == ("example.org", NOON)
        assert row.message.name == "<1@example.net>"
        assert row.message.origin == "smtp 127.0.0.1"
        assert (
            content
            == (
                b"Received: from client.example ([127.0.0.1])\r\n"
                b"\tby mail.example.org with ESMTP\r\n"
                b"\tfor <b@example.org>;\r\n"
                b"\tFri, 28 Nov 2025 12:00:00 +0000\r\n"
            )
            + MESSAGE
        )
        assert (queue.intake.accepted, queue.intake.refused) == (1, 0)


def test_a_message_to_several_does_not_say_to_whom() -> None:
    with queueing() as queue, queue.client() as client:
        assert send(client, MESSAGE, ENVELOPE + b"RCPT TO:<c@example.com>\r\n").startswith(b"250")
        first, second = queue.rows()
        assert [row.recipient.key for row in (first, second)] == ["example.org", "example.com"]
        assert b"for <" not in queue.content(first)


@pytest.mark.parametrize(
    ("content", "added"),
    [
        (MESSAGE, []),
        (b"From: a@example.net\r\nmessage-id : <2@x>\r\n\r\nx\r\n", [b"Date"]),
        (b"Date: x\r\n\r\nMessage-ID: <2@x>\r\n", [b"Message-ID"]),
        (b"Subject: folded\r\n Date: not a field\r\n\r\nx\r\n", [b"Date", b"Message-ID"]),
        (b"\r\nonly a body\r\n", [b"Date", b"Message-ID"]),
        (b"", [b"Date", b"Message-ID"]),
    ],
    ids=["nothing", "date", "message-id", "folded", "body", "empty"],
)
def test_what_is_missing_is_added_in_front(content: bytes, added: list[bytes]) -> None:
    with queueing() as queue, queue.client() as client:
        assert send(client, content).startswith(b"250")
        row, queued = queue.only()
        assert queued.endswith(content)
        new = re.sub(rb"\r\n[ \t]", b" ", queued[: len(queued) - len(content)])
        assert [line.partition(b":")[0] for line in new.splitlines() if line] == [b"Received", *added]
        assert row.message.name
        if b"Message-ID" in added:
            assert f"Message-ID: {row.message.name}".encode() in new


def test_words_that_are_no_header_are_the_body() -> None:
    """A Received field in front of them must not make them part of the header."""
    with queueing() as queue, queue.client() as client:
        assert send(client, b"Dear all,\r\nFrom: now on ...\r\n\r\nx\r\n").startswith(b"250")
        _, queued = queue.only()
        header, _, body = queued.partition(b"\r\n\r\n")
        assert body == b"Dear all,\r\nFrom: now on ...\r\n\r\nx\r\n"
        assert b"Date: " in header


def test_a_relay_adds_no_fields_but_received() -> None:
    with queueing(replace(INTAKE, add_missing=False)) as queue, queue.client() as client:
        assert send(client, b"Subject: x\r\n\r\nx\r\n").startswith(b"250")
        row, queued = queue.only()
        assert row.message.name == ""
        assert queued.count(b"Date:") == queued.count(b"Message-ID:") == 0


def test_what_was_asked_for_is_queued() -> None:
    mail = b"MAIL FROM:<a@example.net> RET=HDRS ENVID=x+2By MT-PRIORITY=3 HOLDFOR=600\r\n"
    rcpt = b"RCPT TO:<b@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c@example.com\r\n"
    with queueing(settings=EVERYTHING, clock=time.time) as queue, queue.client() as client:
        assert send(client, MESSAGE, mail + rcpt).startswith(b"250")
        (row,) = queue.rows()
        assert (row.message.ret, row.message.envid, row.message.priority) == (b"HDRS", b"x+2By", 3)
        assert (row.recipient.notify, row.recipient.orcpt) == (b"SUCCESS,DELAY", b"rfc822;c@example.com")
        assert row.recipient.due - row.message.submitted == pytest.approx(600, abs=10)


def test_requiretls_is_queued() -> None:
    intake = QueueIntake(MemoryStore(), Submitter(Destinations(Config()), QueueConfig()), INTAKE, clock=lambda: NOON)
    envelope = ReceivedEnvelope(b"a@example.net", MailParameters(require_tls=True))
    envelope.recipients.append(EnvelopeRecipient(b"b@example.org"))
    rights = intake.access.rights_of(None, PeerInfo("127.0.0.1"))
    assert rights is not None
    new = intake.prepared(SessionInfo(1, PeerInfo("127.0.0.1")), envelope, rights, MESSAGE)
    assert new.options == {"require_tls": True}  # type: ignore[union-attr]


def test_addresses_without_a_domain_get_the_default_one() -> None:
    settings = replace(INTAKE, default_domain="example.org")
    with queueing(settings) as queue, queue.client() as client:
        assert send(client, MESSAGE, b"MAIL FROM:<>\r\nRCPT TO:<postmaster>\r\n").startswith(b"250")
        row, _ = queue.only()
        assert (row.message.sender, row.recipient.address) == (b"", b"postmaster@example.org")
        assert row.recipient.key == "example.org"


def test_an_at_sign_in_quotes_begins_no_domain() -> None:
    settings = replace(INTAKE, default_domain="example.org")
    with queueing(settings) as queue, queue.client() as client:
        envelope = b'MAIL FROM:<"a@elsewhere.example">\r\nRCPT TO:<"b@elsewhere.example">\r\n'
        assert send(client, MESSAGE, envelope).startswith(b"250")
        row, _ = queue.only()
        assert row.message.sender == b'"a@elsewhere.example"@example.org'
        assert row.recipient.address == b'"b@elsewhere.example"@example.org'
        assert row.recipient.key == "example.org"


def test_a_relay_is_the_key() -> None:
    config = Config(relay=Relay(host="relay.example", port=2500))
    with queueing(config=config) as queue, queue.client() as client:
        send(client, MESSAGE)
        assert queue.only()[0].recipient.key == "relay:relay.example:2500"


def test_lmtp_has_a_reply_for_each_recipient() -> None:
    settings = replace(SETTINGS, lmtp=True)
    with queueing(settings=settings) as queue, queue.server.client().greet(b"LHLO") as client:
        client.send(ENVELOPE + b"RCPT TO:<c@example.org>\r\nDATA\r\n")
        assert client.codes(4) == [250, 250, 250, 354]
        client.send(MESSAGE + b".\r\n")
        first, second = client.reply(), client.reply()
        assert first == second
        assert first.startswith(b"250 2.0.0 queued as ")
        assert queue.rows()[0].message.origin == "lmtp 127.0.0.1"


def test_a_process_at_a_unix_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with queueing(unix=path) as queue:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT)
        sock.connect(str(path))
        with RawClient(sock).greet() as client:
            assert send(client, MESSAGE).startswith(b"250")
        row, content = queue.only()
        assert row.message.origin == f"smtp uid {os.getuid()}"
        assert content.startswith(b"Received: from client.example (uid %d)\r\n" % os.getuid())


# ------------------------------------------------------------- large messages


def test_a_large_message_is_written_in_parts() -> None:
    body = b"".join(b"%07d %b\r\n" % (number, b"x" * 60) for number in range(60_000))
    with queueing(settings=replace(SETTINGS, max_size=64 << 20)) as queue, queue.client() as client:
        assert send(client, MESSAGE + body).startswith(b"250 2.0.0 queued as ")
        row, content = queue.only()
        assert content.endswith(MESSAGE + body)
        assert row.message.size == len(content)
        assert row.message.name == "<1@example.net>"


def test_a_large_message_that_breaks_off_is_forgotten() -> None:
    with queueing() as queue:
        with queue.client() as client:
            client.send(ENVELOPE + b"DATA\r\n")
            assert client.codes(3) == [250, 250, 354]
            client.send(MESSAGE + (b"x" * 998 + b"\r\n") * 600)
            queue.server.wait_until(lambda: queue.store._data.uploads)
        queue.server.wait_until(lambda: not queue.store._data.uploads and not queue.intake._tasks)
        assert queue.rows() == []


def test_a_header_without_end_is_refused() -> None:
    with queueing() as queue, queue.client() as client:
        assert send(client, b"X-Long: y\r\n" * (MAX_HEADER // 11 + 5)).startswith(b"552 5.3.4 the header is longer")
        assert queue.rows() == []


def test_a_long_text_without_a_header_is_the_body() -> None:
    text = (b"x" * 998 + b"\r\n") * (CHUNK // 1000 + 10)
    with queueing() as queue, queue.client() as client:
        assert send(client, text).startswith(b"250 2.0.0 queued as ")
        assert queue.only()[1].endswith(b"\r\n\r\n" + text)


@pytest.mark.parametrize("size", [0, CHUNK * 5])
def test_a_store_that_cannot_take_it_is_452_or_451(size: int) -> None:
    content = MESSAGE + (b"x" * 998 + b"\r\n") * (size // 1000)
    full, away = b"452 4.3.1 no room for the message now\r\n", b"451 4.3.0 error here; try again later\r\n"
    for method, error, reply in (
        ("submit", QueueFull("the disk is full"), full),
        ("submit", QueueUnavailable("I/O error"), away),
        ("upload", QueueFull("the disk is full"), full),
        ("upload", QueueUnavailable("I/O error"), away),
    ):
        if (method == "upload") != bool(size):
            continue
        with queueing() as queue, queue.client() as client:
            queue.store.fail(method, error)
            assert send(client, content) == reply
            assert send(client, content).startswith(b"250")
            assert len(queue.rows()) == 1


def test_the_disk_runs_full_while_it_is_written() -> None:
    room = [1 << 40]
    with queueing(free=lambda: room[0]) as queue, queue.client() as client:
        client.send(ENVELOPE + b"DATA\r\n")
        assert client.codes(3) == [250, 250, 354]
        client.send(MESSAGE + (b"x" * 998 + b"\r\n") * 600)
        queue.server.wait_until(lambda: queue.store._data.uploads)
        room[0] = 0
        client.send((b"x" * 998 + b"\r\n") * 3000 + b".\r\n")
        assert client.code() == 452
        assert queue.rows() == []
        queue.server.wait_until(lambda: not queue.intake._tasks)


def test_a_value_that_cannot_be_kept_is_the_clients_fault() -> None:
    with queueing() as queue, queue.client() as client:
        queue.store.fail("submit", QueueError("b'...' is no UTF-8"))
        assert send(client, MESSAGE).startswith(b"554 5.6.0 b'...' is no UTF-8")


def test_a_message_that_goes_round_is_refused() -> None:
    with queueing() as queue, queue.client() as client:
        assert send(client, b"Received: x\r\n" * 100 + MESSAGE).startswith(b"250")
        assert send(client, b"Received: x\r\n" * 101 + MESSAGE).startswith(b"554 5.4.6 ")
        assert len(queue.rows()) == 1


# ----------------------------------------------------------------- who may send


def test_no_open_relay() -> None:
    """Whoever is not in the networks is turned away at once, where nobody can log in."""
    with queueing(access=NOWHERE) as queue, queue.server.client() as client:
        assert client.reply().startswith(b"554 5.7.1 ")


def test_strangers_are_asked_to_log_in() -> None:
    with queueing(WITH_LOGINS, NOWHERE, settings=LOGINS, passwords=PASSWORDS) as queue, queue.client() as client:
        assert client.ask(b"MAIL FROM:<a@example.net>").startswith(b"530 5.7.0 ")
        assert client.ask(b"AUTH PLAIN " + b64encode(b"\0ann\0geheim")).startswith(b"235 ")
        assert send(client, MESSAGE).startswith(b"250 ")
        row, content = queue.only()
        assert row.message.origin == "smtp 127.0.0.1 login ann"
        assert b" with ESMTPA" in content


RIGHTS = Access(
    networks=(),
    clients=(
        ClientRights(login="ann", senders=("ann@example.net", "*@Lists.example"), tenant="lists"),
        ClientRights(login="*", senders=("*",), tenant="others"),
    ),
)


def sending_as(sender: bytes, content: bytes) -> tuple[bytes, list[Row]]:
    """What ann is answered, and what is queued then."""
    with queueing(WITH_LOGINS, RIGHTS, settings=LOGINS, passwords=PASSWORDS) as queue, queue.client() as client:
        assert client.ask(b"AUTH PLAIN " + b64encode(b"\0ann\0geheim")).startswith(b"235 ")
        envelope = b"MAIL FROM:<%b>\r\nRCPT TO:<b@example.org>\r\n" % sender
        first = client.ask(envelope.partition(b"\r\n")[0])
        if not first.startswith(b"250"):
            return first, queue.rows()
        client.ask(b"RSET")
        return send(client, content, envelope), queue.rows()


@pytest.mark.parametrize("sender", [b"ann@example.net", b"ANN@EXAMPLE.NET", b"x@lists.example", b""])
def test_a_login_sends_as_what_it_may(sender: bytes) -> None:
    reply, (row,) = sending_as(sender, b"From: Ann <ann@example.net>, x@lists.example\r\n\r\nx\r\n")
    assert reply.startswith(b"250")
    assert row.message.tenant == "lists"


@pytest.mark.parametrize(
    ("sender", "content", "words"),
    [
        (b"boss@example.net", MESSAGE, b"ann may not send as this address"),
        (b"ann@example.net.evil", MESSAGE, b"ann may not send as this address"),
        (b"ann@example.net", b"From: boss@example.net\r\n\r\n", b"boss@example.net in the field From"),
        (b"ann@example.net", b"From: ann@example.net, boss@example.net\r\n\r\n", b"boss@example.net in the field From"),
        (b"ann@example.net", b"From: ann@example.net\r\nfrom: b@example.net\r\n\r\n", b"b@example.net in the field"),
        (b"ann@example.net", b"From: ann@example.net\r\nSender: b@x.y\r\n\r\n", b"b@x.y in the field Sender"),
        (b"ann@example.net", b"From: ann@example.net; boss@x.y\r\n\r\n", b"a field From that cannot be read"),
    ],
)
def test_a_login_does_not_send_as_somebody_else(sender: bytes, content: bytes, words: bytes) -> None:
    reply, rows = sending_as(sender, content)
    assert reply.startswith(b"553 5.7.1 ")
    assert words in reply
    assert rows == []


@pytest.mark.parametrize(("override", "left"), [(False, []), (True, [b"b@example.org"])])
def test_who_has_the_right_writes_to_suppressed_addresses(override: bool, left: list[bytes]) -> None:
    access = Access(clients=(ClientRights(network="127.0.0.0/8", override_suppression=override),))
    with queueing(access=access) as queue, queue.client() as client:
        queue.run(queue.store.suppress([Suppression(address=b"b@example.org", at=0.0)]))
        assert send(client, MESSAGE).startswith(b"250")
        assert [row.recipient.address for row in queue.rows()] == left


def test_rights_by_network_and_by_user_of_a_process() -> None:
    access = Access(
        networks=(read_network("192.0.2.0/24"), read_network("2001:db8::/32")),
        clients=(
            ClientRights(network="192.0.2.128/25", senders=("*@a.example",), tenant="a"),
            ClientRights(uid=1000, senders=("*@b.example",), tenant="b"),
        ),
        others=(),
    )
    tenants = [
        (PeerInfo("192.0.2.129"), "a"),
        (PeerInfo("192.0.2.1"), ""),
        (PeerInfo("2001:db8::1%eth0"), ""),
        (PeerInfo("", uid=1000), "b"),
        (PeerInfo("", uid=1001), ""),
    ]
    for peer, tenant in tenants:
        rights = access.rights_of(None, peer)
        assert rights is not None
        assert rights.tenant == tenant
        assert rights.may_send_as(b"x@a.example") == (tenant == "a")
        assert rights.may_send_as(b"")
    assert access.rights_of(None, PeerInfo("198.51.100.1")) is None
    assert access.rights_of(None, PeerInfo("not an address")) is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "login: one of login, network, uid; not 0"),
        ({"login": "a", "uid": 0}, "not 2 of them"),
        ({"network": "192.0.2.1/24"}, "network: 192.0.2.1/24 has host bits set"),
        ({"login": "a", "senders": ("example.org",)}, r"senders\[0\]: 'example.org' is no address"),
    ],
)
def test_rights_that_cannot_be_used(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ClientRights(**wrong)


# ---------------------------------------------------------- mail that comes back

LOOP = "loop@example.org"
RETURNS = ReturnPath(
    BounceConfig(return_path="b+{id}@example.org", key_file="-", complaints=(LOOP,)), [b"k" * OCTETS], 0
)


def taker(store: MemoryStore) -> BounceTaker:
    return BounceTaker(store, RETURNS, lambda: NOON)


def sent_with(queue: Queueing, *, ended: bool = True) -> bytes:
    """A message of which the recipient has its end, or not: the reverse-path it was sent with."""

    async def work() -> bytes:
        (accepted,) = await queue.store.submit([new("bob@example.net")])
        (row,) = [row async for row in queue.store.select(Filter()) if row.message.id == accepted.id]
        if ended:
            async for _ in queue.store.change(Filter.parse("to=bob@example.net"), Change(end="dropped")):
                pass
        return RETURNS.sender_of(row.message, [row.recipient], NOON)

    return queue.run(work())


def events(queue: Queueing) -> list[Ending]:
    async def work() -> list[Ending]:
        return [one.outcome for one in (await queue.store.events("", limit=100))[1] if one.outcome.end is None]

    return queue.run(work())


def test_everybody_writes_to_return_paths_and_to_nobody_else() -> None:
    with queueing(access=NOWHERE, taking=taker) as queue, queue.client() as client:
        sender = sent_with(queue)
        to = b"MAIL FROM:<>\r\nRCPT TO:<%b>\r\n"
        assert client.ask(b"MAIL FROM:<>").startswith(b"250")
        assert client.ask(b"RCPT TO:<ann@example.org>").startswith(b"554 5.7.1 ")
        forged = sender[:-13] + (b"0" if sender[-13:-12] != b"0" else b"1") + sender[-12:]
        assert client.ask(b"RCPT TO:<%b>" % forged).startswith(b"550 5.1.1 ")
        client.ask(b"RSET")
        assert send(client, reports.postfix("bob@example.net"), to % sender).startswith(b"250 2.0.0 taken in")
        assert events(queue) == [Ending.BOUNCED]
        assert send(client, b"Subject: away\r\n\r\nhello\r\n", to % sender).startswith(b"250")
        complaint = reports.complaint(sender.decode())
        assert send(client, complaint, b"MAIL FROM:<f@b.example>\r\nRCPT TO:<loop@EXAMPLE.org>\r\n").startswith(b"250")
        assert send(client, reports.complaint("x@y.example"), to % LOOP.encode()).startswith(b"250")
        assert events(queue) == [Ending.BOUNCED, Ending.COMPLAINED]
        assert queue.rows() == []
        assert queue.intake.bounces is not None
        assert queue.intake.bounces.taken == {Taken.RECORDED: 2, Taken.IGNORED: 1, Taken.UNPROVEN: 2}


def test_who_may_send_sends_beside_in_transactions_of_their_own() -> None:
    with queueing(taking=taker) as queue, queue.client() as client:
        sender = sent_with(queue)
        assert client.ask(b"MAIL FROM:<a@example.net>").startswith(b"250")
        assert client.ask(b"RCPT TO:<%b>" % sender).startswith(b"250")
        assert client.ask(b"RCPT TO:<b@example.org>").startswith(b"452 4.5.3 ")
        client.ask(b"RSET")
        assert send(client, MESSAGE).startswith(b"250 2.0.0 queued as ")
        assert len(queue.rows()) == 1


def test_a_report_that_is_too_early_comes_again() -> None:
    with queueing(taking=taker) as queue, queue.client() as client:
        sender = sent_with(queue, ended=False)
        envelope = b"MAIL FROM:<>\r\nRCPT TO:<%b>\r\n" % sender
        assert send(client, reports.exim(), envelope).startswith(b"450 4.3.0 ")
        queue.store.fail("ended", QueueUnavailable("the disk is away"))
        assert send(client, reports.exim(), envelope).startswith(b"451 4.3.0 ")


def test_a_report_beyond_all_bounds_is_read_at_its_beginning() -> None:
    with queueing(taking=taker) as queue, queue.client() as client:
        envelope = b"MAIL FROM:<>\r\nRCPT TO:<%b>\r\n" % sent_with(queue)
        octets = reports.exim() + b"x" * 70 * 1024 + b"\r\n"
        assert send(client, octets + (b"y" * 900 + b"\r\n") * 800, envelope).startswith(b"250")
        assert events(queue) == [Ending.BOUNCED]


def test_a_message_that_is_not_known_any_more() -> None:
    with queueing(taking=taker) as queue, queue.client() as client:
        with queueing(taking=taker) as other:
            sender = sent_with(other)
        envelope = b"MAIL FROM:<>\r\nRCPT TO:<%b>\r\n" % sender
        assert send(client, reports.exim(), envelope).startswith(b"550 5.1.1 ")


# ------------------------------------------------------------------------ rates


def test_rates_of_an_address() -> None:
    settings = replace(INTAKE, rates_by_address=(Rate(2, 3600.0),))
    with queueing(settings) as queue, queue.client() as client:
        assert send(client, MESSAGE).startswith(b"250")
        assert send(client, MESSAGE).startswith(b"250")
        assert client.ask(b"MAIL FROM:<a@example.net>").startswith(b"450 4.7.1 too many messages in a short time")
        assert len(queue.rows()) == 2


def test_rates_of_a_login_are_not_those_of_another() -> None:
    settings = replace(WITH_LOGINS, rates_by_user=(Rate(1, 3600.0),))
    with queueing(settings, NOWHERE, settings=LOGINS, passwords=PASSWORDS) as queue:
        for user in (b"ann", b"bob"):
            with queue.client() as client:
                assert client.ask(b"AUTH PLAIN " + b64encode(b"\0%b\0geheim" % user)).startswith(b"235 ")
                assert send(client, MESSAGE).startswith(b"250")
                assert client.ask(b"MAIL FROM:<a@example.net>").startswith(b"450 4.7.1 ")


def test_guessing_passwords_ends_in_421_for_the_address() -> None:
    settings = replace(WITH_LOGINS, failed_logins=(Rate(2, 3600.0),))
    with queueing(settings, NOWHERE, settings=LOGINS, passwords=PASSWORDS) as queue:
        with queue.client() as client:
            for _ in range(2):
                assert client.ask(b"AUTH PLAIN " + b64encode(b"\0ann\0x")).startswith(b"535 ")
        with queue.server.client() as client:
            assert client.reply().startswith(b"421 4.7.0 too many failed logins")


def test_a_name_that_is_no_domain_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^default_domain: 'exa mple' "):
        QueueIntakeSettings(name=NAME, default_domain="exa mple")
