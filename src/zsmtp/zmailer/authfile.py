"""Parses the file of ``-A``: the user and secret for each server (SMTP AUTH, RFC 4954).

Lines of four words, blanks between, ``#`` starts a comment; the first line that matches counts::

    # channel  remote host        user               secret
    smtp       mail.example.org   dXNlcg==           c2VjcmV0
    *          relay.example.net  plain:me           plain:correct-horse
    *          =example.com       plain:me@corp      oauth:!/usr/local/bin/token example.com
    allow-cleartext
    require-login
    mechanisms SCRAM-SHA-256 PLAIN

``*`` as channel is any channel; others are compared exactly. The host is the name of the server connected to, or with
``=`` in front the destination of the mail, ignoring case; it has no wildcard, since a secret must not be sent to
unknown servers. User and secret are base64, as in AUTH LOGIN, or clear text behind ``plain:``, which takes the rest of
the word. ``oauth:`` makes the secret a bearer token: the rest of the word, or with ``!`` the first line that a command
prints. The command is the rest of the line, split as a shell splits words, run without a shell.

``mechanisms`` names the only ones that the lines below it may use, in order, up to the next such line; without a name
it allows all again.

An invalid line that matches is an error, and does not count as absent: mail must not go out without its login. All who
can read the file can use the secrets, and all who can write it can run commands: the permissions for both are checked.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode
from dataclasses import dataclass, field

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.proto.sasl import MECHANISMS, Credentials, Secret, SecretKind, serving
from zsmtp.zmailer.configfile import read_config_file

FILE_LIMIT = 1 << 20  # octets
ENTRY_LIMIT = 10_000
SECRET_LIMIT = 8192  # octets; a response line of AUTH takes 12288 of base64
COMMAND_TIME = 20.0  # seconds for a token command
_BLANKS = b" \t\r\f\v"


@dataclass(frozen=True, slots=True)
class TokenCommand:
    """A command whose first line of output is a bearer token."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. ``host`` is in lower case; ``by_destination``: ``=`` precedes it.

    ``problem`` is the error in the line ("" if there is none); user and secret are empty then.
    """

    line: int
    channel: bytes
    host: bytes
    by_destination: bool = False
    user: bytes = b""
    secret: Secret | TokenCommand = field(default_factory=lambda: Secret(b""))
    kind: SecretKind = SecretKind.SHARED
    problem: str = ""
    mechanisms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthFile:
    """The content of the file. ``remarks`` are oddities, each with file and line, for standard error.

    ``allow_cleartext`` permits mechanisms that send the secret even without TLS. With ``require_login`` a server that
    has an entry and does not offer AUTH gets no mail; without it, it gets the mail without a login.
    """

    path: str
    entries: tuple[Entry, ...] = ()
    allow_cleartext: bool = False
    require_login: bool = False
    remarks: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str) -> AuthFile:
        """Read the file ``path``.

        Raises OSError if it cannot be read, :class:`~zsmtp.errors.ConfigError` if it is no regular file or too long.
        """
        file = read_config_file(path, FILE_LIMIT)
        return parse(file.data, path, mode=file.mode)

    def credentials(self, channel: str, server_host: str, destination: str) -> Credentials | None:
        """The credentials at ``server_host`` for mail of ``channel`` to ``destination``; None if no line matches.

        Runs the token command if the line has one, for at most 20 seconds. Raises
        :class:`~zsmtp.errors.ConfigError` if the line is invalid or its command fails: the mail waits then.
        """
        wanted_channel, server, target = os.fsencode(channel), _folded(server_host), _folded(destination)
        for entry in self.entries:
            if entry.channel not in (b"*", wanted_channel):
                continue
            if entry.host == (target if entry.by_destination else server):
                return self._use(entry)
        return None

    def _use(self, entry: Entry) -> Credentials:
        if entry.problem:
            raise ConfigError(f"{self.path}:{entry.line}: {entry.problem}")
        secret = entry.secret
        if isinstance(secret, TokenCommand):
            try:
                secret = Secret(run_token_command(secret))
            except ConfigError as error:
                raise ConfigError(f"{self.path}:{entry.line}: {error}") from None
        return Credentials(entry.user, secret, entry.kind, entry.mechanisms)


def _folded(host: str) -> bytes:
    return os.fsencode(host).lower().removesuffix(b".")


def parse(data: bytes, path: str, *, mode: int = stat.S_IFREG | 0o600) -> AuthFile:
    """The content of the file ``path`` with the permissions ``mode``. Raises :class:`~zsmtp.errors.ConfigError`."""
    remarks = [f"{path}: every user can read the secrets in it"] if mode & stat.S_IROTH else []
    writable = bool(mode & stat.S_IWOTH)
    if writable:
        remarks.append(f"{path}: all users can write to it; its commands are not run")
    entries: list[Entry] = []
    switches: set[bytes] = set()
    mechanisms: tuple[str, ...] = ()
    for number, line in enumerate(data.split(b"\n"), 1):
        words = line.strip(_BLANKS).split(None, 3)
        if not words or words[0].startswith(b"#"):
            continue
        if len(words) == 1 and words[0].lower() in (b"allow-cleartext", b"require-login"):
            switches.add(words[0].lower())
            continue
        if words[0].lower() == b"mechanisms":
            mechanisms = _mechanisms(line)
            unknown = [name for name in mechanisms if name not in MECHANISMS]
            if unknown:
                text = escape(" ".join(unknown)[:200])
                remarks.append(f"{path}:{number}: no mechanism that is known here: {text}")
            continue
        if len(words) == 1:
            remarks.append(f"{path}:{number}: not channel, host, user and secret")
            continue
        entry = _entry(number, words, mechanisms, commands_allowed=not writable)
        remark = entry.problem or ("the host * matches no host: there is no wildcard" if entry.host == b"*" else "")
        if remark:
            remarks.append(f"{path}:{number}: {remark}")
        entries.append(entry)
        if len(entries) > ENTRY_LIMIT:
            raise ConfigError(f"{path}: more than {ENTRY_LIMIT} lines")
    return AuthFile(path, tuple(entries), b"allow-cleartext" in switches, b"require-login" in switches, tuple(remarks))


def _mechanisms(line: bytes) -> tuple[str, ...]:
    """The names behind the first word of a line, separated by blanks or commas, up to a comment."""
    words = line.partition(b"#")[0].replace(b",", b" ").split()[1:]
    return tuple(word.decode("ascii", "replace").upper() for word in words)


def _entry(number: int, words: list[bytes], mechanisms: tuple[str, ...], *, commands_allowed: bool) -> Entry:
    channel, host = words[0], words[1].lower().removesuffix(b".")
    by_destination = host.startswith(b"=")
    host = host.removeprefix(b"=")
    try:
        if len(words) < 4:
            raise ConfigError("not channel, host, user and secret")
        user = _decoded(words[2], "user")
        secret, kind = _secret(words[3], commands_allowed=commands_allowed)
        if mechanisms and not set(mechanisms).intersection(serving(kind)):
            raise ConfigError(f"none of the mechanisms named above it is for a {kind.value}")
    except ConfigError as error:
        return Entry(number, channel, host, by_destination, problem=str(error))
    return Entry(number, channel, host, by_destination, user, secret, kind, mechanisms=mechanisms)


def _secret(text: bytes, *, commands_allowed: bool) -> tuple[Secret | TokenCommand, SecretKind]:
    """The secret in the rest of a line; no error message quotes any of it."""
    if text.startswith(b"oauth:!"):
        if not commands_allowed:
            raise ConfigError("other users could have written this command")
        return _command(text[7:]), SecretKind.BEARER
    words = text.split(None, 1)
    if len(words) > 1 and not words[1].startswith(b"#"):
        raise ConfigError("text after the secret")
    if words[0].startswith(b"oauth:"):
        if len(words[0]) == len(b"oauth:"):
            raise ConfigError("no token after oauth:")
        return Secret(words[0][6:]), SecretKind.BEARER
    return Secret(_decoded(words[0], "secret")), SecretKind.SHARED


def _decoded(word: bytes, what: str) -> bytes:
    if word.startswith(b"plain:"):
        octets = word[6:]
    else:
        try:
            octets = b64decode(word, validate=True)
        except ValueError:
            raise ConfigError(f"the {what} is neither base64 nor plain:text") from None
    if not octets:
        raise ConfigError(f"the {what} is empty")
    if len(octets) > SECRET_LIMIT:
        raise ConfigError(f"the {what} is longer than {SECRET_LIMIT} octets")
    return octets


def _command(text: bytes) -> TokenCommand:
    import shlex

    try:
        words = tuple(shlex.split(os.fsdecode(text)))
    except ValueError:
        raise ConfigError("the quotes of the token command do not match") from None
    if not words or not words[0].startswith("/"):
        raise ConfigError("the token command needs a path that starts with /")
    if any("\0" in word for word in words):
        raise ConfigError("the token command holds a NUL octet")
    return TokenCommand(words)


def run_token_command(command: TokenCommand, *, seconds: float = COMMAND_TIME) -> bytes:
    """The token a command prints on its first line. Its standard error is discarded: it may reveal secrets.

    Raises :class:`~zsmtp.errors.ConfigError` if it cannot be started, fails, takes too long or prints nothing.
    """
    import selectors
    import signal
    import subprocess
    import time
    from contextlib import suppress

    name = command.words[0]
    try:
        process = subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"the token command {name} cannot be run: {error.strerror}") from None
    end = time.monotonic() + seconds
    output = b""
    with process, selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            while len(output) <= SECRET_LIMIT:
                if not selector.select(max(end - time.monotonic(), 0.0)):
                    raise ConfigError(f"the token command {name} took more than {seconds:.0f} seconds")
                part = os.read(process.stdout.fileno(), SECRET_LIMIT + 1)
                if not part:
                    break
                output += part
            status = process.wait(max(end - time.monotonic(), 0.1)) if len(output) <= SECRET_LIMIT else 0
        except subprocess.TimeoutExpired:
            raise ConfigError(f"the token command {name} took more than {seconds:.0f} seconds") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    token = output.split(b"\n", 1)[0].strip()
    if status:
        raise ConfigError(f"the token command {name} failed with status {status}")
    if not token or len(output) > SECRET_LIMIT:
        raise ConfigError(f"the token command {name} printed {'too much' if token else 'no token'}")
    return token
