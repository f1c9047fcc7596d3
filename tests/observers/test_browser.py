"""The page in a real browser, where there is one: nothing of a hostile trace runs, light and dark are both painted."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from tests.observers.test_page import EVIL
from tests.support.network import message
from tests.support.traces import TracedWorld

from zsmtp.net.script import Reaction, Script
from zsmtp.observers.page import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OWN = "<script>document.title = 'OWNED'; document.body.innerHTML = ''</script>"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=900,600"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    evil = [Reaction(f"550 {text}".encode() + b"\r\n") for text in (EVIL, OWN)]
    script = Script(greeting=Reaction(f"220 {OWN}".encode() + b"\r\n"), replies={"RCPT": evil})
    trace = TracedWorld(script).deliver(message(b'"<script>alert(1)</script>"@example.org', b"r1@example.org"))[0]
    path = tmp_path / "page.html"
    path.write_text(page(trace))
    return path


def chromium(tmp_path: Path, file: Path, *flags: str) -> str:
    assert CHROMIUM is not None
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *FLAGS.split(), profile, *flags, file.as_uri()]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=110, check=True
    ).stdout.decode()


def corner(png: bytes) -> tuple[int, ...]:
    """The colour of the first pixel, which every filter of PNG leaves as it is."""
    data, position = b"", 8
    while position < len(png):
        (length,) = struct.unpack(">I", png[position : position + 4])
        if png[position + 4 : position + 8] == b"IDAT":
            data += png[position + 8 : position + 8 + length]
        position += 12 + length
    return tuple(zlib.decompress(data)[1:4])


def test_nothing_hostile_runs(tmp_path: Path, file: Path) -> None:
    dom = chromium(tmp_path, file, "--dump-dom")
    assert "<title>S1 to example.org</title>" in dom
    assert "&lt;script&gt;document.title = 'OWNED'" in dom
    assert "<script" not in dom
    assert "<img" not in dom


@pytest.mark.parametrize(
    ("scheme", "colour"), [(1, (0xFF, 0xFF, 0xFF)), (0, (0x12, 0x16, 0x1C))], ids=["light", "dark"]
)
def test_light_and_dark(tmp_path: Path, file: Path, scheme: int, colour: tuple[int, ...]) -> None:
    picture = tmp_path / "page.png"
    chromium(tmp_path, file, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    assert corner(picture.read_bytes()) == colour
