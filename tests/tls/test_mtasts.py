"""MTA-STS: records, policies, and the flow from a domain to the policy that holds, told as questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import Effect, FetchPolicy, carry_out
from zsmtp.tls.mtasts import (
    MAX_AGE,
    RETRY,
    CachedPolicy,
    FetchedPolicy,
    PolicyLookup,
    PolicyMode,
    STSPolicy,
    find_policy,
    parse_policy,
    parse_record,
)
from zsmtp.tls.policy import STSFinding, STSMode
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsrpt import AppliedPolicy, PolicyType

NOW = 1_800_000_000.0
TEXT = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.org\r\nmx: *.example.net\r\nmax_age: 604800\r\n"
POLICY = STSPolicy(PolicyMode.ENFORCE, 604800, ("mail.example.org", "*.example.net"))

# ------------------------------------------------------------------- the record


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([b"v=STSv1; id=20260131T000000;"], "20260131T000000"),
        ([b"v=STSv1;id=a"], "a"),
        ([b"v=STSv1 ;  id=a ; x=y"], "a"),
        ([b"v=STSv1; id=a", b"v=spf1 -all"], "a"),
        ([], None),
        ([b"v=STSv1; id=a", b"v=STSv1; id=a"], None),
        ([b"v=STSv1"], None),
        ([b"v=STSv1;"], None),
        ([b"v=STSv1; id="], None),
        ([b"v=STSv1; id=a; id=b"], None),
        ([b"v=STSv1; id=a b"], None),
        ([b"v=STSv1; id=a;; x=y"], None),
        ([b"v=STSv1; id=a-b"], None),
        ([b"v=STSv1; id=" + b"a" * 33], None),
        ([b"v=STSv1; id=a; nonsense"], None),
        ([b"v=STSv1; id=\xff"], None),
        ([b"v=STSv2; id=a"], None),
        ([b"V=STSv1; id=a"], None),
        ([b"id=a; v=STSv1"], None),
        ([b"v=STSv1; id=a;" + b" " * 5000], None),
    ],
)
def test_the_record(records: Sequence[bytes], found: str | None) -> None:
    assert parse_record(tuple((record,) for record in records)) == found


def test_a_record_may_come_in_pieces() -> None:
    assert parse_record(((b"v=STS", b"v1; i", b"d=abc"),)) == "abc"


# ------------------------------------------------------------------- the policy


def test_a_policy() -> None:
    assert parse_policy(TEXT) == POLICY


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (b"version:STSv1\nmode:none\nmax_age:0", STSPolicy(PolicyMode.NONE, 0)),
        (
            b"version: STSv1\nmode: testing\nmx: A.Example.\nmax_age: 1\n",
            STSPolicy(PolicyMode.TESTING, 1, ("a.example",)),
        ),
        (b"version : STSv1\nmode \t: enforce \t\nmx: a\nmax_age: 1", STSPolicy(PolicyMode.ENFORCE, 1, ("a",))),
        (
            b"version: STSv1\nmode: enforce\nmode: none\nmx: a\nmx: a\nmax_age: 1",
            STSPolicy(PolicyMode.ENFORCE, 1, ("a",)),
        ),
        (b"version: STSv1\nx-y: \xc3\xa9 : z\n\nmode: none\nmax_age: 5\n\n", STSPolicy(PolicyMode.NONE, 5)),
        (b"version: STSv1\nmode: none\nmax_age: 9999999999", STSPolicy(PolicyMode.NONE, MAX_AGE)),
    ],
)
def test_what_is_a_policy(text: bytes, policy: STSPolicy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "version"),
        (b"<html>", "line 1"),
        (b"mode: enforce\nversion: STSv1", "first field"),
        (b"version: STSv2\nmode: none\nmax_age: 1", "version"),
        (b"version: STSv1\nmax_age: 1\nmx: a", "mode"),
        (b"version: STSv1\nmode: Enforce\nmax_age: 1\nmx: a", "mode"),
        (b"version: STSv1\nmode: enforce\nmax_age: 1", "no mx"),
        (b"version: STSv1\nmode: enforce\nmx: a", "max_age"),
        (b"version: STSv1\nmode: enforce\nmx: a\nmax_age: -1", "max_age"),
        (b"version: STSv1\nmode: enforce\nmx: a\nmax_age: 1e3", "max_age"),
        (b"version: STSv1\nmode: enforce\nmx: a\nmax_age: 12345678901", "max_age"),
        (b"version: STSv1\nmode: enforce\nmx: a b\nmax_age: 1", "not a host"),
        (b"version: STSv1\nmode: enforce\nmx: *\nmax_age: 1", "not a host"),
        (b"version: STSv1\nmode: enforce\nmx: a.*.b\nmax_age: 1", "not a host"),
        (b"version: STSv1\nmode: enforce\nmx: .example.org\nmax_age: 1", "not a host"),
        (b"version: STSv1\nmode: enforce\nmx: \x1b[1m\nmax_age: 1", r"\\x1b"),
        (b"version: STSv1\n mode: enforce", "line 2"),
        (b"version: STSv1\n\xff", "UTF-8"),
        (b"version: STSv1\nmode: enforce\nmax_age: 1\n" + b"".join(b"mx: h%d\n" % i for i in range(501)), "more than"),
        (b"version: STSv1\n" + b"x: y\n" * 20000, "longer than"),
    ],
)
def test_what_is_no_policy(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_policy(text)


@given(st.binary(max_size=300))
def test_any_octets_are_a_policy_or_a_value_error(octets: bytes) -> None:
    try:
        policy = parse_policy(b"version: STSv1\nmax_age: 1\nmx: a\nmode: " + octets)
    except ValueError:
        return
    assert policy.mx


def test_blanks_without_end_cost_nothing() -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse_policy(b"version: STSv1\n" + b"a" + b" \t" * 30000 + b"\x00")


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("mail.example.org", True),
        ("MAIL.Example.org.", True),
        ("a.example.net", True),
        ("example.net", False),
        ("a.b.example.net", False),
        ("xexample.net", False),
        ("mail.example.org.evil.test", False),
        ("*.example.net", True),
        ("", False),
        ("org", False),
    ],
)
def test_a_star_is_one_label(host: str, *, listed: bool) -> None:
    assert POLICY.matches(host) is listed


def test_the_words_of_a_policy_give_it_back() -> None:
    assert parse_policy("\n".join(POLICY.strings).encode()) == POLICY


# --------------------------------------------------------------------- the flow

RECORD = '_mta-sts.example.org TXT "v=STSv1; id=1;"\n'
ADDRESS = "mta-sts.example.org A 192.0.2.1\n"
GOOD = FetchedPolicy(TEXT)
OWN = FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem="no socket", own=True)
DEAD = FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem="connection refused")
CACHED = CachedPolicy("example.org", "1", TEXT, NOW - 1000)


class Web:
    """Carries the effects out: lookups against a table, the fetch against one prepared answer."""

    def __init__(self, zone: str, answer: FetchedPolicy | None = None) -> None:
        self.resolver = StaticResolver(zone)
        self.answer = answer
        self.fetches: list[FetchPolicy] = []

    def find(self, cached: CachedPolicy | None = None, now: float = NOW) -> PolicyLookup:
        return carry_out(find_policy("example.org", cached, now), self.perform)

    def perform(self, effect: Effect[Any]) -> object:
        if isinstance(effect, Query):
            return self.resolver.lookup(effect, 0.0)
        assert isinstance(effect, FetchPolicy)
        assert self.answer is not None, "nothing was to be fetched"
        self.fetches.append(effect)
        return self.answer


def test_a_domain_without_a_record_has_no_policy() -> None:
    web = Web("example.org A 192.0.2.1")
    found = web.find()
    assert (found.policy, found.store, found.failure) == (None, None, None)
    assert web.resolver.queries == [Query("_mta-sts.example.org", RecordType.TXT)]
    assert found.finding("mail.example.org") is None
    assert found.applied is None


def test_a_policy_is_fetched_and_to_be_kept() -> None:
    web = Web(RECORD + ADDRESS + "mta-sts.example.org AAAA 2001:db8::1", GOOD)
    found = web.find()
    assert web.fetches == [FetchPolicy("mta-sts.example.org", ("192.0.2.1", "2001:db8::1"), "1")]
    assert found.policy == POLICY
    assert found.store == CachedPolicy("example.org", "1", TEXT, NOW)
    assert found.finding("mail.example.org") == STSFinding(mode=STSMode.ENFORCE, listed=True)
    assert found.finding("evil.test") == STSFinding(mode=STSMode.ENFORCE, listed=False)
    assert found.applied == AppliedPolicy(PolicyType.STS, "example.org", POLICY.strings, POLICY.mx)


def test_a_cached_policy_costs_one_lookup() -> None:
    web = Web(RECORD)
    found = web.find(CACHED)
    assert (found.policy, found.store) == (POLICY, None)
    assert len(web.resolver.queries) == 1


@pytest.mark.parametrize(
    "zone",
    [
        "example.org A 192.0.2.1",
        "_mta-sts.example.org FAIL SERVFAIL",
        "_mta-sts.example.org FAIL TIMEOUT",
        "_mta-sts.example.org FAIL BOGUS",
        '_mta-sts.example.org TXT "v=STSv1; id=!"',
    ],
)
def test_a_record_kept_away_does_not_take_the_policy_away(zone: str) -> None:
    found = Web(zone).find(CACHED)
    assert found.policy == POLICY
    assert Web(zone).find().policy is None


def test_a_new_id_brings_the_new_policy() -> None:
    web = Web(RECORD.replace("id=1", "id=2") + ADDRESS, FetchedPolicy(b"version: STSv1\nmode: none\nmax_age: 60\n"))
    found = web.find(CACHED)
    assert found.policy == STSPolicy(PolicyMode.NONE, 60)
    assert found.finding("evil.test") is None
    assert found.store is not None
    assert (found.store.id, found.store.fetched) == ("2", NOW)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (DEAD, TLSProblem.STS_POLICY_FETCH_ERROR),
        (FetchedPolicy(failure=TLSProblem.STS_WEBPKI_INVALID, problem="expired"), TLSProblem.STS_WEBPKI_INVALID),
        (FetchedPolicy(b"<html>"), TLSProblem.STS_POLICY_INVALID),
    ],
)
@pytest.mark.parametrize("cached", [None, CACHED])
def test_a_fetch_that_fails_keeps_what_is_known(
    answer: FetchedPolicy, failure: TLSProblem, cached: CachedPolicy | None
) -> None:
    found = Web(RECORD.replace("id=1", "id=2") + ADDRESS, answer).find(cached)
    assert found.policy == (POLICY if cached else None)
    assert found.failure is failure
    assert found.store is not None
    assert (found.store.failed_id, found.store.failed) == ("2", NOW)
    assert found.store.policy(NOW) == found.policy
    applied = found.applied
    assert applied is not None
    assert applied.strings == (POLICY.strings if cached else ())


@pytest.mark.parametrize("cached", [None, CACHED])
def test_trouble_of_this_side_is_neither_kept_nor_reported(cached: CachedPolicy | None) -> None:
    found = Web(RECORD.replace("id=1", "id=2") + ADDRESS, OWN).find(cached)
    assert found.policy == (POLICY if cached else None)
    assert (found.store, found.failure) == (None, None)
    assert found.note.endswith("(not fetched: no socket)")


def test_a_policy_host_without_address_is_a_failed_fetch() -> None:
    found = Web(RECORD).find()
    assert found.failure is TLSProblem.STS_POLICY_FETCH_ERROR
    assert "no address" in found.note


def test_a_failed_fetch_is_not_repeated_at_once() -> None:
    zone = RECORD.replace("id=1", "id=2") + ADDRESS
    failed = Web(zone, DEAD).find(CACHED).store
    assert failed is not None
    assert Web(zone).find(failed, NOW + RETRY - 1).policy == POLICY  # no fetch: there is no answer prepared
    later = Web(zone, GOOD)
    assert later.find(failed, NOW + RETRY).store == CachedPolicy("example.org", "2", TEXT, NOW + RETRY)
    assert len(later.fetches) == 1
    newer = Web(RECORD.replace("id=1", "id=3") + ADDRESS, GOOD)
    assert newer.find(failed, NOW + 1).store is not None


@pytest.mark.parametrize(
    ("text", "age", "fetches"),
    [
        (TEXT, 86399, 0),
        (TEXT, 86400, 1),
        (TEXT.replace(b"604800", b"100"), 49, 0),
        (TEXT.replace(b"604800", b"100"), 50, 1),
        (TEXT, -10, 1),  # the clock was set back
    ],
)
def test_a_policy_is_refreshed_before_its_time_is_over(text: bytes, age: float, fetches: int) -> None:
    web = Web(RECORD + ADDRESS, FetchedPolicy(text))
    found = web.find(CachedPolicy("example.org", "1", text, NOW - age))
    assert len(web.fetches) == fetches
    assert found.policy == parse_policy(text)


def test_time_ends_a_policy() -> None:
    old = CachedPolicy("example.org", "1", TEXT, NOW - 604800)
    assert old.policy(NOW - 1) == POLICY
    assert old.policy(NOW) is None
    assert Web("example.org A 192.0.2.1").find(old).policy is None
    assert Web(RECORD + ADDRESS, DEAD).find(old).policy is None


def test_a_spoilt_cache_entry_is_none() -> None:
    spoilt = CachedPolicy("example.org", "1", b"garbage", NOW)
    assert spoilt.policy(NOW) is None
    assert Web(RECORD + ADDRESS, GOOD).find(spoilt).policy == POLICY


def test_a_policy_in_testing_mode() -> None:
    found = Web(RECORD + ADDRESS, FetchedPolicy(TEXT.replace(b"enforce", b"testing"))).find()
    assert found.finding("evil.test") == STSFinding(mode=STSMode.TESTING, listed=False)


def test_only_some_addresses_are_tried() -> None:
    web = Web(RECORD + "".join(f"mta-sts.example.org A 192.0.2.{i}\n" for i in range(1, 9)), GOOD)
    web.find()
    assert len(web.fetches[0].addresses) == 2


def test_an_answer_without_records_is_no_answer() -> None:
    work = find_policy("example.org", None, NOW)
    query = work.send(None)
    assert isinstance(query, Query)
    with pytest.raises(StopIteration) as end:
        work.send(Answer(query, Status.NODATA))
    assert end.value.value.policy is None
