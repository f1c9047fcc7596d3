"""Contexts and trust anchors: what options give, what they refuse, and that nothing is built twice."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from tests.tls.certificates import NOW, issue

from zsmtp.errors import ConfigError
from zsmtp.tls.chain import verify_chain
from zsmtp.tls.context import (
    ClientCertificate,
    ContextOptions,
    Strength,
    WebContextOptions,
    client_context,
    trust_anchors,
)
from zsmtp.tls.policy import Level

ROOT = issue("root", ca=True)
LEAF = issue("mx", by=ROOT)


def pem(path: Path, *certificates: bytes) -> str:
    path.write_bytes(b"a comment\n" + b"\n".join(certificates))
    return str(path)


def root_pem() -> bytes:
    return ROOT.certificate.public_bytes(Encoding.PEM)


def test_a_context_is_built_once() -> None:
    assert client_context(ContextOptions()) is client_context(ContextOptions())
    assert client_context(ContextOptions()) is not client_context(ContextOptions(strength=Strength.MANDATORY))


def test_what_a_context_is_by_default() -> None:
    context = client_context(ContextOptions())
    assert context.verify_mode is ssl.CERT_NONE
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    ciphers = context.get_ciphers()
    assert ciphers
    assert not [cipher for cipher in ciphers if "au=None" in cipher["description"] or not cipher["strength_bits"]]


@pytest.mark.parametrize(("word", "version"), [("TLSv1", 0x301), ("TLSv1.1", 0x302), ("TLSv1.3", 0x304)])
def test_the_protocol_floor(word: str, version: int) -> None:
    context = client_context(ContextOptions(min_protocol=word, strength=Strength.MANDATORY))
    assert context.minimum_version == version


def test_levels_and_strength() -> None:
    assert {level for level in Level if Strength.of(level) is Strength.OPPORTUNISTIC} == {Level.NONE, Level.MAY}
    assert client_context(ContextOptions()).security_level == 0
    assert client_context(ContextOptions(strength=Strength.MANDATORY)).security_level == 2


def test_a_context_for_the_web_verifies_by_itself(ca_file: str) -> None:
    context = client_context(WebContextOptions(ca_file))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats()["x509_ca"] == 1
    assert not context.verify_flags & (ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    assert client_context(WebContextOptions(ca_file)) is context
    assert client_context(WebContextOptions()) is not context


def test_a_cipher_list() -> None:
    context = client_context(ContextOptions(ciphers="ECDHE-RSA-AES256-GCM-SHA384"))
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert [name for name in names if not name.startswith("TLS_")] == ["ECDHE-RSA-AES256-GCM-SHA384"]
    assert client_context(ContextOptions(ciphers="ALL:@SECLEVEL=1")).security_level == 1


def test_client_certificates_of_two_kinds(tmp_path: Path) -> None:
    first = pem(tmp_path / "ec.pem", LEAF.pem)
    second = issue("mx", key=rsa.generate_private_key(65537, 2048))
    private = second.pem.partition(b"-----BEGIN PRIVATE")
    certificate, key = pem(tmp_path / "rsa.pem", private[0]), pem(tmp_path / "rsa.key", private[1] + private[2])
    both = (ClientCertificate(first), ClientCertificate(certificate, key))
    assert client_context(ContextOptions(certificates=both)) is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ContextOptions(min_protocol="SSLv3"), "not a protocol: 'SSLv3'"),
        (ContextOptions(ciphers="NO-SUCH-CIPHER"), "selects no cipher"),
        (ContextOptions(certificates=(ClientCertificate("/nonexistent.pem"),)), "/nonexistent.pem: No such file"),
    ],
)
def test_options_that_cannot_be_used(options: ContextOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        client_context(options)


def test_files_that_are_no_certificate_or_not_of_one_pair(tmp_path: Path) -> None:
    empty = pem(tmp_path / "empty.pem")
    good = pem(tmp_path / "good.pem", LEAF.pem)
    other = pem(tmp_path / "other.pem", issue("other").pem)
    for certificate in (ClientCertificate(empty), ClientCertificate(good, empty), ClientCertificate(good, other)):
        with pytest.raises(ConfigError, match=str(tmp_path)):
            client_context(ContextOptions(certificates=(certificate,)))


def test_an_encrypted_key_asks_nobody(tmp_path: Path) -> None:
    locked = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    path = pem(tmp_path / "locked.pem", LEAF.certificate.public_bytes(Encoding.PEM), locked)
    with pytest.raises(ConfigError, match="encrypted"):
        client_context(ContextOptions(certificates=(ClientCertificate(path),)))


def test_anchors_from_a_file(tmp_path: Path) -> None:
    path = pem(tmp_path / "ca.pem", root_pem(), b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----")
    anchors = trust_anchors(path, "")
    assert anchors.size == 1
    assert anchors is trust_anchors(path, "")
    assert verify_chain(LEAF.chain, anchors, NOW).problem is None


def test_anchors_from_a_directory(tmp_path: Path) -> None:
    pem(tmp_path / "0a1b2c3d.0", root_pem())
    pem(tmp_path / "README", issue("other", ca=True).certificate.public_bytes(Encoding.PEM))
    (tmp_path / "ffffffff.0").symlink_to(tmp_path / "nowhere")
    assert trust_anchors("", str(tmp_path)).size == 1


def test_both_add_up(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    pem(tmp_path / "certs" / "0a1b2c3d.0", root_pem())
    path = pem(tmp_path / "ca.pem", issue("other", ca=True).certificate.public_bytes(Encoding.PEM))
    assert trust_anchors(path, str(tmp_path / "certs")).size == 2


def test_anchors_that_are_not_there(tmp_path: Path) -> None:
    empty = pem(tmp_path / "empty.pem")
    for arguments in ((str(tmp_path / "no.pem"), ""), ("", str(tmp_path / "no")), (empty, ""), ("", str(tmp_path))):
        with pytest.raises(ConfigError, match=str(tmp_path)):
            trust_anchors(*arguments)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_systems_anchors_are_where_openssl_is_told(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pem(tmp_path / "0a1b2c3d.0", root_pem())
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setenv(variable, path if variable.endswith("FILE") else str(tmp_path))
    trust_anchors.cache_clear()
    try:
        assert trust_anchors("", "").size == 1
    finally:
        trust_anchors.cache_clear()


def test_rules_load_neither_ssl_nor_cryptography() -> None:
    """What decides needs no library; the agent pays for one when a handshake or a chain is at hand."""
    program = (
        "import sys; import zsmtp.tls.judgement, zsmtp.tls.context, zsmtp.tls.resume;"
        "print(*{'ssl', 'cryptography', 'socket', 'asyncio'} & set(sys.modules))"
    )
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {source!r}); {program}"]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip() == ""
