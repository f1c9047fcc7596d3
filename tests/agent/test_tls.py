"""STARTTLS as a server sees it, the agent being a process: levels, mishaps, and nothing sent with less than asked for.

The destination is an address literal, so the name that counts is the address; certificates are made for it, or not.
What the record of the server must never show is a line of an envelope, or content, over a session below the level.
``tests/tls/test_matrix.py`` has every certificate, level and mishap.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from tests.support.agent import run
from tests.support.postoffice import PostOffice, Rcpt
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.support.wire import Way
from tests.tls.certificates import Issued, issue

ENVELOPE = {"MAIL", "RCPT", "DATA", "BDAT"}
_addresses = count(1)


@dataclass(frozen=True)
class Certificates:
    """An authority, and what servers at ``address`` show."""

    address: str
    root: Issued
    shown: dict[str, Issued]


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    now, address = time.time(), "127.4.0.1"
    root = issue("Root", ca=True, now=now)
    other = issue("Unknown", ca=True, now=now)
    return Certificates(
        address,
        root,
        {
            "good": issue("mx", by=root, names=[address], now=now),
            "wrong name": issue("mx", by=root, names=["127.4.9.9", "elsewhere.example"], now=now),
            "expired": issue("mx", by=root, names=[address], valid=(-30, -1), now=now),
            "unknown CA": issue("mx", by=other, names=[address], now=now),
        },
    )


def served(shown: Issued, folder: Path, *, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A server's context with this certificate."""
    pem = folder / "server.pem"
    pem.write_bytes(shown.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if newest is not None:
        context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def configured(folder: Path, certificates: Certificates, level: str) -> str:
    """A file for -S."""
    roots = folder / "roots.pem"
    roots.write_bytes(certificates.root.pem.partition(b"-----BEGIN PRIVATE")[0])
    fingerprint = ""
    if level == "fingerprint":
        fingerprint = "tls-fingerprint " + hashlib.sha256(certificates.shown["good"].der).hexdigest()
    path = folder / "tls.conf"
    path.write_text(f"tls-level {level}\ntls-CAfile {roots}\n{fingerprint}\n")
    return str(path)


def in_clear(sink: Sink) -> set[str]:
    """The verbs that this server heard outside TLS."""
    verbs: set[str] = set()
    for connection in sink.connections:
        secured = False
        for segment in connection.wire:
            if segment.way is Way.TLS:
                secured = True
            elif segment.way is Way.CLIENT and not secured:
                verbs |= {line.split(b" ")[0].decode("latin-1").upper() for line in segment.data.split(b"\r\n")}
    return verbs


def deliver(root: Path, sink: Sink, *flags: str) -> str:
    """One message through the server; what became of it, as the mark says."""
    office = PostOffice(root / "office")
    host = f"[{sink.host}]:{sink.port}"
    job = office.post([Rcpt("a@example.com", host)], body="secret words\n")
    result = run(office, "-h", "me.example", *flags, stdin=job.line(host))
    assert result.status == 0
    assert not office.locked()
    return office.marks(job)


ANY_WORKING = {"good", "wrong name", "expired", "unknown CA"}
PASSES = {
    "may": ANY_WORKING,
    "encrypt": ANY_WORKING,
    "verify": {"good"},
    "secure": {"good"},
    "fingerprint": {"good"},
}


@pytest.mark.parametrize("level", list(PASSES))
@pytest.mark.parametrize("shown", sorted(PASSES["may"]))
def test_certificates_by_levels(shown: str, level: str, certificates: Certificates, tmp_path: Path) -> None:
    context = served(certificates.shown[shown], tmp_path)
    script = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
    with Sink(script, tls=context, host=certificates.address) as sink:
        mark = deliver(tmp_path, sink, "-S", configured(tmp_path, certificates, level))
    good = shown in PASSES[level]
    assert mark == ("+" if good else " ")
    assert not in_clear(sink) & ENVELOPE
    if not good:
        assert not sink.transactions


INJECTED = Step(b"220 go\r\n250 injected\r\n", Then.TLS)
MISHAPS = {
    "stripped": Script(),
    "injected": Script(caps=("STARTTLS",), replies={"STARTTLS": (INJECTED,)}),
    "closed": Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.CLOSE),)}),
    "silent": Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.HANG),)}),
}


@pytest.mark.parametrize(
    ("mishap", "level"),
    [
        *((mishap, level) for mishap in ("stripped", "injected", "closed") for level in ("may", "verify")),
        ("silent", "may"),
    ],
)
def test_mishaps_by_levels(mishap: str, level: str, certificates: Certificates, tmp_path: Path) -> None:
    context = served(certificates.shown["good"], tmp_path)
    impatient = ("-T", "cmd=15") if mishap == "silent" else ()  # more than a busy machine needs for an answer
    with Sink(MISHAPS[mishap], tls=context, host=certificates.address) as sink:
        mark = deliver(tmp_path, sink, *impatient, "-S", configured(tmp_path, certificates, level))
    if level != "may":
        assert mark == " "
        assert not in_clear(sink) & ENVELOPE
        assert not sink.transactions
    elif "injected" in mishap:
        assert mark == " ", "an injection is no reason to go on in clear"
    else:
        assert mark == "+", "opportunistic TLS falls back to clear text, once"
        assert len(sink.connections) <= 2


