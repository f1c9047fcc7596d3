"""The exit statuses of the commands: those of sysexits(3), each with its meaning here.

Scripts depend on them, so they are in one place. If several apply, :func:`worst` decides: a final one counts more than
a temporary one, because a script that tries again must not do so for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """One exit status."""

    OK = 0  # success; every recipient was delivered to; the destination can be delivered to
    NEGATIVE = (
        1  # dkim verify: a signature does not pass, or there is none; queue: nothing matches, or check has findings
    )
    USAGE = 64  # the command line is wrong
    DATA = 65  # a file has the wrong content: a message, a trace, a plan
    NO_INPUT = 66  # a file cannot be read
    NO_USER = 67  # an address is not that of a mailbox
    NO_HOST = 68  # no such domain, a domain that takes no mail, or one whose mail would loop back here
    UNAVAILABLE = 69  # a recipient or the message was refused permanently; queue: some of several queues did not answer
    SOFTWARE = 70  # an internal error of this program
    OS = 71  # the system refused something: no memory, no sockets
    CANNOT_CREATE = 73  # an output file cannot be made
    IO = 74  # output cannot be written
    TEMPORARY = 75  # a temporary failure
    NO_PERMISSION = 77  # the permission to read a file is missing
    CONFIG = 78  # a configuration cannot be used
    INTERRUPTED = 130  # stopped by a signal (128 + SIGINT), as in shells
    BROKEN_PIPE = 141  # the reader of the output has closed it (128 + SIGPIPE)


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
    """The one status for several: a permanent refusal before a deferral, this side's own failures before both."""
    seen = set(statuses)
    return next((status for status in _FROM_WORST if status in seen), Exit.OK)
