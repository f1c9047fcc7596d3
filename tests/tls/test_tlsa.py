"""Where TLSA records are looked for, and what each kind of answer leads to (RFC 7672 2)."""

from __future__ import annotations

import itertools

import pytest
from tests.tls.lookups import ENDPOINT, LITERAL, SOCKET, answer, plan, run, signed_plan

from zsmtp.dns.answer import MX, TLSA, Answer, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family, Plan
from zsmtp.tls.tlsa import Finding, TLSAFinding, find_tlsa, mx_is_secure

RECORD = TLSA(3, 1, 1, bytes(32))
NAME = "_25._tcp.mx.example.org"
T = RecordType.TLSA


def find(
    of: Plan, zone: dict[str, Answer] | None = None, endpoint: Endpoint = ENDPOINT
) -> tuple[TLSAFinding, list[str]]:
    return run(find_tlsa(of, endpoint), zone)


def test_records_at_the_exchanger() -> None:
    found, asked = find(signed_plan(), {NAME: answer(NAME, T, RECORD)})
    assert asked == [NAME]
    assert (found.finding, found.base, found.records) == (Finding.USABLE, "mx.example.org", (RECORD,))
    assert found.names == ("mx.example.org", "example.org")


def test_the_port_is_part_of_the_name() -> None:
    endpoint = Endpoint("mx.example.org", "192.0.2.1", 2525, Family.INET)
    assert find(signed_plan(), endpoint=endpoint)[1] == ["_2525._tcp.mx.example.org"]


@pytest.mark.parametrize("endpoint", [LITERAL, SOCKET])
def test_addresses_have_no_dane(endpoint: Endpoint) -> None:
    found, asked = find(signed_plan(), endpoint=endpoint)
    assert (found.finding, asked) == (Finding.NONE, [])


@pytest.mark.parametrize(
    ("mx_secure", "address_secure", "words"), [(False, True, "MX answer"), (True, False, "address of mx.example.org")]
)
def test_nothing_is_asked_when_the_way_there_is_not_secure(mx_secure: bool, address_secure: bool, words: str) -> None:
    found, asked = find(signed_plan(mx_secure=mx_secure, address_secure=address_secure))
    assert (found.finding, asked) == (Finding.NONE, [])
    assert words in found.reason


def test_the_family_that_is_connected_to_decides() -> None:
    of = plan(
        answer("example.org", RecordType.MX, MX(10, "mx.example.org")),
        answer("mx.example.org", RecordType.A, "192.0.2.1", secure=False),
        answer("mx.example.org", RecordType.AAAA, "2001:db8::1"),
    )
    assert find(of)[1] == []
    assert find(of, endpoint=Endpoint("mx.example.org", "2001:db8::1", 25, Family.INET6))[1] == [NAME]


def test_a_plan_without_the_address_lookup_has_no_dane() -> None:
    found, asked = find(plan(answer("example.org", RecordType.MX, MX(10, "mx.example.org"))))
    assert (found.finding, asked) == (Finding.NONE, [])


@pytest.mark.parametrize("status", [Status.BOGUS, Status.SERVFAIL, Status.TIMEOUT])
@pytest.mark.parametrize("secure", [True, False])
def test_a_lookup_that_fails_bars_the_candidate(status: Status, secure: bool) -> None:
    found, _ = find(signed_plan(), {NAME: answer(NAME, T, status=status, secure=secure, problem="SERVFAIL")})
    assert found.finding is Finding.FAILED
    assert found.reason == f"lookup of TLSA for mx.example.org failed: {status.value} (SERVFAIL)"


@pytest.mark.parametrize("status", [Status.NXDOMAIN, Status.NODATA])
@pytest.mark.parametrize("secure", [True, False])
def test_no_records_mean_no_dane(status: Status, secure: bool) -> None:
    found, _ = find(signed_plan(), {NAME: answer(NAME, T, status=status, secure=secure)})
    assert (found.finding, found.records) == (Finding.NONE, ())


def test_insecure_records_mean_no_dane() -> None:
    assert find(signed_plan(), {NAME: answer(NAME, T, RECORD, secure=False)})[0].finding is Finding.NONE


def test_records_that_cannot_be_used() -> None:
    found, _ = find(signed_plan(), {NAME: answer(NAME, T, TLSA(0, 0, 1, bytes(32)))})
    assert (found.finding, found.base, found.records) == (Finding.UNUSABLE, "mx.example.org", ())


# ------------------------------------------------------------------- aliases


def aliased(*, secure: bool = True) -> Plan:
    return plan(
        answer("example.org", RecordType.MX, MX(10, "mx.example.org")),
        answer("mx.example.org", RecordType.A, "192.0.2.1", alias="host.example.net", secure=secure),
    )


