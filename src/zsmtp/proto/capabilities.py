"""The extensions that a server announced in its reply to EHLO or LHLO, as a frozen value (RFC 5321 4.1.1.1).

Keywords are compared ignoring case. A malformed parameter disables that extension only and is noted in
:attr:`Capabilities.problems`: a broken SIZE is ignored, not obeyed. The extensions read here: PIPELINING (RFC 2920),
SIZE (RFC 1870), 8BITMIME (RFC 6152), DSN (RFC 3461), ENHANCEDSTATUSCODES (RFC 2034), CHUNKING and BINARYMIME (RFC
3030), SMTPUTF8 (RFC 6531), STARTTLS (RFC 3207), DELIVERBY (RFC 2852), REQUIRETLS (RFC 8689), AUTH (RFC 4954),
MT-PRIORITY (RFC 6710), FUTURERELEASE (RFC 4865), LIMITS (RFC 9422), and X-RCPTLIMIT, an older form of LIMITS RCPTMAX.
"""

from __future__ import annotations

from collections.abc import Sequence

from zsmtp.errors import ReplyError
from zsmtp.patterns import pattern
from zsmtp.proto.datetimes import parse_date_time
from zsmtp.proto.mailoptions import MAX_HOLD
from zsmtp.proto.reply import printable
from zsmtp.records import NamedTuple, dataclass, replace

MAX_KEYWORDS = 1000
MAX_SIZE = (1 << 63) - 1

_KEYWORD = pattern(rb"[A-Za-z0-9][A-Za-z0-9-]*")
_NUMBER = pattern(rb"\d{1,20}")
_LIMIT = pattern(rb"([A-Za-z0-9][A-Za-z0-9-]*)=(\d{1,6})")
_SECONDS = pattern(rb"[0-9]{1,9}")
_PROFILE = pattern(rb"[A-Za-z0-9][A-Za-z0-9-]{0,79}")


