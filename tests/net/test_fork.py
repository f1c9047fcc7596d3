"""Processes that are copies of their parent: each test is a program of its own, since this one may have threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.support.patience import LIMIT

CHILD = """
import os, socket, sys, time
from zsmtp.net.processes import ignore_signals

told = "nothing"

def main():
    sock = socket.socket(fileno=int(sys.argv[1]))
    ignore_signals()
    match sys.argv[2]:
        case "facts":
            ours = os.open("/", os.O_RDONLY)
            files = set(map(int, os.listdir("/proc/self/fd"))) - {ours}
            os.close(ours)
            sock.sendall(repr((told, sys.stdin.read(), sys.argv[3:], len(files))).encode())
            print("this goes nowhere", flush=True)
        case "status":
            return 7
        case "error":
            raise ValueError("a fault of the child")
        case "wait":
            sock.sendall(b"here")
            sock.recv(1)
            return 3
    return 0
"""

PROGRAM = """
import asyncio, os, signal, sys, threading, time
sys.path.insert(0, os.getcwd())
import childmodule
from zsmtp.net.processes import ChildProcess

def start(*words, descriptors=()):
    child = ChildProcess("childmodule", *words, descriptors=descriptors, may_fork=True)
    child.socket.settimeout({limit})
    return child

def end(child, seconds={limit}):
    asyncio.run(child.wait(seconds))
    return child.exit_status, child.killed_by

childmodule.told = "by the parent"
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "childmodule.py").write_text(CHILD)
    return Program(tmp_path)


class Program:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, text: str) -> tuple[str, str]:
        """Standard output and standard error of a program, which ends well."""
        words = [sys.executable, "-c", PROGRAM.format(limit=LIMIT) + textwrap.dedent(text)]
        done = subprocess.run(words, cwd=self._folder, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr


def test_a_copy_has_the_objects_of_its_parent_and_only_the_files_it_is_given(program: Program) -> None:
    told, err = program("""
        one, other = open("/dev/zero", "rb"), open("/dev/zero", "rb")
        sys.stdout.write("written once ")
        child = start("facts", "word", descriptors=(other.fileno(),))
        print(child.socket.recv(1000).decode(), end(child))
    """)
    # Standard input, output and error, the socket, and the one file; this list itself is read by one more.
    assert told == "written once ('by the parent', '', ['word'], 6) (0, '')\n"
    assert err == ""


@pytest.mark.parametrize(
    "setting",
    [
        "threading.Thread(target=time.sleep, args=(10,), daemon=True).start()",
        "in_loop = True",
    ],
    ids=["thread", "loop"],
)
def test_beside_threads_and_loops_there_is_a_new_interpreter(program: Program, setting: str) -> None:
    told, err = program(f"""
        in_loop = False
        {setting}
        async def started():
            return start("facts")
        child = asyncio.run(started()) if in_loop else start("facts")
        print(child.socket.recv(1000).decode(), end(child))
    """)
    assert told == "('nothing', '', [], 5) (0, '')\n"
    assert err == ""


def test_its_status_is_what_it_returns(program: Program) -> None:
    assert program("""
        child = start("status")
        print(child.exit_status, child.killed_by, end(child), end(child))
        child.kill()
    """) == ("None  (7, '') (7, '')\n", "")


def test_a_status_that_the_system_has_dropped(program: Program) -> None:
    """As ``subprocess`` does: where SIGCHLD is ignored, nothing is known of how a process ended."""
    assert program("""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print(end(start("status")))
    """) == ("(0, '')\n", "")


def test_an_error_is_told(program: Program) -> None:
    told, err = program("""print(end(start("error")))""")
    assert told == "(1, '')\n"
    assert err.startswith("Traceback ")
    assert err.endswith("ValueError: a fault of the child\n")


@pytest.mark.parametrize(
    ("what", "end"),
    [
        ("child.kill()", "(None, 'SIGKILL')"),
        ("os.kill(child.pid, signal.SIGSEGV)", "(None, 'SIGSEGV')"),
        ("end(child, 0)", "(None, 'SIGKILL')"),
        ("child.socket.close()", "(3, '')"),
        ("[os.kill(child.pid, number) for number in (signal.SIGINT, signal.SIGTERM)]; child.socket.close()", "(3, '')"),
    ],
)
def test_how_it_ends(program: Program, what: str, end: str) -> None:
    assert program(f"""
        child = start("wait")
        assert child.socket.recv(10) == b"here"
        {what}
        print(end(child))
    """) == (f"{end}\n", "")


def test_a_copy_does_not_keep_the_sockets_of_others(program: Program) -> None:
    """One that is alone ends, although another copy that was made later still runs."""
    assert program("""
        first, second = start("wait"), start("wait")
        for child in (first, second):
            child.socket.recv(10)
        first.socket.close()
        print(end(first), second.exit_status)
        second.socket.close()
        print(end(second))
    """) == ("(3, '') None\n(3, '')\n", "")
