"""Mail addresses as programs give them: bare or with a display name, also internationalised (RFC 5322 3.4, RFC 6531).

:func:`read_address` gives the octets of a path, or says what is wrong with the text. Non-ASCII local parts stay UTF-8
and need SMTPUTF8 from the server; a domain is sent as A-labels where the server does not offer it, by the rules of
``zsmtp.proto.address``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from zsmtp.dns.literal import parse_destination
from zsmtp.dns.plan import NoRoute
from zsmtp.errors import SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.address import domain_of, path_problem

MAX_TEXT = 10_000  # characters of an address with its display name

_DISPLAY = re.compile(r'(?:[^<>"\\]|"(?:[^"\\]|\\.)*")*<([^<>]*)>\s*')


def read_address(text: str | bytes, what: str) -> bytes:
    """The path in ``text``, which may be ``Name <address>``. Raises SubmissionError, naming ``what`` it is.

    ``<>`` and "" are the null reverse-path; a recipient must not be one.
    """
    if not isinstance(text, str | bytes):
        raise SubmissionError(f"{what}: a text is wanted, not {type(text).__name__}")
    if len(text) > MAX_TEXT:  # before it is looked at, or kept
        raise SubmissionError(f"{what}: a text of {len(text)} characters; {MAX_TEXT} are the limit")
    return _read(text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text, what)


@lru_cache(4096)  # senders are often the same, and recipients are asked again by whoever sends to lists
def _read(plain: str, what: str) -> bytes:
    match = _DISPLAY.fullmatch(plain.strip()) if "<" in plain else None
    bare = match[1].strip() if match is not None else plain.strip()
    try:
        path = unicodedata.normalize("NFC", bare).encode("utf-8")  # RFC 6532 3.1
    except UnicodeEncodeError:
        raise SubmissionError(f"{what} {_shown(plain)}: neither ASCII nor UTF-8") from None
    if not path:
        if what == "sender":
            return b""
        raise SubmissionError(f"{what}: empty address")
    problem = path_problem(path)
    if problem is None and not domain_of(path):
        if b"@" in path:
            problem = "nothing after the @"
        elif path.lower() != b"postmaster":  # RFC 5321 4.1.1.3
            problem = "no @ and domain"
    if problem is None and path.startswith(b"@"):
        problem = "nothing before the @"
    if problem is None and b"," in path and not path.startswith(b'"'):  # RFC 5321 4.1.2: it would have to be quoted
        problem = "a comma; each address is to be given by itself"
    if problem is None and b"@" in path:
        problem = _domain_problem(domain_of(path))
    if problem is not None:
        raise SubmissionError(f"{what} {_shown(plain)}: {problem}")
    return path


@lru_cache(4096)
def _domain_problem(domain: bytes) -> str | None:
    parsed = parse_destination(domain.decode("utf-8"))
    return parsed.text if isinstance(parsed, NoRoute) else None


def read_addresses(texts: str | bytes | Iterable[str | bytes], what: str) -> tuple[bytes, ...]:
    """The paths in ``texts``, each once, in order. Raises SubmissionError."""
    if isinstance(texts, str | bytes):
        return (read_address(texts, what),)
    if not isinstance(texts, Iterable):
        raise SubmissionError(f"{what}: a text or several are wanted, not {type(texts).__name__}")
    several = tuple(texts)
    if len(several) == 1:
        return (read_address(several[0], what),)
    found: dict[tuple[bytes, bytes], bytes] = {}
    for text in several:
        path = read_address(text, what)
        local, _, domain = path.rpartition(b"@")
        found.setdefault((local, domain.lower()), path)
    return tuple(found.values())


def _shown(text: str) -> str:
    return escape(text[:120])
