"""The transport options of a message besides its addresses: one frozen value, from the program to the MAIL command.

:class:`MailOptions` is the only carrier of such options: keyword arguments of ``deliver`` and ``submit``, fields of
:class:`~zsmtp.client.client.Submission`, words of the command line, parameters that a listener received and the row of
a queued message all become one, and ``zsmtp.proto.plan`` reads it. To add an option, add a field here (with its line in
:class:`OptionArguments` and its check in :func:`checked`), then send it to the server in ``zsmtp.proto.plan``::

    options = checked(MailOptions(hold_for=3600, priority=4))
    Envelope(sender, recipients, options=options)

REQUIRETLS is RFC 8689, MT-PRIORITY RFC 6710, FUTURERELEASE RFC 4865.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import attrgetter

from zsmtp.errors import SubmissionError
from zsmtp.records import dataclass, replace

TYPE_CHECKING = False  # typing's own would cost its import; type checkers know the name
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, TypedDict

    class OptionArguments(TypedDict, total=False):
        """The fields of :class:`MailOptions` as keyword arguments (PEP 692)."""

        require_tls: bool
        priority: int | None
        hold_for: float | None
        hold_until: float | datetime | None


MAX_HOLD = 999_999_999  # seconds, in nine digits (RFC 4865 4)
LAST_MOMENT = 253_402_300_799  # the end of the year 9999, the last that RFC 3339 can write
PRIORITIES = range(-9, 10)  # RFC 6710 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MailOptions:
    """The options of one message. Only a value that :func:`checked` returned may go into an envelope."""

    require_tls: bool = False
    """Authenticated TLS on every hop, or no delivery (REQUIRETLS, RFC 8689)."""
    priority: int | None = None
    """-9 to 9, higher goes first (MT-PRIORITY, RFC 6710); None: not given, which means 0."""
    hold_for: float | None = None
    """Seconds for which the server holds the message back (HOLDFOR, RFC 4865); None: it is not held."""
    hold_until: float | datetime | None = None
    """The time of release: seconds since 1970, or a time with its zone (HOLDUNTIL, RFC 4865); None: it is not held."""

    def release(self, now: float) -> float | None:
        """The time before which the message must not be delivered, in seconds since 1970; None: at once."""
        if self.hold_for is not None:
            return now + self.hold_for
        return instant(self.hold_until, "hold_until")

    def unheld(self) -> MailOptions:
        """A copy without a time of release, for a caller that holds the message back itself."""
        if self.hold_for is None and self.hold_until is None:
            return self
        return replace(self, hold_for=None, hold_until=None)

    def given(self) -> OptionArguments:
        """The options that are set, by name: keyword arguments, and plain values for JSON."""
        found: Any = {}
        if self is not NO_OPTIONS:
            for name in _NAMES:
                value = getattr(self, name)
                if value != getattr(NO_OPTIONS, name):
                    found[name] = value
        asked: OptionArguments = found
        return asked


_NAMES: tuple[str, ...] = MailOptions.__slots__
NO_OPTIONS = MailOptions()
"""No option is set."""
_values = attrgetter(*_NAMES)
_NOTHING = _values(NO_OPTIONS)


def options_of(submission: MailOptions) -> MailOptions:
    """The options of a value that has these fields among others. Raises SubmissionError for an invalid option."""
    values = _values(submission)
    return NO_OPTIONS if values == _NOTHING else checked(MailOptions(**dict(zip(_NAMES, values, strict=True))))


def from_plain(values: Mapping[str, object]) -> MailOptions:
    """The options among stored values that :meth:`MailOptions.given` returned earlier.

    Other names are skipped. An unreadable value leaves its option unset, except for ``require_tls``: any true value
    sets it.
    """
    found: dict[str, Any] = {name: values[name] for name in _NAMES if values.get(name) is not None}
    options = NO_OPTIONS
    for name, value in found.items():
        try:
            options = checked(replace(options, **{name: bool(value) if name == "require_tls" else value}))
        except SubmissionError:
            continue
    return options


def checked(options: MailOptions) -> MailOptions:
    """The validated options in the form that all later code expects: whole seconds, rounded up, and numbers in range.

    Raises :class:`~zsmtp.errors.SubmissionError`, which begins with the name of the option.
    """
    priority, hold_for, hold_until = options.priority, options.hold_for, options.hold_until
    if priority is None and hold_for is None and hold_until is None:
        return MailOptions(require_tls=True) if options.require_tls else NO_OPTIONS
    if priority is not None and type(priority) is not int:
        raise SubmissionError(f"priority: a whole number is expected, not {type(priority).__name__}")
    if priority is not None and priority not in PRIORITIES:
        raise SubmissionError(f"priority {priority} is not from -9 to 9 (RFC 6710)")
    if hold_for is not None and hold_until is not None:
        raise SubmissionError("hold_until: hold_for is given as well; one time of release is expected")
    return MailOptions(
        require_tls=bool(options.require_tls),
        priority=priority,
        hold_for=None if hold_for is None else _seconds(hold_for),
        hold_until=None if hold_until is None else _moment(hold_until),
    )


def instant(given: float | datetime | None, name: str) -> float | None:
    """A time in seconds since 1970. Raises SubmissionError, beginning with ``name``, for an invalid time."""
    from datetime import datetime

    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise SubmissionError(f"{name}: {given} has no time zone; datetime.now(timezone.utc) has one")
        return given.timestamp()
    if given is None or (isinstance(given, int | float) and not isinstance(given, bool)):
        return given
    raise SubmissionError(f"{name}: a time is expected, not {type(given).__name__}")


def _seconds(given: object) -> int | None:
    """The seconds of a hold; zero is no hold."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise SubmissionError(f"hold_for: seconds are expected, not {type(given).__name__}")
    if not 0 <= given <= MAX_HOLD:
        raise SubmissionError(f"hold_for: {given} is not from 0 to {MAX_HOLD} seconds (RFC 4865 4)")
    return math.ceil(given) or None


def _moment(given: float | datetime) -> int:
    moment = instant(given, "hold_until")
    assert moment is not None
    if not 0 <= moment <= LAST_MOMENT:
        raise SubmissionError(f"hold_until: {given} is not from 1970 to 9999")
    return math.ceil(moment)
