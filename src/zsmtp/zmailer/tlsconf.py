"""The file of ``-S``: what it asks of this release, which has no STARTTLS yet.

Lines are ``keyword value``, ``#`` and ``;`` start comments, keywords are compared without case and hyphens. Mail must
never travel with less protection than was asked for: a file with ``demand-tls-mode``, or one that cannot be read, is a
reason not to run; a file that only allows TLS leaves mail as it goes to a server that does not offer it.
"""

from __future__ import annotations

from zsmtp.errors import ConfigError

MAX_FILE = 1 << 20  # octets


def check(path: str) -> str:
    """Read the file ``path``; the warning to give.

    Raises OSError if it cannot be read, :class:`~zsmtp.errors.ConfigError` if it demands TLS.
    """
    with open(path, "rb") as file:
        text = file.read(MAX_FILE)
    if demands_tls(text):
        raise ConfigError(f"{path} demands TLS (demand-tls-mode), which this release does not have: nothing is sent")
    return f"-S {path}: this release has no STARTTLS; mail goes in clear"


def demands_tls(text: bytes) -> bool:
    """Whether the configuration asks for TLS or no delivery."""
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][:1] in (b"#", b";"):
            continue
        keyword = words[0].lower().replace(b"-", b"")
        value = words[1].lower() if len(words) > 1 else b""
        if keyword == b"demandtlsmode" or (keyword == b"tlslevel" and value not in (b"may", b"none")):
            return True
    return False
