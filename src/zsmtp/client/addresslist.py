"""Parses mail addresses from programs: bare or with a display name, also internationalised (RFC 5322 3.4, RFC 6531).

:func:`read_address` returns the octets of a path, or raises an error that describes the fault. Non-ASCII local parts
stay UTF-8 and need SMTPUTF8 from the server. A domain is mapped by UTS 46 (``zsmtp.idn``) and sent as A-labels if the
server does not offer SMTPUTF8, by the rules of ``zsmtp.proto.address``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from zsmtp import idn
from zsmtp.body.mailboxes import Unreadable, read_mailboxes
from zsmtp.dns.candidates import NoRoute
from zsmtp.dns.literal import parse_destination
from zsmtp.errors import SubmissionError
from zsmtp.escape import described, escape
from zsmtp.proto.address import domain_of, path_problem

MAX_TEXT = 10_000  # characters of an address with its display name

_QUOTED_PAIR = re.compile(rb"\\([\s\S])")


def read_address(text: str | bytes, what: str) -> bytes:
    """The path in ``text``, which may be ``Name <address>``. Raises SubmissionError; ``what`` names the text in it.

    ``<>`` and "" are the null reverse-path; a recipient must not be one.
    """
    if not isinstance(text, str | bytes):
        raise SubmissionError(f"{what}: a string is expected, not {type(text).__name__}")
    if len(text) > MAX_TEXT:  # before it is parsed or stored
        raise SubmissionError(f"{what}: a text of {len(text)} characters; {MAX_TEXT} are the limit")
    return _read(text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text, what)


@lru_cache(4096)  # senders repeat, and mailing lists use the same recipients again
def _read(plain: str, what: str) -> bytes:
    bare = plain.strip()
    if bare in ("", "<>"):
        if what == "sender":
            return b""
        raise SubmissionError(f"{what}: empty address")
    if "<" in bare or "(" in bare:
        bare = _without_name(plain, what)
    return _path(bare, plain, what)


def _without_name(plain: str, what: str) -> str:
    """The address in a mailbox with a display name."""
    try:
        found = read_mailboxes(plain.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise SubmissionError(f"{what} {_shown(plain)}: neither ASCII nor UTF-8") from None
    if isinstance(found, Unreadable):
        raise SubmissionError(f"{what} {_shown(plain)}: {found.problem} (octet {found.position + 1})")
    if len(found) != 1:
        raise SubmissionError(f"{what} {_shown(plain)}: a comma; each address is to be given by itself")
    return found[0].decode("utf-8", "surrogateescape")


def _path(bare: str, plain: str, what: str) -> bytes:
    """The path of an address without display name; ``plain`` is the original text."""
    bare = unicodedata.normalize("NFC", bare)  # RFC 6532 3.1
    try:
        path = bare.encode("utf-8")
    except UnicodeEncodeError:
        raise SubmissionError(f"{what} {_shown(plain)}: neither ASCII nor UTF-8") from None
    if not path.isascii():
        local, at, domain = bare.rpartition("@")
        plain_domain = idn.mapped(domain) if at else None
        if plain_domain is not None:
            path = f"{local}@{plain_domain}".encode()
    problem = path_problem(path) or _address_problem(path)
    if problem is not None:
        raise SubmissionError(f"{what} {_shown(plain)}: {problem}")
    return path


def _address_problem(path: bytes) -> str | None:
    """The reason why mail cannot be sent to or from a path; None if it can."""
    domain = domain_of(path)
    if not domain:
        if b"@" in path:
            return "nothing after the @"
        return None if path.lower() == b"postmaster" else "no @ and domain"  # RFC 5321 4.1.1.3
    if path.startswith(b"@"):
        return "nothing before the @"
    if b"," in path and not path.startswith(b'"'):  # RFC 5321 4.1.2: it must be quoted
        return "a comma; each address is to be given by itself"
    if domain.endswith(b"."):  # a name in the DNS may end so, a domain in mail does not (RFC 5321 2.3.5)
        return "a dot at the end of the domain"
    return _domain_problem(domain)


@lru_cache(4096)
def _domain_problem(domain: bytes) -> str | None:
    parsed = parse_destination(domain.decode("utf-8"))
    return parsed.text if isinstance(parsed, NoRoute) else None


def read_addresses(texts: str | bytes | Iterable[str | bytes], what: str) -> tuple[bytes, ...]:
    """The paths in ``texts``, each once, in order. Raises SubmissionError."""
    if isinstance(texts, str | bytes):
        return (read_address(texts, what),)
    if not isinstance(texts, Iterable):
        raise SubmissionError(f"{what}: a string or several are expected, not {type(texts).__name__}")
    try:
        several = tuple(texts)
    except Exception as error:  # an iterable of the program may raise anything
        raise SubmissionError(f"{what}: the addresses cannot be iterated: {described(error)}") from error
    if len(several) == 1:
        return (read_address(several[0], what),)
    found: dict[tuple[bytes, str | None], bytes] = {}
    for text in several:
        path = read_address(text, what)
        found.setdefault(comparable(path), path)
    return tuple(found.values())


def usable_addresses(
    texts: tuple[str | bytes, ...], what: str
) -> tuple[tuple[str | bytes, ...], list[tuple[str | bytes, SubmissionError]]]:
    """The valid addresses of ``texts``, and the other texts, each with its fault."""
    good: list[str | bytes] = []
    bad: list[tuple[str | bytes, SubmissionError]] = []
    for text in texts:
        try:
            read_address(text, what)
        except SubmissionError as error:
            bad.append((text, error))
        else:
            good.append(text)
    return tuple(good), bad


def comparable(path: bytes) -> tuple[bytes, str | None]:
    """What all forms of one address share: quotes mean nothing (RFC 5321 4.1.2), nor does the case of a domain.

    The U-labels and A-labels of a domain are the same, too.
    """
    local, _, domain = path.rpartition(b"@")
    if local.startswith(b'"'):
        local = _QUOTED_PAIR.sub(rb"\1", local[1:].removesuffix(b'"'))
    return local, idn.to_ascii(domain.decode("utf-8", "surrogateescape"))


def _shown(text: str) -> str:
    return escape(text[:120])
