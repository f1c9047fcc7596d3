"""The tests' own PostgreSQL: it ends with whoever made it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from tests.support.patience import wait_until
from tests.support.postgres import needs_postgres

pytestmark = needs_postgres

_MAKER = """
import time
from tests.support.postgres import Cluster
made = Cluster()
print(made.folder, made.url("postgres"), flush=True)
time.sleep(3600)
"""


def _is_over(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_cluster_ends_with_a_process_that_is_killed(how: signal.Signals) -> None:
    command = [sys.executable, "-c", _MAKER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as maker:
        try:
            assert maker.stdout is not None
            folder, url = maker.stdout.readline().split()
            with psycopg.connect(url, autocommit=True) as connection:
                assert not _is_over(connection)
                maker.send_signal(how)
                wait_until(lambda: _is_over(connection))
            wait_until(lambda: not Path(folder).exists())
        finally:
            maker.kill()
