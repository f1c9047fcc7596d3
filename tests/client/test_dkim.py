"""Signed mail from a program to servers of every kind, verified as it arrived."""

from __future__ import annotations

import asyncio
import io
import os
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
from tests.signing.samples import private_key
from tests.signing.sent import EIGHT_BIT, LARGE, LONG_LINES, PLAIN, RSA, arrived, is_good, relay_to, written
from tests.support.script import Script
from tests.support.sink import Sink

import zsmtp
from zsmtp.client.config import Config, Content
from zsmtp.client.configfile import read_table
from zsmtp.client.message import MessageLike
from zsmtp.errors import ConfigError
from zsmtp.events import About, Event, Remark
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.keys import write_key


@pytest.fixture
def both(tmp_path: Path) -> tuple[DKIMKey, ...]:
    return written(tmp_path, "rsa", RSA), written(tmp_path, "ed")


SERVERS = [
    (),
    ("PIPELINING",),
    ("8BITMIME",),
    ("PIPELINING", "8BITMIME", "SMTPUTF8"),
    ("CHUNKING",),
    ("PIPELINING", "CHUNKING", "8BITMIME", "BINARYMIME", "SMTPUTF8"),
]


@pytest.mark.parametrize("caps", SERVERS, ids=lambda caps: "+".join(caps) or "nothing")
def test_what_arrives_is_believed_by_both_verifiers(
    caps: tuple[str, ...], both: tuple[DKIMKey, ...], tmp_path: Path
) -> None:
    path = tmp_path / "large.eml"
    path.write_bytes(LARGE)
    written_by_program = EmailMessage()
    written_by_program["From"], written_by_program["To"] = "Ännchen <ann@example.org>", "b@example.net"
    written_by_program.set_content("Grüße\n", cte="8bit")
    messages: list[MessageLike] = [PLAIN, EIGHT_BIT, LONG_LINES, path, io.BytesIO(EIGHT_BIT), written_by_program]

    async def send(relay: zsmtp.Relay) -> None:
        async with zsmtp.aio.Client(Config(relay=relay, dkim=both)) as client:
            async for result in client.stream(messages):
                assert result.ok, result
            assert (await client.deliver(PLAIN)).ok

    with Sink(Script(caps=caps)) as sink:
        asyncio.run(send(relay_to(sink)))
    found = arrived(sink)
    assert len(found) == len(messages) + 1
    assert all(is_good(message, ["rsa", "ed"]) for message in found)
    assert all(message.isascii() for message in found)
    assert all(b"\r\nDate: " in message and b"\r\nMessage-ID: " in message for message in found)


def test_by_lmtp(both: tuple[DKIMKey, ...], tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    with Sink(Script(lmtp=True, caps=("8BITMIME",)), unix=path) as sink:
        config = Config(relay=zsmtp.Relay(host=str(path), lmtp=True), dkim=both)
        assert zsmtp.deliver(EIGHT_BIT, recipients=["b@example.net", "c@example.net"], config=config).ok
    assert [is_good(message, ["rsa", "ed"]) for message in arrived(sink)] == [True]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (PLAIN, "signed by ed._domainkey.example.org (ed25519-sha256)"),
        (EIGHT_BIT, "encoded anew before it was signed, so that every server can take it (RFC 6376 5.3)"),
        (PLAIN.replace(b"ann@example.org", b"a@else.example"), "not signed: there is no key for else.example"),
        (b"DKIM-Signature: v=1\n" + PLAIN, "not signed: the message is signed already"),
    ],
)
def test_what_is_said_of_it(message: bytes, words: str, tmp_path: Path) -> None:
    events: list[Event] = []
    with Sink(Script()) as sink:
        config = Config(relay=relay_to(sink), dkim=(written(tmp_path, "ed"),))
        assert zsmtp.deliver(message, config=config, observe=lambda _: events.append).ok
    said = [one.text for one in events if isinstance(one, Remark) and one.about is About.CONTENT]
    assert words in said


def test_without_a_key_of_its_domain_a_message_is_as_it_was(tmp_path: Path) -> None:
    other = PLAIN.replace(b"ann@example.org", b"a@else.example")
    with Sink(Script()) as sink:
        assert zsmtp.deliver(other, config=Config(relay=relay_to(sink), dkim=(written(tmp_path, "ed"),))).ok
    assert arrived(sink) == [other.replace(b"\n", b"\r\n")]


