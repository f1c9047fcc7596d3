"""SCRAM-SHA-256: the published example, an independent server, and servers that cheat."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples

from zsmtp.errors import ConfigError, ReplyError
from zsmtp.proto.sasl import ChannelBinding, Credentials, NoMechanism, Secret, choose
from zsmtp.proto.scram import BindingFlag, Scram, prepare

NONCE = b"rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = b64decode(b"W22ZaJ0SNY7soEsUEjb6gQ==")
BINDING = ChannelBinding("tls-exporter", bytes(range(32)))


def credentials(password: str = "pencil", user: str = "user") -> Credentials:
    return Credentials(user.encode(), Secret(password.encode()))


def scram(password: str = "pencil", user: str = "user") -> Scram:
    return Scram(credentials(password, user), NONCE, BindingFlag.UNSUPPORTED)


def server_first(
    *, nonce: bytes = NONCE + SERVER_NONCE, salt: bytes = b64encode(SALT), iterations: bytes = b"4096"
) -> bytes:
    return b"r=" + nonce + b",s=" + salt + b",i=" + iterations


class Server:
    """The other side, written from RFC 5802 3 alone: knows the password, checks the proof, signs."""

    def __init__(self, password: str, *, iterations: int = 4096, channel: bytes = b"", header: bytes = b"n,,") -> None:
        self._salted = hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, iterations)
        self._iterations = iterations
        self._expected = header + channel
        self._first_bare = b""
        self._first = b""

    def first(self, message: bytes) -> bytes:
        self._first_bare = message.split(b",", 2)[2]
        nonce = self._first_bare.rpartition(b"r=")[2] + SERVER_NONCE
        self._first = server_first(nonce=nonce, iterations=b"%d" % self._iterations)
        return self._first

    def final(self, message: bytes) -> bytes | None:
        """The server's final message, None if the proof is wrong."""
        without, _, proof = message.rpartition(b",p=")
        if b64decode(without.split(b",")[0][2:]) != self._expected:
            return None
        said = b",".join((self._first_bare, self._first, without))
        client_key = hmac.new(self._salted, b"Client Key", "sha256").digest()
        signature = hmac.new(hashlib.sha256(client_key).digest(), said, "sha256").digest()
        if bytes(a ^ b for a, b in zip(b64decode(proof), signature, strict=True)) != client_key:
            return None
        key = hmac.new(self._salted, b"Server Key", "sha256").digest()
        return b"v=" + b64encode(hmac.new(key, said, "sha256").digest())


def test_the_example_of_rfc_7677() -> None:
    client = scram()
    assert client.initial() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert client.respond(server_first()) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert client.doubt() is not None
    assert client.respond(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") == b""
    assert client.doubt() is None


@settings(max_examples=examples(20))
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=30))
def test_an_independent_server_agrees(password: str) -> None:
    client, server = scram(password, user="a=b,c"), Server(password)
    opening = client.initial()
    assert opening is not None
    assert b"n=a=3Db=2Cc," in opening
    final = server.final(client.respond(server.first(opening)))
    assert final is not None
    client.respond(final)
    assert client.doubt() is None


def test_a_wrong_password_is_found_out_by_both_sides() -> None:
    client, server = scram("pencil"), Server("stylus")
    assert server.final(client.respond(server.first(client.initial() or b""))) is None
    with pytest.raises(ReplyError, match="does not know the password"):
        client.respond(b"v=" + b64encode(bytes(32)))


def test_channel_binding_is_part_of_the_proof() -> None:
    header = b"p=tls-exporter,,"
    client = Scram(credentials(), NONCE, BindingFlag.USED, BINDING)
    server = Server("pencil", channel=BINDING.data, header=header)
    opening = client.initial()
    assert opening == header + b"n=user,r=" + NONCE
    final = client.respond(server.first(opening))
    assert server.final(final) is not None
    elsewhere = Server("pencil", channel=b"another channel", header=header)
    elsewhere.first(opening)
    assert elsewhere.final(final) is None


