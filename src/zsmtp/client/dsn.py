"""The notifications that a sender requests, as a program gives them (delivery status notifications, RFC 3461).

:class:`DSN` is checked when it is made. :func:`wishes` makes the parameters of commands from it, for the recipients of
one message; :func:`due` decides whether a notification that this side must send was requested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zsmtp.client.addresslist import comparable, read_address
from zsmtp.errors import SubmissionError
from zsmtp.escape import escape
from zsmtp.proto.address import MAX_ENVID, MAX_ORCPT, encode_xtext, typed_address
from zsmtp.records import NamedTuple, dataclass

_EVENTS = ("success", "failure", "delay")
_NEVER = "never"
_RETURNED = {"full": b"FULL", "headers": b"HDRS"}
_ASKED_BY = {"relayed": "success", "delivered": "success", "failed": "failure", "delayed": "delay"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DSN:
    """The notifications that the sender of a message requests; passed to servers that offer DSN (RFC 3461).

    ``notify`` has any of "success", "failure" and "delay", or "never" alone (in a text they are separated by commas);
    empty, the servers on the way decide, and mostly report failures. ``ret`` "full" or "headers" is the part of the
    message that a notification of failure returns. ``envid`` is repeated in each notification, so that the sender can
    identify the message: printable ASCII, 100 octets when encoded. ``original`` has the original address for recipients
    that the message was forwarded to, as ``{"new@example.net": "old@example.org"}``; for all others it is their own. A
    non-ASCII one is sent to servers with SMTPUTF8 only (RFC 6533).

    ``notify`` and ``original`` are kept as tuples. Raises :class:`~zsmtp.errors.SubmissionError`.
    """

    notify: str | Iterable[str] = ()
    ret: str = ""
    envid: str = ""
    original: Mapping[str, str] | Iterable[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notify", _read_notify(self.notify))
        if not isinstance(self.ret, str) or (self.ret and self.ret not in _RETURNED):
            raise SubmissionError(f"ret: {_shown(self.ret)} is none of {', '.join(_RETURNED)}")
        _check_envid(self.envid)
        object.__setattr__(self, "original", _read_original(self.original))


class Wishes(NamedTuple):
    """The parameters of the commands: RET, ENVID and NOTIFY, and ORCPT by recipient."""

    ret: bytes | None = None
    envid: bytes | None = None
    notify: bytes | None = None
    originals: Mapping[bytes, bytes] = {}


NO_WISHES = Wishes()


def wishes(dsn: DSN, recipients: Iterable[bytes]) -> Wishes:
    """The parameters for the recipients of a message. Raises SubmissionError if ``dsn`` names another recipient."""
    given = {comparable(read_address(to, "original")): to for to, _ in _pairs(dsn)}
    old = {to: _typed(address) for to, address in _pairs(dsn)}
    originals = {path: old[to] for path in recipients if (to := given.pop(comparable(path), None)) is not None}
    for to in given.values():
        raise SubmissionError(f"original: {escape(to[:120])} is no recipient of this message")
    return Wishes(
        ret=_RETURNED[dsn.ret] if dsn.ret else None,
        envid=encode_xtext(dsn.envid.encode("ascii")) if dsn.envid else None,
        notify=",".join(dsn.notify).upper().encode("ascii") if dsn.notify else None,
        originals=originals,
    )


def due(dsn: DSN | None, action: str, *, null_sender: bool) -> str:
    """``action`` if the sender requested that notification, else "": none can go to a null sender (RFC 5321 4.5.5)."""
    return action if dsn is not None and action and not null_sender and _ASKED_BY[action] in dsn.notify else ""


def _read_notify(given: object) -> tuple[str, ...]:
    """The words, each once, in their order on the wire."""
    if isinstance(given, str):
        given = [word.strip() for word in given.split(",")] if given else ()
    if isinstance(given, bytes | bytearray | memoryview) or not isinstance(given, Iterable):
        raise SubmissionError(f"notify: words are expected, not {type(given).__name__}")
    words = list(given)
    for word in words:
        if word not in (*_EVENTS, _NEVER):
            raise SubmissionError(f"notify: {_shown(word)} is none of {', '.join(_EVENTS)}, {_NEVER}")
    if _NEVER not in words:
        return tuple(event for event in _EVENTS if event in words)
    if set(words) != {_NEVER}:
        raise SubmissionError("notify: never cannot be combined")
    return (_NEVER,)


def _check_envid(envid: object) -> None:
    if not isinstance(envid, str):
        raise SubmissionError(f"envid: a string is expected, not {type(envid).__name__}")
    if not (envid.isascii() and envid.isprintable()):
        raise SubmissionError(f"envid: {_shown(envid)}: printable ASCII only (RFC 3461 4.4)")
    length = len(encode_xtext(envid.encode("ascii")))
    if length > MAX_ENVID:
        raise SubmissionError(f"envid: {length} octets when encoded; {MAX_ENVID} are the limit")


def _read_original(given: object) -> tuple[tuple[str, str], ...]:
    """The pairs of texts, all of them valid, and no two for the same recipient."""
    try:
        pairs: tuple[tuple[Any, Any], ...] = tuple(
            (to, old) for to, old in (given.items() if isinstance(given, Mapping) else _listed(given))
        )
    except (TypeError, ValueError):
        raise SubmissionError("original: addresses by recipients are expected") from None
    seen: set[tuple[bytes, str | None]] = set()
    for to, old in pairs:
        if not isinstance(to, str) or not isinstance(old, str):
            raise SubmissionError("original: strings are expected")
        form = comparable(read_address(to, "original: recipient"))
        if form in seen:
            raise SubmissionError(f"original: {escape(to[:120])} is named twice")
        seen.add(form)
        if len(_typed(old)) > MAX_ORCPT:
            raise SubmissionError(f"original: {_shown(old)}: more than {MAX_ORCPT} octets when encoded")
    return pairs


def _listed(given: object) -> Iterable[Any]:
    """Pairs that are not a mapping. Raises TypeError."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError
    return given


def _pairs(dsn: DSN) -> tuple[tuple[str, str], ...]:
    assert isinstance(dsn.original, tuple)
    return dsn.original


def _typed(address: str) -> bytes:
    return typed_address(read_address(address, "original"))


def _shown(value: object) -> str:
    return f"'{escape(value[:120])}'" if isinstance(value, str) else escape(repr(value)[:120])
