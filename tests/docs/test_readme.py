"""The first screen of README: its blocks are run, in the order in which a reader runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.patience import wait_until
from tests.support.serveprocess import free_port

README = (Path(__file__).parents[2] / "README.md").read_text()
BIN = Path(sys.executable).parent


class Reader:
    """A reader in a folder, with ports of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.relay, self.intake = free_port(), free_port()
        self._stack = stack
        self._environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "80"}

    def command(self, begin: str) -> str:
        """The line of README that begins so, without its prompt and remark."""
        (line,) = re.findall(rf"^    \$ ({begin}.*)$", README, re.MULTILINE)
        return str(line).partition("  #")[0].rstrip().replace("2526", str(self.relay))

    def run(self, command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def start(self, command: str) -> Path:
        """Start a program that goes on; the file of its output."""
        output = self.folder / f"{len(list(self.folder.iterdir()))}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command.split(), cwd=self.folder, env=self._environment, stdout=file, stderr=subprocess.STDOUT
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return output


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with ExitStack() as stack:
        yield Reader(tmp_path, stack)


def test_a_message_waits_and_arrives_as_the_readme_says(reader: Reader) -> None:
    reader.run(reader.command("printf .*serve.toml"))
    with (reader.folder / "serve.toml").open("a") as file:  # other tests listen, too
        file.write(f'[listen.local]\naddresses = ["127.0.0.1:{reader.intake}"]\n')
    served = reader.start(reader.command("zsmtp serve"))
    wait_until(lambda: "is served" in served.read_text())
    first, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (reader.folder / "submit.py").write_text(first)
    id = reader.run("python submit.py").strip()
    why = reader.command("zsmtp queue why")
    wait_until(lambda: "waits after a failure (connection): attempt 2" in reader.run(why))
    assert f"message {id}" in reader.run(why)
    received = reader.start(f"{reader.command('zsmtp receive')} --listen {reader.relay}")
    wait_until(lambda: "receiving" in received.read_text())
    reader.run(f"{reader.command('zsmtp queue now')} --yes")
    wait_until(lambda: reader.run(why).startswith("delivered "))
    wait_until(lambda: "RCPT TO:<bob@example.net>" in received.read_text())
