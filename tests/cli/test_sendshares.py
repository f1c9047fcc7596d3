"""Work shared out over processes: everybody once, a destination in one, no limit exceeded by all together."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.cli.outgoing import Outgoing
from zsmtp.cli.sendshares import Share, divided, place_of, share_out
from zsmtp.client.config import Config, Limits, Login, Relay
from zsmtp.client.destinations import Destinations
from zsmtp.delivery.gate import Place, Rate


def place(recipient: str, sender: str) -> Place:
    """Each domain is a place."""
    return recipient.rpartition("@")[2], 25


def at_relay(recipient: str, sender: str) -> Place:
    return "relay.example", 25


def message(*recipients: str, size: int = 1000) -> Outgoing:
    return Outgoing("x.eml", "x.eml", size, "me@example.org", recipients)


def everybody(shares: list[Share]) -> Counter[tuple[int, str]]:
    return Counter((part.number, to) for share in shares for part in share.parts for to in part.recipients)


recipients = st.builds("{}@d{}.example".format, st.sampled_from("abc"), st.integers(0, 6))
messages = st.lists(
    st.lists(recipients, min_size=1, max_size=5, unique=True).map(lambda who: message(*who)), max_size=9
)
limits = st.builds(
    Limits,
    connections=st.integers(1, 9),
    slow_connections=st.integers(0, 9),
    per_destination=st.integers(1, 9),
    connections_per_minute=st.integers(0, 9),
    message_rate=st.sampled_from(["", "1/s", "3/s", "14/s 100/2h"]),
    waiting=st.integers(1, 1 << 20),
)


@given(messages, st.integers(1, 8), limits, st.booleans())
def test_everybody_once_and_all_limits_kept(sent: list[Outgoing], jobs: int, most: Limits, through_relay: bool) -> None:
    where = at_relay if through_relay else place
    shares = share_out(sent, where, jobs, most)
    assert 1 <= len(shares) <= jobs
    assert everybody(shares) == Counter((number, to) for number, one in enumerate(sent) for to in one.recipients)
    for share in shares:
        assert [part.number for part in share.parts] == sorted({part.number for part in share.parts})
        assert share.parts or not sent
    places = [{where(to, "") for part in share.parts for to in part.recipients} for share in shares]
    each = [share.limits for share in shares]
    assert sum(one.connections for one in each) == most.connections
    assert sum(one.slow_connections for one in each) == most.slow_connections
    assert sum(one.waiting for one in each) <= max(most.waiting, len(shares))
    for number, rate in enumerate(most.message_rates):
        assert sum(one.message_rates[number].allowed for one in each) == rate.allowed
        assert {one.message_rates[number].seconds for one in each} == {rate.seconds}
    if len(set().union(*places)) > 1:
        assert sum(map(len, places)) == len(set().union(*places)), "a destination is in one process"
        assert {one.per_destination for one in each} == {most.per_destination}
        assert {one.connections_per_minute for one in each} == {most.connections_per_minute}
    else:
        assert sum(one.per_destination for one in each) == most.per_destination
        assert sum(one.connections_per_minute for one in each) == most.connections_per_minute
        assert bool(most.connections_per_minute) == all(one.connections_per_minute for one in each)


def test_destinations_are_shared_out_by_what_there_is_to_do() -> None:
    sent = [message("a@big.example", size=9_000_000), *(message(f"a@d{n}.example") for n in range(9))]
    shares = share_out(sent, place, 2, Limits())
    assert [[part.number for part in share.parts] for share in shares] == [[0], list(range(1, 10))]


def test_a_message_is_divided_by_its_destinations() -> None:
    shares = share_out([message("a@x.example", "b@y.example", "c@x.example")], place, 8, Limits())
    assert [share.parts for share in shares] == [[(0, ("a@x.example", "c@x.example"))], [(0, ("b@y.example",))]]


@pytest.mark.parametrize(
    ("most", "processes"),
    [
        (Limits(), 5),  # as many as there may be connections to one destination
        (Limits(connections=3), 3),
        (Limits(connections_per_minute=2), 2),
        (Limits(message_rate="4/s 100/min"), 4),
        (Limits(per_destination=1), 1),
        (Limits(per_destination=40), 8),
    ],
)
def test_there_are_no_more_processes_than_parts_of_a_limit(most: Limits, processes: int) -> None:
    assert len(share_out([message("a@x.example")] * 20, at_relay, 8, most)) == processes


def test_a_rate_is_divided_as_the_messages_are() -> None:
    sent = [message("a@big.example")] * 30 + [message("a@small.example")] * 10
    shares = share_out(sent, place, 2, Limits(message_rate="14/s"))
    assert [share.limits.message_rates for share in shares] == [(Rate(10, 1.0),), (Rate(4, 1.0),)]


def test_two_logins_at_one_server_are_one_place() -> None:
    """A rate of connections is by server and port, whoever logs in."""
    relays = {
        f"{user}.example": Relay(host="Relay.example", login=Login(user=user, password_env="X")) for user in ("a", "b")
    }
    found = Destinations(Config(routes=relays))
    first, second = (found.of(f"x@{domain}".encode()) for domain in relays)
    assert first != second
    assert place_of(first) == place_of(second) == ("relay.example", 587)


@given(st.integers(0, 1000), st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(0, 1))
def test_parts_add_up(total: int, weights: list[int], least: int) -> None:
    total += least * len(weights)
    parts = divided(total, weights, least=least)
    assert (len(parts), sum(parts)) == (len(weights), total)
    assert min(parts) >= least
    rest = total - least * len(weights)
    assert all(
        abs(part - least - rest * weight / sum(weights)) < 1 for part, weight in zip(parts, weights, strict=True)
    )
