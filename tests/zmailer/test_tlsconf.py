"""The file of -S: every keyword in both spellings, and what a mistake in it means for mail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zsmtp.errors import ConfigError
from zsmtp.tls.context import MIN_PROTOCOLS
from zsmtp.tls.policy import Level, STSUse, TLSPolicy
from zsmtp.zmailer.tlsconf import PROTOCOLS, TLSConfig, load

DIGEST = "AB:" * 31 + "AB"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).write_text("x")
    return tmp_path


def loaded(folder: Path, text: str) -> TLSConfig:
    path = folder / "tls.conf"
    path.write_text(text.replace("@", f"{folder}/"))
    return load(str(path))


def test_an_empty_file_means_tls_where_it_is_offered(folder: Path) -> None:
    config = loaded(folder, "# nothing\n\n; here\n")
    assert config == TLSConfig(path=str(folder / "tls.conf"))
    assert config.policy.level is Level.MAY
    assert config.enabled
    assert config.min_protocol == "TLSv1.2"


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ("tls-cert-file @cert.pem", "cert_file", "cert.pem"),
        ("tls-dcert-file @cert.pem", "dcert_file", "cert.pem"),
        ("tls-CAfile @ca.pem", "ca_file", "ca.pem"),
        ("tls-loglevel 4", "log_level", 4),
        ("tls-cipher-list HIGH:!aNULL", "cipher_list", "HIGH:!aNULL"),
        ("tls-use-scache", "session_timeout", 3600),
        ("tls-min-protocol TLSv1", "min_protocol", "TLSv1"),
        ("tls-min-protocol tlsv1.0", "min_protocol", "TLSv1"),
        ("tls-min-protocol TLSv1.3", "min_protocol", "TLSv1.3"),
        ("tls-implicit", "implicit", True),
        ("tls-dane off", "dane", False),
        ("tls-dane on", "dane", True),
        ("tls-mta-sts off", "mta_sts", STSUse.OFF),
        ("tls-mta-sts on", "mta_sts", STSUse.ON),
        ("tls-mta-sts testing", "mta_sts", STSUse.TESTING),
        ("tls-mta-sts-cache /var/db/sts", "policy_cache", "/var/db/sts"),
        ("tls-report-file @reports", "report_file", "reports"),
    ],
)
@pytest.mark.parametrize("spelling", ["as written", "unhyphenated", "upper case"])
def test_a_keyword_in_every_spelling(folder: Path, line: str, attribute: str, value: Any, spelling: str) -> None:
    keyword, blank, rest = line.partition(" ")
    if spelling == "unhyphenated":
        keyword = keyword.replace("-", "")
    elif spelling == "upper case":
        keyword = keyword.upper()
    found = getattr(loaded(folder, f"\t{keyword}{blank}\t{rest}  # said\r\n"), attribute)
    assert found == (f"{folder}/{value}" if "@" in line else value)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("demand-tls-mode", TLSPolicy(level=Level.ENCRYPT)),
        ("demandtlsmode", TLSPolicy(level=Level.ENCRYPT)),
        ("demand-tls-mode off", TLSPolicy()),
        ("demand-tls-mode\ntls-level may", TLSPolicy(level=Level.ENCRYPT)),
        ("demand-tls-mode\ntls-level verify", TLSPolicy(level=Level.VERIFY)),
        ("demand-tls-mode\ntls-level dane", TLSPolicy(level=Level.ENCRYPT, dane=True)),
        ("tls-implicit", TLSPolicy(level=Level.ENCRYPT)),
        ("tls-dane on", TLSPolicy(dane=True)),
        ("tls-level none", TLSPolicy(level=Level.NONE)),
        ("tls-level encrypt", TLSPolicy(level=Level.ENCRYPT)),
        ("tls-level DANE-only", TLSPolicy(level=Level.DANE_ONLY, dane=True)),
        ("tls-level secure", TLSPolicy(level=Level.SECURE)),
        (
            "tls-level verify\ntls-match a.example, .b.example hostname",
            TLSPolicy(level=Level.VERIFY, match=("a.example", ".b.example", "hostname")),
        ),
        ("tls-level secure\ntls-match 192.0.2.1", TLSPolicy(level=Level.SECURE, match=("192.0.2.1",))),
        (
            f"tls-level fingerprint\ntls-fingerprint {DIGEST} {DIGEST.lower().replace(':', '')}",
            TLSPolicy(level=Level.FINGERPRINT, fingerprints=(b"\xab" * 32, b"\xab" * 32)),
        ),
        ("tls-sni Mail.Example.ORG.", TLSPolicy(server_name="mail.example.org")),
    ],
)
def test_the_policy(folder: Path, text: str, policy: TLSPolicy) -> None:
    config = loaded(folder, text)
    assert config.policy == policy
    assert config.policy_for("example.org") == policy
    assert config.remarks == ()


def test_protocols_have_the_names_that_contexts_know() -> None:
    assert PROTOCOLS == MIN_PROTOCOLS


def test_the_key_is_in_the_certificate_file_unless_named(folder: Path) -> None:
    config = loaded(folder, "tls-cert-file @cert.pem\ntls-dcert-file @cert.pem\ntls-dkey-file @key.pem")
    assert (config.key_file, config.dkey_file) == (f"{folder}/cert.pem", f"{folder}/key.pem")


def test_session_time_counts_only_with_resumption(folder: Path) -> None:
    assert loaded(folder, "tls-scache-timeout 60").session_timeout == 0
    assert loaded(folder, "tls-scache-timeout 60\ntls-use-scache on").session_timeout == 60


def test_old_keywords_are_accepted_and_told_of_once(folder: Path) -> None:
    text = "tls-random-source /dev/urandom\ntls-strict-rfc2487\nno-tls-readahead\nnotlsreadahead\n"
    assert loaded(folder, text).remarks == ()
    (remark,) = loaded(folder, text + "tls-loglevel 1").remarks
    assert remark.endswith("without effect today: tls-random-source, tls-strict-rfc2487, no-tls-readahead")


def test_an_unknown_keyword_is_a_remark_with_file_and_line(folder: Path) -> None:
    config = loaded(folder, "\ntls-cert /x\n")
    assert config.remarks == (f"{folder}/tls.conf:2: unknown keyword tls-cert",)
    assert config.policy.level is Level.MAY


def test_a_keyword_given_twice(folder: Path) -> None:
    config = loaded(folder, "tls-loglevel 1\ntlsloglevel 2\n")
    assert config.log_level == 2
    assert "tls.conf:2: tlsloglevel is given again" in config.remarks[0]


BAD_VALUES = [
    "tls-cert-file",
    "tls-key-file @key.pem",
    "tls-loglevel 5",
    "tls-loglevel -1",
    "tls-loglevel ²",
    "tls-cipher-list",
    "tls-use-scache maybe",
    "tls-scache-timeout 0",
    "tls-scache-timeout 99999999",
    "tls-min-protocol SSLv3",
    "tls-sni two words",
]
BAD_FILES = [
    "tls-cert-file @none",
    "tls-CAfile @none",
    "tls-CApath @ca.pem",
    "tls-cert-file @cert.pem\ntls-key-file @none",
]


@pytest.mark.parametrize("line", BAD_VALUES + BAD_FILES)
def test_a_mistake_where_nothing_is_demanded_means_no_tls_and_a_remark(folder: Path, line: str) -> None:
    config = loaded(folder, line)
    assert config.policy == TLSPolicy(level=Level.NONE)
    assert not config.enabled
    assert config.remarks[-1].endswith("; there is no TLS")


@pytest.mark.parametrize(
    "demand", ["demand-tls-mode", "tls-level verify", "tls-dane on", "tls-mta-sts on", "tls-implicit"]
)
@pytest.mark.parametrize("line", BAD_VALUES + BAD_FILES)
def test_a_mistake_where_tls_is_demanded_is_an_error(folder: Path, line: str, demand: str) -> None:
    expected = OSError if line in BAD_FILES else ConfigError
    for text in (f"{line}\n{demand}", f"{demand}\n{line}"):
        with pytest.raises(expected):
            loaded(folder, text)


@pytest.mark.parametrize(
    "text",
    [
        "tls-level encript",
        "tls-level",
        "demand-tls-mode yes please",
        "tls-dane perhaps",
        "tls-mta-sts enforce",
        "tls-match",
        "tls-match a..b",
        "tls-fingerprint ABCD",
        "tls-fingerprint",
        "tls-policy-file",
        "tls-implicit 465",
        "tls-level fingerprint",
        f"tls-fingerprint {DIGEST}",
        "tls-match mail.example.org",
        "tls-level dane\ntls-dane off",
    ],
)
def test_a_mistake_that_could_have_been_a_demand_is_an_error(folder: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"tls\.conf"):
        loaded(folder, text)


def test_the_file_itself_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="not a regular file"):
        load(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(str(tmp_path / "fifo"))
    (tmp_path / "long").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="longer than"):
        load(str(tmp_path / "long"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"tls-level ", b"\n", b"tlsdane "]))))
def test_any_octets_are_read_or_refused(tmp_path: Path, parts: list[bytes]) -> None:
    path = tmp_path / "any.conf"
    path.write_bytes(b"".join(parts))
    try:
        config = load(str(path))
    except ConfigError as error:
        assert "any.conf" in str(error)  # noqa: PT017
    else:
        assert all(str(path) in remark for remark in config.remarks)


# ------------------------------------------------------------ with a table


def test_the_table_speaks_for_its_destinations(folder: Path) -> None:
    (folder / "table").write_text(
        "example.org secure\n.example.com encrypt sni=mx.example.com\nbroken.example securr\n"
    )
    config = loaded(folder, "tls-policy-file @table\ntls-dane on\n")
    assert config.policy_for("example.org") == TLSPolicy(level=Level.SECURE, dane=True)
    assert config.policy_for("a.example.com") == TLSPolicy(level=Level.ENCRYPT, server_name="mx.example.com", dane=True)
    assert config.policy_for("example.net") == TLSPolicy(dane=True)
    with pytest.raises(ConfigError, match="table:3: not a level: securr"):
        config.policy_for("broken.example")
    assert len(config.remarks) == 1


@pytest.mark.parametrize(
    ("table", "demands"),
    [
        ("a.example may", False),
        ("a.example none\n# b.example secure", False),
        ("a.example encrypt", True),
        ("a.example typo", True),
        (None, True),
    ],
)
def test_a_table_may_demand(folder: Path, table: str | None, *, demands: bool) -> None:
    if table is not None:
        (folder / "table").write_text(table)
    text = "tls-policy-file @table\ntls-loglevel 9\n"
    if demands:
        with pytest.raises((ConfigError, OSError)):
            loaded(folder, text)
    else:
        assert loaded(folder, text).policy.level is Level.NONE


def test_tls_for_single_destinations_only(folder: Path) -> None:
    (folder / "table").write_text("a.example encrypt\n")
    config = loaded(folder, "tls-level none\ntls-policy-file @table\n")
    assert config.enabled
    assert config.policy_for("b.example").level is Level.NONE
