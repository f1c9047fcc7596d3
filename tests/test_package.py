"""What holds for every module: it explains itself, it is short, and importing the package costs next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
MODULES = sorted((SOURCE / "zsmtp").rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in MODULES]


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
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_has_under_450_lines_and_a_function_under_60(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_what_is_public_has_a_docstring(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
