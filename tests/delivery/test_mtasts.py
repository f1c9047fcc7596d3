"""MTA-STS in deliveries (RFC 8461): what a policy allows, what it only reports, and who is not asked for one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.network import World, message, table, world
from tests.support.security import SECURED, Authority, asking
from tests.tls.certificates import NOW

from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.answer import RecordType
from zsmtp.dns.static import StaticResolver
from zsmtp.events import Detail
from zsmtp.net.script import Script
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.mtasts import CachedPolicy
from zsmtp.tls.policy import Level, STSUse, TLSPolicy

RECORD = '\n_mta-sts.example.org TXT "v=STSv1; id=1"\nmta-sts.example.org A 192.0.2.80'
HOST = "mta-sts.example.org"


def text(mode: str, *patterns: str) -> bytes:
    return "\n".join(["version: STSv1", f"mode: {mode}", *(f"mx: {p}" for p in patterns), "max_age: 604800"]).encode()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


def settings(policy: TLSPolicy = TLSPolicy(), use: STSUse = STSUse.ON) -> SessionSettings:  # noqa: B008
    return asking(policy, mta_sts=use)


def there(
    authority: Authority, *servers: Script, policy: bytes | None, chosen: SessionSettings | None = None, dns: str = ""
) -> World:
    return world(
        *servers,
        settings=chosen or settings(),
        now=NOW,
        anchors=authority.anchors,
        dns=table(len(servers)) + RECORD + dns,
        policies={} if policy is None else {HOST: policy},
        observed=True,
    )


def test_enforce_takes_an_exchanger_with_a_true_certificate(authority: Authority) -> None:
    here = there(authority, authority.server("mx0.example.org"), policy=text("enforce", "mx0.example.org"))
    here.deliver(message())
    assert here.fates == [Disposition.DELIVERED]
    assert here.network.fetches[0].host == HOST
    assert "MTA-STS policy, mode enforce (fetched)" in [e.text for e in here.heard if isinstance(e, Detail)]


@pytest.mark.parametrize("what", ["no TLS", "wrong name", "TLS fails", "not listed"])
def test_enforce_takes_no_other(what: str, authority: Authority) -> None:
    server = {
        "no TLS": Script(),
        "wrong name": authority.server("example.org"),
        "TLS fails": Script(keywords=("STARTTLS",), tls="handshake failure"),
        "not listed": authority.server("mx0.example.org"),
    }[what]
    pattern = "*.other.example" if what == "not listed" else "*.example.org"
    here = there(authority, server, policy=text("enforce", pattern))
    [verdict] = here.deliver(message())
    assert verdict.fate is Disposition.DEFERRED
    assert str(verdict.status) == "4.7.5"
    assert not any(line.startswith("MAIL") for c in here.network.connections for line in c.lines)


def test_enforce_goes_on_to_the_exchanger_that_is_listed(authority: Authority) -> None:
    servers = authority.server("mx0.example.org"), authority.server("mx1.example.org")
    here = there(authority, *servers, policy=text("enforce", "mx1.example.org"))
    here.deliver(message())
    assert here.fates == [Disposition.DELIVERED]
    assert [c.endpoint.host for c in here.network.connections] == ["mx1.example.org"], "the other is not bothered"


@pytest.mark.parametrize("mode", ["testing", "none"])
@pytest.mark.parametrize("name", ["mx0.example.org", "elsewhere.example"])
def test_other_modes_keep_nothing_from_being_delivered(mode: str, name: str, authority: Authority) -> None:
    here = there(authority, authority.server(name), policy=text(mode, "mx0.example.org"))
    here.deliver(message())
    assert here.fates == [Disposition.DELIVERED]


def test_testing_judges_all_the_same(authority: Authority) -> None:
    here = there(authority, authority.server("elsewhere.example"), policy=text("testing", "mx0.example.org"))
    [verdict] = here.deliver(message())
    assert verdict.peer is not None
    assert verdict.peer.protection is not None
    trial = verdict.peer.protection.judgement.trial
    assert trial is not None
    assert not trial.ok


def test_all_policies_can_be_taken_as_testing(authority: Authority) -> None:
    chosen = settings(use=STSUse.TESTING)
    here = there(authority, Script(), policy=text("enforce", "mx9.example.org"), chosen=chosen)
    here.deliver(message())
    assert here.fates == [Disposition.DELIVERED]


def test_a_policy_raises_the_level_of_who_wants_no_tls(authority: Authority) -> None:
    chosen = settings(TLSPolicy(level=Level.NONE))
    here = there(authority, Script(), policy=text("enforce", "*.example.org"), chosen=chosen)
    here.deliver(message())
    assert here.fates == [Disposition.DEFERRED]


def test_dane_goes_before_mta_sts(authority: Authority) -> None:
    """The certificate is not what MTA-STS wants, but the one the zone names."""
    facts = authority.facts("elsewhere.example")
    leaf = facts.leaf
    assert leaf is not None
    dns = f"\nexample.org SECURE\n_25._tcp.mx0.example.org TLSA 3 0 0 {leaf.der.hex()}"
    server = Script(keywords=("STARTTLS",), tls=facts)
    chosen = settings(TLSPolicy(dane=True))
    here = there(authority, server, policy=text("enforce", "mx9.example.org"), chosen=chosen, dns=dns)
    here.deliver(message())
    assert here.fates == [Disposition.DELIVERED]


def test_a_policy_host_that_is_gone_keeps_the_policy_that_is_known(authority: Authority) -> None:
    here = there(authority, Script(), policy=None)
    kept = CachedPolicy("example.org", "0", text("enforce", "*.example.org"), fetched=NOW - 1000)
    here.network.policy_cache["example.org"] = kept
    here.deliver(message())
    assert here.fates == [Disposition.DEFERRED]
    assert here.network.policy_cache["example.org"].text == kept.text


def test_without_a_policy_that_can_be_had_mail_goes(authority: Authority) -> None:
    here = there(authority, Script(), policy=None)
    here.deliver(message())
    assert here.fates == [Disposition.DELIVERED]
    here.close()
    here.deliver(message())
    assert len(here.network.fetches) == 1, "a host that failed is left alone for a while"


def test_a_policy_is_fetched_once(authority: Authority) -> None:
    here = there(authority, authority.server("mx0.example.org"), policy=text("enforce", "mx0.example.org"))
    for _ in range(3):
        here.deliver(message())
        here.close()
    assert len(here.network.fetches) == 1


@pytest.mark.parametrize(
    ("chosen", "destination", "use_mx"),
    [
        (settings(), "[192.0.2.1]", True),
        (settings(), "UNIX:/run/lmtp", True),
        (settings(), "example.org", False),
        (settings(use=STSUse.OFF), "example.org", True),
        (settings(TLSPolicy(level=Level.SECURE, match=("mx.example",))), "example.org", True),
    ],
)
def test_who_is_not_asked_for_a_policy(
    chosen: SessionSettings, destination: str, use_mx: bool, authority: Authority
) -> None:
    here = there(authority, Script(), policy=text("enforce", "*.example.org"), chosen=chosen)
    here.route.request = replace(here.route.request, destination=destination, use_mx=use_mx, allow_unix=True)
    resolver = StaticResolver(table(1) + RECORD)
    here.network._resolver = resolver  # to see the questions
    here.deliver(message())
    assert not here.network.fetches
    assert not [query for query in resolver.queries if query.type is RecordType.TXT]


def test_tls_required_no_silences_a_policy_for_this_message_only(authority: Authority) -> None:
    server = Script(keywords=("STARTTLS",), tls=SECURED)
    here = there(authority, server, policy=text("enforce", "*.example.org"))
    here.deliver(message(wish=TLSDemand.TLS_OPTIONAL))
    assert here.fates == [Disposition.DELIVERED]
    here.close()
    here.deliver(message())
    assert here.fates == [Disposition.DEFERRED]
