"""What a message asks of its transport: how it is checked, kept, and what of it goes to a server."""

from __future__ import annotations

import ast
import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.network import content_form

from zsmtp.errors import CommandError, SubmissionError
from zsmtp.proto import mailoptions
from zsmtp.proto.capabilities import EVERYTHING, Capabilities, HoldLimit, parse_ehlo
from zsmtp.proto.mailoptions import LAST_MOMENT, MAX_HOLD, NO_OPTIONS, MailOptions, checked, from_plain, options_of
from zsmtp.proto.plan import Envelope, EnvelopeRecipient, left_out, options_refusal, plan_transaction

NOON = datetime(2026, 12, 24, 12, tzinfo=UTC)

ASKED = st.builds(
    MailOptions,
    require_tls=st.booleans(),
    priority=st.none() | st.integers(-9, 9),
    hold_for=st.none() | st.floats(0, MAX_HOLD),
) | st.builds(
    MailOptions,
    require_tls=st.booleans(),
    priority=st.none() | st.integers(-9, 9),
    hold_until=st.floats(0, LAST_MOMENT) | st.datetimes(datetime(1970, 1, 2), timezones=st.just(UTC)),
)


def mail(options: MailOptions, capabilities: Capabilities) -> bytes:
    envelope = Envelope(b"a@example.net", (EnvelopeRecipient(b"b@example.org"),), options=options)
    return plan_transaction(envelope, content_form(), capabilities).steps[0].wire


# ---------------------------------------------------------------------- the value


def test_the_arguments_of_calls_are_the_fields() -> None:
    tree = ast.parse(Path(str(mailoptions.__file__)).read_text())
    (arguments,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "OptionArguments"
    )
    words = [ast.unparse(node).split(": ") for node in arguments.body if isinstance(node, ast.AnnAssign)]
    assert words == [list(one) for one in MailOptions.__annotations__.items()]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (MailOptions(), NO_OPTIONS),
        (MailOptions(hold_for=0), NO_OPTIONS),
        (MailOptions(require_tls=1), MailOptions(require_tls=True)),  # type: ignore[arg-type]
        (MailOptions(hold_for=0.2), MailOptions(hold_for=1)),
        (MailOptions(hold_until=NOON), MailOptions(hold_until=NOON.timestamp())),
        (MailOptions(hold_until=1.5), MailOptions(hold_until=2)),
    ],
)
def test_the_form_that_is_relied_on(given: MailOptions, found: MailOptions) -> None:
    assert checked(given) == found


def test_a_message_that_asks_for_nothing_costs_no_value() -> None:
    assert checked(MailOptions()) is NO_OPTIONS
    assert from_plain({"automatic": "bulk"}) == NO_OPTIONS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"priority": 10}, "priority 10 is not from -9 to 9"),
        ({"priority": True}, "priority: a whole number is expected, not bool"),
        ({"priority": "1"}, "priority: a whole number is expected, not str"),
        ({"hold_for": -1}, "hold_for: -1 is not from 0"),
        ({"hold_for": float("nan")}, "hold_for: nan is not"),
        ({"hold_for": MAX_HOLD + 1}, "hold_for: 1000000000 is not"),
        ({"hold_for": timedelta(1)}, "hold_for: seconds are expected, not timedelta"),
        ({"hold_until": datetime(2026, 1, 1)}, "hold_until: .* has no time zone"),
        ({"hold_until": "tomorrow"}, "hold_until: a time is expected, not str"),
        ({"hold_until": float("inf")}, "hold_until: inf is not"),
        ({"hold_until": -1}, "hold_until: -1 is not"),
        ({"hold_until": LAST_MOMENT + 1}, "hold_until: 253402300800 is not"),
        ({"hold_for": 1, "hold_until": 1}, "one time of release is expected"),
    ],
)
def test_what_cannot_be_asked_for(given: dict[str, object], words: str) -> None:
    with pytest.raises(SubmissionError, match=words):
        checked(MailOptions(**given))  # type: ignore[arg-type]


@given(ASKED)
def test_what_is_given_back_is_what_was_checked(asked: MailOptions) -> None:
    options = checked(asked)
    assert checked(options) == options
    assert from_plain({**options.given()}) == options
    assert options_of(MailOptions(**options.given())) == options


@given(st.dictionaries(st.sampled_from(MailOptions.__slots__) | st.text(), st.none() | st.integers() | st.text()))
def test_a_row_of_any_other_program_is_read(row: dict[str, object]) -> None:
    found = from_plain(row)
    assert checked(found) == found
    assert found.require_tls == bool(row.get("require_tls"))


