"""The command line: what it means, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.errors import ConfigError
from zsmtp.zmailer.options import AgentOptions, help_text, parse, usage

ROOT = Path(__file__).parents[2]


def values(options: AgentOptions) -> dict[str, object]:
    """All attributes that differ from the defaults."""
    return dict(vars(options))


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(list(argv))
    return str(caught.value)


def test_no_argument_gives_the_defaults_of_the_manual_page() -> None:
    options = parse([])
    assert values(options) == {}
    assert (options.host, options.channel, options.port) == (None, "smtp", None)
    assert (options.mx_lookup, options.pipelining, options.convert_headers) == (True, True, True)
    timeouts = (
        options.connect_timeout,
        options.write_timeout,
        options.command_timeout,
        options.data_timeout,
        options.dot_timeout,
    )
    assert timeouts == (180, 300, 300, 120, 1200)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-1"], {"one_message": True}),
        (["-6"], {"prefer_ipv6": True}),
        (["-7"], {"seven_bit": 1}),
        (["-77"], {"seven_bit": 2}),
        (["-7", "-7", "-7"], {"seven_bit": 2}),
        (["-8"], {"eight_bit": True}),
        (["-7", "-8"], {"seven_bit": 0, "eight_bit": True}),
        (["-87"], {"seven_bit": 1, "eight_bit": False}),
        (["-8", "-77"], {"seven_bit": 2, "eight_bit": False}),
        (["-7", "-8", "-7"], {"seven_bit": 1, "eight_bit": False}),
        (["-787"], {"seven_bit": 1, "eight_bit": False}),
        (["-77", "-8"], {"seven_bit": 2, "eight_bit": True}),
        (["-778"], {"seven_bit": 2, "eight_bit": True}),
        (["-8H"], {"eight_bit": True, "convert_headers": False}),
        (["-A", "/etc/auth"], {"auth_file": "/etc/auth"}),
        (["-c", "smtp-x"], {"channel": "smtp-x"}),
        (["-d"], {"debug": True}),
        (["-D", "mx.example"], {"connect_only": True, "host": "mx.example"}),
        (["-D", "-F", "mx.example"], {"connect_only": True, "force_destination": "mx.example"}),
        (["-e"], {"mx_match": True}),
        (["-E"], {"esmtp_if_announced": True}),
        (["-F", "[192.0.2.1]"], {"force_destination": "[192.0.2.1]"}),
        (["-h", "helo.example"], {"helo_name": "helo.example"}),
        (["-h", "[192.0.2.1]"], {"helo_name": "[192.0.2.1]"}),
        (["-L", "iface:eth0"], {"local_identity": "iface:eth0"}),
        (["-l", "/var/log/smtp"], {"log_file": "/var/log/smtp"}),
        (["-M", "-p", "24"], {"lmtp": True, "port": 24}),
        (["-MF", "UNIX:/run/lmtp"], {"lmtp": True, "force_destination": "UNIX:/run/lmtp"}),
        (["-O", "ignore-ezmlm"], {"ignore_ezmlm": True}),
        (["-O", "ta-diagnostics,ignore-ezmlm"], {"ignore_ezmlm": True, "ta_diagnostics": True}),
        (["-O", "TA-Diagnostics"], {"ta_diagnostics": True}),
        (["-O", "no-ta-diagnostics"], {"ta_diagnostics": False}),
        (["-O", "ta-diagnostics", "-O", "No-TA-diagnostics"], {"ta_diagnostics": False}),
        (["-O", "no-ta-diagnostics,ta-diagnostics"], {"ta_diagnostics": True}),
        (["-O", "trace=/var/traces"], {"trace": "/var/traces"}),
        (["-O", "hash-addresses,trace=t,ignore-ezmlm"], {"trace": "t", "hash_addresses": True, "ignore_ezmlm": True}),
        (["-P"], {"pipelining": False}),
        (["-p2525"], {"port": 2525}),
        (["-r"], {"reserved_port": True}),
        (["-S", "tls.conf"], {"tls_conf": "tls.conf"}),
        (["-s"], {"show_progress": True}),
        (["-v"], {"verbose": 1}),
        (["-vv", "-v"], {"verbose": 3}),
        (["-w", "65536"], {"send_buffer": 65536}),
        (["-W"], {"check_wks": True}),
        (["-x"], {"mx_lookup": False}),
        (["-xX"], {"mx_lookup": False, "allow_self": True}),
        (["-Z", "anything at all\n"], {}),
        (["-Z", ""], {}),
        (["mx.example"], {"host": "mx.example"}),
        (["[IPv6 ::1]"], {"host": "[IPv6 ::1]"}),
        (["mx.example", "-x"], {"host": "mx.example", "mx_lookup": False}),
        (["--", "-host"], {"host": "-host"}),
        (["-x", "--", "mx.example"], {"mx_lookup": False, "host": "mx.example"}),
        (["-sxp2525", "mx.example"], {"show_progress": True, "mx_lookup": False, "port": 2525, "host": "mx.example"}),
    ],
)
def test_options_mean(argv: list[str], expected: dict[str, object]) -> None:
    assert values(parse(argv)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conn=3m", {"connect_timeout": 180}),
        ("tcpw=10", {"write_timeout": 10}),
        ("cmd=5", {"command_timeout": 5}),
        ("90", {"command_timeout": 90}),
        ("1h30m", {"command_timeout": 5400}),
        ("1d2h3m4s", {"command_timeout": 93784}),
        ("1m30", {"command_timeout": 90}),
        ("data=10s", {"data_timeout": 10}),
        ("dot=20m", {"dot_timeout": 1200}),
        ("conn=1m,dot=7d,60", {"connect_timeout": 60, "dot_timeout": 604800, "command_timeout": 60}),
    ],
)
def test_timeouts_are_sums_of_numbers_with_units(text: str, expected: dict[str, object]) -> None:
    assert values(parse(["-T", text])) == expected


def test_a_port_may_be_a_service_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getservbyname", lambda name, protocol: {("submission", "tcp"): 587}[name, protocol])
    assert parse(["-p", "submission"]).port == 587


def test_a_later_timeout_adds_to_an_earlier_one() -> None:
    assert values(parse(["-Tconn=1m", "-Tdata=3m"])) == {"connect_timeout": 60, "data_timeout": 180}


BELOW_THE_LEAST = ["conn=5", "conn=9s", "tcpw=0", "cmd=4"]
NO_INTERVALS = ["data=", "dot=x", ",", "m", "5x", "-5m", "1.5h", "٣m", "conn=1m,", "conn=10=20", "conn = 1m", ""]


@pytest.mark.parametrize("text", [*BELOW_THE_LEAST, *NO_INTERVALS, "9" * 50, "what=10", "conn=8d"])
def test_other_timeouts_are_refused(text: str) -> None:
    assert refusal("-T", text).startswith("bad timeout")


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["-q"], "unknown option '-q'"),
        (["-xq"], "unknown option '-q'"),
        (["-\n"], "unknown option"),
        (["--port"], "unknown option '--port'"),
        (["-p"], "option -p needs a value"),
        (["-xp"], "option -p needs a value"),
        (["-p", "0"], "bad port"),
        (["-p", "65536"], "bad port"),
        (["-p", "-1"], "bad port"),
        (["-p", "no-such-service"], "bad port"),
        (["-p", "\udcff"], "bad port"),
        (["-p", "9" * 5000], "bad port"),
        (["-p", ""], "bad port"),
        (["-h", ""], "empty value of -h"),
        (["-h", "two words"], "bad greeting name"),
        (["-h", "a\r\nMAIL"], "control character"),
        (["-h", "bücher.example"], "bad greeting name"),
        (["-h", "x" * 256], "bad greeting name"),
        (["-c", ""], "empty value of -c"),
        (["-c", "a b"], "bad channel"),
        (["-l", "log\n"], "control character"),
        (["-S", ""], "empty value of -S"),
        (["-A", "a\x7f"], "control character"),
        (["-F", "h\x00"], "control character"),
        (["-L", "\x85"], "control character"),
        (["-w", "0"], "bad send buffer"),
        (["-w", "64k"], "bad send buffer"),
        (["-w", "99999999999"], "bad send buffer"),
        (["-O", "verbose"], "known: ignore-ezmlm, ta-diagnostics"),
        (["-O", "trace="], "empty directory of -O trace="),
        (["-O", "trace"], "unknown keyword 'trace'"),
        (["-O", "ta-diagnostics,"], "unknown keyword ''"),
        (["-M"], "-M needs -p"),
        (["-M", "-p", "25"], "-M needs -p"),
        (["-M", "-F", "mx.example"], "-M needs -p"),
        (["-M77p24"], "contradict"),
        (["-D"], "-D needs a host"),
        (["a.example", "b.example"], "more than one host"),
        (["--", "a", "-x"], "more than one host"),
        (["a\tb"], "control character"),
        ([""], "empty host"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_reason(argv: list[str], reason: str) -> None:
    assert reason in refusal(*argv)


@pytest.mark.parametrize("argument", ["-V", "--version", "-xV", "-Vq"])
def test_version_ends_the_reading(argument: str) -> None:
    if argument == "-Vq":
        assert "unknown option" in refusal(argument)
    else:
        assert parse([argument, "-M", "--no-such"]).show_version


def test_help_ends_the_reading() -> None:
    assert parse(["--help", "-q"]).show_help


@given(st.lists(st.text(max_size=12) | st.from_regex(r"-[A-Za-z0-9]{1,4}", fullmatch=True), max_size=5))
def test_any_arguments_are_options_or_a_refusal(argv: list[str]) -> None:
    reason = ""
    try:
        parse(argv)
    except ConfigError as error:
        reason = str(error)
    assert reason.isprintable()


def test_help_usage_and_manual_page_name_the_same_options() -> None:
    listed = [line[2:4] for line in help_text().splitlines() if line.startswith("  -") and not line.startswith("  --")]
    assert len(set(listed)) == len(listed)
    flags, *with_value = usage().removeprefix("Usage: smtp ").replace("[", "").replace("]", "").split(" -")
    assert {*flags[1:], *(part[0] for part in with_value)} == {option[1] for option in listed}
    page = (ROOT / "man" / "smtp.8").read_text(encoding="ascii")
    documented = {line.split()[2][0] for line in page.splitlines() if line.startswith(".It Fl ") and "\\-" not in line}
    assert documented == {option[1] for option in listed}


def test_the_module_loads_nothing_that_costs_start_up_time() -> None:
    program = (
        "import sys; before = set(sys.modules); import zsmtp.zmailer.options as o; "
        "o.parse(['-sxp2525', '-Tcmd=1m', 'h']); print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert loaded == ["__future__", "zsmtp", "zsmtp.errors", "zsmtp.zmailer", "zsmtp.zmailer.options"]
