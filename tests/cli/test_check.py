"""``zsmtp check`` against a name server on loopback: what is printed, the exit status, the configured keys."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import dns.rdatatype
import dns.zone
import pytest
from tests.support.nameserver import Failure, NameServer, Zone
from tests.support.script import Script, Step
from tests.support.serving import SETTINGS, serving
from tests.support.sink import Sink
from tests.tls.certificates import issue

from zsmtp.cli.main import main
from zsmtp.server.tls import server_tls
from zsmtp.signing.keys import PrivateKey, generate_key, write_key
from zsmtp.signing.record import key_record, strings_of
from zsmtp.signing.signature import Algorithm

Run = Callable[..., tuple[int, str, str]]


def flat(out: str) -> str:
    """What is printed, without the tree and the ends of lines."""
    return re.sub(r"[\s│├└─]+", " ", out)


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

    def run(names: Zone, *arguments: str, validated: bool = False) -> tuple[int, str, str]:
        with NameServer(names, validated=validated) as dns:
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
    assert lines[0] == "ann@example.org: no fault found"
    assert "DKIM good: the key at 2026a._domainkey.example.org is published: rsa-sha256, 2048 bits" in flat(out)
    assert lines[-1] == "└─ alignment good: mail with example.org in From passes by SPF and DKIM"
    assert all(len(line) <= 80 for line in lines)


def test_what_is_refused_and_what_to_publish(check: Run, key: PrivateKey) -> None:
    status, out, _ = check(zone(key, example__org={"MX": ("10 mx.example.org.",)}), "example.org", "--ip", "192.0.2.1")
    assert status == 1
    lines = out.splitlines()
    assert lines[0] == "postmaster@example.org: some receivers will refuse this mail"
    assert "├─ SPF refused: none: example.org has no SPF record" in lines
    assert lines[-3:] == [
        "; publish these records; they replace existing ones of the same kind",
        "; SPF",
        'example.org. IN TXT "v=spf1 ip4:192.0.2.1 -all"',
    ]
    assert "│     required by  Gmail, Yahoo, Outlook.com (bulk)" in lines


def test_what_is_to_be_published_can_be_pasted(check: Run, key: PrivateKey) -> None:
    """Nothing is cut to the width of the terminal, and others read it: the zone with it is without fault."""
    asked = ("example.org", "--ip", "192.0.2.1", "--ip", "2001:db8::1")
    names = zone(
        key,
        example__org={"MX": ("10 mx.example.org.",)},
        **{
            "2026a._domainkey__example__org": {},
            "_dmarc__example__org": {},
            "mail__example__org": {"A": ("192.0.2.1",)},
            f"1.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa": {"PTR": ("mail.example.org.",)},
        },
    )
    out = check(names, *asked)[1]
    entries = out.partition("; publish these records")[2].partition("\n")[2]
    assert max(map(len, entries.splitlines())) > 200
    parsed = dns.zone.from_text(f"$TTL 300\n{entries}", "org", check_origin=False, relativize=False)
    assert len(parsed.nodes) == 4, "SPF is one record for both addresses"
    mended = dict(names)
    for name, node in parsed.nodes.items():
        records = {dns.rdatatype.to_text(one.rdtype): tuple(map(str, one)) for one in node.rdatasets}
        place = name.to_text(omit_final_dot=True)
        mended[place] = {**mended.get(place, {}), **records}  # type: ignore[dict-item]
    status, out, _ = check(mended, *asked)
    assert (status, "to be published" in out) == (0, False)
    assert out.startswith("postmaster@example.org: no fault found")


def test_json(check: Run, key: PrivateKey) -> None:
    names = zone(key, example__net={"MX": ("10 mx.example.org.",)})
    status, out, _ = check(names, "ann@example.org", "--ip", "192.0.2.1", "--from", "example.net", "--json")
    document = json.loads(out)
    assert status == 0
    assert (document["schema"], document["from"]) == ("zsmtp.check/1", "example.net")
    assert (document["sender"], document["return_path"]) == ("ann@example.org", "ann@example.org")
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


def test_this_machine_may_be_its_own_exchanger(check: Run, key: PrivateKey) -> None:
    """A delivery there would be a loop; a bounce is not."""
    _, out, _ = check(zone(key), "ann@example.org", "--ip", "192.0.2.1", "--connect")
    assert "no bounce can be delivered" not in flat(out)
    assert "exchanger refused" not in out
    assert "mx.example.org [127.0.0.1]" in out


@pytest.mark.parametrize("validated", [False, True])
def test_the_record_of_an_old_certificate_is_found(
    check: Run, key: PrivateKey, tmp_path: Path, *, validated: bool
) -> None:
    """Whether or not this side can tell that the zone is signed: others can."""
    old, new = issue("mx", names=["mx.example.org"], now=time.time()), issue("mx", now=time.time())
    (tmp_path / "new.pem").write_bytes(new.pem)
    with serving(tls=server_tls(str(tmp_path / "new.pem")), settings=replace(SETTINGS, starttls=True)) as server:
        name = f"_{server.port}._tcp.mx.example.org"
        asked = ("ann@example.org", "--ip", "192.0.2.1", "--connect", "--port", str(server.port))
        records = {one: f"3 1 1 {sha256(one.public_key).hexdigest()}" for one in (old, new)}
        (status, out, _) = check(zone(key, **{name: {"TLSA": (records[old],)}}), *asked, validated=validated)
        assert status == 0, "mail from here is taken all the same"
        assert f"TLSA weak: no TLSA record at {name} matches the certificate of mx.example.org" in flat(out)
        assert records[new] in flat(out)
        assert ("exchanger weak" in out) == validated
        both = zone(key, **{name: {"TLSA": (records[old], records[new])}})
        (status, out, _) = check(both, *asked, validated=validated)
        assert (status, f"TLSA good: a TLSA record at {name}" in flat(out)) == (0, True)
        assert "exchanger good" in out


def test_a_bounce_that_ones_own_exchanger_refuses(check: Run, key: PrivateKey) -> None:
    where = ("ann@example.org", "--ip", "192.0.2.1", "--connect", "--port")
    for reply, status, words in (
        ("550 5.1.1 no such user", 1, "bounce refused: mx.example.org [127.0.0.1] does not take a bounce: 550"),
        ("450 4.2.0 later", 0, "bounce weak: mx.example.org [127.0.0.1] does not take a bounce: 450"),
    ):
        with Sink(Script(replies={"RCPT": (Step(reply),)})) as sink:
            found, out, _ = check(zone(key), *where, str(sink.port))
            assert sink.connections[0].lines[1:3] == [b"MAIL FROM:<>", b"RCPT TO:<ann@example.org>"]
        assert found == status
        assert words in out


def test_the_return_path_is_what_receivers_see(check: Run, key: PrivateKey, tmp_path: Path) -> None:
    """The configuration of the service: SPF and bounces go by the domain of the return path, DMARC by From."""
    (tmp_path / "service.toml").write_text(
        f'[queue.bounces]\nreturn_path = "b+{{id}}@news.example.org"\nkey_file = "{tmp_path}/keys"\n'
        f'senders = ["news@example.org"]\n[delivery]\nhelo_name = "mail.example.org"\n[[delivery.dkim]]\n'
        f'domain = "example.org"\nselector = "2026a"\nkey_file = "{tmp_path}/key.pem"\n'
    )
    service = ("--config", str(tmp_path / "service.toml"), "--ip", "192.0.2.1")
    status, out, err = check(zone(key), "news@example.org", *service)
    assert (status, err) == (1, "")
    for words in (
        "return path b+000",
        "MX refused: news.example.org does not exist, or has neither MX nor address: mail from it is refused",
        "MX good: answers go to mx.example.org",
        "SPF refused: none: news.example.org has no SPF record",
        'SPF news.example.org. IN TXT "v=spf1 ip4:192.0.2.1 -all"',
        "alignment good: mail with example.org in From passes by DKIM",
    ):
        assert words in flat(out)
    status, out, _ = check(zone(key), "ann@example.org", *service)
    assert (status, "return path" in out) == (0, False), "which is for news@ only"

    news = {"MX": ("10 mx.example.org.",), "TXT": ('"v=spf1 ip4:192.0.2.1 -all"',)}
    status, out, _ = check(zone(key, news__example__org=news), "news@example.org", *service, "--json")
    document = json.loads(out)
    assert status == 0
    assert {one["grade"] for one in document["findings"]} == {"good"}
    assert document["return_path"] == f"b+{'0' * 34}@news.example.org"
    assert document["findings"][-1]["text"] == "mail with example.org in From passes by SPF and DKIM"


def test_behind_a_relay_nobody_knows_the_address(check: Run, key: PrivateKey) -> None:
    """Neither the addresses of this machine count then, nor the hosts file, and the exchangers are not the relay."""
    relayed = ("ann@example.org", "--relay", "smtp://127.0.0.9:9")
    status, out, err = check(zone(key), *relayed)
    assert (status, err) == (75, "")
    assert "receivers see the address of the relay 127.0.0.9:9" in flat(out)
    assert "passes by DKIM" in out
    assert check(zone(key), *relayed, "--ip", "192.0.2.1")[0] == 0
    with Sink() as sink:
        status, out, _ = check(zone(key), *relayed, "--ip", "192.0.2.1", "--connect", "--port", str(sink.port))
    assert (status, "exchanger good: mx.example.org [127.0.0.1]" in out) == (0, True)


def test_a_policy_is_looked_at_though_deliveries_go_by_none(check: Run, key: PrivateKey, tmp_path: Path) -> None:
    with (tmp_path / "config.toml").open("a") as file:
        file.write('[direct]\nmta_sts = "off"\n')
    names = zone(key, **{"_mta-sts__example__org": {"TXT": ('"v=STSv1; id=1"',)}})
    status, out, err = check(names, "ann@example.org", "--ip", "192.0.2.1")
    assert (status, err) == (0, "")
    assert "MTA-STS weak" in out


def test_the_message_says_which_domain_is_in_from(check: Run, key: PrivateKey, tmp_path: Path) -> None:
    names = zone(
        key, example__net={"MX": ("10 mx.example.org.",)}, _dmarc__example__net={"TXT": ('"v=DMARC1; p=reject"',)}
    )
    asked = ("ann@example.org", "--ip", "192.0.2.1", "--message", str(tmp_path / "letter.eml"))
    (tmp_path / "letter.eml").write_bytes(b"From: ann@Example.net\nMessage-ID: <1@example.net>\n\nhello\n")
    with (tmp_path / "config.toml").open("a") as file:
        file.write("[content]\nadd_missing = true\n")
    status, out, _ = check(names, *asked)
    assert status == 1
    assert "header note: the field Date is missing, and is added" in out
    assert "nothing that passes is aligned with example.net in From" in flat(out)
    assert check(names, *asked, "--from", "example.org")[0] == 0
    (tmp_path / "letter.eml").write_bytes(
        b"From: ann@example.net, bob@example.com\nMessage-ID: <1@example.net>\n\nhello\n"
    )
    assert check(names, *asked)[0] == 0, "of several domains it is not known which one counts"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ann@exa mple.org",), "zsmtp check: SENDER"),
        (("ann@example.org", "--ip", "mail.example.org"), "--ip: mail.example.org is no address"),
        (("ann@example.org", "--from", "a b"), "--from: a b is no domain"),
        (("<>",), "SENDER: <> is no domain"),
    ],
)
def test_what_cannot_be_meant_is_refused(check: Run, arguments: tuple[str, ...], words: str) -> None:
    status, out, err = check({}, *arguments)
    assert (status, out) == (64, "")
    assert words in err


def test_a_private_address_is_no_address_of_mail(check: Run, key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsmtp.client.ownsender.source_address", lambda endpoint, identity: "10.0.0.7")
    status, out, _ = check(zone(key), "ann@example.org")
    assert status == 75
    assert "10.0.0.7 is no public address" in out
    assert "passes by DKIM" in out
