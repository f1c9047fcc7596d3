"""Commands and programs run as a user runs them: processes of their own, in a folder, with what was installed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status, standard output and standard error."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Newcomer:
    """Somebody in a ``folder``."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of processes: the commands are found, and nothing of the caller's configuration counts."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ZSMTP_")}
        return {**kept, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "100", "HOME": str(self.folder)}

    def run(self, *words: str, **environment: str) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def zsmtp(self, *words: str, **environment: str) -> Ended:
        """Run ``zsmtp`` with these arguments."""
        return self.run("zsmtp", *words, **environment)

    def python(self, program: str, *words: str, **environment: str) -> Ended:
        """Run a program of Python."""
        return self.run("python", "-c", program, *words, **environment)

    def letters(self, count: int, folder: str = "out") -> list[str]:
        """Messages in files, to r0@example.net and so on; their names."""
        place = self.folder / folder
        place.mkdir(exist_ok=True)
        for number in range(count):
            (place / f"{number:04}.eml").write_bytes(letter(f"r{number}@example.net"))
        return [f"{folder}/{number:04}.eml" for number in range(count)]


def letter(*recipients: str) -> bytes:
    """A message as a program writes it."""
    return f"From: ann@example.org\nTo: {', '.join(recipients)}\nSubject: Lunch\n\nAt one?\n".encode()
