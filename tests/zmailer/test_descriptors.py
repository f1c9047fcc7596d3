"""The limit on descriptors: raised as far as it goes, and one of them kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import zsmtp

PROGRAM = """
import os, resource
from zsmtp.zmailer.descriptors import RESERVE, Descriptors
there = Descriptors()
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(limit, RESERVE, there.has_room(limit - RESERVE - 1), there.has_room(limit - RESERVE))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for _ in range(2):
    with there.spare():
        os.close(os.open("/dev/null", os.O_RDONLY))
    try:
        os.open("/dev/null", os.O_RDONLY)
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.parametrize(("soft", "hard"), [(32, 200), (32, 32), (20, 20)])
def test_the_limit_and_the_spare_one(soft: int, hard: int) -> None:
    command = ["/bin/sh", "-c", f'ulimit -S -n {soft}; ulimit -H -n {hard}; exec "$@"', "sh", sys.executable]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(Path(zsmtp.__file__).parent.parent)}
    done = subprocess.run([*command, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{hard} 10 True False", "24", "24"]
