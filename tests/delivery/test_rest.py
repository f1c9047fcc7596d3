"""The dead address of a destination that lives: when it is left for last."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.network import World, address, message, table, world
from tests.support.security import SECURED, asking

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.backoff import ADDRESS_REST, MAX_RESTING, MAX_UNREACHED, AddressBackoff, HostBackoff
from zsmtp.delivery.outcome import ConnectFailure, Disposition, combine_host_failures
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.events import Decision, PlanMade, Remark
from zsmtp.net.race import OTHER_HOST, SAME_HOST
from zsmtp.net.script import NEVER, Reaction, Script, Then
from zsmtp.net.scripted import Host, Unreachable
from zsmtp.proto.sasl import Credentials, Secret
from zsmtp.tls.policy import Level, TLSPolicy

DEAD = Unreachable(after=NEVER)  # nothing ever comes back
SLOW_TO_FAIL = Unreachable("No route to host", after=1.5)
ONE_EACH = Script(replies={"DOT": [Reaction("250 ok\r\n421 that is enough", Then.CLOSE)]})
MX0, MX1, MX2 = ("mx0.example.org", "mx1.example.org", "mx2.example.org")


def tried(there: World, since: float = 0.0) -> list[str]:
    """The hosts of all connection attempts from a time on, in order."""
    return [endpoint.host for at, endpoint in there.network.attempts if at >= since]


def next_session(there: World) -> list[str]:
    """Whom a new session for one more message is tried with."""
    there.close()
    known = len(there.network.attempts)
    there.deliver(message())
    return [endpoint.host for _, endpoint in there.network.attempts[known:]]


def forgetful(there: World) -> None:
    """Have a courier that remembers nothing of what was."""
    there.courier = Courier(SessionSettings(helo_name="client.example"))


def told(there: World) -> list[str]:
    return [event.text for event in there.heard if isinstance(event, Remark) and "after all others" in event.text]


# ------------------------------------------------------------------------------- what a dead first exchanger costs


@pytest.mark.parametrize(
    ("first", "cost"), [(DEAD, OTHER_HOST), (SLOW_TO_FAIL, 1.5)], ids=["hangs", "fails after a while"]
)
def test_a_dead_first_exchanger_costs_its_time_once(first: Host, cost: float) -> None:
    """The second closes after each message, so that every message needs a session of its own."""

    def deliver(*, remembering: bool) -> tuple[float, list[str]]:
        there = world(first, ONE_EACH, Script())
        for _ in range(5):
            there.deliver(message())
            assert there.fates == [Disposition.DELIVERED]
            if not remembering:
                forgetful(there)
        return there.network.now - 1000.0, tried(there)

    assert deliver(remembering=False) == (5 * cost, [MX0, MX1] * 5)
    assert deliver(remembering=True) == (cost, [MX0, MX1, MX1, MX1, MX1, MX1])


def test_a_greeting_that_never_comes_costs_its_time_once() -> None:
    there = world(Script(greeting=Reaction(b"", Then.HANG)), Script(), Script())
    there.deliver(message())
    assert there.network.now == 1300.0
    assert next_session(there) == [MX1]
    assert there.network.now == 1300.0


@pytest.mark.parametrize("silent", ["EHLO", "HELO"])
def test_so_does_silence_after_hello(silent: str) -> None:
    replies = {"EHLO": [Reaction("502 no")], silent: [Reaction(b"", Then.HANG)]}
    there = world(Script(replies=replies), Script(), settings=SessionSettings(helo_name="c", greeting=Greeting.EHLO))
    there.deliver(message())
    assert next_session(there) == [MX1]


def test_a_second_connection_that_does_not_come_about_counts_too() -> None:
    """The first was lost on EHLO, and the way back to HELO is closed."""
    there = world(
        [Script(replies={"EHLO": [Reaction(b"", Then.CLOSE)]}), Unreachable("Connection timed out")], Script()
    )
    there.deliver(message())
    assert tried(there) == [MX0, MX0, MX1]
    assert next_session(there) == [MX1]


def test_a_second_connection_that_fails_on_this_side_does_not() -> None:
    lost = Script(replies={"EHLO": [Reaction(b"", Then.CLOSE)]})
    there = world([lost, Unreachable("Too many open files", own=True), Script()], Script())
    there.deliver(message())
    assert tried(there) == [MX0, MX0, MX1]
    assert next_session(there) == [MX0]


SAFE = Script(keywords=("STARTTLS",), tls=SECURED)
NO_HANDSHAKE = replace(SAFE, tls_time=NEVER)


@pytest.mark.parametrize(
    ("first", "security"),
    [
        (NO_HANDSHAKE, asking(TLSPolicy(level=Level.ENCRYPT), implicit=True)),
        (NO_HANDSHAKE, asking(TLSPolicy(level=Level.ENCRYPT))),
        (replace(SAFE, replies={"STARTTLS": [Reaction(b"", Then.HANG)]}), asking(TLSPolicy(level=Level.ENCRYPT))),
    ],
    ids=["in a handshake from the first octet", "in a handshake", "after STARTTLS"],
)
def test_silence_on_the_way_to_tls_costs_its_time_once(first: Script, security: SessionSettings) -> None:
    there = world(first, SAFE, settings=security)
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    waited = there.network.now
    assert waited > 1000.0
    assert next_session(there) == [MX1]
    assert there.network.now == waited


def test_silence_in_a_login_costs_its_time_once() -> None:
    someone = Credentials(b"me", Secret(b"word"))
    settings = asking(TLSPolicy(), credentials_for=lambda server, destination: someone, allow_cleartext=True)
    silent = Script(keywords=("AUTH PLAIN",), replies={"AUTH": [Reaction(b"", Then.HANG)]})
    there = world(silent, Script(keywords=("AUTH PLAIN",), replies={"AUTH": [Reaction("235 ok")]}), settings=settings)
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]
    assert next_session(there) == [MX1]


def test_who_works_in_clear_after_silence_in_a_handshake_keeps_the_place() -> None:
    there = world([NO_HANDSHAKE, Script()], Script(), settings=asking(TLSPolicy()))
    there.deliver(message())
    assert tried(there) == [MX0, MX0]
    assert next_session(there) == [MX0]


def test_an_address_that_is_silent_in_a_handshake_is_not_asked_under_another_name() -> None:
    names = "\n".join(f"example.org MX {i} mx{i}.example.org\nmx{i}.example.org A 192.0.2.1" for i in range(2))
    there = world(NO_HANDSHAKE, settings=asking(TLSPolicy(level=Level.ENCRYPT)), dns=names)
    there.deliver(message())
    assert there.fates == [Disposition.DEFERRED]
    assert tried(there) == [MX0]


@pytest.mark.parametrize(
    "first",
    [
        Script(greeting=Reaction("421 too many connections", Then.CLOSE)),
        Script(greeting=Reaction("450 later")),
        Script(greeting=Reaction("554 no")),
        Script(greeting=Reaction(b"", Then.CLOSE)),
        Script(greeting=Reaction("nonsense")),
        Script(replies={"EHLO": [Reaction("421 busy", Then.CLOSE)]}),
        Script(replies={"MAIL": [Reaction("421 busy", Then.CLOSE)]}),
    ],
)
def test_who_answers_keeps_the_place_in_the_plan(first: Script) -> None:
    """Mail belongs to the best exchanger that takes it, and to ask again whether it does costs a moment."""
    there = world([first, Script()], [Script(), Script(greeting=Reaction("220 hi", delay=60))])
    there.deliver(message())
    assert tried(there) == [MX0, MX1]
    assert next_session(there) == [MX0]
    assert there.network.now < 1060.0


def test_trouble_of_this_side_is_held_against_nobody() -> None:
    there = world([Unreachable("Too many open files", own=True), Script()], Script())
    there.deliver(message())
    assert tried(there) == [MX0, MX1]
    assert next_session(there) == [MX0]


def test_a_backup_that_says_nothing_does_not_keep_mail_from_the_primary_that_is_up_again() -> None:
    tarpit = Script(greeting=Reaction(b"", Then.HANG))
    there = world([Unreachable(), Script()], tarpit)
    there.deliver(message())
    assert tried(there) == [MX0, MX1], "in one walk everybody has one turn"
    assert there.fates == [Disposition.DEFERRED]
    there.network.now += 1.0
    assert next_session(there) == [MX0], "both wait their time out, the order is as planned"
    assert there.fates == [Disposition.DELIVERED]


# --------------------------------------------------------------------------------------------- and what comes of it


def test_it_is_tried_last_and_not_never() -> None:
    there = world([Unreachable(), Script()], [Script(), Unreachable()], Unreachable())
    there.deliver(message())
    assert next_session(there) == [MX1, MX2, MX0]
    assert there.fates == [Disposition.DELIVERED]
    assert next_session(there) == [MX0], "it works, and nothing is held against it any more"


def test_everybody_rests_and_everybody_is_tried_as_planned() -> None:
    there = world(Unreachable(), SLOW_TO_FAIL, Unreachable())
    for _ in range(3):
        there.deliver(message())
    assert tried(there) == [MX0, MX1, MX2] * 3


@pytest.mark.parametrize(("seconds", "first"), [(ADDRESS_REST - 0.5, MX1), (ADDRESS_REST, MX0)])
def test_after_a_while_it_has_its_place_again(seconds: float, first: str) -> None:
    there = world(Unreachable(), Script())
    there.deliver(message())
    there.network.now = 1000.0 + seconds
    assert next_session(there)[0] == first


def test_within_one_walk_who_was_overtaken_waits_too() -> None:
    """The first hangs, the second refuses: the third is not made to wait for the first once more."""
    there = world(DEAD, Script(greeting=Reaction("554 no")), Script())
    there.deliver(message())
    assert there.network.now == 1000.0 + OTHER_HOST
    assert tried(there) == [MX0, MX1, MX2]


def test_who_was_started_later_and_lost_is_not_to_blame() -> None:
    """The first takes three seconds, the second would have taken more: the plan's order stays."""
    there = world(Script(connect_time=3.0), DEAD)
    there.deliver(message())
    assert tried(there) == [MX0, MX1]
    assert next_session(there) == [MX0, MX1]
    assert there.network.now == 1006.0


