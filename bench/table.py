"""Runs in turns, and the line of a table that comes of them: median, range, ratio to a peer of the same run."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path


def in_turns(work: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Do each piece of work ``runs`` times, one after the other and over again; what each gave."""
    results: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, one in work.items():
            results[name].append(one())
    return results


def line(name: str, values: list[float], unit: str, *, beside: Mapping[str, list[float]], digits: int = 0) -> str:
    """``name  median unit (least to most)  ratio x peer``."""
    middle = statistics.median(values)
    ratios = "".join(
        f"   {middle / statistics.median(other):5.2f} x {peer}" for peer, other in beside.items() if other is not values
    )
    return f"  {name:26}{middle:9.{digits}f} {unit:8} ({min(values):.{digits}f} to {max(values):.{digits}f}){ratios}"


def machine() -> str:
    """What the figures depend on: processors, kernel, Python."""
    try:
        model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    cpu = model[1] if model else platform.processor() or platform.machine()
    return f"{os.cpu_count()} x {cpu}; Linux {platform.release().split('-')[0]}; Python {platform.python_version()}"
