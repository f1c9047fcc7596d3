"""What becomes of an envelope and a header when they are queued."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.client.config import TLS, Config, Relay
from zsmtp.client.destinations import Destinations
from zsmtp.errors import ConfigError, SubmissionError
from zsmtp.proto.mailoptions import NO_OPTIONS, MailOptions, checked
from zsmtp.proto.plan import Envelope, EnvelopeRecipient, TLSDemand, sender_wish
from zsmtp.queue.addressrules import AddressRules
from zsmtp.queue.config import DAY, QueueConfig
from zsmtp.queue.intake import options_text
from zsmtp.queue.schedule import RetryOverride, RetryPolicy
from zsmtp.queue.states import QueuedMessage
from zsmtp.queue.store import NewMessage
from zsmtp.queue.submission import MAX_HOPS, Submitter, destination_of, digest, lost_route, restored
from zsmtp.records import replace
from zsmtp.tls.policy import Level

HEADER = b"Subject: x\n"
NOW = 2_000_000_000.0


def submitter(config: Config | None = None, queue: QueueConfig | None = None) -> Submitter:
    return Submitter(Destinations(config or Config()), queue or QueueConfig())


def envelope(*addresses: str, sender: bytes = b"a@example.org", wish: TLSDemand = TLSDemand.NONE) -> Envelope:
    return Envelope(sender, tuple(EnvelopeRecipient(one.encode()) for one in addresses), wish=wish)


def test_the_key_is_the_domain_in_a_labels_and_lower_case_or_the_relay() -> None:
    config = Config(routes={"example.net": Relay.from_url("lmtp://127.0.0.1:2424")})
    found = submitter(config).message(envelope("b@Example.COM", "c@bücher.example", "d@example.net"), HEADER, now=NOW)
    assert [one.key for one in found.recipients] == [
        "example.com",
        "xn--bcher-kva.example",
        "relay:127.0.0.1:2424",
    ]


def test_mail_for_relays_at_one_host_goes_to_each_by_its_own_settings() -> None:
    safe = Relay(host="mail.example.org", tls=TLS(level=Level.VERIFY))
    config = Config(relay=Relay(host="mail.example.org"), routes={"bank.example": safe})
    found = submitter(config).message(envelope("a@bank.example", "b@example.net"), HEADER, now=NOW)
    places = Destinations(config)
    keys = [one.key for one in found.recipients]
    assert [destination_of(places, key).relay for key in keys] == [safe, config.relay]
    assert [lost_route(places, key) for key in keys] == ["", ""]
    before = "relay:mail.example.org:25"  # of mail that was queued when there was one of them
    assert lost_route(places, before).startswith("relay mail.example.org:25 is one of several by now")
    for relay, key in zip((safe, config.relay), keys, strict=True):
        alone = Destinations(Config(relay=relay))
        assert destination_of(alone, before).relay == destination_of(alone, key).relay == relay
        (other,) = set(keys) - {key}
        assert lost_route(alone, other) == f"no relay {other.removeprefix('relay:')} is configured any more"


def test_relays_that_cannot_be_told_apart_are_refused() -> None:
    relays = {f"{word}.example": Relay.from_url(f"smtp://ann:{word}@mail.example.org") for word in ("one", "two")}
    with pytest.raises(ConfigError, match="2 passwords are given"):
        submitter(Config(routes=relays))


def test_the_key_goes_by_the_sender_as_it_is_rewritten() -> None:
    shop = Relay.from_url("smtp://shop@mail.example.org", password_env="X")
    config = Config(relay=Relay(host="relay.example"), sender_routes={"shop.example": shop})
    rules = AddressRules(senders={"@web1.example.org": "@shop.example", "@shop.example": "@example.org"})
    for sender, key in (
        (b"a@web1.example.org", "relay:shop@mail.example.org:587"),
        (b"a@shop.example", "relay:relay.example:25"),
        (b"", "relay:relay.example:25"),
    ):
        made = submitter(config, QueueConfig(addresses=rules))
        (found,) = made.message(envelope("b@example.com", sender=sender), HEADER, now=NOW).recipients
        assert found.key == key


def test_the_longest_life_goes_by_the_relay_of_the_sender() -> None:
    shop = Relay.from_url("smtp://shop@mail.example.org", password_env="X")
    retry = RetryPolicy(overrides=(RetryOverride(site="relay:shop@*", expire=9 * DAY),))
    made = submitter(Config(sender_routes={"shop.example": shop}), QueueConfig(retry=retry))
    for sender, days in ((b"a@shop.example", 9), (b"a@example.org", 5)):
        found = made.message(envelope("b@example.com", sender=sender), HEADER, now=NOW)
        assert found.expires == NOW + days * DAY


@pytest.mark.parametrize(("sender", "days"), [(b"a@example.org", 5), (b"", 2)])
def test_when_it_is_given_up(sender: bytes, days: int) -> None:
    found = submitter().message(envelope("b@example.com", sender=sender), HEADER, now=NOW)
    assert (found.due, found.expires) == (NOW, NOW + days * DAY)


def test_the_longest_life_of_its_recipients_counts() -> None:
    retry = RetryPolicy(overrides=(RetryOverride(site="slow.example", expire=9 * DAY),))
    found = submitter(queue=QueueConfig(retry=retry)).message(
        envelope("b@x.example", "b@slow.example"), HEADER, now=NOW
    )
    assert found.expires == NOW + 9 * DAY


def test_later_delivery_moves_due_time_and_end() -> None:
    found = submitter().message(envelope("b@example.com"), HEADER, now=NOW, not_before=NOW + 60)
    assert (found.due, found.expires) == (NOW + 60, NOW + 60 + 5 * DAY)
    assert found.options == {"not_before": NOW + 60}
    assert submitter().message(envelope("b@example.com"), HEADER, now=NOW, not_before=NOW - 60).options is None


@pytest.mark.parametrize(
    ("header", "wish", "options"),
    [
        (b"Auto-Submitted: auto-replied\n", TLSDemand.NONE, {"automatic": "auto-replied"}),
        (b"List-Id: <x.example>\n", TLSDemand.NONE, {"automatic": "bulk"}),
        (b"TLS-Required: No\n", TLSDemand.NONE, {"tls_optional": True}),
        (b"TLS-Required: No\n", TLSDemand.REQUIRETLS, {"require_tls": True}),
        (b"Subject: x\n", TLSDemand.NONE, None),
    ],
)
def test_what_of_the_header_is_kept(header: bytes, wish: TLSDemand, options: object) -> None:
    assert submitter().message(envelope("b@example.com", wish=wish), header, now=NOW).options == options


def test_a_message_that_goes_round_in_circles_is_refused() -> None:
    good = b"Received: from x\n" * MAX_HOPS
    submitter().message(envelope("b@example.com"), good, now=NOW)
    with pytest.raises(SubmissionError, match="round in circles"):
        submitter().message(envelope("b@example.com"), good + b"Received: from x\n", now=NOW)


def test_times_that_cannot_be() -> None:
    one = envelope("b@example.com")
    with pytest.raises(SubmissionError, match="given up before"):
        submitter().message(one, HEADER, now=NOW, expires=NOW)
    with pytest.raises(SubmissionError, match="kept back"):
        submitter().message(one, HEADER, now=NOW, not_before=NOW + 400 * DAY)
    held = one._replace(options=MailOptions(hold_for=60))
    with pytest.raises(SubmissionError, match="not_before: a time of release is given as well"):
        submitter().message(held, HEADER, now=NOW, not_before=NOW + 60)


@pytest.mark.parametrize(
    ("asked", "due"),
    [
        (MailOptions(hold_for=60), NOW + 60),
        (MailOptions(hold_until=NOW + 90), NOW + 90),
        (MailOptions(hold_until=NOW - 90), NOW),
    ],
)
def test_a_message_to_be_held_is_held_here_and_not_by_the_next_server(asked: MailOptions, due: float) -> None:
    found = submitter().message(envelope("b@example.com")._replace(options=asked), HEADER, now=NOW)
    assert found.due == due
    assert found.options == ({"not_before": due} if due > NOW else None)
    assert restored(queued(found)) == NO_OPTIONS


@given(
    require_tls=st.booleans(),
    priority=st.none() | st.integers(-9, 9),
    hold_for=st.none() | st.integers(0, 86400),
    header=st.sampled_from([HEADER, b"TLS-Required: No\n", b"List-Id: <x.example>\n"]),
)
def test_options_come_out_of_the_queue_as_they_went_in(
    require_tls: bool, priority: int | None, hold_for: int | None, header: bytes
) -> None:
    asked = checked(MailOptions(require_tls=require_tls, priority=priority, hold_for=hold_for))
    wish = sender_wish(asked, tls_optional=False)
    new = submitter().message(envelope("b@example.com", wish=wish)._replace(options=asked), header, now=NOW)
    assert restored(queued(new)) == checked(MailOptions(require_tls=require_tls, priority=priority or None))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (None, NO_OPTIONS),
        ({"require_tls": True}, MailOptions(require_tls=True)),
        ({"tls_optional": True, "automatic": "bulk", "not_before": NOW}, NO_OPTIONS),
        ({"require_tls": True, "made_by": ["a later release"]}, MailOptions(require_tls=True)),
    ],
)
def test_rows_of_before_and_of_later_are_read(row: dict[str, object] | None, found: MailOptions) -> None:
    new = submitter().message(envelope("b@example.com"), HEADER, now=NOW)
    assert restored(queued(replace(new, options=row))) == found


def queued(new: NewMessage) -> QueuedMessage:
    """A message as a store gives it back."""
    text = options_text(new)
    return QueuedMessage(
        id=1,
        sender=new.sender,
        submitted=NOW,
        size=1,
        recipients=1,
        priority=new.priority,
        options=None if text is None else json.loads(text),
    )


def test_a_digest_distinguishes_envelope_and_content() -> None:
    ones = [
        digest(envelope("b@example.com"), b"x"),
        digest(envelope("b@example.com"), b"y"),
        digest(envelope("c@example.com"), b"x"),
        digest(envelope("b@example.com", "c@example.com"), b"x"),
    ]
    assert len(set(ones)) == 4
    assert ones[0] == digest(envelope("b@example.com"), b"x")
