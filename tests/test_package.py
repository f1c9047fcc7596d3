"""What holds for every module: it explains itself, it is short, and importing the package costs next to nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent.parent / "src"
MODULES = sorted((SOURCE / "zsmtp").rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in MODULES]


class Seen(NamedTuple):
    """What is looked at in a module; ``long`` and ``bare`` are names of functions, and of classes too."""

    docstring: str | None
    lines: int
    long: list[str]
    bare: list[str]


@cache
def read(path: Path) -> Seen:
    text = path.read_text()
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    return Seen(
        ast.get_docstring(tree),
        len(text.splitlines()),
        [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60],
        [node.name for node in public if not ast.get_docstring(node)],
    )


def test_importing_the_package_imports_no_room() -> None:
    program = "import sys, zsmtp; print(*sorted(name for name in sys.modules if name.startswith('zsmtp')))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["zsmtp"]


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert read(path).docstring


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_has_under_700_lines_and_a_function_under_60(path: Path) -> None:
    assert read(path).lines < 700
    assert not read(path).long


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    assert not read(path).bare


def test_changes_are_files_that_a_release_gathers() -> None:
    """Another name is passed over without a word, or ends the release (towncrier)."""
    root = SOURCE.parent
    kinds = [
        one["directory"] for one in tomllib.loads((root / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
    ]
    for path in (root / "changes").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(kinds)})\.md", path.name), path
            assert path.read_text().strip(), f"{path} is empty"
    assert (root / "CHANGELOG.md").read_text().count("<!-- changes -->\n") == 1
