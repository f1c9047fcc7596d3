"""``zsmtp tlsrpt --send``: reports by mail and by POST, each address once, whatever was in the way before."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.signing.sent import arrived, is_good, written
from tests.support.nameserver import NameServer
from tests.support.reporthost import ReportHost
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink

from zsmtp.cli.main import main
from zsmtp.cli.tlsrptsend import SentReports, web_place
from zsmtp.tls.tlsrpt import AppliedPolicy, PolicyType, SessionResult, encode_result

DAY, NOON = "2026-01-31", 1_769_817_600 + 43200
HOST = "reports.example.com"
Send = Callable[..., tuple[int, list[list[str]], str]]


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer({HOST: {"A": ("127.0.0.1",)}}) as server:
        yield server


@pytest.fixture
def certified(server_context: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext:
    return server_context(HOST)


@pytest.fixture
def send(dns: NameServer, ca_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Send:
    """Send the reports of the day by a relay: status, the fields of each line, errors."""
    (tmp_path / "zsmtp.toml").write_text(f'[direct]\nnameserver = "{dns.address}"\ntls = {{ ca_file = "{ca_file}" }}\n')

    def run(*arguments: str) -> tuple[int, list[list[str]], str]:
        command = ["tlsrpt", "--domain", "example.org", "--day", DAY, "--config", str(tmp_path / "zsmtp.toml")]
        status = main([*command, "--send", str(tmp_path / "tlsrpt"), *arguments])
        captured = capsys.readouterr()
        return status, [line.split("\t") for line in captured.out.splitlines()], captured.err

    return run


def results(folder: Path, *records: str) -> None:
    """A day with one result for each domain: its record asks for reports to these addresses."""
    none = AppliedPolicy(PolicyType.NONE, "x")
    given = [SessionResult(f"{n}.example", f"v=TLSRPTv1; rua={rua}", none) for n, rua in enumerate(records)]
    (folder / f"tlsrpt.{DAY}").write_bytes(b"".join(encode_result(one, NOON) for one in given))


def relay(sink: Sink) -> str:
    return f"--relay=smtp://127.0.0.1:{sink.port}"


def test_reports_go_by_mail_and_by_post(send: Send, certified: ssl.SSLContext, tmp_path: Path) -> None:
    key = written(tmp_path, "ed")
    with (tmp_path / "zsmtp.toml").open("a") as file:
        file.write(f'[[dkim]]\ndomain = "{key.domain}"\nselector = "{key.selector}"\nkey_file = "{key.key_file}"\n')
    with ReportHost(certified, 200) as host, Sink() as sink:
        results(tmp_path, f"mailto:tls@0.example,https://{HOST}:{host.port}/v1?for=0")
        status, lines, err = send(relay(sink))
        assert (status, err) == (0, "")
        assert [line[:3] for line in lines] == [
            ["0.example", f"https://{HOST}:{host.port}/v1?for=0", "delivered"],
            ["0.example", "mailto:tls@0.example", "delivered"],
        ]
        assert lines[0][3] == f"{HOST} answers 200"
        (posted,) = host.posted
        (octets,) = arrived(sink)
    assert posted.path == "/v1?for=0"
    assert (posted.fields["host"], posted.fields["content-type"]) == (
        f"{HOST}:{host.port}",
        "application/tlsrpt+gzip",
    )
    report = json.loads(gzip.decompress(posted.body))
    assert report["policies"][0]["summary"]["total-successful-session-count"] == 1
    mail = email.message_from_bytes(octets, policy=email.policy.default)
    assert (mail["From"], mail["To"]) == ("postmaster@example.org", "tls@0.example")
    assert (mail["TLS-Report-Domain"], mail["TLS-Report-Submitter"]) == ("0.example", "example.org")
    assert mail["Subject"] == f"Report Domain: 0.example Submitter: example.org Report-ID: <{report['report-id']}>"
    assert mail.get_content_type() == "multipart/report"
    *_, attachment = mail.iter_parts()
    assert attachment.get_filename().startswith("example.org!0.example!1769817600!1769903999!")
    assert json.loads(gzip.decompress(attachment.get_content())) == report
    assert is_good(octets, ["ed"])
    assert sorted(path.name for path in tmp_path.glob("*example*")) == []  # no files unless --output says where


def test_run_again_it_sends_what_is_left(send: Send, certified: ssl.SSLContext, tmp_path: Path) -> None:
    refusing = Script(replies={"RCPT": (Step("250 ok"), Step("450 4.2.0 later"))})
    with ReportHost(certified, 503, 200) as host, Sink(refusing, Script()) as sink:
        results(tmp_path, f"mailto:a@0.example,mailto:b@0.example,https://{HOST}:{host.port}/")
        status, lines, _ = send(relay(sink))
        assert status == 75
        assert [line[1:3] for line in lines] == [
            [f"https://{HOST}:{host.port}/", "deferred"],
            ["mailto:a@0.example", "delivered"],
            ["mailto:b@0.example", "deferred"],
        ]
        assert "450 4.2.0 later" in lines[2][3]
        status, lines, _ = send(relay(sink))
        assert (status, [line[1:3] for line in lines]) == (
            0,
            [[f"https://{HOST}:{host.port}/", "delivered"], ["mailto:b@0.example", "delivered"]],
        )
        assert send(relay(sink))[:2] == (0, [])
        assert sink.deliveries() == {b"a@0.example": 1, b"b@0.example": 1}
        assert [posted.body for posted in host.posted] == [host.posted[0].body] * 2


def test_a_refusal_for_good_is_not_tried_again(send: Send, certified: ssl.SSLContext, tmp_path: Path) -> None:
    script = Script(replies={"RCPT": (Step("550 5.1.1 nobody"),)})
    with ReportHost(certified, 404) as host, Sink(script) as sink:
        results(tmp_path, f"mailto:a@0.example,https://{HOST}:{host.port}/")
        status, lines, _ = send(relay(sink))
        assert (status, [line[2] for line in lines]) == (69, ["failed", "failed"])
        assert send(relay(sink))[:2] == (0, [])
    assert len(host.posted) == 1


@pytest.mark.parametrize(
    ("status", "fate", "words"),
    [(301, "failed", "redirects are not followed"), (429, "deferred", "answers 429"), (500, "deferred", "answers 500")],
)
def test_what_an_answer_means(
    send: Send, certified: ssl.SSLContext, tmp_path: Path, status: int, fate: str, words: str
) -> None:
    with ReportHost(certified, status) as host:
        results(tmp_path, f"https://{HOST}:{host.port}/")
        _, ((_, _, found, told),), _ = send("--relay=smtp://127.0.0.1")
    assert (found, words in told) == (fate, True)


def test_a_certificate_that_is_not_good_gets_no_report(
    send: Send, server_context: Callable[[str], ssl.SSLContext], tmp_path: Path
) -> None:
    with ReportHost(server_context("other.example")) as host:
        results(tmp_path, f"https://{HOST}:{host.port}/", "https://nx.example.com/")
        status, lines, _ = send("--relay=smtp://127.0.0.1")
    assert (status, host.posted) == (75, [])
    assert f"the certificate of {HOST} is not good" in lines[0][3]
    assert lines[1][2:] == ["deferred", "nx.example.com has no address"]


def test_mail_that_nobody_signs_is_warned_of(send: Send, dns: NameServer, tmp_path: Path) -> None:
    results(tmp_path, "mailto:a@nx.example")
    status, _, err = send()
    assert status == 69
    assert "no DKIM key for example.org is configured" in err


def test_a_mail_in_doubt_is_sent_again(send: Send, tmp_path: Path) -> None:
    lost = Script(replies={"DOT": (Step(None, Then.CLOSE),)})
    with Sink(lost, Script()) as sink:
        results(tmp_path, "mailto:a@0.example")
        status, lines, _ = send(relay(sink))
        assert (status, lines[0][2]) == (75, "in doubt")
        assert send(relay(sink))[0] == 0


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sent"
    path.write_bytes(b"sent\ta.example\tmailto:a@b\nsent\tc.exa")
    with SentReports(str(path)) as sent:
        assert sent.knows("a.example", "mailto:a@b")
        assert not sent.knows("c.exa", "")
    with SentReports(str(path)) as sent:
        assert sent.knows("a.example", "mailto:a@b")


def test_two_runs_at_a_time_are_refused(send: Send, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path, "mailto:a@0.example")
    with SentReports(str(tmp_path / f"tlsrpt.{DAY}.sent")):
        status, lines, err = send("--relay=smtp://127.0.0.1")
    assert (status, lines) == (75, [])
    assert "another process sends these reports" in err


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("https://a.example", ("a.example", 443, "/")),
        ("HTTPS://A.example:8443/x?y=z", ("a.example", 8443, "/x?y=z")),
        ("https:a.example", None),
        ("https://u:p@a.example/", None),
        ("https://a.example:0/", None),
        ("https://a.example:99999/", None),
        ("https://192.0.2.1/", None),
        ("https://[::1]/", None),
        ("https://a.example/\u00fc", None),
        ("https://a.example/a b", None),
    ],
)
def test_where_an_address_leads(address: str, place: tuple[str, int, str] | None) -> None:
    found = web_place(address)
    assert (None if found is None else (found.host, found.port, found.path)) == place


def test_files_are_made_too_where_a_folder_is_named(send: Send, tmp_path: Path) -> None:
    with Sink() as sink:
        results(tmp_path, "mailto:a@0.example")
        assert send(relay(sink), "--output", str(tmp_path))[0] == 0
    assert len(list(tmp_path.glob("example.org!*.eml"))) == 1


def test_options_of_sending_go_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path, "mailto:a@0.example")
    for option in ("--relay=a.example", "--timeout=3", "-4", "--config=x"):
        with pytest.raises(SystemExit, match="64"):
            main(["tlsrpt", "--domain", "example.org", option, str(tmp_path / "tlsrpt")])
        assert "goes with --send" in capsys.readouterr().err
