"""Key files: what is taken, what is refused and how, and that no text shows a key."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.signing.samples import MESSAGE, NOW, private_key, published, results, signing_key
from tests.signing.vectors import RSA_PEM

from zsmtp.errors import ConfigError
from zsmtp.signing import keys
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.keys import generate_key, load_keyring, read_key, write_key
from zsmtp.signing.publickey import read_public_key
from zsmtp.signing.record import KeyRecord
from zsmtp.signing.sign import read_header, sign
from zsmtp.signing.signature import Algorithm

RSA, ED25519 = Algorithm.RSA_SHA256, Algorithm.ED25519_SHA256
HEADER, _, BODY = MESSAGE.partition(b"\n\n")
HEADER += b"\n"


def unwarned(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_key_written_is_read_and_signs_for_its_public_half(algorithm: Algorithm, tmp_path: Path) -> None:
    path = str(tmp_path / "key.pem")
    write_key(path, private_key(algorithm))
    assert os.stat(path).st_mode & 0o777 == 0o600
    read = read_key(path, unwarned)
    assert (read.algorithm, read.bits) == (algorithm, 256 if algorithm is ED25519 else 2048)
    assert read.public_key == private_key(algorithm).public_key
    public = read_public_key(KeyRecord(algorithm, read.public_key))
    assert public.bits == read.bits
    assert public.verifies(read.sign(b"octets"), b"octets")
    assert not public.verifies(read.sign(b"octets"), b"other octets")
    assert not public.verifies(b"", b"octets")


def test_a_keyring_from_files_signs(tmp_path: Path) -> None:
    configs = []
    for algorithm in Algorithm:
        write_key(str(tmp_path / algorithm.value), private_key(algorithm))
        configs.append(signing_key(algorithm, key_file=str(tmp_path / algorithm.value)).config)
    fields = read_header(HEADER)
    choice = load_keyring(configs, unwarned).choose(fields, granted=None, now=NOW)
    signed = sign(HEADER, [BODY], choice.keys, now=NOW) + MESSAGE
    assert results(signed, published(choice.keys)) == ["pass", "pass"]


def test_pkcs_1_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    key = rsa.generate_private_key(65537, 2048)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    path.chmod(0o600)
    assert read_key(str(path), unwarned).bits == 2048


def test_the_umask_takes_nothing_away(tmp_path: Path) -> None:
    old = os.umask(0o277)
    try:
        write_key(str(tmp_path / "key.pem"), private_key(ED25519))
    finally:
        os.umask(old)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        write_key(str(path), private_key(ED25519))
    (tmp_path / "link.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_key(str(tmp_path / "link.pem"), private_key(ED25519))
    assert path.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_half_a_file_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_key(str(tmp_path / "key.pem"), private_key(ED25519))
    assert not (tmp_path / "key.pem").exists()


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "short": (lambda: RSA_PEM, "an RSA key of 1024 bits; 2048 to 4096 are expected"),
    "encrypted": (lambda: pem(rsa.generate_private_key(65537, 2048), b"secret"), "the key is encrypted"),
    "elliptic": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
    "public": (
        lambda: (
            rsa.generate_private_key(65537, 2048)
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        ),
        "no private key in PEM form",
    ),
    "empty": (lambda: b"", "no private key in PEM form"),
    "garbage": (lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key in PEM"),
    "huge": (lambda: b"x" * (keys.MAX_FILE + 1), "has more than 65536 octets"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_sign_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, problem = BAD[name]
    path = tmp_path / f"{name}.pem"
    path.write_bytes(make())
    path.chmod(0o600)
    key = DKIMKey(domain="example.org", selector="a", key_file=str(path))
    with pytest.raises(ConfigError, match=problem) as failed:
        load_keyring([key], unwarned)
    assert str(failed.value).startswith(f"dkim[0].key_file: {path}")


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, problem in (
        (tmp_path / "gone\x1b", r"gone\\x1b cannot be read: No such file or directory"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "fifo", "is not a regular file"),
        ("nul\0", "cannot be read|is not the name of a file"),
        ("\ud800", "is not the name of a file"),
    ):
        with pytest.raises(ConfigError, match=problem):
            read_key(str(path), unwarned)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_file_that_is_open_to_everybody_is_warned_of(mode: int, warned: bool, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_key(str(path), private_key(ED25519))
    path.chmod(mode)
    heard: list[str] = []
    for _ in range(2):  # whether it is read or remembered
        read_key(str(path), heard.append)
    assert len(heard) == (2 if warned else 0)
    assert all(str(path) in text for text in heard)


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_key(str(path), private_key(ED25519))
    first = read_key(str(path), unwarned)
    assert read_key(str(path), unwarned) is first
    path.unlink()
    write_key(str(path), generate_key(ED25519))
    assert read_key(str(path), unwarned).public_key != first.public_key


@pytest.mark.parametrize("bits", [1024, 2047, 4097])
def test_sizes_that_are_not_made(bits: int) -> None:
    with pytest.raises(ConfigError, match=f"an RSA key of {bits} bits"):
        generate_key(RSA, bits)


def tracebacks(*values: object) -> str:
    """What is printed where an exception with these values is not caught, also with all local variables."""
    try:
        raise ValueError(values)
    except ValueError as error:
        full = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join([*traceback.format_exception(error), *full.format()])


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_key_is_in_no_text(algorithm: Algorithm) -> None:
    private, key = private_key(algorithm), signing_key(algorithm)
    shown = f"{private!r} {private} {key!r} {[key]} {key.config!r} {tracebacks(private, key)}"
    secret = "".join(private.pem().decode().splitlines()[1:-1])[-1600:]
    assert "example.org" in shown
    assert algorithm.value in shown
    assert not any(secret[place : place + 12] in shown for place in range(len(secret) - 12))
    for one in (private, key):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(one)