def test_of_two_keys_the_one_that_is_active_last_signs(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    keys = (
        written(tmp_path, "old"),
        written(tmp_path, "new", activate=now - timedelta(days=1)),
        written(tmp_path, "next", activate=now + timedelta(days=1)),
    )
    with Sink(Script()) as sink:
        assert zsmtp.deliver(PLAIN, config=Config(relay=relay_to(sink), dkim=keys)).ok
    assert [b"s=new;" in message for message in arrived(sink)] == [True]
    assert arrived(sink)[0].count(b"DKIM-Signature") == 1


# ---------------------------------------------------------------------- keys that cannot be


def weak(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(65537, 1024)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture(params=["missing", "weak", "nonsense"])
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DKIMKey, str]:
    path = tmp_path / "bad.pem"
    if request.param == "weak":
        weak(path)
    elif request.param == "nonsense":
        path.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    words = {"missing": "cannot be read: No such file", "weak": "1024 bits", "nonsense": "no private key in PEM form"}
    return DKIMKey(domain="example.org", selector="bad", key_file=str(path)), words[request.param]


def test_a_key_that_cannot_be_used_stops_everything_before_anything_is_sent(
    bad: tuple[DKIMKey, str], tmp_path: Path
) -> None:
    key, words = bad
    with Sink(Script()) as sink:
        config = Config(relay=relay_to(sink), dkim=(written(tmp_path, "ed"), key))
        for make in (
            lambda: zsmtp.deliver(PLAIN, config=config),
            lambda: zsmtp.aio.Client(config),
            lambda: zsmtp.Queue.open("memory:", config=config),
        ):
            with pytest.raises(ConfigError, match=rf"dkim\[1\]\.key_file: .*{words}") as raised:
                make()
            assert "c2VjcmV0" not in str(raised.value)
    assert not sink.connections


def test_no_octet_of_a_private_key_is_in_a_trace_a_report_or_a_text(tmp_path: Path) -> None:
    key = written(tmp_path, "rsa", RSA)
    secrets = [line for line in Path(key.key_file).read_text().splitlines() if not line.startswith("-")]
    with Sink(Script()) as sink:
        config = Config(relay=relay_to(sink), dkim=(key,))
        trace = tmp_path / "trace.json"
        client = zsmtp.aio.Client(config)
        report = zsmtp.deliver(PLAIN, config=config, trace=trace)
    shown = [repr(config), repr(vars(client)), repr(client._signing), str(report.results), trace.read_bytes().decode()]
    assert not [secret for secret in secrets for text in shown if secret in text]


def test_a_key_is_read_again_when_its_file_has_changed(tmp_path: Path) -> None:
    key = written(tmp_path, "turn")
    with Sink(Script()) as sink:
        config = Config(relay=relay_to(sink), dkim=(key,))
        assert zsmtp.deliver(PLAIN, config=config).ok
        os.unlink(key.key_file)
        write_key(key.key_file, private_key(RSA))
        assert zsmtp.deliver(PLAIN, config=config).ok
    assert [b"a=rsa-sha256" in message for message in arrived(sink)] == [False, True]


# ------------------------------------------------------------------------------ files


def test_keys_in_a_file_of_toml() -> None:
    import tomllib

    text = """
    [[dkim]]
    domain = "example.org"
    selector = "2026a"
    key_file = "/etc/zsmtp/2026a.pem"

    [[dkim]]
    domain = "example.org"
    selector = "2027a"
    key_file = "/etc/zsmtp/2027a.pem"
    activate = 2027-01-10T00:00:00Z
    subdomains = true
    also_sign = ["X-Order"]
    """
    found = read_table(tomllib.loads(text)).dkim
    assert found == (
        DKIMKey(domain="example.org", selector="2026a", key_file="/etc/zsmtp/2026a.pem"),
        DKIMKey(
            domain="example.org",
            selector="2027a",
            key_file="/etc/zsmtp/2027a.pem",
            activate=datetime(2027, 1, 10, tzinfo=UTC),
            subdomains=True,
            also_sign=("X-Order",),
        ),
    )


KEY: dict[str, object] = {"domain": "example.org", "selector": "a", "key_file": "/a"}


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"dkim": KEY}, r"dkim: tables are expected, each under \[\[dkim\]\]"),
        ({"dkim": ["a"]}, r"dkim\[0\]: a table is expected"),
        ({"dkim": [KEY, {"domain": "example.org"}]}, r"dkim\[1\]\.selector: is missing"),
        ({"dkim": [KEY | {"selektor": "a"}]}, r"dkim\[0\]\.selektor: .*is selector meant"),
        ({"dkim": [KEY | {"activate": datetime(2027, 1, 1)}]}, r"dkim\[0\]\.activate: a time zone is expected"),
        ({"dkim": [KEY | {"activate": "2027"}]}, r"dkim\[0\]\.activate: a date with a time is expected"),
        ({"dkim": [KEY | {"domain": "localhost"}]}, r"dkim\[0\]\.domain: localhost is a single label"),
        ({"dkim": [KEY | {"also_sign": ["received"]}]}, r"dkim\[0\]\.also_sign\[0\]: received must not be signed"),
    ],
)
def test_mistakes_in_a_file(table: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_table(table)


def test_a_key_of_a_wrong_type_is_named() -> None:
    with pytest.raises(ConfigError, match=r"dkim\[0\]: DKIMKey is expected, not str"):
        Config(dkim=("key.pem",))  # type: ignore[arg-type]


def test_missing_fields_are_added_once(tmp_path: Path) -> None:
    with Sink(Script()) as sink:
        content = Content(add_missing=True)
        config = Config(relay=relay_to(sink), dkim=(written(tmp_path, "ed"),), content=content)
        assert zsmtp.deliver(PLAIN, config=config).ok
    (message,) = arrived(sink)
    assert (message.count(b"\r\nDate: "), message.count(b"\r\nMessage-ID: ")) == (1, 1)
    assert is_good(message, ["ed"])