def test_the_early_start_goes_on_among_those_left() -> None:
    there = world(Unreachable(), Script(connect_time=10.0), Script(connect_time=10.0), DEAD)
    there.deliver(message())
    before = there.network.now
    next_session(there)
    assert [(at - before, endpoint.host) for at, endpoint in there.network.attempts if at >= before] == [
        (0.0, MX1),
        (OTHER_HOST, MX2),
        (2 * OTHER_HOST, "mx3.example.org"),
        (3 * OTHER_HOST, MX0),
    ]


def test_a_host_of_two_addresses_is_tried_at_the_one_that_answers() -> None:
    names = """
        example.org MX 10 mx0.example.org
        mx0.example.org A 192.0.2.1
        mx0.example.org A 192.0.2.2
    """
    there = world(DEAD, Script(), dns=names)
    there.deliver(message())
    there.close()
    there.deliver(message())
    assert [endpoint.address for _, endpoint in there.network.attempts] == ["192.0.2.1", "192.0.2.2", "192.0.2.2"]
    assert there.network.now == 1000.0 + SAME_HOST


def test_an_address_of_another_destination_is_known_already() -> None:
    names = table(2) + "\nother.example MX 10 old.example\nother.example MX 20 new.example"
    names += f"\nold.example A {address(0)}\nnew.example A {address(1)}"
    there = world(Unreachable(), Script(), dns=names)
    there.deliver(message())
    there.close()
    there.route.request = replace(there.route.request, destination="other.example")
    assert next_session(there) == ["new.example"]


