"""What the configuration makes of the addresses of envelopes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations
from zsmtp.errors import ConfigError
from zsmtp.proto.plan import Envelope, EnvelopeRecipient
from zsmtp.queue.addressrules import MAX_TARGETS, AddressRules
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.submission import Submitter, digest

HOST = "web1.example.org"


def rules(**values: Any) -> AddressRules:
    return AddressRules(**{"domains": (HOST, "localhost"), **values})


def recipients(made: AddressRules, *addresses: str) -> list[tuple[str, bytes | None]]:
    found = made.recipients(tuple(EnvelopeRecipient(one.encode()) for one in addresses))
    return [(one.address.decode(), one.orcpt) for one in found]


@pytest.mark.parametrize(
    ("address", "becomes"),
    [
        (f"root@{HOST}", ["ops@example.org"]),
        ("Root@LOCALHOST", ["ops@example.org"]),
        ("root@example.com", ["root@example.com"]),
        ("root", ["root"]),
        ("sales@example.com", ["ann@example.org", "bob@example.org"]),
        (f"hostmaster@{HOST}", ["ops@example.org"]),
        (f"all@{HOST}", ["ann@example.org", "bob@example.org", "ops@example.org"]),
        (f"loop@{HOST}", [f"loop@{HOST}"]),
        (f"me@{HOST}", [f"me@{HOST}", "archive@example.org"]),
    ],
)
def test_an_alias_becomes_what_it_stands_for(address: str, becomes: list[str]) -> None:
    made = rules(
        aliases={
            "root": ("ops@example.org",),
            "hostmaster": ("root",),
            "Sales@Example.com": ("ann@example.org", "bob@example.org"),
            "all": ("sales@example.com", "root", "ops@example.org"),
            "loop": ("pool",),
            "pool": ("loop",),
            "me": ("me", "archive@example.org"),
        }
    )
    assert [one for one, _ in recipients(made, address)] == becomes


def test_notices_name_the_address_that_the_sender_knows() -> None:
    made = rules(aliases={"root": ("ops@example.org",)})
    given = (
        EnvelopeRecipient(f"root@{HOST}".encode(), b"FAILURE"),
        EnvelopeRecipient(b"root@localhost", None, b"rfc822;o@example.net"),
        EnvelopeRecipient(b"c@example.net"),
    )
    assert made.recipients(given[:1]) == (
        EnvelopeRecipient(b"ops@example.org", b"FAILURE", f"rfc822;root@{HOST}".encode()),
    )
    assert made.recipients(given[1:]) == (
        EnvelopeRecipient(b"ops@example.org", None, b"rfc822;o@example.net"),
        EnvelopeRecipient(b"c@example.net"),
    )
    assert len(made.recipients(given)) == 2, "each recipient once"


@pytest.mark.parametrize(
    ("sender", "becomes"),
    [
        (f"www@{HOST}", "www@example.org"),
        (f"WWW@{HOST.upper()}", "WWW@example.org"),
        (f"cron@{HOST}", "ops@example.org"),
        ("a@example.net", "a@example.net"),
        (f"a@sub.{HOST}", f"a@sub.{HOST}"),
        ("", ""),
    ],
)
def test_senders_are_rewritten(sender: str, becomes: str) -> None:
    made = rules(senders={f"cron@{HOST}": "ops@example.org", f"@{HOST}": "@example.org"})
    assert made.apply(Envelope(sender.encode(), (EnvelopeRecipient(b"b@example.net"),))).sender.decode() == becomes


def test_redirected_mail_goes_to_one_address() -> None:
    queue = QueueConfig(addresses=rules(redirect_to="dev@example.org", aliases={"root": ("ops@example.org",)}))
    envelope = Envelope(
        b"a@example.org", (EnvelopeRecipient(b"b@example.net"), EnvelopeRecipient(f"root@{HOST}".encode()))
    )
    found = Submitter(Destinations(Config()), queue).message(envelope, b"Subject: x\n", now=1.0)
    assert [(one.address, one.key) for one in found.recipients] == [(b"dev@example.org", "example.org")]
    assert found.options == {"redirected": ["b@example.net", f"root@{HOST}"]}


def test_a_repeated_submission_is_compared_as_it_was_given() -> None:
    queue = QueueConfig(addresses=rules(senders={"@example.org": "@example.net"}, redirect_to="dev@example.org"))
    envelope = Envelope(b"a@example.org", (EnvelopeRecipient(b"b@example.net"),))
    found = Submitter(Destinations(Config()), queue).message(
        envelope, b"Subject: x\n", now=1.0, content=b"Subject: x\n\n", idempotency_key="1"
    )
    assert found.digest == digest(envelope, b"Subject: x\n\n")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"aliases": {"root": ()}}, "aliases.root: no address"),
        ({"aliases": {"root": ("a b@example.org",)}}, r"aliases.root: 'a b@example.org' blank"),
        ({"aliases": {"root": ("ops",)}, "domains": ()}, "aliases.root: in which domain"),
        ({"aliases": {"a\nb": ("x@example.org",)}}, r"aliases.a\\nb: .* control character"),
        ({"senders": {"@example.org": "a@example.org"}}, "senders.@example.org: an address for an address"),
        ({"senders": {"@example.org": "@exa mple"}}, "senders.@example.org: 'x@exa mple' blank"),
        ({"domains": ("a_b..c",)}, "domains: 'a_b..c'"),
        ({"redirect_to": "dev"}, "redirect_to: 'dev' has no domain"),
        ({"aliases": {"x": tuple(f"{n}@example.org" for n in range(MAX_TARGETS + 1))}}, "aliases.x: more than 1000"),
    ],
)
def test_what_cannot_be_used_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rules(**values)


NAMES = st.sampled_from(["a", "b", "c", "d", f"a@{HOST}", "x@example.org", "y@example.net"])


@given(
    aliases=st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=4).map(tuple), max_size=6),
    asked=st.lists(NAMES.map(lambda one: one if "@" in one else f"{one}@{HOST}"), min_size=1, max_size=4, unique=True),
)
def test_whatever_leads_to_whatever_somebody_gets_the_mail(
    aliases: dict[str, tuple[str, ...]], asked: list[str]
) -> None:
    made = rules(aliases=aliases)
    found = [one for one, _ in recipients(made, *asked)]
    assert found
    assert len(found) == len(set(found))
