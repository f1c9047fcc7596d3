"""``zsmtp dkim``: keys made and told of, signatures verified with a name server."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.signing import vectors
from tests.signing.samples import MESSAGE, NOW, published, signing_key
from tests.support.nameserver import Failure, NameServer, Zone
from tests.support.patience import LIMIT

from zsmtp.cli import dkim
from zsmtp.cli.main import main
from zsmtp.dns.dnspython import DnspythonResolver
from zsmtp.signing.keys import read_key
from zsmtp.signing.record import parse_record, strings_of
from zsmtp.signing.sign import sign
from zsmtp.signing.signature import Algorithm

RSA, ED25519 = Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256


def run(*arguments: str) -> int:
    try:
        return main(["dkim", *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


# ------------------------------------------------------------------------- keys


def test_a_key_and_the_record_to_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("key", "Example.ORG", "2026a") == 0
    (path,) = tmp_path.iterdir()
    assert path.name == "2026a.example.org.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    private = read_key(str(path), lambda text: None)
    assert (private.algorithm, private.bits) == (RSA, 2048)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "; the private key (rsa, 2048 bits) is in 2026a.example.org.pem"
    assert lines[1].startswith('2026a._domainkey.example.org. IN TXT ( "v=DKIM1; k=rsa; p=')
    text = "".join(re.findall(r'"([^"]*)"', out))
    assert parse_record(text.encode()).public_key == private.public_key
    assert lines[-3:] == ["; name:  2026a._domainkey.example.org", "; type:  TXT", f"; value: {text}"]
    assert all(len(string) <= 255 for string in re.findall(r'"([^"]*)"', out))

    assert run("key", "example.org", "2026a") == 73
    heard = capsys.readouterr()
    assert heard.out == ""
    assert "2026a.example.org.pem exists already; --existing prints the record" in heard.err
    assert read_key(str(path), lambda text: None) is private

    assert run("key", "example.org", "2026a", "--existing") == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("options", "algorithm", "bits"), [(["--ed25519"], ED25519, 256), (["--bits", "3072"], RSA, 3072)]
)
def test_a_key_as_json(
    options: list[str], algorithm: Algorithm, bits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "key.pem")
    assert run("key", "bücher.example", "größe", "--file", path, "--json", *options) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == [
        *("schema", "domain", "selector", "key_file", "algorithm", "bits", "name", "record", "strings", "zone")
    ]
    assert document["schema"] == "zsmtp.dkim-key/1"
    assert document["name"] == "xn--gre-6ka8i._domainkey.xn--bcher-kva.example"
    assert (document["algorithm"], document["bits"]) == (algorithm.value, bits)
    assert parse_record(document["record"].encode()).public_key == read_key(path, lambda text: None).public_key
    assert document["strings"] == list(strings_of(document["record"]))
    secret = Path(path).read_text().splitlines()[1]
    assert secret not in json.dumps(document)


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["key", "org", "a"], 64, "domain: org is a single label"),
        (["key", "example.org", "a b"], 64, "selector: a b is not a valid host name"),
        (["key", "example.org", "a", "--bits", "1024"], 64, "not a size from 2048 to 4096 bits: 1024"),
        (["key", "example.org", "a", "--bits", "2048", "--ed25519"], 64, "not allowed with argument"),
        (["key", "example.org", "a", "--existing", "--ed25519"], 64, "--existing"),
        (["key", "example.org"], 64, "the following arguments are required: SELECTOR"),
        (["key", "example.org", "a", "--file", "/nowhere/at/all"], 73, "/nowhere/at/all: No such file"),
        (["key", "example.org", "a", "--file", "/nowhere/at/all", "--existing"], 78, "cannot be read: No such file"),
        (["verify"], 64, "the following arguments are required: FILE"),
        (["verify", "/nowhere/at/all"], 66, "/nowhere/at/all: No such file"),
        (["verify", "/"], 66, "/: Is a directory"),
        (["verify", "-", "--resolver", "nobody"], 64, "--resolver: not the address of a name server"),
        (["verify", "/dev/zero"], 65, "/dev/zero: a header block of more than 1048576 octets"),
        ([], 64, "the following arguments are required: COMMAND"),
        (["sign"], 64, "invalid choice: 'sign'"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], status: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == status
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err.startswith("zsmtp dkim")
    assert complaint in heard.err
    assert heard.err.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, word in (([], "verify"), (["key"], "--existing"), (["verify"], "--resolver")):
        assert run(*arguments, "--help") == 0
        assert word in capsys.readouterr().out


# ------------------------------------------------------------------- signatures

KEYS = [signing_key(RSA), signing_key(ED25519)]
HEADER, _, BODY = MESSAGE.partition(b"\n\n")
SIGNED = sign(HEADER + b"\n", [BODY], KEYS, now=NOW) + MESSAGE


def _text(record: str) -> str:
    return " ".join(f'"{string}"' for string in strings_of(record))


ZONE: Zone = {
    **{name: {"TXT": (_text(record),)} for name, record in published(KEYS).items()},
    "brisbane._domainkey.football.example.com": {"TXT": (_text(vectors.FOOTBALL_ED25519 + "; t=y"),)},
    "test._domainkey.football.example.com": Failure.SERVFAIL,
}


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


def test_signatures_that_pass(
    names: NameServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DnspythonResolver.__init__.__kwdefaults__, "rounds", (LIMIT,))  # no question is asked again
    for message in (SIGNED, SIGNED.replace(b"\n", b"\r\n")):
        (tmp_path / "message.eml").write_bytes(message)
        assert run("verify", str(tmp_path / "message.eml"), "--resolver", names.address) == 0
        assert capsys.readouterr().out == (
            "pass       example.org (rsa, rsa-sha256, 2048 bits)\n"
            "pass       example.org (ed25519, ed25519-sha256, 256 bits)\n"
        )
    asked = [(name, "TXT") for name in published(KEYS)]
    assert names.queries == asked * 2


def test_each_signature_is_told_of_with_its_reason(
    names: NameServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = b"DKIM-Signature: v=1; a=\x1b\n" + vectors.RFC_8463_MESSAGE.replace(b"game.", b"match.")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(message)))
    assert run("verify", "-", "--resolver", names.address, "--color", "always") == 1
    assert capsys.readouterr().out == (
        "\x1b[31mpermerror\x1b[0m  signature 1: a= has invalid characters\n"
        "\x1b[31mfail     \x1b[0m  football.example.com (brisbane, ed25519-sha256, 256 bits, testing): "
        "the body hash does not match bh=: the body was changed\n"
        "\x1b[33mtemperror\x1b[0m  football.example.com (test, rsa-sha256): "
        "the key at test._domainkey.football.example.com cannot be looked up now: SERVFAIL\n"
    )


def test_no_signature_is_none_that_passes(
    names: NameServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in (MESSAGE, b""):
        (tmp_path / "message.eml").write_bytes(text)
        assert run("verify", str(tmp_path / "message.eml"), "--resolver", names.address) == 1
        assert capsys.readouterr().out == "none       the message has no DKIM-Signature\n"
    assert names.queries == []


def test_signatures_as_json(names: NameServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "message.eml").write_bytes(b"DKIM-Signature: x\n" + SIGNED)
    assert run("verify", str(tmp_path / "message.eml"), "--resolver", names.address, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "zsmtp.dkim-verify/1"
    bad, first, second = document["signatures"]
    assert bad == {"result": "permerror", "reason": "not name=value: x", "testing": False, "bits": 0}
    assert first == {
        "result": "pass",
        "reason": "",
        "testing": False,
        "bits": 2048,
        "domain": "example.org",
        "selector": "rsa",
        "key_name": "rsa._domainkey.example.org",
        "identity": "@example.org",
        "algorithm": "rsa-sha256",
        "canonicalization": "relaxed/relaxed",
        "signed": first["signed"],
        "length": None,
        "time": NOW,
        "expires": None,
    }
    assert first["signed"].count("from") == 2
    assert second["selector"] == "ed25519"


def test_lookups_have_one_deadline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All of it passes with the first question, so the other key is not asked for."""
    monotonic, ahead = time.monotonic, 0.0

    class Silent(NameServer):
        def _answer(self, data: bytes) -> bytes | None:
            nonlocal ahead
            answer = super()._answer(data)
            ahead += dkim.LOOKUPS_TIME
            return answer

    def clock() -> float:
        return monotonic() + ahead

    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setitem(DnspythonResolver.__init__.__kwdefaults__, "clock", clock)
    (tmp_path / "message.eml").write_bytes(SIGNED)
    with Silent(dict.fromkeys(published(KEYS), Failure.SILENCE)) as silent:
        assert run("verify", str(tmp_path / "message.eml"), "--resolver", silent.address) == 1
    assert capsys.readouterr().out.count("temperror") == 2
    assert len(set(silent.queries)) == 1
