"""Walks along candidates in random worlds: nobody is lost, nobody is asked twice, and no order gets around a policy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.support.network import World, message, world
from tests.support.security import Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.outcome import Disposition
from zsmtp.net.script import NEVER, Reaction, Script, Then
from zsmtp.net.scripted import Host, Unreachable
from zsmtp.tls.policy import STSUse, TLSPolicy

HOSTS = tuple(f"mx{number}.example.org" for number in range(4))
ADDRESSES = tuple(f"192.0.2.{number}" for number in range(1, 6))
POLICY_HOST = '_mta-sts.example.org TXT "v=STSv1; id=1"\nmta-sts.example.org A 192.0.2.80'

BEHAVIOURS: dict[str, Host] = {
    "refuses connections": Unreachable(),
    "cannot be reached": Unreachable("No route to host", after=1.5),
    "says nothing to a SYN": Unreachable(after=NEVER),
    "refuses mail": Script(greeting=Reaction("554 no")),
    "is busy": Script(greeting=Reaction("421 later", Then.CLOSE)),
    "greets nobody": Script(greeting=Reaction(b"", Then.HANG)),
    "hangs up": Script(greeting=Reaction(b"", Then.CLOSE)),
}
OVERTAKEN = ("cannot be reached", "says nothing to a SYN")
"""Who is given up while a later one answers, and has the rest of a turn if that one refuses."""


@dataclass(frozen=True)
class Case:
    """``leads_to`` are the addresses of each exchanger; ``listed`` who the policy names, None without one.

    Each of ``days`` says for each address which certificate it works with, or why it does not, and how long ago the
    day before was.
    """

    leads_to: tuple[tuple[str, ...], ...]
    listed: frozenset[str] | None
    days: tuple[tuple[tuple[str, ...], float], ...]

    @property
    def candidates(self) -> list[tuple[str, str]]:
        return [(host, one) for host, several in zip(HOSTS, self.leads_to, strict=False) for one in several]


_addresses = st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True).map(tuple)
_life = st.sampled_from((*BEHAVIOURS, *HOSTS))
_day = st.tuples(st.tuples(*[_life] * len(ADDRESSES)), st.sampled_from([0.0, 1.0, 59.0, 61.0, 90_000.0]))
cases = st.builds(
    Case,
    st.lists(_addresses, min_size=1, max_size=len(HOSTS)).map(tuple),
    st.none() | st.frozensets(st.sampled_from(HOSTS), min_size=1),
    st.lists(_day, min_size=1, max_size=5).map(tuple),
)


@cache
def authority() -> Authority:
    return Authority.new()


@cache
def server(life: str) -> Host:
    """One that works with a certificate for the host that is named, or does not in the way that is."""
    return BEHAVIOURS[life] if life in BEHAVIOURS else authority().server(life)


def there(case: Case) -> World:
    names = [f"example.org MX {10 * place} {host}" for place, host in enumerate(HOSTS[: len(case.leads_to)])]
    names += [f"{host} A {one}" for host, one in case.candidates]
    policies = {}
    if case.listed is not None:
        names.append(POLICY_HOST)
        lines = ["version: STSv1", "mode: enforce", *(f"mx: {host}" for host in sorted(case.listed)), "max_age: 604800"]
        policies["mta-sts.example.org"] = "\n".join(lines).encode()
    return world(
        settings=asking(TLSPolicy(), mta_sts=STSUse.ON),
        dns="\n".join(names),
        now=NOW,
        anchors=authority().anchors,
        policies=policies,
    )


def is_listed(case: Case, host: str) -> bool:
    """Whether the policy allows an exchanger."""
    return case.listed is None or host in case.listed


def may_take(case: Case, host: str, life: str) -> bool:
    """Whether mail may go to a host at an address that lives like this."""
    return life not in BEHAVIOURS and is_listed(case, host) and (case.listed is None or life == host)


@settings(max_examples=examples(50), deadline=None)
@given(cases)
def test_nobody_is_lost_nobody_is_asked_twice_and_no_order_gets_around_a_policy(case: Case) -> None:
    here = there(case)
    for lives, passed in case.days:
        here.network.now += passed
        life = dict(zip(ADDRESSES, lives, strict=True))
        here.network._hosts = {one: [server(kind)] for one, kind in life.items()}
        attempts, connections = len(here.network.attempts), len(here.network.connections)
        here.deliver(message())
        here.close()
        tried = Counter((e.host, e.address) for _, e in here.network.attempts[attempts:])
        assert all(times == 1 or life[one] in OVERTAKEN for (_, one), times in tried.items())
        for one in {one for _, one in tried if life[one] not in OVERTAKEN}:
            allowed = [host for host, other in tried if other == one and is_listed(case, host)]
            assert len(allowed) <= 1 or life[one] not in BEHAVIOURS, "another name is tried for its certificate's sake"
        possible = any(may_take(case, host, life[one]) for host, one in case.candidates)
        assert (here.fates == [Disposition.DELIVERED]) is possible
        if here.fates != [Disposition.DELIVERED]:
            reached = {one for _, one in tried}
            wanted = {one for host, one in case.candidates if is_listed(case, host)}
            assert wanted <= reached
        for one in here.network.connections[connections:]:
            sent = any(line.startswith("MAIL") for line in one.lines)
            assert not sent or may_take(case, one.endpoint.host, life[one.endpoint.address])
