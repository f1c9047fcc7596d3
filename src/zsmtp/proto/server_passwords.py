"""Password verifiers, from which no password can be recovered, and files of them.

Two kinds. SCRAM-SHA-256 (RFC 5802, RFC 7677) serves every mechanism here; scrypt (RFC 7914) makes guessing more
expensive and serves the mechanisms that send the password, PLAIN and LOGIN. A file has a line for each user and kind; a
user may have one of each::

    # user:{kind}parameters
    ann@example.org:{SCRAM-SHA-256}4096,<salt>,<stored key>,<server key>
    bob:{SCRYPT}14,8,1,<salt>,<key>

Salts and keys are base64; the parameters of scrypt are the logarithm of N, r and p. Names and passwords are prepared
with SASLprep (RFC 4013), so that different ways to type the same text are the same. An unknown user takes the same
steps as a known one: :class:`Passwords` makes a verifier for every name, from a secret key and with the parameters of
some user, that no password matches.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from zsmtp.errors import ConfigError
from zsmtp.patterns import pattern
from zsmtp.proto.reply import printable
from zsmtp.proto.sasl import Secret
from zsmtp.proto.scram import MAX_ITERATIONS, MAX_SALT, MIN_ITERATIONS, prepare

MAX_LINE = 4096  # octets of a line of a file
MAX_USERS = 100_000
MIN_SALT = 8  # octets
MAX_SCRYPT_MEMORY = 128 << 20  # octets of memory that one check may take: 128 N r
MAX_SCRYPT_WORK = 1 << 24  # N r p
KEY_LENGTH = 32  # octets of every key here

_LINE = pattern(rb"(.+?):\{([A-Za-z0-9-]+)\}(.+)")


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """The verifier of SCRAM-SHA-256 (RFC 5802 3)."""

    iterations: int
    salt: bytes
    stored_key: Secret
    server_key: Secret

    def matches(self, password: bytes) -> bool:
        """Whether ``password``, prepared by SASLprep, is the password of this verifier."""
        salted = hashlib.pbkdf2_hmac("sha256", password, self.salt, self.iterations)
        stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        return hmac.compare_digest(stored_key, self.stored_key.reveal())


@dataclass(frozen=True, slots=True)
class ScryptVerifier:
    """A key that scrypt derived from a password (RFC 7914). ``log_n`` is the logarithm of N to the base 2."""

    log_n: int
    r: int
    p: int
    salt: bytes
    key: Secret

    def matches(self, password: bytes) -> bool:
        """Whether ``password``, prepared by SASLprep, is the password of this verifier."""
        return hmac.compare_digest(_scrypt(password, self.log_n, self.r, self.p, self.salt), self.key.reveal())


Verifier = ScramVerifier | ScryptVerifier


def scram_verifier(password: bytes, *, salt: bytes, iterations: int = MIN_ITERATIONS) -> ScramVerifier:
    """The verifier of a password in UTF-8; ``salt`` is random. Raises ConfigError for what cannot be one."""
    _check_scram(iterations, salt)
    salted = hashlib.pbkdf2_hmac("sha256", prepare(password, "password"), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return ScramVerifier(iterations, salt, Secret(stored_key), Secret(hmac.digest(salted, b"Server Key", "sha256")))


def scrypt_verifier(password: bytes, *, salt: bytes, log_n: int = 14, r: int = 8, p: int = 1) -> ScryptVerifier:
    """The verifier of a password in UTF-8; ``salt`` is random. Raises ConfigError for what cannot be one."""
    _check_scrypt(log_n, r, p, salt)
    return ScryptVerifier(log_n, r, p, salt, Secret(_scrypt(prepare(password, "password"), log_n, r, p, salt)))


def password_line(user: bytes, verifier: Verifier) -> bytes:
    """The line of a file for ``user``, without its line end. Raises ConfigError for a name that no line can hold."""
    name = prepare(user, "user")
    if name.startswith(b"#") or b":{" in name or name != name.strip():
        raise ConfigError(f"not a name for a password file: '{printable(user, 80)}'")
    if isinstance(verifier, ScramVerifier):
        kind, words = b"SCRAM-SHA-256", [b"%d" % verifier.iterations]
        secrets = [verifier.salt, verifier.stored_key.reveal(), verifier.server_key.reveal()]
    else:
        kind, words = b"SCRYPT", [b"%d" % number for number in (verifier.log_n, verifier.r, verifier.p)]
        secrets = [verifier.salt, verifier.key.reveal()]
    return name + b":{" + kind + b"}" + b",".join(words + [b64encode(secret) for secret in secrets])


class Passwords:
    """Users and the verifiers of their passwords. ``key`` are 32 random octets, for unknown users.

    ``mechanisms`` can be served to all users alike: SCRAM only if every user has a verifier for it.
    """

    def __init__(
        self, scram: Mapping[bytes, ScramVerifier], scrypt: Mapping[bytes, ScryptVerifier], *, key: bytes
    ) -> None:
        if len(key) < KEY_LENGTH:
            raise ConfigError(f"a key of {len(key)} octets; {KEY_LENGTH} are needed")
        self._scram = dict(scram)
        self._plain: dict[bytes, Verifier] = {**scram, **scrypt}
        self._scram_shapes = list(self._scram.values())
        self._plain_shapes = list(self._plain.values())
        self._key = key
        self.mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN") if self._plain else ()
        if self._plain and len(self._scram) == len(self._plain):
            self.mechanisms = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", *self.mechanisms)

    def scram(self, user: bytes) -> ScramVerifier:
        """The verifier of a prepared name, for SCRAM; one that nothing fits if there is no such user."""
        shape = self._shape(user, self._scram_shapes)
        return self._scram.get(user) or ScramVerifier(
            shape.iterations if isinstance(shape, ScramVerifier) else MIN_ITERATIONS,
            self._made_up(user, b"salt")[: len(shape.salt) if shape is not None else 16],
            Secret(self._made_up(user, b"stored key")),
            Secret(self._made_up(user, b"server key")),
        )

    def plain(self, user: bytes) -> Verifier:
        """The verifier of a prepared name, for a password; one that nothing fits if there is no such user."""
        shape = self._shape(user, self._plain_shapes)
        known = self._plain.get(user)
        if known is not None:
            return known
        if not isinstance(shape, ScryptVerifier):
            return self.scram(user)
        salt, key = self._made_up(user, b"salt"), Secret(self._made_up(user, b"key"))
        return ScryptVerifier(shape.log_n, shape.r, shape.p, salt, key)

    def _shape(self, user: bytes, shapes: list[Verifier] | list[ScramVerifier]) -> Verifier | None:
        number = int.from_bytes(self._made_up(user, b"shape")[:8], "big")
        return shapes[number % len(shapes)] if shapes else None

    def _made_up(self, user: bytes, purpose: bytes) -> bytes:
        return hmac.digest(self._key, purpose + b"\0" + user, "sha256")


def parse_passwords(text: bytes, *, key: bytes) -> Passwords:
    """Read a password file. Raises ConfigError with the number of an invalid line, and nothing of its secret.

    ``key`` as for :class:`Passwords`.
    """
    scram: dict[bytes, ScramVerifier] = {}
    scrypt: dict[bytes, ScryptVerifier] = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        try:
            user, verifier = _parse_line(line)
            known: Mapping[bytes, Verifier] = scram if isinstance(verifier, ScramVerifier) else scrypt
            if user in known:
                raise ConfigError(f"the user '{printable(user, 80)}' has two verifiers of the same kind")
        except ConfigError as error:
            raise ConfigError(f"line {number}: {error}") from None
        if isinstance(verifier, ScramVerifier):
            scram[user] = verifier
        else:
            scrypt[user] = verifier
        if len(scram) + len(scrypt) > MAX_USERS:
            raise ConfigError(f"line {number}: more than {MAX_USERS} verifiers")
    return Passwords(scram, scrypt, key=key)


def _parse_line(line: bytes) -> tuple[bytes, Verifier]:
    match = _LINE.fullmatch(line)
    if match is None or len(line) > MAX_LINE:
        raise ConfigError("not of the form user:{kind}parameters")
    user, kind, words = prepare(match[1], "user"), match[2].upper(), match[3].split(b",")
    if kind == b"SCRAM-SHA-256" and len(words) == 4:
        salt, stored_key, server_key = (_base64(word) for word in words[1:])
        iterations = _number(words[0])
        _check_scram(iterations, salt)
        return user, ScramVerifier(iterations, salt, _key(stored_key), _key(server_key))
    if kind == b"SCRYPT" and len(words) == 5:
        log_n, r, p = (_number(word) for word in words[:3])
        salt, derived = _base64(words[3]), _base64(words[4])
        _check_scrypt(log_n, r, p, salt)
        return user, ScryptVerifier(log_n, r, p, salt, _key(derived))
    if kind not in (b"SCRAM-SHA-256", b"SCRYPT"):
        raise ConfigError(f"not a kind of verifier: '{printable(kind, 40)}'; known are SCRAM-SHA-256 and SCRYPT")
    raise ConfigError(f"{len(words)} parameters are not what {printable(kind)} has")


def _check_scram(iterations: int, salt: bytes) -> None:
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ConfigError(f"{iterations} iterations; {MIN_ITERATIONS} to {MAX_ITERATIONS} are done here")
    _check_salt(salt)


def _check_scrypt(log_n: int, r: int, p: int, salt: bytes) -> None:
    if not (10 <= log_n <= 24 and 1 <= r <= 64 and 1 <= p <= 64):
        raise ConfigError(f"scrypt with {log_n},{r},{p}: log N is 10 to 24, r and p are 1 to 64")
    if 128 * r << log_n > MAX_SCRYPT_MEMORY or r * p << log_n > MAX_SCRYPT_WORK:
        raise ConfigError(f"scrypt with {log_n},{r},{p} takes more memory or time than a login may")
    _check_salt(salt)


def _check_salt(salt: bytes) -> None:
    if not MIN_SALT <= len(salt) <= MAX_SALT:
        raise ConfigError(f"a salt of {len(salt)} octets; {MIN_SALT} to {MAX_SALT} are possible")


def _number(word: bytes) -> int:
    if not word.isdigit() or len(word) > 9:
        raise ConfigError(f"not a number: '{printable(word, 40)}'")
    return int(word)


def _base64(word: bytes) -> bytes:
    try:
        return b64decode(word, validate=True)
    except ValueError:
        raise ConfigError("a salt or key that is not base64") from None


def _key(octets: bytes) -> Secret:
    if len(octets) != KEY_LENGTH:
        raise ConfigError(f"a key of {len(octets)} octets; {KEY_LENGTH} are right")
    return Secret(octets)


def _scrypt(password: bytes, log_n: int, r: int, p: int, salt: bytes) -> bytes:
    memory = 256 * r * (1 << log_n) + (1 << 20)  # OpenSSL needs some more than the 128 N r of the algorithm
    return hashlib.scrypt(password, salt=salt, n=1 << log_n, r=r, p=p, maxmem=memory, dklen=KEY_LENGTH)