@pytest.mark.parametrize(("level", "mark"), [("may", "+"), ("encrypt", " ")])
def test_an_old_protocol_is_no_protection(level: str, mark: str, certificates: Certificates, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        context = served(certificates.shown["good"], tmp_path, newest=ssl.TLSVersion.TLSv1_1)
    script = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
    with Sink(script, tls=context, host=certificates.address) as sink:
        assert deliver(tmp_path, sink, "-S", configured(tmp_path, certificates, level)) == mark
    if level != "may":
        assert not in_clear(sink) & ENVELOPE


def test_a_demand_that_fails_can_be_made_an_error(certificates: Certificates, tmp_path: Path) -> None:
    office = PostOffice(tmp_path / "office")
    with Sink(Script(), host=certificates.address) as sink:
        host = f"[{sink.host}]:{sink.port}"
        job = office.post([Rcpt("a@example.com", host)])
        office.write_zenv(TLS_DEMAND_FAILURE="error")
        run(office, "-h", "me.example", "-S", configured(tmp_path, certificates, "encrypt"), stdin=job.line(host))
        assert office.marks(job) == "-"
        assert not in_clear(sink) & ENVELOPE


def test_what_was_known_before_the_handshake_is_forgotten(certificates: Certificates, tmp_path: Path) -> None:
    """The keywords of the first EHLO are an attacker's to choose (RFC 3207 4.2)."""
    context = served(certificates.shown["good"], tmp_path)
    first = "250-sink\r\n250-STARTTLS\r\n250-CHUNKING\r\n250 SIZE 1"
    script = Script(
        replies={"EHLO": (Step(first), Step("250 sink")), "STARTTLS": (Step("220 go", Then.TLS),)},
    )
    with Sink(script, tls=context, host=certificates.address) as sink:
        assert deliver(tmp_path, sink, "-S", configured(tmp_path, certificates, "verify")) == "+"
    assert sink.connections[0].verbs == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


# ------------------------------------------------------------------------------ login


@pytest.fixture
def logins(tmp_path: Path) -> str:
    path = tmp_path / "auth"
    path.write_text("* 127.0.0.1 plain:user plain:pass\n")
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        ("235 2.7.0 welcome", "+"),
        ("535 5.7.8 no", " "),
        ("454 4.7.0 later", " "),
        ("421 4.3.2 bye", " "),
        ("250 ok", "+"),  # by its first digit (RFC 5321 4.3.2)
    ],
)
def test_no_mail_without_the_login_that_was_asked_for(answer: str, mark: str, logins: str, tmp_path: Path) -> None:
    script = Script(caps=("AUTH PLAIN LOGIN",), replies={"AUTH": (Step(answer),)})
    with Sink(script, host="127.0.0.1") as sink:
        assert deliver(tmp_path, sink, "-A", logins, "-l", str(tmp_path / "log")) == mark
        verbs = sink.connections[0].verbs
    assert ("MAIL" in verbs) is (mark == "+")
    log = (tmp_path / "log").read_text()
    assert "AUTH PLAIN ***secret***" in log
    assert "AHVzZXIAcGFzcw" not in log


def test_no_mechanism_that_can_be_used_is_no_login(logins: str, tmp_path: Path) -> None:
    with Sink(Script(caps=("AUTH GSSAPI",)), host="127.0.0.1") as sink:
        assert deliver(tmp_path, sink, "-A", logins) == " "
        assert "MAIL" not in sink.connections[0].verbs


# ------------------------------------------------------------------------- resumption


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("switch", ["on", "off"])
def test_sessions_are_resumed_within_a_process(
    switch: str, newest: ssl.TLSVersion, certificates: Certificates, tmp_path: Path
) -> None:
    """Three messages, a connection each: the second and third cost no key exchange, and are judged all the same."""
    context = served(certificates.shown["good"], tmp_path)
    context.maximum_version = newest
    script = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
    conf = configured(tmp_path, certificates, "verify")
    Path(conf).write_text(Path(conf).read_text() + f"tls-use-scache {switch}\n")
    office = PostOffice(tmp_path / "office")
    with Sink(script, tls=context, host=certificates.address) as sink:
        host = f"[{sink.host}]:{sink.port}"
        jobs = [office.post([Rcpt("a@example.com", host)], name=f"{1000 + i}") for i in range(3)]
        flags = ("-h", "me.example", "-1", "-S", conf, "-l", str(tmp_path / "log"))
        run(office, *flags, stdin=b"".join(job.line(host) for job in jobs))
        assert [office.marks(job) for job in jobs] == ["+", "+", "+"]
        assert len(sink.connections) == 3
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "good enough" in line]
    assert [" resumed;" in line for line in told] == [False, switch == "on", switch == "on"]


# ------------------------------------------------------------------------------- logs


@pytest.mark.parametrize("level", [0, 2, 3])
def test_how_much_of_tls_is_logged(level: int, certificates: Certificates, tmp_path: Path) -> None:
    context = served(certificates.shown["good"], tmp_path)
    script = Script(caps=("STARTTLS",), replies={"STARTTLS": (Step("220 go", Then.TLS),)})
    conf = configured(tmp_path, certificates, "verify")
    Path(conf).write_text(Path(conf).read_text() + f"tls-loglevel {level}\n")
    with Sink(script, tls=context, host=certificates.address) as sink:
        assert deliver(tmp_path, sink, "-S", conf, "-l", str(tmp_path / "log")) == "+"
    log = (tmp_path / "log").read_text()
    assert f"names {certificates.address}; issuer CN=Root" in log
    assert "good enough" in log
    digest = hashlib.sha256(certificates.shown["good"].der).hexdigest()
    assert (f"sha256 {digest}" in log) is (level >= 2)
    assert (f"required: verify (configured level verify) {certificates.address}" in log) is (level >= 3)
