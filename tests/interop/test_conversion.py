"""Messages of all shapes, on every kind of server: what a mailbox holds decodes to what was stored in the spool.

The judge is the standard library's email package. Postfix without keywords takes 7-bit only, so everything that is not
sealed must have been converted for it; the others take 8-bit, some of them SMTPUTF8 and CHUNKING. None of them offers
BINARYMIME.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.body.receiver import fields, same_leaves
from tests.interop.exchange import Exchange, without_trace
from tests.interop.servers import LISTENERS, TLS, Listener

from zsmtp.body.headers import is_signed

pytestmark = pytest.mark.interop

CORPUS = sorted((Path(__file__).parent.parent / "body" / "corpus").glob("*.eml"))
BOX = "user040"
# It holds what only BINARYMIME could carry, and being sealed it may not be converted.
UNFIT = {"smime-opaque-binary"}

everywhere = pytest.mark.parametrize(
    "listener", [one for one in LISTENERS if one.tls is not TLS.STARTTLS], ids=lambda listener: listener.name
)


def own(message: bytes) -> tuple[bytes, bytes]:
    header, _, body = message.partition(b"\n\n")
    return header + b"\n", body


def is_sealed(path: Path, header: bytes) -> bool:
    return is_signed(header) or path.stem in {"smime-in-list-mail"}


@everywhere
def test_the_corpus_arrives_as_it_was_meant(exchange: Exchange, listener: Listener) -> None:
    posted = {}
    for path in CORPUS:
        if path.stem not in UNFIT:
            message = exchange.post_message([BOX], *own(path.read_bytes()))
            posted[message.job.id] = (path, message)
    exchange.deliver([message for _, message in posted.values()])
    exchange.server.await_stored(len(posted))
    found = {}
    for octets in exchange.server.stored(BOX):
        stored = without_trace(octets)
        number = int(stored.split(b" id ", 1)[1][:6])
        found[str(1000 + number).encode()] = stored
    assert found.keys() == posted.keys()
    for number, (path, message) in posted.items():
        header, _ = own(path.read_bytes())
        assert same_leaves(message.original, found[number]), path.stem
        assert set(fields(path.read_bytes())) <= set(fields(found[number])), path.stem
        if not listener.eight_bit and not is_sealed(path, header):
            assert found[number].isascii(), path.stem


@everywhere
@pytest.mark.parametrize("flag", ["-7", "-8"])
def test_a_text_in_both_directions(exchange: Exchange, flag: str) -> None:
    latin = exchange.post_message(
        [BOX], b"MIME-Version: 1.0\nContent-Type: text/plain; charset=ISO-8859-1\nContent-Transfer-Encoding: 8BIT\n",
        b"p\xe4iv\xe4\xe4\n.\nend\n",
    )  # fmt: skip
    quoted = exchange.post_message(
        [BOX],
        b"MIME-Version: 1.0\nContent-Type: text/plain; charset=ISO-8859-1\n"
        b"Content-Transfer-Encoding: quoted-printable\n",
        b"p=E4iv=E4=E4\n",
    )
    exchange.deliver([latin, quoted], flag)
    exchange.server.await_stored(2)
    stored = sorted(without_trace(octets) for octets in exchange.server.stored(BOX))
    for message, octets in zip((latin, quoted), stored, strict=True):
        assert same_leaves(message.original, octets)
        assert octets.isascii() is (flag == "-7")


@pytest.mark.parametrize(
    "listener", [one for one in LISTENERS if one.name in {"postfix", "exim"}], ids=lambda one: one.name
)
def test_an_internationalised_sender_where_it_is_offered(exchange: Exchange) -> None:
    message = exchange.post([BOX], b"Hello\n", sender="smtp example.org gr\xc3\xbc\xc3\x9fe@example.org 99")
    exchange.deliver([message])
    (mail,) = [line for line in exchange.commands() if line.startswith(b"MAIL ")]
    assert mail.endswith(b" SMTPUTF8")


@pytest.mark.parametrize("listener", [one for one in LISTENERS if one.name == "opensmtpd"], ids=lambda one: one.name)
def test_an_internationalised_sender_where_it_is_not(exchange: Exchange) -> None:
    message = exchange.post([BOX], b"Hello\n", sender="smtp example.org gr\xc3\xbc\xc3\x9fe@example.org 99")
    result = exchange.run([message])
    assert exchange.office.marks(message.job) == "-"
    (report,) = result.reports
    assert exchange.office.notary(report)[2].startswith(b"5.6.7")
