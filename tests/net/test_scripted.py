"""The network in memory does what its scripts say, on its own clock, and knows no way to hang."""

import pytest
from tests.support.network import address, message, run, world

from zsmtp.delivery.outcome import Disposition
from zsmtp.dns.answer import Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.effects import Close, Connect, ConnectResult, Effect, Exchange, OwnAddresses
from zsmtp.errors import LocalError
from zsmtp.net.script import NEVER, Reaction, Script, ServerPace, Then
from zsmtp.net.scripted import ScriptedNetwork, Unreachable
from zsmtp.proto.phase import Timeouts
from zsmtp.proto.session import Session

FIRST, SECOND = (Endpoint("mx", address(i), 25, Family.INET) for i in range(2))


def connect(network: ScriptedNetwork, *endpoints: Endpoint, timeout: float = 60.0) -> ConnectResult:
    async def work() -> ConnectResult:
        return await Connect(endpoints, timeout)

    return network.run(work())


def test_lookups_come_from_the_table_and_addresses_from_the_caller() -> None:
    async def work() -> tuple[Status, frozenset[str]]:
        answer = await Query("example.org", RecordType.A)
        return answer.status, await OwnAddresses()

    network = ScriptedNetwork({}, dns="example.org A 192.0.2.1", own_addresses=frozenset({"192.0.2.7"}))
    assert network.run(work()) == (Status.OK, {"192.0.2.7"})


def test_an_address_nobody_named_refuses() -> None:
    assert connect(ScriptedNetwork({}), FIRST) == ConnectResult(None, None, ((FIRST, "Connection refused"),))


def test_a_silent_address_costs_the_timeout_and_the_next_starts_early() -> None:
    network = ScriptedNetwork({FIRST.address: [Unreachable(after=NEVER)], SECOND.address: [Script(connect_time=1.0)]})
    result = connect(network, FIRST, SECOND)
    assert result.endpoint == SECOND
    assert result.overtaken == ((FIRST, 1.25),)
    assert [at for at, _ in network.attempts] == [1000.0, 1000.25]
    assert network.now == 1001.25
    result = connect(network, FIRST)
    assert result.failures == ((FIRST, "Connection timed out"),)
    assert network.now == 1061.25


def test_a_stop_interrupts_connecting() -> None:
    network = ScriptedNetwork({FIRST.address: [Unreachable(after=NEVER)]}, stop_at=1010.0)
    assert connect(network, FIRST).interrupted
    assert network.now == 1010.0


def test_scripts_are_used_in_turn_and_the_last_one_repeats() -> None:
    there = world([Script(greeting=Reaction("554 no")), Script()])
    fates = []
    for _ in range(3):
        fates.append(there.deliver(message())[0].fate)
        there.close()
    assert fates == [Disposition.FAILED, Disposition.DELIVERED, Disposition.DELIVERED]


def test_octets_drip_and_reactions_are_late() -> None:
    there = run(Script(greeting=Reaction("220 hi", drip=2.0), replies={"DOT": [Reaction("250 ok", delay=50.0)]}))
    assert there.fates == [Disposition.DELIVERED]
    assert there.network.now == 1000.0 + 2.0 * len(b"220 hi\r\n") + 50.0


def test_writes_are_taken_in_pieces_and_recorded() -> None:
    there = run(Script(write_sizes=(3, 1)))
    sizes = [len(octets) for _, octets in there.network.connections[0].written]
    assert set(sizes) <= {1, 2, 3}
    assert there.fates == [Disposition.DELIVERED]


@pytest.mark.parametrize("pace", ServerPace)
def test_a_server_that_stalls_is_given_up_by_the_clock(pace: ServerPace) -> None:
    there = run(Script(pace=pace, replies={"EHLO": [Reaction(b"", Then.STALL)]}))
    assert there.fates == [Disposition.DEFERRED]
    assert there.network.now == 1300.0


def test_what_happens_in_the_content_happens_once() -> None:
    there = run(Script(in_content=(5, Reaction("552 enough")), pace=ServerPace.AT_ONCE))
    assert there.network.connections[0].acceptances[0].content.startswith(b"Subject")


def test_misuse_is_told() -> None:
    async def forget() -> None:
        result = await Connect((FIRST,), 60.0)
        await Close(result.stream)
        await Exchange(result.stream, Session(timeouts=Timeouts()))

    with pytest.raises(LocalError, match="closed"):
        ScriptedNetwork({FIRST.address: [Script()]}).run(forget())

    class Unknown(Effect[None]):
        """No driver has it in its table."""

    async def unknown() -> None:
        await Unknown()

    with pytest.raises(LocalError, match=r"not an effect this driver knows: .*Unknown"):
        ScriptedNetwork({}).run(unknown())
