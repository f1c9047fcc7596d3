"""The documentation: it builds without a warning, its examples run, and the manual pages go where they belong.

The examples of the pages in ``docs/`` are run by pytest's own collection of them (``--doctest-glob``); here is the
rest.
"""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import zsmtp

ROOT = Path(__file__).parent.parent.parent
MANUALS = sorted((ROOT / "man").iterdir())
MODULES = sorted(module.name for module in pkgutil.walk_packages(zsmtp.__path__, "zsmtp."))
PLAIN = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "COVERAGE_PROCESS_CONFIG")}


@pytest.mark.timeout(600)
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=PLAIN)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "topics" / "session.html").read_text()
    assert '<svg class="session"' in page
    for manual in MANUALS:
        assert (tmp_path / "man" / f"{manual.name}.html").exists()


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name: str) -> None:
    if name.endswith("__main__"):
        pytest.skip("running it is what it is for")
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
@pytest.mark.parametrize("page", MANUALS, ids=lambda page: page.name)
def test_a_manual_page_is_formatted_without_a_warning(page: Path) -> None:
    done = subprocess.run(["groff", "-mandoc", "-ww", "-z", "-Tutf8", str(page)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_installs_the_manual_pages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=PLAIN)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for page in MANUALS:
        section = page.suffix[1:]
        assert f"{wheel.name.rpartition('-py3')[0]}.data/data/share/man/man{section}/{page.name}" in names
    assert "zsmtp/py.typed" in names


README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("name", "until"), [("explain-one", None), ("agent", "$ cut")])
def test_what_the_readme_shows_was_recorded(name: str, until: str | None) -> None:
    recorded = (ROOT / "docs" / "captures" / f"{name}.txt").read_text()
    shown = recorded if until is None else recorded[: recorded.index(until)]
    assert "".join(f"    {line}\n" for line in shown.splitlines()) in README