FAR = "_25._tcp.host.example.net"


def test_the_end_of_a_secure_alias_comes_first() -> None:
    found, asked = find(aliased(), {FAR: answer(FAR, T, RECORD), NAME: answer(NAME, T, TLSA(3, 1, 1, bytes(32)))})
    assert (asked, found.base) == ([FAR], "host.example.net")
    assert found.names == ("host.example.net", "mx.example.org", "example.org")


@pytest.mark.parametrize("secure", [True, False])
def test_without_records_there_the_own_name_is_asked_about(secure: bool) -> None:
    found, asked = find(aliased(), {FAR: answer(FAR, T, secure=secure), NAME: answer(NAME, T, RECORD)})
    assert (asked, found.base, found.finding) == ([FAR, NAME], "mx.example.org", Finding.USABLE)


def test_a_failure_at_the_end_of_the_alias_is_not_passed_over() -> None:
    found, asked = find(aliased(), {FAR: answer(FAR, T, status=Status.TIMEOUT), NAME: answer(NAME, T, RECORD)})
    assert (asked, found.finding) == ([FAR], Finding.FAILED)


def test_an_alias_out_of_the_signed_zones_leaves_the_own_name() -> None:
    found, asked = find(aliased(secure=False), {NAME: answer(NAME, T, RECORD)})
    assert (asked, found.base, found.finding) == ([NAME], "mx.example.org", Finding.USABLE)


def test_an_alias_of_the_tlsa_name_itself_is_followed() -> None:
    target = "shared.example.net"
    zone = {NAME: answer(NAME, T, alias=target), target: answer(target, T, RECORD)}
    found, asked = find(signed_plan(), zone)
    assert (asked, found.finding, found.base) == ([NAME, target], Finding.USABLE, "mx.example.org")


def test_an_insecure_step_of_that_alias_spoils_the_records() -> None:
    target = "shared.example.net"
    zone = {NAME: answer(NAME, T, alias=target, secure=False), target: answer(target, T, RECORD)}
    assert find(signed_plan(), zone)[0].finding is Finding.NONE


def test_aliases_in_a_circle_are_a_failure() -> None:
    zone = {NAME: answer(NAME, T, alias="a.example"), "a.example": answer("a.example", T, alias=NAME)}
    assert find(signed_plan(), zone)[0].finding is Finding.FAILED


def test_aliases_without_end_are_a_failure() -> None:
    names = [NAME, *(f"a{number}.example" for number in range(40))]
    zone = {name: answer(name, T, alias=alias) for name, alias in itertools.pairwise(names)}
    found, asked = find(signed_plan(), zone)
    assert found.finding is Finding.FAILED
    assert len(asked) < 12


def test_a_chain_the_resolver_gave_up_on_is_a_failure() -> None:
    zone = {NAME: answer(NAME, T, alias="b.example", problem="alias loop")}
    assert find(signed_plan(), zone)[0].finding is Finding.FAILED


# ------------------------------------------------------- destinations and MX


def test_an_aliased_destination_gives_both_its_names() -> None:
    of = plan(
        answer("example.org", RecordType.MX, alias="example.com"),
        answer("example.com", RecordType.MX, MX(10, "mx.example.org")),
        answer("mx.example.org", RecordType.A, "192.0.2.1"),
    )
    found, _ = find(of, {NAME: answer(NAME, T, RECORD)})
    assert found.names == ("mx.example.org", "example.org", "example.com")
    assert mx_is_secure(of)


def test_every_step_to_the_exchangers_must_be_secure() -> None:
    of = plan(
        answer("example.org", RecordType.MX, alias="example.com", secure=False),
        answer("example.com", RecordType.MX, MX(10, "mx.example.org")),
        answer("mx.example.org", RecordType.A, "192.0.2.1"),
    )
    assert find(of)[1] == []
    assert not mx_is_secure(of)


def test_a_destination_without_mx_is_its_own_exchanger() -> None:
    endpoint = Endpoint("example.com", "192.0.2.1", 25, Family.INET)
    of = plan(
        answer("example.org", RecordType.MX, alias="example.com"),
        answer("example.com", RecordType.MX),
        answer("example.com", RecordType.A, "192.0.2.1"),
        endpoint=endpoint,
    )
    assert find(of, endpoint=endpoint)[1] == ["_25._tcp.example.com", "_25._tcp.example.org"]


def test_without_mx_lookups_the_host_is_what_was_asked_for() -> None:
    of = plan(answer("mx.example.org", RecordType.A, "192.0.2.1"), destination="mx.example.org")
    found, asked = find(of, {NAME: answer(NAME, T, RECORD)})
    assert (asked, found.names) == ([NAME], ("mx.example.org",))
    assert mx_is_secure(of)
