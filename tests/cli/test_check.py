"""``zsmtp check`` against a name server on loopback: what is printed, the exit status, the configured keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.nameserver import Failure, NameServer, Zone
from tests.support.sink import Sink

from zsmtp.cli.main import main
from zsmtp.signing.keys import PrivateKey, generate_key, write_key
from zsmtp.signing.record import key_record, strings_of
from zsmtp.signing.signature import Algorithm

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate_key(Algorithm.RSA_SHA256)


def zone(key: PrivateKey, **changes: object) -> Zone:
    strings = " ".join(f'"{one}"' for one in strings_of(key_record(key.algorithm, key.public_key)))
    names: dict[str, object] = {
        "example.org": {"MX": ("10 mx.example.org.",), "TXT": ('"v=spf1 ip4:192.0.2.1 -all"',)},
        "_dmarc.example.org": {"TXT": ('"v=DMARC1; p=reject"',)},
        "2026a._domainkey.example.org": {"TXT": (strings,)},
        "mx.example.org": {"A": ("127.0.0.1",)},
        "mail.example.org": {"A": ("192.0.2.1",), "TXT": ('"v=spf1 a -all"',)},
        "1.2.0.192.in-addr.arpa": {"PTR": ("mail.example.org.",)},
    }
    names.update({name.replace("__", "."): records for name, records in changes.items()})
    return names  # type: ignore[return-value]


@pytest.fixture
def check(key: PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "80")
    write_key(str(tmp_path / "key.pem"), key)
    (tmp_path / "config.toml").write_text(
        f'helo_name = "mail.example.org"\n[[dkim]]\ndomain = "example.org"\nselector = "2026a"\n'
        f'key_file = "{tmp_path}/key.pem"\n'
    )

    def run(names: Zone, *arguments: str) -> tuple[int, str, str]:
        with NameServer(names) as dns:
            common = ["--config", str(tmp_path / "config.toml"), "--resolver", dns.address]
            try:
                status = main(["check", *common, *arguments])
            except SystemExit as ended:
                status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_where_all_is_well(check: Run, key: PrivateKey) -> None:
    status, out, err = check(zone(key), "ann@example.org", "--ip", "192.0.2.1")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "ann@example.org: all is well"
    assert "├─ DKIM good: the key at 2026a._domainkey.example.org is published, 2048 bits" in lines
    assert lines[-1] == "└─ alignment good: mail with example.org in From passes by SPF and DKIM"
    assert all(len(line) <= 80 for line in lines)


def test_what_is_refused_and_what_to_publish(check: Run, key: PrivateKey) -> None:
    status, out, _ = check(zone(key, example__org={"MX": ("10 mx.example.org.",)}), "example.org", "--ip", "192.0.2.1")
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == "postmaster@example.org: mail will be refused by somebody"
    assert "├─ SPF refused: none: example.org has no SPF record" in lines
    assert '│     publish    example.org. IN TXT "v=spf1 ip4:192.0.2.1 -all"' in lines
    assert "│     asked by   Gmail, Yahoo, Outlook.com (bulk)" in lines


def test_json(check: Run, key: PrivateKey) -> None:
    status, out, _ = check(zone(key), "ann@example.org", "--ip", "192.0.2.1", "--from", "example.net", "--json")
    document = json.loads(out)
    assert status == 0
    assert (document["schema"], document["from"]) == ("zsmtp.check/1", "example.net")
    grades = {one["topic"]: one["grade"] for one in document["findings"]}
    assert (grades["SPF"], grades["alignment"]) == ("good", "weak")
    assert {one["name"] for one in document["receivers"]} == {"Gmail", "Yahoo", "Outlook.com"}


def test_what_cannot_be_looked_up_now_is_said(check: Run, key: PrivateKey) -> None:
    names = zone(key, **{"2026a._domainkey__example__org": Failure.SERVFAIL})
    status, out, _ = check(names, "ann@example.org", "--ip", "192.0.2.1")
    assert status == 75
    assert "DKIM unknown: the key at 2026a._domainkey.example.org" in out


def test_ones_own_exchangers_are_tried(check: Run, key: PrivateKey) -> None:
    with Sink() as sink:
        status, out, _ = check(zone(key), "ann@example.org", "--ip", "192.0.2.1", "--connect", "--port", str(sink.port))
    assert status == 0
    assert "exchanger good: mx.example.org [127.0.0.1] takes mail, in clear" in out
    names = zone(key, mx__example__org={"A": ("127.0.0.9",)})
    status, out, _ = check(names, "ann@example.org", "--ip", "192.0.2.1", "--connect", "--port", "9")
    assert "exchanger weak: mx.example.org [127.0.0.9]" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ann@exa mple.org",), "zsmtp check: SENDER"),
        (("ann@example.org", "--ip", "mail.example.org"), "--ip: mail.example.org is no address"),
        (("ann@example.org", "--from", "a b"), "--from: a b is no domain"),
    ],
)
def test_what_cannot_be_meant_is_refused(check: Run, arguments: tuple[str, ...], words: str) -> None:
    status, out, err = check({}, *arguments)
    assert (status, out) == (64, "")
    assert words in err


def test_a_private_address_is_no_address_of_mail(check: Run, key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsmtp.cli.check.source_address", lambda endpoint, identity: "10.0.0.7")
    status, out, _ = check(zone(key), "ann@example.org")
    assert status == 75
    assert "10.0.0.7 is a private address" in out
    assert "passes by DKIM" in out
