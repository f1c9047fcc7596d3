"""References to what exists but has no page: shown as plain code, without a warning.

Docstrings name the code around them. What they name must be there; whether a page describes it is another matter. So a
reference that Sphinx cannot resolve is looked up in the code itself: a module, class or function that is found is
shown as it stands, and only a name that leads nowhere is left to be complained of.
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def exists(name: str) -> bool:
    """Whether a dotted name leads to a module, or to something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except (ImportError, ValueError):
            continue
        for part in parts[length:]:
            fields = getattr(found, "__dataclass_fields__", {}), getattr(found, "__annotations__", {})
            if not hasattr(found, part) and not any(part in names for names in fields):
                return False
            found = getattr(found, part, None)
        return True
    return False


def _home(name: str) -> str:
    """The module that a class was written in, wherever it is offered."""
    module, _, owner = name.rpartition(".")
    try:
        return str(getattr(importlib.import_module(module), owner).__module__)
    except (ImportError, AttributeError):
        return module


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element) -> nodes.Element | None:
    """The text of the reference if what it names exists, else None: the reference is broken."""
    if node.get("refdomain") != "py":
        return None
    target = str(node.get("reftarget", "")).lstrip(".~")
    module, owner = node.get("py:module"), node.get("py:class")
    prefixes = ["", "builtins.", *(f"{module}." for _ in [0] if module)]
    if module and owner:
        prefixes.append(f"{module}.{owner}.")
        prefixes.append(_home(f"{module}.{owner}") + ".")
    return text if any(exists(prefix + target) for prefix in prefixes) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen for references that were not resolved."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
