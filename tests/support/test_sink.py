"""The scripted server itself: does it follow its script, and does it record what was sent?"""

from __future__ import annotations

import hashlib
import smtplib
import socket
import ssl
import threading
from pathlib import Path

import pytest
import trustme
from tests.support.script import Drip, Script, Step, Then
from tests.support.sink import Sink, refusing_port
from tests.support.wire import Way


def client(sink: Sink) -> socket.socket:
    sock = socket.create_connection((sink.host, sink.port), 10)
    sock.settimeout(60)
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    octets = b""
    while data := sock.recv(65536):
        octets += data
    return octets


def converse(sink: Sink, octets: bytes) -> bytes:
    """Send everything at once, end, and return all that came back."""
    with client(sink) as sock:
        sock.sendall(octets)
        sock.shutdown(socket.SHUT_WR)
        return read_to_end(sock)


def test_an_ordinary_transaction_is_recorded() -> None:
    with Sink(Script(caps=("SIZE 1000", "DSN"))) as sink:
        with smtplib.SMTP(sink.host, sink.port, "me.example") as smtp:
            refused = smtp.sendmail("a@example.org", ["b@example.com", "c@example.com"], "Subject: x\r\n\r\n.dot\r\n")
        sink.wait_until_finished()
    assert refused == {}
    (transaction,) = sink.transactions
    assert transaction.content == b"Subject: x\r\n\r\n..dot\r\n"
    assert transaction.octets == len(transaction.content)
    assert transaction.sha256 == hashlib.sha256(transaction.content).hexdigest()
    assert transaction.complete
    assert sink.deliveries() == {b"b@example.com": 1, b"c@example.com": 1}
    (connection,) = sink.connections
    assert connection.verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
    assert connection.octets(Way.CLIENT).startswith(b"ehlo me.example\r\n")
    assert b"250-SIZE 1000\r\n250 DSN\r\n" in connection.octets(Way.SERVER)


@pytest.mark.parametrize("content", [b"", b"x.", b"..\r\n", b"a\r\n", b"a\r\n..\r\nb\r\n", b"\n.\n", b"\r\n" * 5])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_content_ends_at_the_dot_however_it_is_cut(content: bytes, size: int) -> None:
    octets = b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<b@c>\r\nDATA\r\n" + content
    octets += b".\r\nQUIT\r\n" if content.endswith(b"\r\n") or not content else b"\r\n.\r\nQUIT\r\n"
    with Sink(Script(read_size=size)) as sink:
        converse(sink, octets)
    (transaction,) = sink.transactions
    expected = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    assert (transaction.content, transaction.complete) == (expected, True)
    assert sink.connections[0].verbs[-1] == "QUIT"


def test_chunks_are_counted_and_lmtp_answers_each_recipient() -> None:
    script = Script(lmtp=True, replies={"BDAT": (Step("250 first chunk"), Step("250 d1"), Step("450 4.2.2 full"))})
    with Sink(script) as sink:
        converse(
            sink,
            b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nabcBDAT 2 LAST\r\n\r\nQUIT\r\n",
        )
    (transaction,) = sink.transactions
    assert transaction.content == b"abc\r\n"
    assert transaction.answers == [b"250 d1\r\n", b"450 4.2.2 full\r\n"]
    assert transaction.delivered == [b"a@b"]


def test_the_last_step_and_the_last_script_repeat() -> None:
    first = Script(banner=Step("421 busy", Then.CLOSE))
    second = Script(replies={"RCPT": (Step("250 ok"), Step("550 no"))})
    with Sink(first, second) as sink:
        assert converse(sink, b"") == b"421 busy\r\n"
        for _ in range(2):
            octets = converse(sink, b"HELO x\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<a@b>\r\n" * 3 + b"QUIT\r\n")
            assert octets.count(b"550 no\r\n") == 2
    assert [len(connection.lines) for connection in sink.connections] == [0, 6, 6]


def test_a_reset_in_the_content_and_pieces_of_replies() -> None:
    script = Script(drip=Drip(1), in_content=(10, Step(None, Then.RESET)))
    with Sink(script) as sink, client(sink) as sock:
        sock.sendall(b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n0123456789abcdef")
        sink.wait_until_finished()
        with pytest.raises(ConnectionResetError):
            read_to_end(sock)
    assert all(len(s.data) == 1 for s in sink.connections[0].wire if s.way is Way.SERVER)
    assert not sink.transactions[0].complete


def test_it_stops_at_once_whatever_it_waits_for() -> None:
    gate = threading.Event()
    scripts = [
        Script(banner=Step("220 x", Then.HANG)),
        Script(banner=Step("220 x", delay=100)),
        Script(banner=Step("220 x", gate=gate)),
        Script(banner=Step("220 x\r\n" * 1_000_000)),
        Script(banner=Step("220 x"), drip=Drip(1, 100)),
    ]
    with Sink(*scripts) as sink:
        socks = [client(sink) for _ in range(6)]
        sink.wait_for(lambda s: len(s.connections) == 6)
    for sock in socks:
        sock.close()


def test_unix_socket_and_second_address(tmp_path: Path) -> None:
    with Sink(unix=tmp_path / "sock") as sink, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "sock"))
        sock.sendall(b"QUIT\r\n")
        assert read_to_end(sock).endswith(b"221 2.0.0 Bye\r\n")
    with Sink(host="::1") as sink:
        assert converse(sink, b"QUIT\r\n").startswith(b"220 ")


def test_starttls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    script = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
    with Sink(script, tls=context) as sink, smtplib.SMTP("localhost", sink.port) as smtp:
        smtp.starttls(context=trusting)
        smtp.sendmail("a@b", "c@d", "hello")
    assert sink.deliveries() == {b"c@d": 1}


def test_a_refusing_port_refuses() -> None:
    with refusing_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)


def test_scripts_are_read_from_json() -> None:
    script = Script.from_json(
        {"banner": {"send": "421 x", "then": "close"}, "caps": ["DSN"], "replies": {"MAIL": ["250 a", {"send": None}]}}
    )
    assert script.banner == Step("421 x", Then.CLOSE)
    assert script.answer("MAIL", 0) == Step("250 a")
    assert script.answer("MAIL", 7) == Step(None)
    assert script.answer("DATA", 0) is None
    with pytest.raises(ValueError, match="typo"):
        Script.from_json({"typo": 1})
