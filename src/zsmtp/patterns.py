"""Regular expressions that are compiled at their first use, for modules that the agent loads.

The modules of the agent have thirty, and most runs use ten; compiling all takes a tenth of the load time. Type checkers
see ``re.compile``, and the result has the methods of a compiled pattern::

    _NUMBER = pattern(rb"[0-9]{1,9}")
    match = _NUMBER.fullmatch(data, start, end)
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # typing's own would cost its import; type checkers know the name
if TYPE_CHECKING:
    from typing import Any

_VERBS = ("match", "fullmatch", "search", "sub", "finditer", "findall", "split")


class _Pattern:
    """Replaces a compiled pattern; from the first use on it has that one's methods."""

    __slots__ = ("_flags", "_source", *_VERBS)

    def __init__(self, source: str | bytes, flags: int = 0) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:  # for empty slots, and all other attributes of a compiled pattern
        compiled: re.Pattern[Any] = re.compile(self._source, self._flags)
        for verb in _VERBS:
            setattr(self, verb, getattr(compiled, verb))
        return getattr(compiled, name)


if TYPE_CHECKING:
    pattern = re.compile
else:
    pattern = _Pattern