class HoldLimit(NamedTuple):
    """How long a server holds messages (RFC 4865 4): ``seconds`` at most, ``until`` a POSIX time at most."""

    seconds: int
    until: float


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The extensions that a server offers; none for a server that was greeted with HELO.

    ``size`` is the largest message taken, in octets (0: offered without a limit; None: not offered). ``deliver_by`` is
    the shortest time taken, in seconds (0: none named; None: not offered). ``future_release`` is how long a message may
    be held (None: not offered), ``priority_profile`` the profile of MT-PRIORITY ("": none named; None: not offered).
    ``auth`` holds the mechanisms in upper case. ``rcpt_max``, ``mail_max`` and ``rcpt_domain_max`` are the LIMITS
    (None: not announced). ``keywords`` are all keyword lines as received, for logs.
    """

    pipelining: bool = False
    size: int | None = None
    eight_bit_mime: bool = False
    dsn: bool = False
    enhanced_status_codes: bool = False
    chunking: bool = False
    binary_mime: bool = False
    smtputf8: bool = False
    starttls: bool = False
    deliver_by: int | None = None
    future_release: HoldLimit | None = None
    priority_profile: str | None = None
    require_tls: bool = False
    auth: tuple[str, ...] = ()
    rcpt_max: int | None = None
    mail_max: int | None = None
    rcpt_domain_max: int | None = None
    keywords: tuple[bytes, ...] = ()
    problems: tuple[str, ...] = ()

    def without(self, *names: str) -> Capabilities:
        """A copy without the boolean extensions ``names`` (attribute names), which this side does not want to use."""
        off: dict[str, bool] = dict.fromkeys(names, False)
        return replace(self, **off)  # type: ignore[arg-type]


EVERYTHING = Capabilities(
    pipelining=True,
    size=0,
    eight_bit_mime=True,
    dsn=True,
    enhanced_status_codes=True,
    chunking=True,
    binary_mime=True,
    smtputf8=True,
    future_release=HoldLimit(MAX_HOLD, float("inf")),
    priority_profile="",
    require_tls=True,
)
"""Every extension that is useful for any message, without limits."""

_FLAGS = {
    b"PIPELINING": "pipelining",
    b"8BITMIME": "eight_bit_mime",
    b"DSN": "dsn",
    b"ENHANCEDSTATUSCODES": "enhanced_status_codes",
    b"CHUNKING": "chunking",
    b"BINARYMIME": "binary_mime",
    b"SMTPUTF8": "smtputf8",
    b"STARTTLS": "starttls",
    b"REQUIRETLS": "require_tls",
}


def parse_ehlo(lines: Sequence[bytes]) -> Capabilities:
    """Parse the lines of a positive reply to EHLO or LHLO; the first one, with the server's name, is skipped.

    Raises :class:`~zsmtp.errors.ReplyError` for more than 1000 keywords.
    """
    if len(lines) - 1 > MAX_KEYWORDS:
        raise ReplyError(f"more than {MAX_KEYWORDS} EHLO keywords")
    found: dict[str, object] = {}
    problems: list[str] = []
    for line in lines[1:]:
        words = line.split()
        if not words or not _KEYWORD.fullmatch(words[0].partition(b"=")[0]):
            continue
        keyword, parameters = words[0].upper(), words[1:]
        if keyword in _FLAGS:
            found[_FLAGS[keyword]] = True
        elif keyword == b"AUTH" or keyword.startswith(b"AUTH="):
            # servers sent "AUTH=LOGIN" before RFC 2554; some still send it beside the right form
            names = ([words[0][5:]] if keyword != b"AUTH" else []) + parameters
            known = found.get("auth", ())
            assert isinstance(known, tuple)
            fresh = [n.decode("ascii", "replace").upper() for n in names if n]
            found["auth"] = tuple(dict.fromkeys((*known, *fresh)))
        else:
            try:
                found |= _parameters(keyword, parameters)
            except ValueError:
                problems.append(f"broken parameter ignored: {printable(line, 80)}")
    return Capabilities(**found, keywords=tuple(lines[1:]), problems=tuple(problems))  # type: ignore[arg-type]


def _parameters(keyword: bytes, parameters: list[bytes]) -> dict[str, object]:
    """The attributes that a keyword with numbers sets; raises ValueError if a parameter is malformed."""
    if keyword == b"SIZE":
        return {"size": _number(parameters, MAX_SIZE)}
    if keyword == b"DELIVERBY":
        return {"deliver_by": _number(parameters[0].split(b",")[:1] if parameters else [], 999_999_999)}
    if keyword == b"FUTURERELEASE":
        return {"future_release": _hold_limit(parameters)}
    if keyword == b"MT-PRIORITY":
        return {"priority_profile": _profile(parameters)}
    if keyword == b"X-RCPTLIMIT":
        return {"rcpt_max": _number(parameters, 999_999) or None}
    if keyword == b"LIMITS":
        return _limits(parameters)
    return {}


def _number(parameters: list[bytes], largest: int) -> int:
    """The one optional number; 0 if there is none."""
    if not parameters:
        return 0
    if len(parameters) > 1 or not _NUMBER.fullmatch(parameters[0]) or int(parameters[0]) > largest:
        raise ValueError
    return int(parameters[0])


def _hold_limit(parameters: list[bytes]) -> HoldLimit:
    """RFC 4865 4: the longest interval in seconds, and the last date-time; both are required."""
    if len(parameters) != 2 or not _SECONDS.fullmatch(parameters[0]):
        raise ValueError
    until = parse_date_time(parameters[1])
    if until is None or until < 0:
        raise ValueError
    return HoldLimit(int(parameters[0]), until)


def _profile(parameters: list[bytes]) -> str:
    """RFC 6710 3: the one optional name."""
    if not parameters:
        return ""
    if len(parameters) > 1 or not _PROFILE.fullmatch(parameters[0]):
        raise ValueError
    return parameters[0].decode("ascii")


def _limits(parameters: list[bytes]) -> dict[str, object]:
    """RFC 9422 3: ``name=value`` words; unknown names are skipped, and so is a limit of zero, which is meaningless."""
    names = {b"RCPTMAX": "rcpt_max", b"MAILMAX": "mail_max", b"RCPTDOMAINMAX": "rcpt_domain_max"}
    found: dict[str, object] = {}
    for word in parameters:
        match = _LIMIT.fullmatch(word)
        if match is None:
            raise ValueError
        name = names.get(match[1].upper())
        if name is not None and int(match[2]) > 0:
            found[name] = int(match[2])
    return found