# ---------------------------------------------------------------- what a server is asked


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (MailOptions(priority=4), b" MT-PRIORITY=4"),
        (MailOptions(priority=-9), b" MT-PRIORITY=-9"),
        (MailOptions(priority=0), b" MT-PRIORITY=0"),
        (MailOptions(hold_for=60.5), b" HOLDFOR=61"),
        (MailOptions(hold_until=NOON.astimezone(timezone(timedelta(hours=9)))), b" HOLDUNTIL=2026-12-24T12:00:00Z"),
        (MailOptions(priority=1, hold_for=1), b" MT-PRIORITY=1 HOLDFOR=1"),
        (NO_OPTIONS, b""),
    ],
)
def test_the_words_of_mail(options: MailOptions, words: bytes) -> None:
    assert mail(checked(options), EVERYTHING).endswith(words + b"\r\n")
    assert b"MAIL FROM:<a@example.net>" + words + b"\r\n" == mail(
        checked(options), Capabilities(future_release=HoldLimit(61, NOON.timestamp()), priority_profile="MIXER")
    )


@pytest.mark.parametrize(
    ("options", "limit", "words"),
    [
        (MailOptions(hold_for=1), None, "which the remote system does not offer"),
        (MailOptions(hold_until=1), None, "which the remote system does not offer"),
        (MailOptions(hold_for=61), HoldLimit(60, 9e9), "for 61 seconds; the remote system holds it for 60 at most"),
        (
            MailOptions(hold_until=NOON.timestamp() + 1),
            HoldLimit(60, NOON.timestamp()),
            "until 2026-12-24T12:00:01Z; the remote system holds it until 2026-12-24T12:00:00Z at most",
        ),
    ],
)
def test_a_message_that_would_not_be_held_long_enough_does_not_go_out(
    options: MailOptions, limit: HoldLimit | None, words: str
) -> None:
    capabilities = Capabilities(future_release=limit)
    refusal = options_refusal(options, capabilities)
    assert refusal is not None
    assert words in refusal.text
    assert str(refusal.status) == "5.3.3"
    with pytest.raises(CommandError, match="held back"):
        mail(options, capabilities)


def test_a_priority_is_left_out_where_it_is_not_offered() -> None:
    options = MailOptions(priority=3)
    assert mail(options, Capabilities()) == b"MAIL FROM:<a@example.net>\r\n"
    assert left_out(options, Capabilities()) == ("its priority 3 is left out: no MT-PRIORITY",)
    assert left_out(options, EVERYTHING) == left_out(NO_OPTIONS, Capabilities()) == ()


@given(ASKED, st.sampled_from([EVERYTHING, Capabilities(), Capabilities(future_release=HoldLimit(3600, 2e9))]))
def test_a_held_message_is_never_sent_without_its_hold(asked: MailOptions, capabilities: Capabilities) -> None:
    options = dataclasses.replace(checked(asked), require_tls=False)
    held = options.hold_for is not None or options.hold_until is not None
    if options_refusal(options, capabilities) is None:
        assert (b" HOLD" in mail(options, capabilities)) == held
    else:
        assert held


# ----------------------------------------------------------------------- keywords


@pytest.mark.parametrize(
    ("line", "limit", "profile"),
    [
        (b"FUTURERELEASE 86400 2026-12-24T12:00:00Z", HoldLimit(86400, NOON.timestamp()), None),
        (b"futurerelease 86400 2026-12-24t13:00:00+01:00", HoldLimit(86400, NOON.timestamp()), None),
        (b"MT-PRIORITY", None, ""),
        (b"mt-priority MIXER", None, "MIXER"),
    ],
)
def test_keywords(line: bytes, limit: HoldLimit | None, profile: str | None) -> None:
    found = parse_ehlo([b"mx", line])
    assert (found.future_release, found.priority_profile, found.problems) == (limit, profile, ())


@pytest.mark.parametrize(
    "line",
    [
        b"FUTURERELEASE",
        b"FUTURERELEASE 60",
        b"FUTURERELEASE 60 soon",
        b"FUTURERELEASE 60 2026-02-31T12:00:00Z",
        b"FUTURERELEASE 60 0001-01-01T00:00:00+23:59",
        b"FUTURERELEASE 60 9999-12-31T23:59:60Z",
        b"FUTURERELEASE -1 2026-12-24T12:00:00Z",
        b"FUTURERELEASE 9999999999 2026-12-24T12:00:00Z",
        b"FUTURERELEASE 60 2026-12-24T12:00:00Z more",
        b"FUTURERELEASE \xd9\xa1 2026-12-24T12:00:00Z",
        b"MT-PRIORITY one two",
        b"MT-PRIORITY \xff",
        b"MT-PRIORITY " + b"x" * 400,
    ],
)
def test_keywords_with_parameters_that_cannot_be_are_ignored_and_noted(line: bytes) -> None:
    found = parse_ehlo([b"mx", line])
    assert (found.future_release, found.priority_profile) == (None, None)
    assert len(found.problems) == 1


@given(st.binary(max_size=60), st.binary(max_size=40), ASKED)
def test_no_parameter_of_a_hostile_server_breaks_a_command(first: bytes, second: bytes, asked: MailOptions) -> None:
    line = b" ".join((b"FUTURERELEASE", first, second)).replace(b"\r", b"").replace(b"\n", b"")
    capabilities = parse_ehlo([b"mx", line, b"MT-PRIORITY " + second.replace(b"\n", b"")])
    options = checked(asked)
    if options_refusal(options, capabilities) is None:
        assert mail(options, capabilities).count(b"\r\n") == 1