def test_a_mechanism_struck_from_the_list_can_be_noticed() -> None:
    def opening(*offered: str, binding: ChannelBinding | None) -> bytes:
        mechanism = choose(offered, credentials(), cleartext_allowed=False, channel_binding=binding, nonce=NONCE)
        assert not isinstance(mechanism, NoMechanism)
        return mechanism.initial() or b""

    assert opening("SCRAM-SHA-256", binding=BINDING).startswith(b"y,,")
    assert opening("SCRAM-SHA-256", binding=None).startswith(b"n,,")
    assert opening("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", binding=None).startswith(b"n,,")
    assert opening("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", binding=BINDING).startswith(b"p=tls-exporter,,")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "not the server's first"),
        (b"r=x", "not the server's first"),
        (b"s=c2FsdA==,r=x,i=4096", "not the server's first"),
        (b"m=ext," + server_first(), "extension"),
        (server_first(nonce=NONCE), "nonce"),
        (server_first(nonce=b"other" + SERVER_NONCE), "nonce"),
        (server_first(nonce=NONCE + b"\x00"), "nonce"),
        (server_first(salt=b""), "salt of 0"),
        (server_first(salt=b"???"), "salt that is not base64"),
        (server_first(salt=b64encode(bytes(1025))), "salt of 1025"),
        (server_first(iterations=b""), "number of iterations"),
        (server_first(iterations=b"-1"), "number of iterations"),
        (server_first(iterations=b"1e9"), "number of iterations"),
        (server_first(iterations=b"0"), "0 iterations"),
        (server_first(iterations=b"4095"), "4095 iterations"),
        (server_first(iterations=b"1000001"), "1000001 iterations"),
        (server_first(iterations=b"9" * 30), "number of iterations"),
        (server_first() + b"," + b"x" * 5000, "octets"),
    ],
)
def test_a_first_message_that_is_none(message: bytes, reason: str) -> None:
    with pytest.raises(ReplyError, match=reason):
        scram().respond(message)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "final message"),
        (b"e=other-error", "other-error"),
        (b"v=?", "not base64"),
        (b"v=", "does not know"),
        (b"v=" + b64encode(bytes(32)), "does not know"),
    ],
)
def test_a_server_that_cannot_prove_itself(message: bytes, reason: str) -> None:
    client = scram()
    client.respond(server_first())
    with pytest.raises(ReplyError, match=reason):
        client.respond(message)
    assert client.doubt() is not None


def test_nothing_is_answered_after_the_end() -> None:
    client = scram()
    client.respond(server_first())
    client.respond(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    with pytest.raises(ReplyError, match="too many"):
        client.respond(b"")


@pytest.mark.parametrize("nonce", [b"", b"short", b"x" * 17, b"with,comma" * 3, b"with blank " * 3, b"\xff" * 20])
def test_a_nonce_must_be_one(nonce: bytes) -> None:
    with pytest.raises(ConfigError):
        Scram(credentials(), nonce, BindingFlag.UNSUPPORTED)


def test_binding_and_its_data_come_together() -> None:
    with pytest.raises(ConfigError):
        Scram(credentials(), NONCE, BindingFlag.USED)
    with pytest.raises(ConfigError):
        Scram(credentials(), NONCE, BindingFlag.UNSUPPORTED, BINDING)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [  # the examples of RFC 4013 3, and blanks
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("p\u00e4ssw\u00f6rd", "p\u00e4ssw\u00f6rd"),
        ("pa\u0308ss", "p\u00e4ss"),
        ("\u0627\u0644", "\u0627\u0644"),
    ],
)
def test_saslprep(text: str, prepared: str) -> None:
    assert prepare(text.encode(), "password") == prepared.encode()


@pytest.mark.parametrize("text", ["", "\x07", "\x7f", "\u00ad", "\u0627\u0031", "\u0627a\u0627", "\ue000", "\u200e"])
def test_saslprep_prohibits(text: str) -> None:
    with pytest.raises(ConfigError):
        prepare(text.encode(), "password")


def test_what_is_not_utf8_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(b"caf\xe9", "password")
    assert "caf" not in str(caught.value)
