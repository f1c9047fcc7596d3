"""The file of the keys that sign and verify return paths (``zsmtp.queue.returnpath``).

A line is a key in hexadecimal digits, 32 octets; lines that begin with ``#`` are comments. The first key signs, all
keys verify, so a new key in front leaves the return paths of earlier mail valid. With the keys anyone can cause
suppressions, so only the owner may be able to read the file.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.queue.returnpath import BounceConfig

OCTETS = 32
MAX_KEYS = 4
"""Keys that a file has at most: one more than a month of weekly keys needs."""
_MAX_FILE = 65536
_COMMENT = "# Keys of return paths (zsmtp): the first one signs, all of them prove. Keep this file secret.\n"


def keys_of(config: BounceConfig) -> tuple[bytes, ...]:
    """The keys of a configuration, none if it has no return path. Raises ConfigError."""
    return read_keys(config.key_file) if config.return_path else ()


def read_keys(path: str) -> tuple[bytes, ...]:
    """The keys in a file. Raises ConfigError that names the file, and shows no part of its content."""
    shown = f"key_file: {escape(path)}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a FIFO would block
    except FileNotFoundError:
        raise ConfigError(f"{shown} is not there; zsmtp bounce key {escape(path)} makes it") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{shown} is not a regular file")
        if found.st_mode & 0o077:
            raise ConfigError(f"{shown} can be read by others; chmod 600 keeps it secret")
        octets = file.read(_MAX_FILE)
    keys = []
    for number, line in enumerate(octets.splitlines(), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        key = b""
        with suppress(ValueError):
            key = bytes.fromhex(line.decode("latin-1"))
        if len(key) != OCTETS:
            raise ConfigError(f"{shown}: line {number} is no key of {2 * OCTETS} hexadecimal digits")
        keys.append(key)
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ConfigError(f"{shown} has {len(keys)} keys; 1 to {MAX_KEYS} are possible")
    return tuple(keys)


def make_keys(path: str) -> None:
    """Make a file with a new key, readable by its owner only. Raises OSError; FileExistsError if it is there."""
    _write(path, (os.urandom(OCTETS),))


def put_new_key(path: str) -> int:
    """Put a new key in front of those in a file; returns how many there are. Raises ConfigError and OSError."""
    keys = (os.urandom(OCTETS), *read_keys(path))[:MAX_KEYS]
    beside = f"{path}.{os.getpid()}"
    _write(beside, keys)
    try:
        os.replace(beside, path)
    except OSError:
        os.unlink(beside)
        raise
    return len(keys)


def _write(path: str, keys: tuple[bytes, ...]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(_COMMENT + "".join(f"{key.hex()}\n" for key in keys))
        file.flush()
        os.fsync(descriptor)
