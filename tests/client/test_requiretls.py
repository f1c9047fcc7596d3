"""Messages that require TLS, and one that would rather arrive, from a program (RFC 8689)."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink
from tests.tls.certificates import Issued, issue

import zsmtp
from zsmtp.client.config import TLS, Config, Level, Relay
from zsmtp.client.message import Letter
from zsmtp.proto.mailoptions import MailOptions
from zsmtp.proto.plan import TLSDemand

ADDRESS = "127.4.6.1"
LETTER = b"From: ann@example.org\nTo: bob@example.net\nSubject: s\n\nbody\n"


@pytest.fixture(scope="module")
def root() -> Issued:
    return issue("Root", ca=True, now=time.time())


@pytest.mark.parametrize(
    ("keywords", "level", "fate", "status"),
    [
        (("STARTTLS", "REQUIRETLS"), Level.MAY, zsmtp.Fate.DELIVERED, "2.0.0"),
        (("STARTTLS",), Level.MAY, zsmtp.Fate.FAILED, "5.7.30"),
        ((), Level.MAY, zsmtp.Fate.DEFERRED, "4.7.10"),
        (("STARTTLS", "REQUIRETLS"), Level.NONE, zsmtp.Fate.DEFERRED, "4.7.10"),
    ],
)
def test_what_becomes_of_a_message_that_requires_tls(
    keywords: tuple[str, ...], level: Level, fate: zsmtp.Fate, status: str, root: Issued, tmp_path: Path
) -> None:
    shown = issue("mx", by=root, names=[ADDRESS], now=time.time())
    (tmp_path / "server.pem").write_bytes(shown.pem)
    (tmp_path / "roots.pem").write_bytes(root.pem.partition(b"-----BEGIN PRIVATE")[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    script = Script(caps=keywords, replies={"STARTTLS": (Step("220 go", Then.TLS),)})
    with Sink(script, tls=context, host=ADDRESS) as sink:
        tls = TLS(level=level, ca_file=str(tmp_path / "roots.pem"))
        config = Config(relay=Relay(host=ADDRESS, port=sink.port, tls=tls))
        report = zsmtp.deliver(LETTER, config=config, require_tls=True)
        assert len(sink.transactions) == (fate is zsmtp.Fate.DELIVERED)
    assert (report.results[0].fate, report.results[0].status) == (fate, status)


def test_what_a_letter_asks_for() -> None:
    optional = b"TLS-Required: No\n" + LETTER
    assert Letter(LETTER).wish is TLSDemand.NONE
    assert Letter(optional).wish is TLSDemand.TLS_OPTIONAL
    assert Letter(optional, options=MailOptions(require_tls=True)).wish is TLSDemand.REQUIRETLS
