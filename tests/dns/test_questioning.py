"""How a question is put, in virtual time: scripted servers, and a clock that goes on while one keeps silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st
from tests.dns.loopback_nameserver import reply

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.nameserver import AskServer, Heard, NameServer
from zsmtp.dns.questioning import ROUNDS, put_question
from zsmtp.effects import Effect, ReadClock, carry_out

A = Query("example.com", RecordType.A)
GOOD = "example.com. 60 IN A 192.0.2.1"
FIRST, SECOND, THIRD = (NameServer(f"192.0.2.{n}") for n in (51, 52, 53))

Server = Callable[[AskServer, dns.message.Message], Heard]


def silent(effect: AskServer, query: dns.message.Message) -> Heard:
    return Heard()


def flooding(effect: AskServer, query: dns.message.Message) -> Heard:
    return Heard(flooded=True) if not effect.tcp else good(effect, query)


def good(effect: AskServer, query: dns.message.Message) -> Heard:
    return Heard(reply(query, GOOD).to_wire())


def failing(effect: AskServer, query: dns.message.Message) -> Heard:
    return Heard(reply(query, rcode=dns.rcode.SERVFAIL).to_wire())


def refusing(effect: AskServer, query: dns.message.Message) -> Heard:
    return Heard(problem="Connection refused")


def without_edns(effect: AskServer, query: dns.message.Message) -> Heard:
    return good(effect, query) if query.edns < 0 else Heard(reply(query, rcode=dns.rcode.FORMERR).to_wire())


def truncating(effect: AskServer, query: dns.message.Message) -> Heard:
    return good(effect, query) if effect.tcp else Heard(reply(query, GOOD, flags=dns.flags.TC).to_wire())


class World:
    """Servers, in the order they are asked, and the time. ``asked`` are the questions, each with when it was put."""

    def __init__(self, servers: dict[NameServer, Server]) -> None:
        self.servers = servers
        self.now = 1000.0
        self.asked: list[tuple[float, AskServer]] = []

    def put(self, *, seconds: float = 100.0, over: Callable[[], bool] = lambda: False) -> Answer:
        work = put_question(
            A,
            tuple(self.servers),
            deadline=self.now + seconds,
            rounds=ROUNDS,
            trusts=lambda server: False,
            over=over,
        )
        return carry_out(work, self._perform).answer

    def _perform(self, effect: Effect[Any]) -> object:
        if isinstance(effect, ReadClock):
            return self.now
        assert isinstance(effect, AskServer)
        self.asked.append((self.now - 1000.0, effect))
        heard = self.servers[effect.server](effect, dns.message.from_wire(effect.query))
        if heard.silent:
            self.now = min(self.now + effect.seconds, effect.deadline)
        return heard

    @property
    def dialogue(self) -> list[tuple[float, NameServer]]:
        return [(when, effect.server) for when, effect in self.asked]


def test_a_silent_server_is_asked_again_each_round_more_patiently() -> None:
    world = World({FIRST: silent})
    answer = world.put()
    assert (answer.status, answer.problem) == (Status.TIMEOUT, "name server 192.0.2.51 does not answer")
    assert [when for when, _ in world.asked] == [0.0, 3.0, 8.0]
    assert world.now == 1016.0
    assert [effect.again for _, effect in world.asked] == [False, True, True]


def test_the_deadline_bounds_all_of_it() -> None:
    world = World({FIRST: silent, SECOND: silent})
    assert world.put(seconds=10.0).status is Status.TIMEOUT
    assert world.dialogue == [(0.0, FIRST), (3.0, SECOND), (6.0, FIRST)]
    assert world.now == 1010.0


def test_no_time_left() -> None:
    world = World({FIRST: good})
    assert world.put(seconds=0.0).problem == "no time was left to ask"
    assert not world.asked


def test_servers_are_asked_in_turn_and_only_silent_ones_again() -> None:
    world = World({FIRST: silent, SECOND: failing, THIRD: refusing})
    answer = world.put()
    assert answer.status is Status.SERVFAIL
    assert world.dialogue == [(0.0, FIRST), (3.0, SECOND), (3.0, THIRD), (3.0, FIRST), (8.0, FIRST)]


def test_the_first_final_answer_counts() -> None:
    world = World({FIRST: refusing, SECOND: good, THIRD: failing})
    answer = world.put()
    assert (answer.records, answer.source) == (("192.0.2.1",), "name server 192.0.2.52")
    assert world.dialogue == [(0.0, FIRST), (0.0, SECOND)]


def test_each_question_has_an_identifier_of_its_own() -> None:
    world = World({FIRST: silent, SECOND: silent})
    world.put()
    assert len({effect.query[:2] for _, effect in world.asked}) > 1


def test_a_server_that_does_not_know_edns_is_asked_without() -> None:
    world = World({FIRST: without_edns})
    assert world.put().status is Status.OK
    assert [dns.message.from_wire(effect.query).edns for _, effect in world.asked] == [0, -1]


def test_a_truncated_answer_is_asked_for_by_tcp() -> None:
    world = World({FIRST: truncating})
    assert world.put().status is Status.OK
    assert [effect.tcp for _, effect in world.asked] == [False, True]
    assert world.asked[0][1].query == world.asked[1][1].query


def test_under_a_flood_of_wrong_answers_tcp_is_asked() -> None:
    """Nobody who cannot see the connection can answer there (RFC 5452 4.5)."""
    world = World({FIRST: flooding})
    assert world.put().status is Status.OK
    assert [effect.tcp for _, effect in world.asked] == [False, True]


def test_a_flood_and_no_tcp_is_a_server_that_fails() -> None:
    world = World({FIRST: lambda effect, query: refusing(effect, query) if effect.tcp else Heard(flooded=True)})
    answer = world.put()
    assert (answer.status, answer.problem) == (Status.TIMEOUT, "name server 192.0.2.51: Connection refused")
    assert len(world.asked) == 2


def test_nothing_is_asked_once_it_is_over() -> None:
    world = World({FIRST: failing, SECOND: good})
    assert world.put(over=lambda: bool(world.asked)).status is Status.SERVFAIL
    assert len(world.asked) == 1


@given(st.lists(st.sampled_from([silent, failing, refusing, flooding, without_edns, truncating, good]), max_size=3))
def test_whatever_servers_do_it_ends_and_a_good_one_is_found(behaviours: list[Server]) -> None:
    servers = (FIRST, SECOND, THIRD)[: len(behaviours)]
    world = World(dict(zip(servers, behaviours, strict=True)))
    answer = world.put(seconds=1000.0)
    usable = bool({flooding, without_edns, truncating, good} & set(behaviours))
    assert (answer.status is Status.OK) == usable
    assert len(world.asked) <= 3 * 3 + 2
    assert world.now <= 1000.0 + len(behaviours) * sum(ROUNDS)
