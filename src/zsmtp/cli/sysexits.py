"""How the commands end: the exit statuses of sysexits(3), with what each means here.

Scripts rest on them, so they are in one place. Where several apply, :func:`worst` decides: what is final counts more
than what may still come right, for whoever asks again must not ask for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """One way to end."""

    OK = 0  # everything was done; every recipient was delivered to; the destination can be delivered to
    NEGATIVE = (
        1  # dkim verify: a signature does not pass, or there is none; queue: nothing matches, or check has findings
    )
    USAGE = 64  # the command line is wrong
    DATA = 65  # a file was read and is not what it must be: a message, a trace, a plan
    NO_INPUT = 66  # a file cannot be read
    NO_USER = 67  # an address cannot be that of a mailbox
    NO_HOST = 68  # no such domain, a domain that takes no mail, or one that leads back here
    UNAVAILABLE = 69  # a recipient or the message was refused for good; queue: of several queues not all answered
    SOFTWARE = 70  # a fault of this program
    OS = 71  # the system refused something: no memory, no sockets
    CANNOT_CREATE = 73  # an output file cannot be made
    IO = 74  # output cannot be written
    TEMPORARY = 75  # not now, maybe later
    NO_PERMISSION = 77  # a file is there and must not be read
    CONFIG = 78  # a configuration cannot be used
    INTERRUPTED = 130  # told to stop (128 + SIGINT), as shells say it
    BROKEN_PIPE = 141  # whoever read the output went away (128 + SIGPIPE)


_FROM_WORST = (
    Exit.SOFTWARE,
    Exit.OS,
    Exit.CONFIG,
    Exit.NO_INPUT,
    Exit.NO_PERMISSION,
    Exit.DATA,
    Exit.UNAVAILABLE,
    Exit.NO_USER,
    Exit.NO_HOST,
    Exit.TEMPORARY,
)


def worst(statuses: Iterable[Exit]) -> Exit:
    """The one status for several: a refusal for good before a deferral, this side's own troubles before both."""
    seen = set(statuses)
    return next((status for status in _FROM_WORST if status in seen), Exit.OK)
