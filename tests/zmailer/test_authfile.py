"""The file of -A: which line counts, what its words mean, and that nothing wrong in it lets mail out without login."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.patience import wait_until

from zsmtp.errors import ConfigError
from zsmtp.proto.sasl import Credentials, Secret, SecretKind
from zsmtp.zmailer.authfile import AuthFile, TokenCommand, parse, run_token_command

USER = "dXNlcg=="
SECRET = "c2VjcmV0"
FOUND = Credentials(b"user", Secret(b"secret"))


def read(text: str, *, mode: int = 0o100600) -> AuthFile:
    return parse(text.encode(), "auth", mode=mode)


def lookup(
    text: str, *, channel: str = "smtp", host: str = "mail.example.org", destination: str = "example.org"
) -> Credentials | None:
    return read(text).credentials(channel, host, destination)


def test_the_form_of_the_reference() -> None:
    assert lookup(f"smtp mail.example.org {USER} {SECRET}\n") == FOUND


@pytest.mark.parametrize(
    "line",
    [
        f"smtp MAIL.example.ORG {USER} {SECRET}",
        f"smtp mail.example.org. {USER} {SECRET}",
        f"*\tmail.example.org\t{USER}\t{SECRET}\t",
        f"  smtp   mail.example.org   {USER}   {SECRET}  \r",
        f"smtp mail.example.org {USER} {SECRET} # mine",
        "smtp mail.example.org plain:user plain:secret",
        f"smtp =Example.org {USER} plain:secret",
        f"# smtp mail.example.org x y\n\nsmtp mail.example.org {USER} {SECRET}",
        f"smtp other.example.org x y\nsmtp mail.example.org {USER} {SECRET}\nsmtp mail.example.org QQ== QQ==",
    ],
)
def test_a_line_that_matches(line: str) -> None:
    assert lookup(line) == FOUND


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"SMTP mail.example.org {USER} {SECRET}",
        f"smtp mail.example.com {USER} {SECRET}",
        f"smtp example.org {USER} {SECRET}",
        f"smtp =mail.example.org {USER} {SECRET}",
        f"smtp * {USER} {SECRET}",
        f"smtp .example.org {USER} {SECRET}",
        f"#smtp mail.example.org {USER} {SECRET}",
    ],
)
def test_a_line_that_does_not_match(line: str) -> None:
    assert lookup(line) is None


def test_a_host_has_no_wildcard_and_that_is_said() -> None:
    assert read(f"* * {USER} {SECRET}").remarks == ("auth:1: the host * matches no host: there is no wildcard",)


def test_clear_text_is_taken_as_it_stands() -> None:
    found = lookup("smtp mail.example.org plain:a:b=c plain:#x")
    assert found == Credentials(b"a:b=c", Secret(b"#x"))


def test_a_token() -> None:
    found = lookup("smtp mail.example.org plain:me@example.org oauth:ya29.abc")
    assert found == Credentials(b"me@example.org", Secret(b"ya29.abc"), SecretKind.BEARER)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("smtp mail.example.org", "not channel, host, user and secret"),
        (f"smtp mail.example.org {USER}", "not channel, host, user and secret"),
        (f"smtp mail.example.org us-er {SECRET}", "user is neither"),
        (f"smtp mail.example.org {USER} c2VjcmV", "secret is neither"),
        (f"smtp mail.example.org {USER} se-cret", "secret is neither"),
        (f"smtp mail.example.org {USER} plain:", "secret is empty"),
        (f"smtp mail.example.org plain: {SECRET}", "user is empty"),
        (f"smtp mail.example.org {USER} oauth:", "no token"),
        (f"smtp mail.example.org {USER} oauth:!", "needs a path"),
        (f"smtp mail.example.org {USER} oauth:!token", "needs a path"),
        (f"smtp mail.example.org {USER} oauth:!/bin/x 'a", "quotes"),
        (f"smtp mail.example.org {USER} {SECRET} more", "text after the secret"),
        (f"smtp mail.example.org {USER} plain:{'x' * 8193}", "longer than 8192"),
    ],
)
def test_a_line_that_cannot_be_used_is_an_error_for_its_host_only(line: str, problem: str) -> None:
    file = read(f"{line}\nsmtp other.example.org {USER} {SECRET}")
    assert problem in file.remarks[0]
    with pytest.raises(ConfigError, match=f"auth:1: .*{problem}"):
        file.credentials("smtp", "mail.example.org", "example.org")
    assert file.credentials("smtp", "other.example.org", "example.org") == FOUND


def test_no_error_and_no_repr_shows_a_secret() -> None:
    file = read("smtp a plain:u plain:hunter2 extra\nsmtp b plain:u plain:hunter2\nsmtp c plain:u hunter2!\n")
    assert len(file.remarks) == 2
    assert "hunter2" not in repr(file) + "".join(file.remarks)


def test_a_lone_word_is_remarked() -> None:
    assert "auth:1:" in read("allow-clear").remarks[0]


@pytest.mark.parametrize(("text", "allowed"), [("", False), ("allow-cleartext", True), ("# allow-cleartext", False)])
def test_allow_cleartext(text: str, allowed: bool) -> None:
    assert read(text).allow_cleartext is allowed
    assert not read(text).require_login


def test_require_login() -> None:
    both = read("require-login\nAllow-Cleartext")
    assert (both.require_login, both.allow_cleartext) == (True, True)


@given(st.binary(max_size=200))
def test_any_octets_are_read_without_an_exception(data: bytes) -> None:
    file = parse(b"smtp mail.example.org " + data, "auth")
    try:
        found = file.credentials("smtp", "mail.example.org", "x") if b"oauth:!" not in data else None
    except ConfigError:
        found = None
    assert found is None or found.user


def test_too_many_lines() -> None:
    with pytest.raises(ConfigError, match="more than 10000"):
        read("a b c d\n" * 10_001)


# -------------------------------------------------------------------- the file


def written(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "auth"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_the_file_is_read(tmp_path: Path) -> None:
    file = AuthFile.load(written(tmp_path, f"smtp mail.example.org {USER} {SECRET}\n"))
    assert file.remarks == ()
    assert file.credentials("smtp", "mail.example.org", "") == FOUND


def test_permissions_are_looked_at(tmp_path: Path) -> None:
    text = f"* mail.example.org {USER} oauth:!/bin/echo token\n"
    assert "every user can read" in AuthFile.load(written(tmp_path, text, 0o644)).remarks[0]
    assert AuthFile.load(written(tmp_path, text, 0o640)).remarks == ()
    file = AuthFile.load(written(tmp_path, text, 0o602))
    assert "write" in file.remarks[0]
    with pytest.raises(ConfigError, match="other users could have written"):
        file.credentials("smtp", "mail.example.org", "")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AuthFile.load(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="not a regular file"):
        AuthFile.load(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a regular file"):
        AuthFile.load(str(tmp_path / "fifo"))
    with pytest.raises(ConfigError, match="longer than"):
        AuthFile.load(written(tmp_path, "#" * (1 << 20) + "\n"))


# -------------------------------------------------------------- token commands


def shell(script: str) -> TokenCommand:
    return TokenCommand(("/bin/sh", "-c", script))


def test_a_token_comes_from_a_command() -> None:
    found = lookup("* mail.example.org plain:me oauth:!/bin/echo 'a token' # two words")
    assert found == Credentials(b"me", Secret(b"a token # two words"), SecretKind.BEARER)


def test_only_the_first_line_is_the_token() -> None:
    assert run_token_command(shell("printf ' tok \\nnoise\\n'; echo secret >&2")) == b"tok"


@pytest.mark.parametrize(
    ("script", "seconds", "problem"),
    [
        ("echo tok; exit 3", 60, "failed with status 3"),
        ("exit 0", 60, "no token"),
        ("echo; echo tok", 60, "no token"),
        ("yes", 60, "too much"),
        ("sleep 300", 0.3, "took more than"),
        ("exec >&-; sleep 300", 0.3, "took more than"),
    ],
)
def test_a_command_that_gives_no_token(script: str, seconds: float, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        run_token_command(shell(script), seconds=seconds)


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="auth:1: the token command /nowhere/token cannot be run"):
        lookup("* mail.example.org plain:me oauth:!/nowhere/token x")


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its adoptive parent to hear of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_a_command_leaves_running_is_ended() -> None:
    pid = int(run_token_command(shell("sleep 300 >/dev/null 2>&1 & echo $!"), seconds=60))
    wait_until(lambda: has_ended(pid))


# ---------------------------------------------------------------- mechanisms


@pytest.mark.parametrize(
    "line",
    [
        "mechanisms SCRAM-SHA-256 plain",
        "Mechanisms\tscram-sha-256, PLAIN  # the others fail",
        "mechanisms SCRAM-SHA-256,PLAIN\r",
    ],
)
def test_mechanisms_count_for_the_lines_below(line: str) -> None:
    text = f"smtp a.example plain:u plain:p\n{line}\nsmtp b.example plain:u plain:p\nsmtp c.example plain:u plain:p\n"
    text += "mechanisms\nsmtp d.example plain:u plain:p\n"
    found = {host: lookup(text, host=f"{host}.example") for host in "abcd"}
    wanted = ("SCRAM-SHA-256", "PLAIN")
    assert [one.mechanisms for one in found.values() if one is not None] == [(), wanted, wanted, ()]
    assert read(text).remarks == ()


def test_a_mechanism_that_is_not_known_is_said() -> None:
    file = read("mechanisms PLIAN LOGIN\x07\nsmtp mail.example.org plain:u plain:p\n")
    assert file.remarks[0] == "auth:1: no mechanism that is known here: PLIAN LOGIN\\x07"


@pytest.mark.parametrize("secret", ["plain:p", "oauth:token"])
def test_a_login_that_none_of_its_mechanisms_serves_cannot_be_used(secret: str) -> None:
    """Mail must not go out without the login, and not by a mechanism that was ruled out."""
    names = "XOAUTH2" if secret == "plain:p" else "PLAIN GSSAPI"
    text = f"mechanisms {names}\nsmtp mail.example.org plain:u {secret}\n"
    with pytest.raises(ConfigError, match="auth:2: none of the mechanisms named above it is for a "):
        lookup(text)
    assert any("none of the mechanisms" in remark for remark in read(text).remarks)
