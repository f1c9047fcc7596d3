"""Destination rules read as a dialogue: the zone, the destination, and the plan that must come of them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.answer import MX, Answer, AskAhead, Query, RecordType, Status
from zsmtp.dns.candidates import Family, NoRoute, Plan
from zsmtp.dns.destination import DestinationRequest, OwnAddresses, exchanger_names, plan_destination
from zsmtp.dns.ip import is_loopback
from zsmtp.dns.resolver import carry_out
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import observed

OURS = frozenset({"192.0.2.99", "2001:db8::99"})


def as_it_is(items: list[Any]) -> None:
    """Chance that never changes anything."""


def plan(
    zone: str | StaticResolver,
    destination: str = "example.com",
    shuffle: Callable[[list[Any]], None] = as_it_is,
    **options: Any,
) -> Plan:
    resolver = StaticResolver(zone) if isinstance(zone, str) else zone
    request = DestinationRequest(destination=destination, shuffle=shuffle, **options)
    made = carry_out(plan_destination(request), resolver, deadline=0, own_addresses=lambda: OURS)
    assert bool(made.candidates) == (made.failure is None)
    return made


def route(made: Plan) -> list[tuple[int, str, str]]:
    return [(one.preference, one.endpoint.host, one.endpoint.address) for one in made.candidates]


def failure(made: Plan) -> tuple[bool, str]:
    assert made.failure is not None
    return made.failure.permanent, made.failure.status


def asked(made: Plan) -> list[str]:
    return [f"{answer.query.name} {answer.query.type.value}" for answer in made.lookups]


PERMANENT, LATER = True, False


IPV4_ONLY = frozenset({Family.INET})
BOTH_FAMILIES = """
    example.com MX 10 mx1.example.com
    example.com MX 20 mx2.example.com
    mx1.example.com A 192.0.2.1
    mx1.example.com AAAA 2001:db8::1
    mx2.example.com AAAA 2001:db8::2
