"""The command that makes the TLS reports of a day: what it writes, what it says, and what it does not let happen."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from zsmtp.cli.main import main
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsrpt import AppliedPolicy, Failure, PolicyType, SessionResult, encode_result, mail_addresses

DAY, NOON = "2026-01-31", 1_769_817_600 + 43200
RECORD = "v=TLSRPTv1; rua=mailto:tls@example.org,https://reports.example.org/v1,mailto:b%40x@example.org"
RESULT = SessionResult("example.org", RECORD, AppliedPolicy(PolicyType.NONE, "example.org"))


def results(folder: Path, *given: SessionResult, at: float = NOON, name: str = f"tlsrpt.{DAY}") -> str:
    """A day's file; what stands for it on the command line."""
    (folder / name).write_bytes(b"".join(encode_result(one, at) for one in given))
    return str(folder / "tlsrpt")


def run(*arguments: str) -> int:
    return main(["tlsrpt", "--domain", "example.net", *arguments])


def test_a_days_reports_are_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = replace(RESULT, failure=Failure(TLSProblem.STARTTLS_NOT_SUPPORTED, mx_host="mx.example.org"))
    other = replace(RESULT, domain="posted.example", record="v=TLSRPTv1; rua=https://posted.example/")
    path = results(tmp_path, RESULT, RESULT, failed, other)
    out = tmp_path / "out"
    out.mkdir()
    assert run("--day", DAY, "--output", str(out), "--organization", "Example Net", path) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [
        ["example.org", "https://reports.example.org/v1"],
        ["example.org", "mailto:tls@example.org"],
        ["posted.example", "https://posted.example/"],
    ]
    assert sorted(str(file) for file in out.iterdir()) == sorted({line[2] for line in lines})
    report = json.loads(gzip.decompress(Path(lines[0][2]).read_bytes()))
    assert report["organization-name"] == "Example Net"
    assert report["contact-info"] == "postmaster@example.net"
    summary = report["policies"][0]["summary"]
    assert list(summary.values()) == [2, 1]
    octets = Path(lines[1][2]).read_bytes()
    mail = email.message_from_bytes(octets, policy=email.policy.default)
    assert (mail["From"], mail["To"]) == ("postmaster@example.net", "tls@example.org")
    assert mail["TLS-Required"] == "No"
    *_, attachment = mail.iter_parts()
    assert json.loads(gzip.decompress(attachment.get_content())) == report


def test_doing_it_again_makes_the_same_files(tmp_path: Path) -> None:
    path = results(tmp_path, RESULT)
    for _ in range(2):
        assert run("--day", DAY, "--output", str(tmp_path), path) == 0
    assert len(list(tmp_path.glob("*.gz"))) == len(list(tmp_path.glob("*.eml"))) == 1


def test_without_a_day_it_is_yesterday(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yesterday = time.time() - 86400
    name = time.strftime("tlsrpt.%Y-%m-%d", time.gmtime(yesterday))
    path = results(tmp_path, RESULT, at=yesterday, name=name)
    assert run("--output", str(tmp_path), path) == 0
    assert capsys.readouterr().out


def test_lines_that_are_none_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results(tmp_path, RESULT)
    with (tmp_path / f"tlsrpt.{DAY}").open("ab") as file:
        file.write(b"cut off\n" + b"x" * 200_000)
    assert run("--day", DAY, "--output", str(tmp_path), path) == 0
    heard = capsys.readouterr()
    assert heard.out
    assert "lines are no results" in heard.err


@pytest.mark.parametrize("domain", ["../../etc/passwd", "nul\0.example", "\u00e4.example", "line\nend.example"])
def test_a_hostile_domain_leaves_the_directory_alone(
    domain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    words = json.loads(encode_result(RESULT, NOON))
    words["domain"] = domain
    (tmp_path / f"tlsrpt.{DAY}").write_bytes(json.dumps(words).encode() + b"\n")
    assert run("--day", DAY, "--output", str(out), str(tmp_path / "tlsrpt")) in (0, 65)
    assert {file.parent for file in tmp_path.rglob("*") if file.is_file()} <= {out, tmp_path}
    assert not any(ord(letter) < 32 and letter not in "\t\n" for letter in capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--day", "2999-01-01"], 64),
        (["--day", "yesterday"], 64),
        (["--contact", "a@b\nBcc: c@d"], 64),
        (["--sender", "no address"], 64),
        (["--day", DAY, "--output", "/nowhere/at/all"], 73),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results(tmp_path, RESULT)
    try:
        got = run(*arguments, path)
    except SystemExit as ended:
        got = int(ended.code or 0)
    assert got == status
    assert capsys.readouterr().err.startswith("zsmtp tlsrpt: ")


def test_a_quiet_day_is_no_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results(tmp_path, RESULT)
    assert run("--day", "2001-01-01", path) == 0
    assert capsys.readouterr() == ("", "")


def test_a_name_that_no_day_has_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path, RESULT)
    assert run("--day", DAY, str(tmp_path / "tlsrtp")) == 0
    assert "there are no results of any day yet" in capsys.readouterr().err
    assert run("--day", DAY, str(tmp_path / "nowhere" / "tlsrpt")) == 66
    assert f"{tmp_path}/nowhere: No such file or directory" in capsys.readouterr().err


def test_a_folder_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results(tmp_path, RESULT)
    assert run("--day", DAY, "--output", str(tmp_path / "out"), path) == 73
    assert capsys.readouterr().err == f"zsmtp tlsrpt: --output {tmp_path}/out: there is no such folder\n"


def test_which_mailboxes_are_taken() -> None:
    given = [
        "mailto:a@example.org",
        "MAILTO:a@example.org",
        "mailto:b%2Bc@example.org?subject=x",
        "mailto:x%0d%0aBcc:y@example.org",
        "mailto:x%2Cy@example.org",
        'mailto:"x"@example.org',
        "mailto:nobody",
        "https://example.org/",
    ]
    assert mail_addresses(given) == ("a@example.org", "b+c@example.org")
