"""Tables of metrics: those of the observer for Prometheus, and those that ``zsmtp serve`` shows at ``/metrics``.

Directives: ``observer-metrics`` asks the instruments that ``zsmtp.observers.prometheus`` makes; ``service-metrics``
reads the docstring of ``zsmtp.server.service.Service.metrics``, where each name stands with its meaning.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from prometheus_client import CollectorRegistry
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from drawn.tables import as_rest
from zsmtp.observers.prometheus import Metrics
from zsmtp.server.service import Service

_ENTRY = re.compile(r"^``(zsmtp_\w+)``: (.+?)(?=^``zsmtp_|^Raises|\Z)", re.MULTILINE | re.DOTALL)


class _Instruments(CollectorRegistry):
    """A registry that keeps the instruments in the order in which they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []

    def register(self, collector: Any) -> None:
        """Take one."""
        super().register(collector)
        self.made.append(collector)


def instruments() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name, kind, labels and meaning of each metric of the observer."""
    registry = _Instruments()
    Metrics(registry)
    found = []
    for one in registry.made:
        (described,) = one.describe()
        name = f"{described.name}_total" if described.type == "counter" else described.name
        found.append((name, described.type, tuple(one._labelnames), described.documentation))
    return found


def observer_table() -> str:
    """The metrics of the observer."""
    rows = [
        (f"``{name}``", kind, ", ".join(f"``{label}``" for label in labels) or "none", meaning)
        for name, kind, labels, meaning in instruments()
    ]
    return as_rest(("Metric", "Kind", "Labels", "Meaning"), rows, "40 12 18 30")


def meanings() -> dict[str, str]:
    """The metrics of the service by name."""
    text = inspect.getdoc(Service.metrics) or ""
    return {name: " ".join((meaning[0].upper() + meaning[1:]).split()) for name, meaning in _ENTRY.findall(text)}


def service_table() -> str:
    """The metrics of the service."""
    rows = [
        (f"``{name}``", "counter" if name.endswith("_total") else "gauge", meaning)
        for name, meaning in meanings().items()
    ]
    return as_rest(("Metric", "Kind", "Meaning"), rows, "40 12 48")


class ObserverMetrics(SphinxDirective):
    """``.. observer-metrics::``"""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return self.parse_text_to_nodes(observer_table())


class ServiceMetrics(SphinxDirective):
    """``.. service-metrics::``"""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return self.parse_text_to_nodes(service_table())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("observer-metrics", ObserverMetrics)
    app.add_directive("service-metrics", ServiceMetrics)
    return {"parallel_read_safe": True}
