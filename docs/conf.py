"""How the documentation is built. Nothing is fetched from anywhere: ``make docs``."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import sys
import typing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import zsmtp
from zsmtp import __version__
from zsmtp.client.message import MessageLike


def lend_type_names() -> None:
    """Give every module the names that it has for type checkers only, so that signatures can be linked.

    Those that define some come before those that import them.
    """
    modules = [importlib.import_module(found.name) for found in pkgutil.walk_packages(zsmtp.__path__, "zsmtp.")]
    blocks = [
        (node, module)
        for module in modules
        for node in ast.parse(Path(str(module.__file__)).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for node, module in sorted(blocks, key=lambda block: not any(isinstance(n, ast.ClassDef) for n in block[0].body)):
        exec(compile(ast.Module(node.body, []), str(module.__file__), "exec"), vars(module))  # noqa: S102


def lead_forward_references() -> None:
    """Say where the name in ``MessageLike`` leads in modules that import the alias and not the name."""
    typing.get_args(MessageLike)[0].__forward_module__ = "email.message"


def annotate_records() -> None:
    """Give the ``__init__`` of records (``zsmtp.records``), which is made bare, the types of their fields."""
    for name in [name for name in sys.modules if name.startswith("zsmtp.")]:
        for found in vars(sys.modules[name]).values():
            if isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == name:
                start: Any = found.__init__
                if not start.__annotations__:
                    hints = typing.get_type_hints(found)
                    known = [one.name for one in dataclasses.fields(found) if one.init]
                    start.__annotations__ = {field: hints[field] for field in known}


lend_type_names()
lead_forward_references()
annotate_records()

project = "zsmtp"
author = "the zsmtp project"
copyright = "the zsmtp project"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "drawn.diagram",
    "drawn.keys",
    "drawn.manpages",
    "drawn.metrics",
    "drawn.references",
    "drawn.tables",
]
exclude_patterns = ["captures"]
nitpicky = True
nitpick_ignore_regex = [
    (r"py:class", r"optional|.*\[.*"),  # a word of docutils, and halves of types
    (r"py:attr", r"[a-z_]+"),  # attributes that only objects have
]
suppress_warnings = ["ref.python"]  # two rooms may have a Result

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
pygments_style = "friendly"
pygments_dark_style = "monokai"

html_theme = "furo"
html_title = f"zsmtp {release}"
html_static_path = ["_static"]
html_css_files = ["zsmtp.css"]
html_copy_source = False
html_show_sphinx = False
html_use_index = True
html_theme_options = {"navigation_with_keys": True}