def test_a_single_candidate_is_tried_each_time_and_without_a_look_at_the_clock() -> None:
    there = world([Unreachable(), Unreachable("Connection timed out"), Script()], observed=True)
    for _ in range(3):
        there.deliver(message())
    assert tried(there) == [MX0] * 3
    assert there.fates == [Disposition.DELIVERED]
    assert not told(there)


def test_a_unix_socket_is_tried_each_time() -> None:
    there = world(settings=SessionSettings(helo_name="c", greeting=Greeting.LHLO))
    there.network._hosts = {"/run/lmtp": [Unreachable("No such file or directory"), Script(lmtp=True)]}
    there.route.request = replace(there.route.request, destination="UNIX:/run/lmtp", allow_unix=True)
    there.deliver(message())
    assert there.fates == [Disposition.DEFERRED]
    there.deliver(message())
    assert there.fates == [Disposition.DELIVERED]


def test_a_stop_leaves_nothing_behind() -> None:
    there = world([Script(greeting=Reaction(b"", Then.HANG)), Script()], Script(), stop_at=1001.0)
    there.deliver(message())
    there.network.stop_at = NEVER
    assert next_session(there) == [MX0]


# --------------------------------------------------------------------------------------------------- how it is seen


def test_the_decision_is_told_with_its_reason_and_the_plan_stays_as_it_is() -> None:
    there = world(DEAD, Unreachable(), Script(), observed=True)
    there.deliver(message())
    assert not told(there)
    there.network.now += 10
    assert next_session(there) == [MX2]
    (text,) = told(there)
    assert text == (
        "tried after all others: mx0.example.org [192.0.2.1|25] (no answer in 2.0 s, and a later address gave one, "
        "10 s ago), mx1.example.org [192.0.2.2|25] (Connection refused, 10 s ago)"
    )
    plans = [event.plan.route for event in there.heard if isinstance(event, PlanMade)]
    assert [one.candidates for one in plans] == [plans[0].candidates] * 2
    assert [one.endpoint.host for one in plans[0].candidates] == [MX0, MX1, MX2]
    assert not [event for event in there.heard if isinstance(event, Decision) and "after all others" in event.text]


