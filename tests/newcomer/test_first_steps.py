"""What a reader of README and "five minutes" meets first; each test is named after its point."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.newcomer import Newcomer
from tests.support.patience import wait_until
from tests.support.serveprocess import ServeProcess
from tests.support.sink import Sink

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/start.rst"]


@pytest.mark.parametrize("page", PAGES)
def test_h1_installing_begins_with_an_environment(page: str) -> None:
    """Debian's own pip refuses to install outside of one. ``tests/interop/test_install.py`` does it."""
    text = (ROOT / page).read_text()
    assert re.search(r"python3 -m venv (\S+)\n.*\1/bin/pip install \.\n.*\. \1/bin/activate\n", text)
    assert "python3-venv" in text
    assert "pipx install ." in text
    assert "aiosmtpd" not in text


def test_h1_the_commands_are_where_they_are_said_to_be(newcomer: Newcomer) -> None:
    assert "`zsmtp`, `zsmtp-sendmail` and `smtp`" in (ROOT / "README.md").read_text()
    for command in ("zsmtp", "zsmtp-sendmail"):
        assert newcomer.run(command, "--help").status == 0


def test_h3_there_is_a_queue_and_it_tries_again(newcomer: Newcomer, tmp_path: Path) -> None:
    with Sink() as sink:
        config = f'[delivery]\nrelay = "smtp://127.0.0.1:{sink.port}"\n'
        with ServeProcess(tmp_path, config):
            sent = newcomer.python(
                "import zsmtp\n"
                "with zsmtp.Queue.open('queue.db') as queue:\n"
                "    print(queue.submit(b'From: a@example.org\\nTo: b@example.net\\n\\nhi\\n'))\n"
            )
            assert (sent.status, sent.err) == (0, "")
            wait_until(lambda: sink.deliveries() == {b"b@example.net": 1})
            wait_until(lambda: newcomer.zsmtp("queue", "why", "--queue", "queue.db", sent.out.strip()).status == 0)


@pytest.mark.parametrize("word", ["port 25", "systemd", "zsmtp serve", "zsmtp queue why"])
def test_h3_the_first_page_says_what_there_is(word: str) -> None:
    assert word in (ROOT / "README.md").read_text()


def test_m15_making_the_environment_says_what_it_does() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("$(READY): requirements/dev.lock pyproject.toml\n")[2]
    assert recipe.startswith("\t@echo ")
