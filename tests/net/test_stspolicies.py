"""MTA-STS as a driver carries it out: the cache on disk, a real HTTPS server, and what happens without either."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.patience import LIMIT
from tests.support.policyhost import PolicyHost

from zsmtp.dns.answer import Answer, Query, RecordType
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import FetchPolicy, KeepPolicy, RecallPolicy
from zsmtp.errors import LocalError
from zsmtp.events import Event
from zsmtp.net.blocking import BlockingDriver, Stop
from zsmtp.net.identity import parse_identity
from zsmtp.net.operations import LOOKUPS_TIME
from zsmtp.net.stspolicies import PolicyKeeper
from zsmtp.tls.mtasts import (
    CachedPolicy,
    FetchedPolicy,
    PolicyLookup,
    PolicyMode,
    RecalledPolicy,
    policy_of,
)
from zsmtp.tls.problem import TLSProblem

TEXT = b"version: STSv1\nmode: enforce\nmx: mx.example.org\nmax_age: 86400\n"
DNS = '_mta-sts.example.org TXT "v=STSv1; id=7"\nmta-sts.example.org A 127.0.0.1'
ENTRY = CachedPolicy("example.org", "7", TEXT, fetched=900.0)


@pytest.fixture(scope="module")
def served(server_context: Callable[[str], ssl.SSLContext]) -> ssl.SSLContext:
    return server_context("mta-sts.example.org")


def run(keeper: PolicyKeeper) -> PolicyLookup:
    """The policy of example.org, through the driver."""
    driver = BlockingDriver(lambda: StaticResolver(DNS), Stop())
    driver.policies = keeper
    try:
        return driver.run(policy_of("example.org"))
    finally:
        keeper.close()


async def fetch() -> FetchedPolicy:
    return await FetchPolicy("mta-sts.example.org", ("127.0.0.1",))


def keeper(path: str, *, port: int = 1, ca_file: str = "", complaints: list[str] | None = None) -> PolicyKeeper:
    heard = [] if complaints is None else complaints
    return PolicyKeeper(path, heard.append, ca_file=ca_file, port=port, clock=lambda: 1000.0)


def test_a_policy_is_fetched_once_and_outlives_the_process(
    tmp_path: Path, served: ssl.SSLContext, ca_file: str
) -> None:
    path = str(tmp_path / "sts.db")
    with PolicyHost(served, TEXT) as host:
        first = run(keeper(path, port=host.port, ca_file=ca_file))
        second = run(keeper(path, port=host.port, ca_file=ca_file))
        assert host.asked == ["mta-sts.example.org/.well-known/mta-sts.txt"]
    assert first.policy is not None
    assert first.policy.mode is PolicyMode.ENFORCE
    assert second.policy == first.policy
    assert "cached" in second.note


def test_without_a_file_it_is_remembered_for_the_life_of_the_process(served: ssl.SSLContext, ca_file: str) -> None:
    complaints: list[str] = []
    with PolicyHost(served, TEXT) as host:
        one = keeper("", port=host.port, ca_file=ca_file, complaints=complaints)
        run(one)
        run(one)
        assert len(host.asked) == 1
    assert not complaints


def test_a_file_that_cannot_be_used_is_complained_of_once(tmp_path: Path) -> None:
    complaints: list[str] = []
    one = keeper(str(tmp_path / "missing" / "sts.db"), complaints=complaints)
    one.keep([KeepPolicy(ENTRY)])
    assert one.recall(RecallPolicy("example.org")) == RecalledPolicy(ENTRY, 1000.0)
    assert len(complaints) == 1


def test_a_policy_host_with_an_unknown_authority_gives_nothing(tmp_path: Path, served: ssl.SSLContext) -> None:
    with PolicyHost(served, TEXT) as host:
        found = run(keeper(str(tmp_path / "sts.db"), port=host.port))
    assert found.policy is None
    assert found.failure is TLSProblem.STS_WEBPKI_INVALID


def test_authorities_that_cannot_be_read_say_nothing_of_the_host(tmp_path: Path, served: ssl.SSLContext) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    with PolicyHost(served, TEXT) as host:
        one = keeper("", port=host.port, ca_file=str(empty))
        found = run(one)
        assert f"no CA certificates to verify with ({empty})" in found.note
    assert (found.policy, found.failure, found.store) == (None, None, None)
    assert one.recall(RecallPolicy("example.org")) == RecalledPolicy(None, 1000.0)


def test_what_is_kept_can_be_let_go_of_and_is_still_there(tmp_path: Path) -> None:
    one = keeper(str(tmp_path / "sts.db"))
    one.keep([KeepPolicy(ENTRY)])
    one.close()
    assert one.recall(RecallPolicy("EXAMPLE.org")) == RecalledPolicy(ENTRY, 1000.0)
    one.close()


def test_many_policies_are_kept_in_one_transaction(tmp_path: Path) -> None:
    one = keeper(str(tmp_path / "sts.db"))
    one.keep([KeepPolicy(CachedPolicy(f"D{number}.example", "7", TEXT, 900.0)) for number in range(3)])
    one.close()
    another = keeper(str(tmp_path / "sts.db"))
    for number in range(3):
        entry = another.recall(RecallPolicy(f"d{number}.example")).entry
        assert entry == CachedPolicy(f"d{number}.example", "7", TEXT, 900.0)
    another.close()


def test_a_stop_ends_a_fetch_at_once(ca_file: str) -> None:
    stop = Stop()
    stop.request()
    driver = BlockingDriver(lambda: StaticResolver(""), stop)
    driver.policies = keeper("", ca_file=ca_file)
    fetched = driver.run(fetch())
    assert fetched == FetchedPolicy(failure=TLSProblem.STS_POLICY_FETCH_ERROR, problem="interrupted", own=True)


def test_a_fetch_leaves_from_any_address_and_is_not_heard_of_as_a_session(ca_file: str) -> None:
    heard: list[Event] = []
    with socket.create_server(("127.0.0.1", 0)) as web:
        identity = parse_identity("[127.0.0.2]")
        driver = BlockingDriver(lambda: StaticResolver(DNS), Stop(), identity=identity, observer=heard.append)
        driver.policies = keeper("", port=web.getsockname()[1], ca_file=ca_file)
        web.settimeout(LIMIT)
        addresses: list[str] = []

        def hang_up() -> None:
            connection, (address, _) = web.accept()
            connection.close()
            addresses.append(address)

        with ThreadPoolExecutor(1) as pool:
            hung_up = pool.submit(hang_up)
            found = driver.run(fetch())
            hung_up.result()
    assert found.failure is TLSProblem.STS_POLICY_FETCH_ERROR
    assert addresses == ["127.0.0.1"]
    assert heard == []


def test_the_time_of_a_fetch_is_not_that_of_lookups() -> None:
    now = [0.0]

    class SlowHost(PolicyKeeper):
        async def fetch(self, effect: FetchPolicy) -> FetchedPolicy:
            now[0] += 10 * LOOKUPS_TIME
            return FetchedPolicy(TEXT)

    async def work() -> Answer:
        await FetchPolicy("mta-sts.example.org", ("127.0.0.1",))
        return await Query("mta-sts.example.org", RecordType.A)

    driver = BlockingDriver(lambda: StaticResolver(DNS), Stop(), clock=lambda: now[0])
    driver.policies = SlowHost("", print)
    assert driver.run(work()).records == ("127.0.0.1",)


def test_a_driver_without_a_keeper_says_so() -> None:
    driver = BlockingDriver(lambda: StaticResolver(""), Stop())

    async def recall() -> None:
        await RecallPolicy("example.org")

    with pytest.raises(LocalError, match="keeps no MTA-STS policies"):
        driver.run(recall())
