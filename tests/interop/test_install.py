"""README's first lines on the system's own Python: an environment, the package in it, and a message delivered."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.sink import Sink

pytestmark = pytest.mark.interop

ROOT = Path(__file__).parents[2]
SYSTEM = "/usr/bin/python3"


def test_h1_a_message_is_delivered_by_what_the_readme_installs(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    lines = re.findall(r"^    ((?:python3 -m venv|\S+/pip install|\. \S+/activate).*)$", readme, re.MULTILINE)
    assert len(lines) == 3
    python = SYSTEM if os.path.exists(SYSTEM) else sys.executable
    steps = [line.replace("python3 -m", f"{python} -m", 1) for line in lines]
    program = """
import sys, zsmtp
letter = b"From: ann@example.org\\nTo: bob@example.net\\nSubject: Lunch\\n\\nAt one?\\n"
print(zsmtp.deliver(letter, relay=sys.argv[1]).ok)
"""
    (tmp_path / "letter.py").write_text(program)
    (tmp_path / "letter.eml").write_bytes(b"From: ann@example.org\nTo: eve@example.net\n\nAt two?\n")
    with Sink() as sink:
        relay = f"smtp://127.0.0.1:{sink.port}"
        script = "\n".join(
            [
                "set -e",
                f"cd {ROOT}",
                *steps,
                f"cd {tmp_path}",
                f"python letter.py {relay}",
                f"zsmtp send --relay {relay} letter.eml",
                "command -v smtp zsmtp-sendmail >/dev/null",
            ]
        )
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            ["bash", "-c", script],
            env={**kept, "HOME": str(tmp_path), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "True\n" in done.stdout
    assert sink.deliveries() == {b"bob@example.net": 1, b"eve@example.net": 1}