"""


def test_one_address_family_can_be_asked_for() -> None:
    made = plan(BOTH_FAMILIES, families=IPV4_ONLY)
    assert route(made) == [(10, "mx1.example.com", "192.0.2.1")]
    assert asked(made) == ["example.com MX", "mx1.example.com A", "mx2.example.com A"]
    assert "mx2.example.com is skipped: mx2.example.com has no address of the family that is to be used" in made.notes
    made = plan(BOTH_FAMILIES, families=frozenset({Family.INET6}))
    assert [one[2] for one in route(made)] == ["2001:db8::1", "2001:db8::2"]


@pytest.mark.parametrize("literal", ["[IPv6:2001:db8::1]", "UNIX:/run/lmtp"])
def test_a_literal_of_another_family_is_no_destination(literal: str) -> None:
    made = plan("", literal, families=IPV4_ONLY, allow_unix=True)
    assert failure(made) == (PERMANENT, "5.4.4")


class TestWithoutLookup:
    def test_literal(self) -> None:
        made = plan("", "[127.0.0.1]", use_mx=True)
        assert route(made) == [(0, "127.0.0.1", "127.0.0.1")]
        assert made.lookups == ()
        assert made.candidates[0].endpoint.literal
        assert (made.candidates[0].endpoint.port, made.exchangers) == (25, ())

    def test_literal_of_our_own_is_no_loop(self) -> None:
        assert route(plan("", "[192.0.2.99]")) == [(0, "192.0.2.99", "192.0.2.99")]

    def test_port_of_the_literal_goes_before_that_of_the_request(self) -> None:
        endpoint = plan("", "[IPv6:::1]:2526", port=2525).candidates[0].endpoint
        assert (endpoint.address, endpoint.port, endpoint.family) == ("::1", 2526, Family.INET6)
        assert plan("", "[IPv6:::1]", port=2525).candidates[0].endpoint.port == 2525

    def test_unix_socket(self) -> None:
        endpoint = plan("", "UNIX:/run/lmtp", allow_unix=True, port=24).candidates[0].endpoint
        assert (endpoint.family, endpoint.address, endpoint.port) == (Family.UNIX, "/run/lmtp", 0)

    def test_bad_literal(self) -> None:
        assert failure(plan("", "[1.2.3]")) == (PERMANENT, "5.1.2")


class TestMailExchangers:
    def test_the_better_preference_comes_first(self) -> None:
        made = plan("""
            example.com MX 20 b.example
            example.com MX 10 A.example.
            a.example A 192.0.2.1
            b.example A 192.0.2.2
        """)
        assert route(made) == [(10, "a.example", "192.0.2.1"), (20, "b.example", "192.0.2.2")]
        assert made.exchangers == ("a.example", "b.example")
        assert asked(made)[0] == "example.com MX"

    def test_chance_decides_among_equals_only(self) -> None:
        zone = """
            example.com MX 10 a.example
            example.com MX 10 b.example
            example.com MX 20 c.example
            a.example A 192.0.2.1
            b.example A 192.0.2.2
            c.example A 192.0.2.3
        """
        assert [host for _, host, _ in route(plan(zone))] == ["a.example", "b.example", "c.example"]
        backwards = plan(zone, shuffle=list.reverse)
        assert [host for _, host, _ in route(backwards)] == ["b.example", "a.example", "c.example"]

    ZONE_OF_BOTH_FAMILIES = """
        example.com MX 10 a.example
        example.com MX 10 b.example
        a.example A 192.0.2.1
        a.example A 192.0.2.2
        a.example A 192.0.2.3
        a.example AAAA 2001:db8::1
        b.example AAAA 2001:db8::2
    """

    def test_families_take_turns(self) -> None:
        addresses = [address for _, _, address in route(plan(self.ZONE_OF_BOTH_FAMILIES))]
        assert addresses == ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2", "192.0.2.3"]

    def test_ipv6_first_on_request(self) -> None:
        addresses = [address for _, _, address in route(plan(self.ZONE_OF_BOTH_FAMILIES, prefer_ipv6=True))]
        assert addresses == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]

    def test_an_address_stands_once_for_each_of_its_hosts(self) -> None:
        """Under which name it is reached matters for TLS and logins."""
        made = plan("""
            example.com MX 10 a.example
            example.com MX 20 b.example
            a.example A 192.0.2.1
            b.example A 192.0.2.1
            b.example A 192.0.2.2
        """)
        assert sorted(route(made)) == [
            (10, "a.example", "192.0.2.1"),
            (20, "b.example", "192.0.2.1"),
            (20, "b.example", "192.0.2.2"),
        ]

    def test_an_exchanger_listed_twice_has_its_better_preference(self) -> None:
        made = plan("""
            example.com MX 30 a.example
            example.com MX 20 b.example
            example.com MX 10 a.example
            a.example A 192.0.2.1
            b.example A 192.0.2.2
        """)
        assert made.exchangers == ("a.example", "b.example")

    def test_no_such_domain(self) -> None:
        made = plan("", "nx.example")
        assert failure(made) == (PERMANENT, "5.1.2")
        assert made.failure == NoRoute(PERMANENT, "5.1.2", "no such domain: nx.example")
        assert asked(made) == ["nx.example MX"]

    @pytest.mark.parametrize("how", ["SERVFAIL", "TIMEOUT", "BOGUS"])
    def test_a_failed_lookup_defers(self, how: str) -> None:
        assert failure(plan(f"example.com FAIL {how} MX\nexample.com A 192.0.2.1")) == (LATER, "4.4.3")

    def test_null_mx(self) -> None:
        made = plan("example.com MX 0 .\nexample.com A 192.0.2.1")
        assert failure(made) == (PERMANENT, "5.1.10")

    def test_null_mx_beside_others_is_ignored(self) -> None:
        made = plan("example.com MX 0 .\nexample.com MX 10 a.example\na.example A 192.0.2.1")
        assert route(made) == [(10, "a.example", "192.0.2.1")]
        assert any("null MX" in note for note in made.notes)

    @pytest.mark.parametrize("exchange", ["192.0.2.1", "a..b", "-a.example", "x" * 64 + ".example"])
    def test_an_exchanger_that_is_no_host_name_is_skipped(self, exchange: str) -> None:
        made = plan(f"example.com MX 5 {exchange}\nexample.com MX 10 a.example\na.example A 192.0.2.1")
        assert route(made) == [(10, "a.example", "192.0.2.1")]
        assert any("skipped" in note for note in made.notes)
        assert failure(plan(f"example.com MX 5 {exchange}")) == (PERMANENT, "5.4.4")

    def test_a_dangling_exchanger_is_skipped(self) -> None:
        made = plan("""
            example.com MX 5 gone.example
            example.com MX 10 a.example
            example.com MX 20 empty.example
            a.example A 192.0.2.1
            empty.example TXT "no address"
        """)
        assert route(made) == [(10, "a.example", "192.0.2.1")]
        assert "gone.example AAAA" not in asked(made)
        assert sum("skipped" in note for note in made.notes) == 2

    def test_no_exchanger_has_an_address(self) -> None:
        zone = 'example.com MX 5 gone.example\nexample.com MX 10 empty.example\nempty.example TXT "x"'
        made = plan(zone)
        assert failure(made) == (PERMANENT, "5.4.4")

    def test_one_exchanger_may_have_an_address_later(self) -> None:
        made = plan("example.com MX 5 gone.example\nexample.com MX 10 slow.example\nslow.example FAIL TIMEOUT")
        assert failure(made) == (LATER, "4.4.3")
        assert made.exchangers == ("gone.example", "slow.example")

    def test_what_can_be_looked_up_is_used(self) -> None:
        made = plan("""
            example.com MX 5 slow.example
            example.com MX 10 half.example
            slow.example FAIL TIMEOUT
            half.example FAIL SERVFAIL A
            half.example AAAA 2001:db8::1
        """)
        assert route(made) == [(10, "half.example", "2001:db8::1")]

    def test_the_limit_of_hosts(self) -> None:
        hosts = [f"example.com MX {n} h{n}.example" for n in range(110)]
        made = plan("\n".join(hosts) + "\nh105.example A 192.0.2.1")
        assert failure(made) == (PERMANENT, "5.4.4")
        assert len(made.exchangers) == 100

    def test_the_limit_of_addresses_ends_the_lookups(self) -> None:
        zone = "\n".join(f"example.com MX {n} h{n}.example\nh{n}.example A 192.0.2.{n}" for n in range(1, 40))
        made = plan(zone, max_addresses=7)
        assert [preference for preference, _, _ in route(made)] == [1, 2, 3, 4, 5, 6, 7]
        assert len(made.lookups) == 1 + 2 * 7

    def test_addresses_beyond_the_limit_are_left_out(self) -> None:
        zone = "example.com MX 1 a.example\n" + "\n".join(f"a.example A 192.0.2.{n}" for n in range(1, 40))
        assert len(plan(zone).candidates) == 20


class TestImplicitExchanger:
    def test_without_mx_the_own_addresses(self) -> None:
        made = plan("example.com A 192.0.2.1\nexample.com AAAA 2001:db8::1")
        assert route(made) == [(0, "example.com", "192.0.2.1"), (0, "example.com", "2001:db8::1")]
        assert made.exchangers == ("example.com",)

    def test_no_address_either(self) -> None:
        assert failure(plan('example.com TXT "hello"')) == (PERMANENT, "5.4.4")

    def test_addresses_that_cannot_be_known_now(self) -> None:
        assert failure(plan("example.com FAIL SERVFAIL A AAAA")) == (LATER, "4.4.3")

    def test_mx_off(self) -> None:
        made = plan("example.com MX 10 a.example\nexample.com A 192.0.2.1", use_mx=False)
        assert route(made) == [(0, "example.com", "192.0.2.1")]
        assert "example.com MX" not in asked(made)

    def test_mx_off_and_no_such_domain(self) -> None:
        assert failure(plan("", use_mx=False)) == (PERMANENT, "5.1.2")


class TestAliases:
    @pytest.mark.parametrize("follow", [True, False])
    def test_followed_by_the_resolver_or_by_the_rules(self, follow: bool) -> None:
        zone = """
            example.com CNAME one.example
            one.example CNAME two.example
            two.example MX 10 mx.example
            mx.example CNAME real.example
            real.example A 192.0.2.1
        """
        made = plan(StaticResolver(zone, follow_aliases=follow))
        assert route(made) == [(10, "mx.example", "192.0.2.1")]
        assert any("alias of" in note and "two.example" in note for note in made.notes)

    @pytest.mark.parametrize("follow", [True, False])
    def test_implicit_exchanger_is_the_canonical_name(self, follow: bool) -> None:
        made = plan(StaticResolver("example.com CNAME host.example\nhost.example A 192.0.2.1", follow_aliases=follow))
        assert route(made) == [(0, "host.example", "192.0.2.1")]

    @pytest.mark.parametrize("follow", [True, False])
    def test_dangling(self, follow: bool) -> None:
        made = plan(StaticResolver("example.com CNAME gone.example", follow_aliases=follow))
        assert failure(made) == (PERMANENT, "5.1.2")

    @pytest.mark.parametrize("follow", [True, False])
    def test_loop(self, follow: bool) -> None:
        made = plan(StaticResolver("example.com CNAME b.example\nb.example CNAME example.com", follow_aliases=follow))
        assert failure(made) == (PERMANENT, "5.4.4")
        assert "loop" in str(made.failure)

    @pytest.mark.parametrize("follow", [True, False])
    @pytest.mark.parametrize(("steps", "reached"), [(8, True), (9, False)])
    def test_eight_steps(self, follow: bool, steps: int, reached: bool) -> None:
        names = ["example.com", *(f"n{n}.example" for n in range(steps))]
        chain = "\n".join(f"{a} CNAME {b}" for a, b in pairwise(names))
        made = plan(StaticResolver(f"{chain}\n{names[-1]} A 192.0.2.1", follow_aliases=follow))
        assert bool(made.candidates) == reached
        if not reached:
            assert failure(made) == (PERMANENT, "5.4.4")

    def test_alias_to_what_is_no_name(self) -> None:
        made = plan(StaticResolver("example.com CNAME a..b", follow_aliases=False))
        assert failure(made) == (PERMANENT, "5.4.4")

    def test_an_exchanger_in_a_loop_is_skipped(self) -> None:
        made = plan("""
            example.com MX 5 loop.example
            example.com MX 10 a.example
            loop.example CNAME loop2.example
            loop2.example CNAME loop.example
            a.example A 192.0.2.1
        """)
        assert route(made) == [(10, "a.example", "192.0.2.1")]


class TestSelfMatch:
    BACKUP = """
        example.com MX 5 best.example
        example.com MX 10 us.example
        example.com MX 10 equal.example
        example.com MX 20 worse.example
        best.example A 192.0.2.1
        us.example A {us}
        equal.example A 192.0.2.2
        worse.example A 192.0.2.3
    """

    def test_by_name(self) -> None:
        made = plan(self.BACKUP.format(us="192.0.2.50"), own_names=frozenset({"US.Example."}))
        assert route(made) == [(5, "best.example", "192.0.2.1")]
        assert made.exchangers == ("best.example",)
        assert "us.example A" not in asked(made)

    @pytest.mark.parametrize("address", ["192.0.2.99", "127.0.0.1", "127.8.9.1", "0.0.0.0"])
    def test_by_address(self, address: str) -> None:
        for shuffle in (as_it_is, list.reverse):
            made = plan(self.BACKUP.format(us=address), shuffle=shuffle)
            assert route(made) == [(5, "best.example", "192.0.2.1")]
            assert made.exchangers == ("best.example",)

    @pytest.mark.parametrize("address", ["2001:db8:0::99", "::1", "::", "::ffff:127.0.0.1", "::ffff:192.0.2.99"])
    def test_by_ipv6_address(self, address: str) -> None:
        made = plan(f"example.com MX 10 us.example\nus.example AAAA {address}\nus.example A 192.0.2.1")
        assert failure(made) == (PERMANENT, "5.4.6")

    def test_we_are_the_best(self) -> None:
        zone = (
            "example.com MX 10 us.example\nexample.com MX 20 b.example\nb.example A 192.0.2.1\nus.example A 192.0.2.99"
        )
        expected = NoRoute(PERMANENT, "5.4.6", "we are the best MX, but this is not our domain")
        assert plan(zone).failure == expected
        by_name = plan(zone, own_names=frozenset({"us.example"}))
        assert by_name.failure == expected
        assert by_name.exchangers == ()

    def test_the_better_ones_may_come_back(self) -> None:
        zone = "example.com MX 5 slow.example\nexample.com MX 10 us.example\nslow.example FAIL TIMEOUT\n"
        made = plan(zone + "us.example A 127.0.0.1")
        assert failure(made) == (LATER, "4.4.3")
        assert made.exchangers == ("slow.example",)

    def test_the_better_ones_have_no_address(self) -> None:
        zone = "example.com MX 5 gone.example\nexample.com MX 10 us.example\nus.example A 127.0.0.1"
        assert failure(plan(zone)) == (PERMANENT, "5.4.6")
        assert failure(plan(zone, own_names=frozenset({"us.example"}))) == (PERMANENT, "5.4.6")

    @pytest.mark.parametrize(
        "zone",
        [
            "example.com MX 10 us.example\nus.example A 192.0.2.99",
            "example.com MX 10 us.example\nexample.com MX 20 b.example\nb.example A 192.0.2.1\nus.example A 127.0.0.1",
            "example.com MX 5 gone.example\nexample.com MX 10 us.example\nus.example AAAA ::1",
            "example.com A 192.0.2.99",
        ],
    )
    def test_mail_that_would_come_back_waits_where_that_is_asked_for(self, zone: str) -> None:
        refused, waits = plan(zone).failure, plan(zone, loops_wait=True).failure
        assert refused is not None
        assert waits == NoRoute(LATER, "4.4.6", refused.text)
        without_mx = plan("example.com A 127.0.0.1", use_mx=False, loops_wait=True)
        assert failure(without_mx) == (LATER, "4.4.6")

    def test_other_ports_are_exempt(self) -> None:
        zone = "example.com MX 10 us.example\nus.example A 127.0.0.1"
        made = plan(zone, port=2525, own_names=frozenset({"us.example"}))
        assert route(made) == [(10, "us.example", "127.0.0.1")]

    @pytest.mark.parametrize("use_mx", [True, False])
    def test_own_address_without_mx(self, use_mx: bool) -> None:
        zone = "example.com A 192.0.2.99"
        assert failure(plan(zone, use_mx=use_mx)) == (PERMANENT, "5.4.6")
        assert route(plan(zone, use_mx=use_mx, allow_self=True)) == [(0, "example.com", "192.0.2.99")]
        assert route(plan(zone, use_mx=use_mx, port=24)) == [(0, "example.com", "192.0.2.99")]

    def test_own_name_without_mx_record(self) -> None:
        zone = "example.com A 192.0.2.1"
        names = frozenset({"example.com"})
        assert failure(plan(zone, own_names=names)) == (PERMANENT, "5.4.6")
        assert plan(zone, own_names=names, allow_self=True).candidates
        assert plan(zone, own_names=names, use_mx=False).candidates

    def test_allow_self_does_not_make_a_backup_send_to_its_equals(self) -> None:
        made = plan(self.BACKUP.format(us="192.0.2.99"), allow_self=True)
        assert route(made) == [(5, "best.example", "192.0.2.1")]

    def test_interfaces_are_read_once_and_only_if_it_matters(self) -> None:
        request = DestinationRequest(destination="[192.0.2.1]", shuffle=as_it_is)
        reads: list[int] = []

        def own_addresses() -> frozenset[str]:
            reads.append(1)
            return OURS

        resolver = StaticResolver(self.BACKUP.format(us="192.0.2.50"))
        carry_out(plan_destination(request), resolver, deadline=0, own_addresses=own_addresses)
        assert reads == []
        request = DestinationRequest(destination="example.com", shuffle=as_it_is)
        carry_out(plan_destination(request), resolver, deadline=0, own_addresses=own_addresses)
        assert reads == [1]


class TestWellKnownServices:
    ZONE = """
        example.com MX 5 a.example
        example.com MX 10 b.example
        a.example A 192.0.2.1
        b.example A 192.0.2.2
    """

    def test_only_hosts_that_list_smtp(self) -> None:
        made = plan(self.ZONE + "a.example WKS 192.0.2.1 6 21 23\nb.example WKS 192.0.2.2 6 21 25", check_wks=True)
        assert route(made) == [(10, "b.example", "192.0.2.2")]

    def test_udp_does_not_count(self) -> None:
        assert failure(plan(self.ZONE + "a.example WKS 192.0.2.1 17 25", check_wks=True)) == (PERMANENT, "5.4.4")

    def test_a_failed_lookup_defers(self) -> None:
        assert failure(plan(self.ZONE + "a.example FAIL TIMEOUT WKS", check_wks=True)) == (LATER, "4.4.3")

    def test_not_asked_for_otherwise(self) -> None:
        made = plan(self.ZONE)
        assert len(made.candidates) == 2
        assert not any("WKS" in question for question in asked(made))

    def test_mx_off(self) -> None:
        assert failure(plan("a.example A 192.0.2.1", "a.example", use_mx=False, check_wks=True)) == (PERMANENT, "5.4.4")

    def test_the_loop_check_comes_first(self) -> None:
        zone = (
            "example.com MX 5 us.example\nexample.com MX 10 b.example\nus.example A 127.0.0.1\nb.example A 192.0.2.2\n"
        )
        assert failure(plan(zone + "b.example WKS 192.0.2.2 6 25", check_wks=True)) == (PERMANENT, "5.4.6")


class TestExchangerNames:
    ZONE = """
        example.com MX 20 b.example
        example.com MX 10 a.example
        simple.example A 192.0.2.1
        slow.example FAIL TIMEOUT
    """

    def names(self, destination: str, **options: Any) -> tuple[str, ...]:
        resolver = StaticResolver(self.ZONE)
        request = DestinationRequest(destination=destination, shuffle=as_it_is, **options)
        found = carry_out(exchanger_names(request), resolver, deadline=0, own_addresses=lambda: OURS)
        assert all(query.type is RecordType.MX for query in resolver.queries)
        return found

    def test_names_without_their_addresses(self) -> None:
        assert self.names("Example.com") == ("a.example", "b.example")
        assert self.names("simple.example") == ("simple.example",)
        assert self.names("example.com", own_names=frozenset({"b.example"})) == ("a.example",)

    @pytest.mark.parametrize("destination", ["[192.0.2.1]", "slow.example", "nx.example", "a..b"])
    def test_none_known(self, destination: str) -> None:
        assert self.names(destination) == ()


HOSTS = [f"h{n}.example" for n in range(5)]
ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.99", "127.0.0.1", "2001:db8::1", "2001:db8::99", "::1", "nonsense"]
EXCHANGES = [*HOSTS, "", "192.0.2.7", "H1.example.", "a\\.b.example", "\x1b[2J"]


@st.composite
def answers(draw: st.DrawFn, query: Query) -> Answer:
    """Any answer a resolver could give, sensible or not."""
    status = draw(st.sampled_from([Status.OK, Status.OK, Status.OK, *Status]))
    canonical = draw(st.sampled_from([query.name, query.name, "", *HOSTS]))
    if status is not Status.OK:
        return Answer(query, status, canonical=canonical)
    record = st.sampled_from(ADDRESSES)
    if query.type is RecordType.MX:
        exchangers = draw(st.lists(st.builds(MX, st.integers(0, 3), st.sampled_from(EXCHANGES)), max_size=6))
        return Answer(query, status, tuple(exchangers), canonical)
    return Answer(query, status, tuple(draw(st.lists(record, max_size=4))), canonical)


@given(st.data(), st.sampled_from([25, 2525]), st.booleans(), st.booleans(), st.booleans())
def test_whatever_is_answered_the_plan_holds_together(
    data: st.DataObject, port: int, use_mx: bool, allow_self: bool, prefer_ipv6: bool
) -> None:
    request = DestinationRequest(
        destination="h0.example",
        shuffle=lambda items: items.reverse(),
        port=port,
        use_mx=use_mx,
        allow_self=allow_self,
        prefer_ipv6=prefer_ipv6,
        own_names=frozenset({"h4.example"}),
        max_addresses=5,
        max_hosts=4,
    )
    known: dict[Query, Answer] = {}
    decision = plan_destination(request)
    made: Plan | None = None
    effect = decision.send(None)
    for _ in range(200):
        if isinstance(effect, OwnAddresses):
            sent: Any = OURS
        elif isinstance(effect, AskAhead):
            sent = None
        else:
            sent = known.setdefault(effect, data.draw(answers(effect)))
        try:
            effect = decision.send(sent)
        except StopIteration as end:
            made = end.value
            break
    assert made is not None, "the rules ask without end"
    assert bool(made.candidates) == (made.failure is None)
    preferences = [one.preference for one in made.candidates]
    assert preferences == sorted(preferences)
    addresses = [one.endpoint.address for one in made.candidates]
    assert len(addresses) == len({one.endpoint for one in made.candidates}) <= 5
    assert len(made.exchangers) <= 4
    assert {one.endpoint.host for one in made.candidates} <= set(made.exchangers)
    assert all(one.endpoint.port == port for one in made.candidates)
    explicit = use_mx and known[Query("h0.example", RecordType.MX)].status is Status.OK
    if port == 25 and explicit:
        assert not any(address in OURS or is_loopback(address) for address in addresses)
        assert "h4.example" not in made.exchangers
    assert all(text.isprintable() for text in made.notes)


@pytest.mark.parametrize(
    ("zone", "options", "ahead"),
    [
        ("example.com MX 10 a.example", {}, ["a.example A", "a.example AAAA"]),
        ("example.com A 192.0.2.1", {}, ["example.com A", "example.com AAAA"]),
        ("example.com MX 10 a.example", {"families": frozenset({Family.INET})}, []),
        (
            "example.com MX 20 b.example\nexample.com MX 10 a.example",
            {"families": frozenset({Family.INET6})},
            ["a.example AAAA", "b.example AAAA"],
        ),
        (
            "\n".join(f"example.com MX {n} h{n}.example" for n in range(9)),
            {"max_addresses": 2},
            ["h0.example A", "h0.example AAAA"],
        ),
    ],
    ids=["exchanger", "implicit", "one question", "in order", "no more than are needed"],
)
def test_addresses_are_asked_ahead_once_the_exchangers_are_known(
    zone: str, options: dict[str, Any], ahead: list[str]
) -> None:
    resolver = StaticResolver(zone)
    seen: list[list[str]] = []

    def answered(effect: Any, answer: Any) -> None:
        if isinstance(effect, AskAhead):
            assert [query.type for query in resolver.queries] == [RecordType.MX]
            seen.append([f"{query.name} {query.type.value}" for query in effect.queries])

    request = DestinationRequest(destination="example.com", shuffle=as_it_is, **options)
    carry_out(observed(plan_destination(request), answered), resolver, deadline=0, own_addresses=lambda: OURS)
    assert seen == ([ahead] if ahead else [])


def test_what_is_wrong_with_a_relay_waits_until_somebody_puts_it_right() -> None:
    made = plan("", "nosuch.example", use_mx=False, is_relay=True)
    assert failure(made) == (LATER, "4.3.5")
    assert failure(plan("", "nosuch.example", use_mx=False)) == (PERMANENT, "5.1.2")
