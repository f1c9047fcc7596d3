"""ZENV files: the little of the shell's language that they may use, and remarks instead of failures."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.zmailer import zenv
from zsmtp.zmailer.zenv import load, parse


def settings(text: str) -> tuple[str, list[str]]:
    """The value of A after these lines, and the remarks."""
    env = parse(text, "conf")
    return env.get("A", "(not set)"), env.remarks


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=/var/spool/postoffice", "/var/spool/postoffice"),
        ("A=", ""),
        ("  A=x  ", "x"),
        ("A=x # comment", "x"),
        ("A=x#y", "x#y"),
        ("A=x\r\n", "x"),
        ("# only this\nA=x", "x"),
        ("A=1\nA=2", "2"),
        ("export A=x", "x"),
        ("export\tA=x", "x"),
        ("A='two words'", "two words"),
        ('A="two words"  # said', "two words"),
        ("A='$B \\n \"`'", '$B \\n "`'),
        ("A=a'b'\"c\"d", "abcd"),
        ("A=two\\ words", "two words"),
        ('A="\\$B \\" \\\\ \\n"', '$B " \\ \\n'),
        ("A=''", ""),
        ("A=x; # comment", "x"),
        ("A=x ; ;# comment", "x"),
        ("A=one\\\ntwo", "onetwo"),
        ("# a comment \\\nA=x", "x"),
        ("A=é", "é"),
        ("B=/var\nA=$B/x", "/var/x"),
        ("B=/var\nA=${B}x", "/varx"),
        ('B=/var\nA="$B:${B}"', "/var:/var"),
        ("A=$B/x\nB=late", "/x"),
        ("B='$C'\nC=x\nA=$B", "$C"),
        ("B='a b'\nA=$B", "a b"),
        ("A=$", "$"),
        ('A="100$"', "100$"),
        ("A=a$/b", "a$/b"),
        ("A=x\nA=$A:y", "x:y"),
    ],
)
def test_a_line_sets(text: str, value: str) -> None:
    assert settings(text)[0] == value


def test_good_lines_bring_no_remark() -> None:
    text = "\n# a\n\t# b\nexport A B\nB='x y'\nexport A=$B\\ z;\n"
    assert settings(text) == ("x y z", [])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("A", "not NAME=value"),
        ("A = x", "not NAME=value"),
        ("1A=x", "not NAME=value"),
        ("=x", "not NAME=value"),
        ("Ä=x", "not NAME=value"),
        ("if [ A = x ]", "not NAME=value"),
        ("A=x y", "text after the value"),
        ("A='x", "closing ' is missing"),
        ('A="x', 'closing " is missing'),
        ("A=${B", "closing } is missing"),
        ("A=${B:-x}", "only ${NAME} is understood"),
        ("A=${}", "only ${NAME} is understood"),
        ("A=$1", "$1 has no meaning"),
        ("A=$(date)", "commands are not run"),
        ('A="$(date)"', "commands are not run"),
        ("A=`date`", "` is not understood"),
        ('A="`date`"', "commands are not run"),
        ("A=x;B=y", "; is not understood"),
        ("A=x ;B=y", "text after the value"),
        ("A=x|y", "| is not understood"),
        ("A=<x", "< is not understood"),
        ("A=a\0b", "NUL octet"),
    ],
)
def test_a_bad_line_sets_nothing_and_is_named(line: str, what: str) -> None:
    value, remarks = settings(f"A=before\n{line}\nB=after")
    assert value == "before"
    assert len(remarks) == 1
    assert remarks[0].startswith("conf:2: ")
    assert what in remarks[0]


def test_octets_that_are_not_utf8_survive() -> None:
    assert os.fsencode(parse(b"A=/tmp/\xff\n", "conf").get("A")) == b"/tmp/\xff"


def test_values_do_not_grow_without_end() -> None:
    doubling = "A=" + "x" * 1000 + "\n" + "A=$A$A\n" * 40
    env = parse(doubling, "conf")
    assert len(env.get("A")) <= zenv.VALUE_LIMIT
    assert any("longer than" in remark for remark in env.remarks)
    assert len(env.remarks) <= 22

    many = "A=" + "x" * 60000 + "\n" + "".join(f"B{n}=$A\n" for n in range(1000))
    assert any("too much text" in remark for remark in parse(many, "conf").remarks)


def test_a_file_beyond_the_limit_is_read_up_to_its_last_whole_line() -> None:
    line = "B=" + "x" * 998 + "\n"
    env = parse("A=1\n" + line * (zenv.FILE_LIMIT // len(line)) + "A=2\n" * 1000, "conf")
    assert "longer than" in env.remarks[0]
    assert env.get("A") in ("1", "2")
    assert env.get("B") == "x" * 998


@pytest.mark.parametrize("word", ["1", "y", "yes", "YES", "true", "on"])
def test_flags_that_are_set(word: str) -> None:
    assert parse(f"F={word}", "conf").flag("F")


@pytest.mark.parametrize("word", ["0", "n", "no", "No", "false", "off"])
def test_flags_that_are_cleared(word: str) -> None:
    assert not parse(f"F={word}", "conf").flag("F", default=True)


def test_a_flag_that_is_neither_keeps_its_default_and_is_remarked_once() -> None:
    env = parse("F=maybe\nEMPTY=", "conf")
    assert env.flag("F", default=True)
    assert not env.flag("F")
    assert env.remarks == ["conf: F='maybe' is neither yes nor no"]
    assert env.flag("EMPTY", default=True)
    assert env.flag("UNSET", default=True)
    assert len(env.remarks) == 1


def test_unset_and_empty_are_told_apart() -> None:
    env = parse("A=", "conf")
    assert "A" in env
    assert "B" not in env
    assert env.get("A", "default") == ""
    assert env.get("B", "default") == "default"


def test_load_reads_the_named_file(tmp_path: Path) -> None:
    conf = tmp_path / "zenv"
    conf.write_bytes(b"A=named\n")
    env = load({"ZCONFIG": str(conf), "A": "environment"}, default_path=str(tmp_path / "none"))
    assert (env.get("A"), env.name, env.remarks) == ("named", str(conf), [])


def test_load_falls_back_to_the_default_file(tmp_path: Path) -> None:
    conf = tmp_path / "default"
    conf.write_bytes(b"A=default\n")
    assert load({}, default_path=str(conf)).get("A") == "default"
    assert load({"ZCONFIG": ""}, default_path=str(conf)).get("A") == "default"


def test_load_without_any_file_is_silent(tmp_path: Path) -> None:
    env = load({}, default_path=str(tmp_path / "none"))
    assert (env.remarks, "A" in env) == ([], False)
    assert load({"ZCONFIG": "/dev/null"}).remarks == []


def test_a_named_file_that_cannot_be_read_is_a_remark(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, why in [
        (tmp_path / "none", "No such file"),
        (tmp_path, "not a regular file"),
        (fifo, "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("a\0b", "null"),
    ]:
        env = load({"ZCONFIG": str(path)}, default_path=str(tmp_path / "default"))
        assert len(env.remarks) == 1
        assert why in env.remarks[0]
        assert "A" not in env


def test_a_read_error_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "zenv"
    conf.write_bytes(b"A=x\n")

    def fail(fd: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("zsmtp.zmailer.zenv.os.read", fail)
    assert load({"ZCONFIG": str(conf)}).remarks == [f"{conf}: cannot be read: Input/output error"]


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    conf = tmp_path / "huge"
    conf.write_bytes(b"A=x\n")
    os.truncate(conf, 1 << 40)
    env = load({"ZCONFIG": str(conf)})
    assert env.get("A") == "x"
    assert "longer than" in env.remarks[0]


@given(st.binary(max_size=200) | st.text(alphabet="A=$B{}'\"\\ \n;#`()export", max_size=60))
def test_any_content_is_settings_and_remarks(content: bytes | str) -> None:
    env = parse(content, "conf")
    assert len(env.remarks) <= 22


@given(
    st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=60).filter(
        lambda text: not text.endswith(("\r", "\\"))
    )
)
def test_single_quotes_keep_any_text(text: str) -> None:
    quoted = "'" + text.replace("'", "'\\''") + "'"
    assert settings(f"A={quoted}") == (text, [])
