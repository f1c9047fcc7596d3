"""DANE through the whole agent: what the name server says, whether its word counts, and what the server may then be."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.support.agent import Result, run
from tests.support.nameserver import Failure, NameServer, Records
from tests.support.postoffice import PostOffice, Rcpt
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.tls.certificates import Issued, issue

ADDRESS = "127.4.2.1"
STARTTLS = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
SIGNED: Mapping[str, Records | Failure] = {
    ".": {"NS": ("ns.invalid.",)},
    "example.org": {"MX": ("10 mx.example.org.",)},
    "mx.example.org": {"A": (ADDRESS,)},
}


@pytest.fixture(scope="module")
def shown() -> Issued:
    return issue("mx", now=time.time())  # nobody vouches for it, and no name is right: DANE-EE does not mind


def record(certificate: Issued) -> Records:
    return {"TLSA": (f"3 1 1 {hashlib.sha256(certificate.public_key).hexdigest()}",)}


def deliver(
    folder: Path,
    shown: Issued | None,
    tlsa: Records | Failure | None,
    *conf: str,
    validated: bool = True,
    messages: int = 1,
    **zenv: str,
) -> tuple[str, Result, Sink, NameServer]:
    """Messages to example.org, whose server shows a certificate, or has no TLS; ``tlsa`` is what the DNS has."""
    office = PostOffice(folder / "office")
    flags: tuple[str, ...] = ()
    if conf:
        (folder / "tls.conf").write_text("\n".join([*conf, ""]))
        flags = ("-S", str(folder / "tls.conf"))
    context = None
    if shown is not None:
        (folder / "server.pem").write_bytes(shown.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
    with Sink(STARTTLS if context else Script(), tls=context, host=ADDRESS) as sink:
        zone = dict(SIGNED)
        if tlsa is not None:
            zone[f"_{sink.port}._tcp.mx.example.org"] = tlsa
        with NameServer(zone, validated=validated) as names:
            office.write_zenv(RESOLVER=names.address, **zenv)
            recipient = Rcpt("a@example.org", "example.org")
            jobs = [office.post([recipient], name=f"{1000 + i}") for i in range(messages)]
            lines = b"".join(job.line("example.org") for job in jobs)
            result = run(office, "-h", "me.example", "-1", "-p", str(sink.port), *flags, stdin=lines)
        assert result.status == 0
        assert not office.locked()
        marks = "".join(office.marks(job) for job in jobs)
    return marks, result, sink, names


def warnings(result: Result) -> list[bytes]:
    return [line for line in result.stderr if b"DANE" in line]


@pytest.mark.parametrize("switch", ["tls-dane on", "tls-level dane", "ZENV"])
def test_the_right_key_is_taken_and_nothing_else_matters(switch: str, shown: Issued, tmp_path: Path) -> None:
    conf, zenv = ((), {"TLS_DANE": "1"}) if switch == "ZENV" else ((switch,), {})
    mark, result, sink, _ = deliver(tmp_path, shown, record(shown), *conf, **zenv)
    assert mark == "+"
    assert "STARTTLS" in sink.connections[0].verbs
    assert not warnings(result)


@pytest.mark.parametrize("what", ["wrong key", "no TLS"])
def test_a_server_that_is_not_the_one_named_gets_nothing(what: str, shown: Issued, tmp_path: Path) -> None:
    other = issue("other", now=time.time())
    mark, _, sink, _ = deliver(tmp_path, other if what == "wrong key" else None, record(shown), "tls-dane on")
    assert mark == " "
    assert all("MAIL" not in connection.verbs for connection in sink.connections)


@pytest.mark.parametrize("failure", [Failure.SERVFAIL, Failure.REFUSED])
def test_a_tlsa_lookup_that_fails_defers(failure: Failure, shown: Issued, tmp_path: Path) -> None:
    """A bogus answer is SERVFAIL to who asks a validating resolver: somebody may be hiding the records."""
    mark, result, sink, _ = deliver(tmp_path, shown, failure, "tls-dane on")
    assert mark == " "
    assert all("MAIL" not in connection.verbs for connection in sink.connections)
    assert b"lookup of TLSA for mx.example.org failed" in b"\n".join(result.stdout)


def test_records_that_cannot_be_used_ask_for_encryption(shown: Issued, tmp_path: Path) -> None:
    unusable = {"TLSA": (f"0 0 1 {'00' * 32}",)}
    assert deliver(tmp_path, shown, unusable, "tls-dane on")[0] == "+"
    assert deliver(tmp_path / "again", None, unusable, "tls-dane on")[0] == " "


def test_without_records_mail_goes(shown: Issued, tmp_path: Path) -> None:
    mark, result, sink, names = deliver(tmp_path, None, None, "tls-dane on")
    assert mark == "+"
    assert not warnings(result)
    assert (f"_{sink.port}._tcp.mx.example.org", "TLSA") in names.queries


@pytest.mark.parametrize(
    ("validated", "zenv"), [(False, {}), (True, {"RESOLVER_TRUSTED": "0"})], ids=["does not validate", "not trusted"]
)
def test_a_resolver_whose_word_does_not_count_is_warned_of_once_and_holds_nothing_up(
    validated: bool, zenv: dict[str, str], shown: Issued, tmp_path: Path
) -> None:
    other = issue("other", now=time.time())
    conf = "tls-dane on"
    marks, result, _, names = deliver(tmp_path, other, record(shown), conf, validated=validated, messages=3, **zenv)
    assert marks == "+++"
    assert len(warnings(result)) == 1
    assert b"do not validate DNSSEC" in warnings(result)[0]
    assert not [query for query in names.queries if query[1] == "TLSA"], "insecure names have no DANE"
    asked = [query[1] for query in names.queries].count("TXT")
    assert 1 <= asked < 3, "the root is not asked about for each message; again, if the answer is late"


def test_dane_only_waits_where_there_is_no_dane(shown: Issued, tmp_path: Path) -> None:
    mark, result, sink, _ = deliver(tmp_path, shown, record(shown), "tls-level dane-only", validated=False)
    assert mark == " "
    assert len(warnings(result)) == 1
    assert all("MAIL" not in connection.verbs for connection in sink.connections)
