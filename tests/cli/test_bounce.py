"""``zsmtp bounce``: keys for return paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsmtp.cli.main import main
from zsmtp.queue.bouncekeys import read_keys


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["bounce", *arguments])
    return status, *capsys.readouterr()


def test_a_key_is_made_once_and_rotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys")
    assert run(capsys, "key", file) == (0, f"{file}: made; [queue.bounces] key_file names it\n", "")
    (first,) = read_keys(file)
    status, out, err = run(capsys, "key", file)
    assert (status, out) == (73, "")
    assert err == f"zsmtp bounce: {file} exists already; --rotate puts a new key into it\n"
    assert read_keys(file) == (first,)
    status, out, _ = run(capsys, "key", "--rotate", file)
    assert (status, out) == (0, f"{file}: a new key signs from the next start on; 1 before it prove as well\n")
    assert read_keys(file)[1:] == (first,)


def test_where_no_key_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "key", str(tmp_path / "no" / "keys"))
    assert (status, "cannot be made: No such file" in err) == (73, True)
    status, _, err = run(capsys, "key", "--rotate", str(tmp_path / "keys"))
    assert (status, "is not there" in err) == (78, True)
    with pytest.raises(SystemExit) as ended:
        main(["bounce"])
    assert ended.value.code == 64