def test_nothing_is_told_where_the_order_is_as_planned() -> None:
    there = world(Script(greeting=Reaction("450 later")), Unreachable(), observed=True)
    for _ in range(2):
        there.deliver(message())
    assert not told(there)


# ----------------------------------------------------------------------------------------------------- the memories


def failure(number: int, reason: str = "refused") -> ConnectFailure:
    return ConnectFailure(Endpoint("h", str(number), 25, Family.INET), reason)


def test_the_memory_of_addresses_is_bounded_and_keeps_the_newest() -> None:
    unreached = AddressBackoff()
    for number in range(MAX_UNREACHED):
        unreached.remember(failure(number), 1.0)
    unreached.remember(failure(0, "again"), 2.0)
    unreached.remember(failure(MAX_UNREACHED), 3.0)
    assert unreached.get(failure(1).endpoint, 3.0) is None, "the oldest"
    assert unreached.get(failure(0).endpoint, 3.0) == (1.0, failure(0, "again"))
    assert unreached.knows_any([failure(1).endpoint, failure(2).endpoint])
    assert not unreached.knows_any([failure(1).endpoint])


@given(
    st.integers(1, 8).flatmap(
        lambda count: st.tuples(st.just(count), st.lists(st.sampled_from(["dead", "refuses", "works"]), min_size=count))
    )
)
def test_everybody_has_one_turn_in_every_walk(case: tuple[int, list[str]]) -> None:
    """Whatever was learned: the plan's own order among the rested and among the others, and nobody is left out."""
    count, kinds = case
    hosts: dict[str, Host] = {"dead": Unreachable(), "refuses": Script(greeting=Reaction("450 no")), "works": Script()}
    there = world(*(hosts[kind] for kind in kinds[:count]))
    names = [f"mx{i}.example.org" for i in range(count)]
    there.deliver(message())
    found = next_session(there)
    assert len(set(found)) == len(found)
    before = dict(zip(names, kinds, strict=False))
    reached = kinds[:count].index("works") if "works" in kinds[:count] else count
    rested = [name for name in names[:reached] if before[name] == "dead"]
    order = [name for name in names if name not in rested] + rested
    assert found == (order if reached == count else order[: order.index(names[reached]) + 1])
    assert there.fates == [Disposition.DELIVERED if reached < count else Disposition.DEFERRED]


def test_a_destination_may_be_tried_before_its_time() -> None:
    failure = combine_host_failures([ConnectFailure(Endpoint("h", "192.0.2.1", 25, Family.INET), "refused")], [])
    resting = HostBackoff()
    resting.remember("one", failure, 0.0)
    resting.remember("two", failure, 0.0)
    resting.forget("one")
    resting.forget("nobody")
    assert (resting.get("one", 1.0), resting.get("two", 1.0)) == (None, (59.0, failure))


def test_a_full_memory_of_resting_destinations_drops_the_oldest_and_none_for_one_it_has() -> None:
    failure = combine_host_failures([ConnectFailure(Endpoint("h", "192.0.2.1", 25, Family.INET), "refused")], [])
    resting = HostBackoff()
    for number in range(MAX_RESTING):
        resting.remember(number, failure, float(number) / 1000)
    resting.remember(5, failure, 2.0)
    assert all(resting.get(number, 2.0) is not None for number in range(MAX_RESTING))
    resting.remember("one more", failure, 3.0)
    assert [number for number in range(MAX_RESTING) if resting.get(number, 3.0) is None] == [0]
