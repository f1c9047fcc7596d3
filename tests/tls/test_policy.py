"""Who is heard, and what comes of it: configuration, DANE, MTA-STS, and the sender's own wish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tls.lookups import ENDPOINT, LITERAL, SOCKET, answer, plan, run, signed_plan

from zsmtp.dns.answer import TLSA, Answer, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Plan
from zsmtp.errors import ConfigError
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.policy import (
    Barred,
    Level,
    Requirement,
    RequirementSource,
    STSFinding,
    STSMode,
    TLSPolicy,
    parse_fingerprint,
    requirement,
)
from zsmtp.tls.problem import TLSProblem

NAME = "_25._tcp.mx.example.org"
RECORD = TLSA(3, 1, 1, bytes(32))
RECORDS = {NAME: answer(NAME, RecordType.TLSA, RECORD)}
UNUSABLE = {NAME: answer(NAME, RecordType.TLSA, TLSA(0, 0, 1, bytes(32)))}
FAILING = {NAME: answer(NAME, RecordType.TLSA, status=Status.BOGUS)}
NOTHING: dict[str, Answer] = {}

ENFORCE = STSFinding(mode=STSMode.ENFORCE, listed=True)
ENFORCE_OTHERS = STSFinding(mode=STSMode.ENFORCE, listed=False)
TESTING = STSFinding(mode=STSMode.TESTING, listed=True)
TESTING_OTHERS = STSFinding(mode=STSMode.TESTING, listed=False)


def require(
    policy: TLSPolicy,
    zone: dict[str, Answer] = NOTHING,
    *,
    sts: STSFinding | None = None,
    wish: TLSDemand = TLSDemand.NONE,
    of: Plan | None = None,
    endpoint: Endpoint = ENDPOINT,
) -> Requirement:
    result, _ = run(requirement(of or signed_plan(), endpoint, policy, sts=sts, wish=wish), zone)
    assert isinstance(result, Requirement)
    return result


def barred(policy: TLSPolicy, zone: dict[str, Answer] = NOTHING, *, sts: STSFinding | None = None) -> Barred:
    result, _ = run(requirement(signed_plan(), ENDPOINT, policy, sts=sts), zone)
    assert isinstance(result, Barred)
    return result


# ------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("level", "wants", "needs", "authenticates"),
    [
        (Level.NONE, False, False, False),
        (Level.MAY, True, False, False),
        (Level.ENCRYPT, True, True, False),
        (Level.FINGERPRINT, True, True, True),
        (Level.VERIFY, True, True, True),
        (Level.SECURE, True, True, True),
    ],
)
def test_levels_that_only_the_administrator_has(level: Level, wants: bool, needs: bool, authenticates: bool) -> None:
    result, asked = run(requirement(signed_plan(), ENDPOINT, TLSPolicy(level=level)), RECORDS)
    assert isinstance(result, Requirement)
    assert asked == []
    assert (result.level, result.source) == (level, RequirementSource.CONFIGURED)
    assert (result.wants_tls, result.needs_tls, result.authenticates) == (wants, needs, authenticates)
    assert result.server_name == "mx.example.org"


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        (TLSPolicy(level=Level.VERIFY), ("mx.example.org",)),
        (TLSPolicy(level=Level.SECURE), ("example.org", ".example.org")),
        (TLSPolicy(level=Level.VERIFY, match=("nexthop", "hostname")), ("example.org", "mx.example.org")),
        (
            TLSPolicy(level=Level.SECURE, match=("Mail.Example.NET", "dot-nexthop")),
            ("mail.example.net", ".example.org"),
        ),
        (TLSPolicy(level=Level.MAY, match=("mail.example.net",)), ()),
    ],
)
def test_names_of_the_peer(policy: TLSPolicy, names: tuple[str, ...]) -> None:
    assert require(policy).names == names


def test_names_of_addresses_and_sockets() -> None:
    literal = plan(destination="[192.0.2.1]", endpoint=LITERAL)
    assert require(TLSPolicy(level=Level.VERIFY), of=literal, endpoint=LITERAL).names == ("192.0.2.1",)
    secure = require(TLSPolicy(level=Level.SECURE), of=literal, endpoint=LITERAL)
    assert (secure.names, secure.server_name) == (("192.0.2.1",), "")
    socket = plan(destination="UNIX:/run/lmtp", endpoint=SOCKET)
    assert require(TLSPolicy(level=Level.VERIFY), of=socket, endpoint=SOCKET).names == ()
    named = TLSPolicy(level=Level.VERIFY, match=("lmtp.example.org",), server_name="lmtp.example.org")
    result = require(named, of=socket, endpoint=SOCKET)
    assert (result.names, result.server_name) == (("lmtp.example.org",), "lmtp.example.org")


# ---------------------------------------------------------------------- DANE


@pytest.mark.parametrize(
    "policy",
    [
        TLSPolicy(level=Level.NONE, dane=True),
        TLSPolicy(level=Level.MAY, dane=True),
        TLSPolicy(level=Level.ENCRYPT, dane=True),
        TLSPolicy(level=Level.VERIFY, dane=True),
        TLSPolicy(level=Level.SECURE, dane=True),
        TLSPolicy(level=Level.DANE),
        TLSPolicy(level=Level.DANE_ONLY),
    ],
)
def test_usable_records_are_the_requirement(policy: TLSPolicy) -> None:
    for sts in (None, ENFORCE, ENFORCE_OTHERS, TESTING):
        result = require(policy, RECORDS, sts=sts)
        assert (result.level, result.source, result.tlsa) == (Level.DANE, RequirementSource.DANE, (RECORD,))
        assert result.names == ("mx.example.org", "example.org")
        assert result.server_name == "mx.example.org"
        assert result.trial is None
        assert barred(policy, FAILING, sts=sts).problem is TLSProblem.DNSSEC_INVALID


@pytest.mark.parametrize(
    ("policy", "level"),
    [
        (TLSPolicy(level=Level.NONE, dane=True), Level.NONE),
        (TLSPolicy(level=Level.MAY, dane=True), Level.MAY),
        (TLSPolicy(level=Level.DANE), Level.MAY),
        (TLSPolicy(level=Level.ENCRYPT, dane=True), Level.ENCRYPT),
        (TLSPolicy(level=Level.VERIFY, dane=True), Level.VERIFY),
    ],
)
def test_without_records_the_configured_level_stands(policy: TLSPolicy, level: Level) -> None:
    result = require(policy)
    assert (result.level, result.source) == (level, RequirementSource.CONFIGURED)
    assert "no DANE" in result.reason
    assert require(policy, sts=ENFORCE).source is RequirementSource.MTA_STS


@pytest.mark.parametrize(
    ("policy", "level", "source"),
    [
        (TLSPolicy(level=Level.NONE, dane=True), Level.ENCRYPT, RequirementSource.DANE),
        (TLSPolicy(level=Level.DANE), Level.ENCRYPT, RequirementSource.DANE),
        (TLSPolicy(level=Level.ENCRYPT, dane=True), Level.ENCRYPT, RequirementSource.CONFIGURED),
        (TLSPolicy(level=Level.SECURE, dane=True), Level.SECURE, RequirementSource.CONFIGURED),
    ],
)
def test_unusable_records_ask_for_encryption_at_least(
    policy: TLSPolicy, level: Level, source: RequirementSource
) -> None:
    result = require(policy, UNUSABLE)
    assert (result.level, result.source, result.tlsa) == (level, source, ())
    assert (require(policy, UNUSABLE, sts=ENFORCE).level, require(policy, UNUSABLE, sts=TESTING).level) == (
        Level.SECURE,
        level,
    )


def test_dane_only_goes_nowhere_without_usable_records() -> None:
    assert barred(TLSPolicy(level=Level.DANE_ONLY)).problem is TLSProblem.DANE_REQUIRED
    assert barred(TLSPolicy(level=Level.DANE_ONLY), UNUSABLE).problem is TLSProblem.TLSA_INVALID
    assert barred(TLSPolicy(level=Level.DANE_ONLY), sts=ENFORCE).problem is TLSProblem.DANE_REQUIRED


@pytest.mark.parametrize(
    "policy",
    [
        TLSPolicy(level=Level.FINGERPRINT, fingerprints=(bytes(32),), dane=True),
        TLSPolicy(level=Level.VERIFY, match=("mail.example.net",), dane=True),
        TLSPolicy(level=Level.SECURE, match=("mail.example.net",), dane=True),
    ],
)
@pytest.mark.parametrize("sts", [None, ENFORCE, ENFORCE_OTHERS, TESTING])
@pytest.mark.parametrize("wish", list(TLSDemand))
def test_what_is_pinned_stands_alone(policy: TLSPolicy, sts: STSFinding | None, wish: TLSDemand) -> None:
    result, asked = run(requirement(signed_plan(), ENDPOINT, policy, sts=sts, wish=wish), RECORDS)
    assert isinstance(result, Requirement)
    assert asked == []
    assert (result.level, result.source) == (policy.level, RequirementSource.CONFIGURED)
    assert result.fingerprints == policy.fingerprints


# ------------------------------------------------------------------- MTA-STS


@pytest.mark.parametrize("level", [Level.NONE, Level.MAY, Level.ENCRYPT, Level.VERIFY, Level.SECURE])
def test_an_enforced_policy_wants_the_exchanger_by_name(level: Level) -> None:
    result = require(TLSPolicy(level=level), sts=ENFORCE)
    assert (result.level, result.source, result.names) == (Level.SECURE, RequirementSource.MTA_STS, ("mx.example.org",))
    assert result.server_name == "mx.example.org"
    assert barred(TLSPolicy(level=level), sts=ENFORCE_OTHERS).source is RequirementSource.MTA_STS


@pytest.mark.parametrize(
    ("level", "expected"), [(Level.NONE, Level.MAY), (Level.MAY, Level.MAY), (Level.SECURE, Level.SECURE)]
)
def test_testing_requires_nothing_and_is_judged(level: Level, expected: Level) -> None:
    result = require(TLSPolicy(level=level), sts=TESTING)
    assert (result.level, result.source) == (expected, RequirementSource.CONFIGURED)
    assert isinstance(result.trial, Requirement)
    assert (result.trial.level, result.trial.source) == (Level.SECURE, RequirementSource.MTA_STS)
    others = require(TLSPolicy(level=level), sts=TESTING_OTHERS)
    assert (others.level, type(others.trial)) == (expected, Barred)


# ---------------------------------------------------------- the sender's wish


@pytest.mark.parametrize("level", [Level.NONE, Level.MAY, Level.ENCRYPT, Level.VERIFY, Level.DANE])
@pytest.mark.parametrize(
    ("mx_secure", "expected", "names"),
    [
        (True, Level.VERIFY, ("mx.example.org",)),
        (False, Level.SECURE, ("example.org", ".example.org")),
    ],
)
def test_requiretls_raises_the_level(level: Level, mx_secure: bool, expected: Level, names: tuple[str, ...]) -> None:
    of = signed_plan(mx_secure=mx_secure)
    result = require(TLSPolicy(level=level), wish=TLSDemand.REQUIRETLS, of=of)
    assert (result.level, result.source, result.names) == (expected, RequirementSource.REQUIRETLS, names)


def test_requiretls_leaves_what_authenticates_already() -> None:
    wish = TLSDemand.REQUIRETLS
    assert require(TLSPolicy(level=Level.DANE), RECORDS, wish=wish).source is RequirementSource.DANE
    assert require(TLSPolicy(), sts=ENFORCE, wish=wish).source is RequirementSource.MTA_STS
    assert require(TLSPolicy(level=Level.SECURE), wish=wish).source is RequirementSource.CONFIGURED


def test_requiretls_is_not_content_with_mere_encryption() -> None:
    result = require(TLSPolicy(level=Level.DANE), UNUSABLE, wish=TLSDemand.REQUIRETLS)
    assert (result.level, result.source) == (Level.VERIFY, RequirementSource.REQUIRETLS)


def test_requiretls_takes_testing_seriously() -> None:
    assert require(TLSPolicy(), sts=TESTING, wish=TLSDemand.REQUIRETLS).level is Level.SECURE
    result, _ = run(
        requirement(signed_plan(), ENDPOINT, TLSPolicy(), sts=TESTING_OTHERS, wish=TLSDemand.REQUIRETLS), NOTHING
    )
    assert isinstance(result, Barred)


def test_requiretls_does_not_open_what_is_barred() -> None:
    result, _ = run(requirement(signed_plan(), ENDPOINT, TLSPolicy(dane=True), wish=TLSDemand.REQUIRETLS), FAILING)
    assert isinstance(result, Barred)


@pytest.mark.parametrize(
    ("level", "expected"), [(Level.MAY, Level.MAY), (Level.DANE, Level.MAY), (Level.ENCRYPT, Level.ENCRYPT)]
)
def test_tls_required_no_silences_the_destination_but_not_the_administrator(level: Level, expected: Level) -> None:
    policy = TLSPolicy(level=level, dane=True)
    for zone in (RECORDS, FAILING, UNUSABLE):
        work = requirement(signed_plan(), ENDPOINT, policy, sts=ENFORCE_OTHERS, wish=TLSDemand.TLS_OPTIONAL)
        result, asked = run(work, zone)
        assert isinstance(result, Requirement)
        assert (asked, result.level, result.trial) == ([], expected, None)


def test_tls_required_no_does_not_touch_dane_only() -> None:
    policy = TLSPolicy(level=Level.DANE_ONLY)
    assert require(policy, RECORDS, wish=TLSDemand.TLS_OPTIONAL).level is Level.DANE


# ------------------------------------------------------- never weaker than asked

RANK = {level: rank for rank, level in enumerate([Level.NONE, Level.MAY, Level.ENCRYPT])}


@given(
    level=st.sampled_from(list(Level)),
    dane=st.booleans(),
    zone=st.sampled_from([NOTHING, RECORDS, UNUSABLE, FAILING]),
    sts=st.sampled_from([None, ENFORCE, ENFORCE_OTHERS, TESTING, TESTING_OTHERS]),
    wish=st.sampled_from(list(TLSDemand)),
    mx_secure=st.booleans(),
    address_secure=st.booleans(),
)
def test_the_result_is_never_weaker_than_any_party_asked(
    level: Level,
    dane: bool,
    zone: dict[str, Answer],
    sts: STSFinding | None,
    wish: TLSDemand,
    mx_secure: bool,
    address_secure: bool,
) -> None:
    of = signed_plan(mx_secure=mx_secure, address_secure=address_secure)
    work = requirement(of, ENDPOINT, TLSPolicy(level=level, dane=dane), sts=sts, wish=wish)
    result, _ = run(work, zone)
    if isinstance(result, Barred):
        return
    rank = RANK.get(result.level, 3)
    asked_for = RANK.get(level, 3) if level is not Level.DANE else 1
    assert rank >= asked_for
    if wish is TLSDemand.REQUIRETLS:
        assert result.authenticates
    if wish is not TLSDemand.TLS_OPTIONAL:
        assert sts is None or sts.mode is not STSMode.ENFORCE or level is Level.FINGERPRINT or result.authenticates
        if zone is not NOTHING and (dane or level is Level.DANE) and mx_secure and address_secure:
            assert result.needs_tls
    assert (result.level is Level.DANE) == bool(result.tlsa)
    assert bool(result.names) == (result.level in (Level.VERIFY, Level.SECURE, Level.DANE))


# --------------------------------------------------------------- fingerprints


def test_fingerprints() -> None:
    assert parse_fingerprint(" " + ":".join(["AB"] * 32)) == b"\xab" * 32
    assert parse_fingerprint("cd" * 64) == b"\xcd" * 64


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 20, "ab" * 16, "ab" * 33])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_fingerprint(text)
