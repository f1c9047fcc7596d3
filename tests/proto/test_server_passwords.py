"""Verifiers of passwords and files of them."""

from __future__ import annotations

from base64 import b64decode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.errors import ConfigError
from zsmtp.proto.server_passwords import (
    Passwords,
    ScramVerifier,
    ScryptVerifier,
    Verifier,
    parse_passwords,
    password_line,
    scram_verifier,
    scrypt_verifier,
)

KEY = b"k" * 32
SALT = b64decode(b"W22ZaJ0SNY7soEsUEjb6gQ==")
SCRAM = scram_verifier(b"pencil", salt=SALT)
SCRYPT = scrypt_verifier(b"pencil", salt=SALT, log_n=10)
# RFC 7677 3: this password, salt and 4096 iterations; the keys are those of other implementations.
SCRAM_LINE = (
    b"user:{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,"
    b"WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_the_published_example() -> None:
    assert password_line(b"user", SCRAM) == SCRAM_LINE


def test_a_file() -> None:
    text = b"\n".join(
        [
            b"# who may send",
            b"",
            SCRAM_LINE,
            password_line(b"ann:b@example.org", SCRAM) + b"\r",
            b"  " + password_line("jürgen".encode(), SCRYPT) + b" ",
        ]
    )
    passwords = parse_passwords(text, key=KEY)
    assert passwords.scram(b"user") == SCRAM
    assert passwords.plain(b"ann:b@example.org") == SCRAM
    assert passwords.plain("jürgen".encode()) == SCRYPT
    assert passwords.mechanisms == ("PLAIN", "LOGIN"), "SCRAM would fail for the last one"


def test_scram_is_served_if_everybody_has_a_verifier_for_it() -> None:
    assert Passwords({b"a": SCRAM}, {b"a": SCRYPT}, key=KEY).mechanisms[:2] == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")
    assert Passwords({b"a": SCRAM}, {b"b": SCRYPT}, key=KEY).mechanisms == ("PLAIN", "LOGIN")
    assert Passwords({}, {}, key=KEY).mechanisms == ()
    assert parse_passwords(b"", key=KEY).mechanisms == ()


def test_a_password_is_checked_with_the_dearer_verifier() -> None:
    assert Passwords({b"a": SCRAM}, {b"a": SCRYPT}, key=KEY).plain(b"a") == SCRYPT


@pytest.mark.parametrize("verifier", [SCRAM, SCRYPT], ids=["SCRAM", "scrypt"])
def test_a_verifier_knows_its_password_and_shows_nothing(verifier: Verifier) -> None:
    assert verifier.matches(b"pencil")
    assert not verifier.matches(b"pencils")
    assert not verifier.matches(b"")
    shown = repr(verifier)
    assert "secret" in shown
    assert "WG5d8oPm" not in shown
    for field in ("stored_key", "server_key", "key"):
        secret = getattr(verifier, field, None)
        if secret is not None:
            assert repr(secret.reveal()) not in shown


def test_who_is_not_there_looks_like_somebody() -> None:
    """Always the same salt for one name, other salts for other names, the parameters of real users, and no match."""
    passwords = Passwords({b"a": SCRAM}, {b"a": SCRYPT}, key=KEY)
    one, again, other = passwords.scram(b"x"), passwords.scram(b"x"), passwords.scram(b"y")
    assert one == again
    assert one.salt != other.salt
    assert (one.iterations, len(one.salt)) == (SCRAM.iterations, len(SCRAM.salt))
    plain = passwords.plain(b"x")
    assert isinstance(plain, ScryptVerifier)
    assert (plain.log_n, plain.r, plain.p) == (10, 8, 1)
    assert not plain.matches(b"pencil")
    assert Passwords({}, {}, key=KEY).scram(b"x").iterations == 4096
    assert Passwords({b"a": SCRAM}, {}, key=KEY).scram(b"x") != Passwords({b"a": SCRAM}, {}, key=b"l" * 32).scram(b"x")


def test_strangers_are_shaped_like_all_kinds_of_users() -> None:
    scram = {b"a": SCRAM, b"b": scram_verifier(b"x", salt=SALT, iterations=5000)}
    passwords = Passwords(scram, {b"a": SCRYPT}, key=KEY)
    strangers = [b"%d" % number for number in range(100)]
    assert {passwords.scram(name).iterations for name in strangers} == {4096, 5000}
    assert {type(passwords.plain(name)) for name in strangers} == {ScramVerifier, ScryptVerifier}


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
@settings(max_examples=20)
def test_what_is_written_is_read(user: str, password: str) -> None:
    try:
        verifier = scrypt_verifier(password.encode(), salt=SALT, log_n=10)
        line = password_line(user.encode(), verifier)
    except (ConfigError, UnicodeEncodeError):
        return
    passwords = parse_passwords(line, key=KEY)
    assert list(passwords._plain.values()) == [verifier]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"user", "not of the form"),
        (b"user:secret", "not of the form"),
        (b":{SCRYPT}14,8,1,AAAAAAAAAAA=,x", "not of the form"),
        (b"user:{PLAIN}secret", "kind of verifier: 'PLAIN'"),
        (b"user:{SCRYPT}14,8,1", "3 parameters"),
        (b"user:{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==", "2 parameters"),
        (SCRAM_LINE.replace(b"4096", b"4095"), "4095 iterations"),
        (SCRAM_LINE.replace(b"4096", b"1000001"), "1000001 iterations"),
        (SCRAM_LINE.replace(b"4096", b"many"), "not a number"),
        (SCRAM_LINE.replace(b"W22ZaJ0SNY7soEsUEjb6gQ==", b"W22Z"), "salt of 3 octets"),
        (SCRAM_LINE.replace(b"W22Z", b"****"), "not base64"),
        (SCRAM_LINE.replace(b"WG5d8oPm", b""), "key of 26 octets"),
        (b"user:{SCRYPT}9,8,1,AAAAAAAAAAA=,AAAA", "log N is 10 to 24"),
        (b"user:{SCRYPT}17,8,16,AAAAAAAAAAA=," + b"A" * 43 + b"=", None),
        (b"user:{SCRYPT}18,8,1,AAAAAAAAAAA=," + b"A" * 43 + b"=", "more memory or time"),
        (b"user:{SCRYPT}17,8,17,AAAAAAAAAAA=," + b"A" * 43 + b"=", "more memory or time"),
        (b"\xff:{SCRYPT}14,8,1,AAAAAAAAAAA=,x", "not UTF-8"),
        (SCRAM_LINE + b"\n" + SCRAM_LINE, "line 2: the user 'user' has two"),
        (b"x" * 5000 + b":{SCRYPT}", "not of the form"),
    ],
)
def test_lines_that_cannot_be_used(line: bytes, problem: str | None) -> None:
    if problem is None:
        parse_passwords(line, key=KEY)
        return
    with pytest.raises(ConfigError, match=r"^line \d+: ") as raised:
        parse_passwords(line, key=KEY)
    assert problem in str(raised.value)
    assert "WG5d8oPm" not in str(raised.value), "a key"
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("user", [b"#ann", b"a:{b", b" ann", b"", b"\xff", b"a\nb"])
def test_names_that_no_line_can_hold(user: bytes) -> None:
    with pytest.raises(ConfigError):
        password_line(user, SCRAM)


def test_a_short_key_is_none() -> None:
    with pytest.raises(ConfigError):
        Passwords({}, {}, key=b"short")
