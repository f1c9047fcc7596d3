"""Durations as text: ``90`` (seconds), ``10m``, ``2h30m``, ``3d``."""

from __future__ import annotations

import re

from zsmtp.errors import ConfigError

_DURATION = re.compile(r"(-?)((?:\d+(?:\.\d+)?[dhms]?)+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms]?)")
_LONGEST = 1e10  # seconds, 317 years: so that databases can store every time in milliseconds
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "": 1}


def read_duration(text: str) -> float:
    """Seconds of ``90``, ``10m``, ``2h30m``, ``-5m``; raises :class:`~zsmtp.errors.ConfigError`."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"{text[:40]!r} is no duration (90, 10m, 2h30m, 3d)")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
    if seconds > _LONGEST:
        raise ConfigError(f"{text[:40]!r} is longer than any duration")
    return -seconds if match[1] else seconds


def duration_text(seconds: float) -> str:
    """The text of a duration for :func:`read_duration`: 90 seconds are ``1m30s``."""
    if seconds < 0:
        return f"-{duration_text(-seconds)}"
    whole = int(seconds)
    parts = []
    for unit in "dhm":
        number, whole = divmod(whole, _UNITS[unit])
        if number:
            parts.append(f"{number}{unit}")
    rest = round(whole + seconds % 1, 6)
    if rest or not parts:
        parts.append(f"{rest:.6f}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)
