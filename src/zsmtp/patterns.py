"""Regular expressions that are compiled when they are first asked, for modules that the agent loads.

There are thirty in what an agent loads, and most runs ask ten; to compile them all takes a tenth of the loading. Type
checkers see ``re.compile``, and what comes out has the methods of a compiled pattern::

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
    """Stands for a compiled pattern; from the first question on its methods are that one's own."""

    __slots__ = ("_flags", "_source", *_VERBS)

    def __init__(self, source: str | bytes, flags: int = 0) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:  # for slots that are empty, and whatever else a compiled pattern has
        compiled: re.Pattern[Any] = re.compile(self._source, self._flags)
        for verb in _VERBS:
            setattr(self, verb, getattr(compiled, verb))
        return getattr(compiled, name)


if TYPE_CHECKING:
    pattern = re.compile
else:
    pattern = _Pattern
