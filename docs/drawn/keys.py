"""Tables of the keys of a configuration, drawn from the classes that hold it.

The directive ``key-table`` is given a class: ``.. key-table:: zsmtp.client.config.Relay``. What a key means is the
docstring under the field.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from drawn.tables import as_rest
from zsmtp.queue.schedule import Schedule
from zsmtp.queue.shaping import Rate

_WORDS = {str: "text", int: "whole number", float: "seconds", bool: "true or false"}


def find(path: str) -> type:
    """The class of a dotted path."""
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def meanings(kind: type) -> dict[str, str]:
    """The docstring under each field of a class, as one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[node.target.id] = " ".join(str(after.value.value).split())
    return found


def keys_of(kind: type) -> Iterator[tuple[Field[Any], Any]]:
    """The fields that are keys of a file, with their types."""
    hints = get_type_hints(kind)
    for one in fields(kind):
        if one.init and not one.metadata.get("python only"):
            yield one, hints[one.name]


def is_table(kind: Any) -> bool:
    """Whether a class is written as a table."""
    return isinstance(kind, type) and is_dataclass(kind) and kind not in _AS_TEXT


def classes_in(kind: Any) -> Iterator[type]:
    """The classes of tables that a type has in it."""
    if is_table(kind):
        yield kind
    for one in get_args(kind):
        yield from classes_in(one)


def type_words(kind: Any) -> str:
    """A type as people say it."""
    options = [one for one in get_args(kind) if one is not NoneType] if NoneType in get_args(kind) else [kind]
    (kind, *_) = options
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"``{one.value}``" for one in kind)
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return "list of tables" if is_table(item) else f"list of {_plural(item)}"
    if get_origin(kind) is Mapping:
        return "table"
    if isinstance(kind, type) and is_dataclass(kind):
        return "table" if is_table(kind) else "text"
    return _WORDS.get(kind, "text")


_AS_TEXT = (Rate, Schedule)  # values of several parts that are written as a text: ``14/s``, ``5m 10m then 1h``


def _plural(kind: Any) -> str:
    return {str: "texts", int: "numbers"}.get(kind, "texts")


def default_words(one: Field[Any]) -> str:
    """The default as it would stand in a file."""
    value = one.default if one.default is not MISSING else None
    if one.default is MISSING and one.default_factory is MISSING:
        return "(needed)"
    if isinstance(value, Enum):
        return f"``{value.value}``"
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    if isinstance(value, int | float):
        return f"``{value:g}``" if isinstance(value, float) else f"``{value}``"
    if isinstance(value, str) and value:
        return f"``{value}``"
    if isinstance(value, tuple) and value and all(isinstance(item, str) for item in value):
        return ", ".join(f"``{item}``" for item in value)
    return ""


def key_table(kind: type) -> str:
    """The keys of one table."""
    said = meanings(kind)
    rows = [(f"``{one.name}``", type_words(hint), default_words(one), said[one.name]) for one, hint in keys_of(kind)]
    return as_rest(("Key", "Value", "Default", "Meaning"), rows, "20 20 15 45")


class KeyTable(SphinxDirective):
    """``.. key-table:: CLASS``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(key_table(find(self.arguments[0])))


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known to Sphinx."""
    app.add_directive("key-table", KeyTable)
    return {"parallel_read_safe": True}
