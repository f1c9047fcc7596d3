"""Key exchanges read from what real servers say first, in every cut, and from noise."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tls.certificates import issue

from zsmtp.tls.keyexchange import MAX_FLIGHT, KeyExchangeWatcher

ECDHE, DHE, RSA = "ECDHE-RSA-AES256-GCM-SHA384", "DHE-RSA-AES256-GCM-SHA384", "AES256-GCM-SHA384"
TLS13 = "TLS_AES_256_GCM_SHA384"


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2, "big") + body


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def hello(group: int | None, *, random: bytes = bytes(32), session: bytes = b"") -> bytes:
    extensions = b"\x00\x2b\x00\x02\x03\x04"
    if group is not None:
        share = group.to_bytes(2, "big") + b"\x00\x02ab"
        extensions += b"\x00\x33" + len(share).to_bytes(2, "big") + share
    extensions = len(extensions).to_bytes(2, "big") + extensions
    return message(2, b"\x03\x03" + random + bytes([len(session)]) + session + b"\x13\x02\x00" + extensions)


def watched(*flight: bytes) -> KeyExchangeWatcher:
    watcher = KeyExchangeWatcher()
    for data in flight:
        watcher.receive_data(data)
    return watcher


@pytest.mark.parametrize(("group", "name"), [(29, "x25519"), (4588, "X25519MLKEM768"), (0xFE00, "group 65024")])
def test_the_group_of_tls_1_3(group: int, name: str) -> None:
    watcher = watched(record(22, hello(group, session=bytes(32))))
    assert (watcher.name(TLS13), watcher.done) == (name, True)


def test_a_hello_retry_request_is_not_the_last_word() -> None:
    retry = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
    watcher = watched(record(22, hello(29, random=retry)), record(20, b"\x01"))
    assert (watcher.name(TLS13), watcher.done) == ("x25519", True)
    watcher = watched(record(22, hello(29, random=retry)), record(22, hello(24)))
    assert watcher.name(TLS13) == "secp384r1"


@pytest.mark.parametrize(
    ("cipher", "body", "name"),
    [
        (ECDHE, b"\x03\x00\x1d\x20", "x25519"),
        (ECDHE, b"\x03\x00\x1a\x20", "brainpoolP256r1"),
        (ECDHE, b"\x03\x09\x99\x20", "curve 2457"),
        (ECDHE, b"\x01", ""),
        (DHE, b"\x01\x00" + b"\xff" * 256 + b"\x00\x01\x02", "DH 2048 bits"),
        (DHE, b"\x01", ""),
        (RSA, b"", "RSA"),
        ("PSK-AES256-GCM-SHA384", b"", ""),
    ],
)
def test_tls_1_2(cipher: str, body: bytes, name: str) -> None:
    flight = hello(None) + message(11, bytes(100)) + (message(12, body) if body else b"") + message(14, b"")
    watcher = watched(*(record(22, flight[start : start + 50]) for start in range(0, len(flight), 50)))
    assert (watcher.name(cipher), watcher.done) == (name, True)


def real_flight(version: ssl.TLSVersion, directory: Path) -> bytes:
    """What a server of the standard library sends first."""
    certificate = directory / "mx.pem"
    certificate.write_bytes(issue("mx").pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname, asking.verify_mode, asking.maximum_version = False, ssl.CERT_NONE, version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = asking.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    return to_client.read()


@pytest.mark.parametrize(
    ("version", "cipher"), [(ssl.TLSVersion.TLSv1_2, ECDHE), (ssl.TLSVersion.TLSv1_3, TLS13)], ids=["1.2", "1.3"]
)
def test_a_real_server(version: ssl.TLSVersion, cipher: str, tmp_path: Path) -> None:
    flight = real_flight(version, tmp_path)
    name = watched(flight).name(cipher)
    assert name in ("x25519", "X25519MLKEM768", "secp256r1")
    assert watched(*(flight[i : i + 1] for i in range(len(flight)))).name(cipher) == name


@given(st.lists(st.binary(max_size=200), max_size=8), st.sampled_from([ECDHE, DHE, RSA, TLS13, ""]))
def test_noise(parts: list[bytes], cipher: str) -> None:
    watched(*parts).name(cipher)
    for part in parts:
        watched(record(22, message(2, part)), record(22, message(12, part))).name(cipher)


def test_it_does_not_watch_for_ever() -> None:
    watcher = watched(*([record(22, bytes(16000))] * (MAX_FLIGHT // 16000 + 1)))
    assert watcher.done
    endless = watched(*([b"\x16\x03\x03\xff\xff"] + [bytes(16000)] * 9))
    assert endless.done
