"""Which notices are owed: NOTIFY as a table, and no loops whatever happens to a notice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.queuenotices import EXPIRES, NONCE, ORIGINAL, SUBMITTED, composer, message, recipient

from zsmtp.queue.composer import MAX_HEADER
from zsmtp.queue.notices import AUTOMATIC, Automatic, automatic, owed, permitted
from zsmtp.queue.states import NoticeKind, Outcome, QueuedMessage, QueuedRecipient
from zsmtp.queue.store import NewMessage, NewRecipient

F, D, S, X = NoticeKind.FAILED, NoticeKind.DELAYED, NoticeKind.DELIVERED, NoticeKind.RELAYED

NOTIFY = [
    # NOTIFY, options, kinds that are permitted
    (None, "", {F, D}),
    (None, "bulk", {F}),
    (None, "auto-generated", set()),
    (None, "auto-replied", set()),
    (None, "something else", {F, D}),
    (b"NEVER", "", set()),
    (b"FAILURE", "", {F}),
    (b"FAILURE", "auto-generated", {F}),
    (b"FAILURE", "auto-replied", set()),
    (b"DELAY", "bulk", {D}),
    (b"SUCCESS", "", {S, X, NoticeKind.EXPANDED}),
    (b"success,failure,delay", "", set(NoticeKind)),
]


@pytest.mark.parametrize(("notify", "kept", "expected"), NOTIFY)
def test_what_the_sender_may_be_notified_of(notify: bytes | None, kept: str, expected: set[NoticeKind]) -> None:
    mail = message(options={AUTOMATIC: kept, "priority": 3} if kept else None)
    assert {kind for kind in NoticeKind if permitted(kind, notify, mail)} == expected
    assert not any(permitted(kind, notify, message(sender=b"")) for kind in NoticeKind)


OUTCOMES = [
    # outcome, what else is known, the kind that is owed if everything was asked for
    (Outcome.FAILED, {}, F),
    (Outcome.EXPIRED, {}, F),
    (Outcome.DEFERRED, {}, None),
    (Outcome.DEFERRED, {"warn": True}, D),
    (Outcome.DELIVERED, {}, None),
    (Outcome.DELIVERED, {"action": "delivered"}, S),
    (Outcome.DELIVERED, {"action": "relayed"}, X),
    (Outcome.DELIVERED, {"action": "expanded"}, NoticeKind.EXPANDED),
    (Outcome.DROPPED, {"warn": True, "action": "delivered"}, None),
    (Outcome.IN_DOUBT, {"warn": True, "action": "delivered"}, None),
    (Outcome.LATE, {"warn": True, "action": "delivered"}, None),
]


@pytest.mark.parametrize(("outcome", "known", "expected"), OUTCOMES)
def test_what_is_owed_for_an_outcome(outcome: Outcome, known: dict[str, Any], expected: NoticeKind | None) -> None:
    found = owed(recipient(notify=b"SUCCESS,FAILURE,DELAY"), message(), outcome, SUBMITTED, **known)
    assert (found.kind if found is not None else None) is expected
    assert owed(recipient(notify=b"NEVER"), message(), outcome, SUBMITTED, **known) is None
    assert owed(recipient(), message(sender=b""), outcome, SUBMITTED, **known) is None


def test_a_warning_comes_once() -> None:
    assert owed(recipient(warned=True), message(), Outcome.DEFERRED, SUBMITTED, warn=True) is None


def test_what_is_owed_says_everything_that_is_known() -> None:
    found = owed(
        recipient(number=4, orcpt=b"rfc822;team@example.com"),
        message(),
        Outcome.FAILED,
        SUBMITTED + 9,
        status="5.1.1",
        code=550,
        reason="5.1.1 no such user",
        server="mx1.example.com [192.0.2.25]:25",
        last_attempt=SUBMITTED + 9,
    )
    assert found is not None
    assert (found.message, found.number, found.kind, found.at) == (message().id, 4, F, SUBMITTED + 9)
    assert (found.address, found.orcpt) == (b"bob@example.com", b"rfc822;team@example.com")
    assert (found.status, found.code, found.reason) == ("5.1.1", 550, "5.1.1 no such user")
    assert (found.server, found.expires, found.last_attempt) == (
        "mx1.example.com [192.0.2.25]:25",
        EXPIRES,
        SUBMITTED + 9,
    )


def test_an_expired_recipient_has_the_words_of_its_last_attempt() -> None:
    late = recipient(status="4.2.2", reason="452 4.2.2 mailbox full")
    found = owed(late, message(), Outcome.EXPIRED, EXPIRES)
    assert found is not None
    assert (found.status, found.code, found.reason) == ("4.2.2", 452, "452 4.2.2 mailbox full")
    never = owed(recipient(), message(), Outcome.EXPIRED, EXPIRES)
    assert never is not None
    assert (never.status, never.code) == ("4.4.7", 0)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"From: a@b\n", Automatic.NO),
        (b"Auto-Submitted: no\n", Automatic.NO),
        (b"Auto-Submitted: No (really)\n", Automatic.NO),
        (b"AUTO-SUBMITTED: Auto-Generated\n", Automatic.GENERATED),
        (b"Auto-Submitted:\n (cron) auto-generated; owner-email=a@b\n", Automatic.GENERATED),
        (b"Auto-Submitted: auto-notified\n", Automatic.GENERATED),
        (b"Auto-Submitted: auto-replied\nPrecedence: bulk\n", Automatic.REPLIED),
        (b"Precedence: bulk\n", Automatic.BULK),
        (b"Precedence: first-class\n", Automatic.NO),
        (b"List-Id: <list.example.org>\n", Automatic.BULK),
        (b"Content-Type: multipart/report; report-type=delivery-status; boundary=x\n", Automatic.REPLIED),
        (b'Content-Type: Multipart/Report; boundary=x;\n\treport-type="Disposition-Notification"\n', Automatic.REPLIED),
        (b"Content-Type: multipart/report; report-type=feedback-report; boundary=x\n", Automatic.NO),
        (b"Content-Type: text/plain; report-type=delivery-status\n", Automatic.NO),
        (b"Subject: Auto-Submitted: auto-replied\n", Automatic.NO),
    ],
)  # fmt: skip
def test_automatic_mail_is_known_by_its_header(header: bytes, expected: Automatic) -> None:
    assert automatic(header) is expected


@given(st.binary(max_size=400))
def test_no_header_is_too_odd_to_be_judged(header: bytes) -> None:
    assert isinstance(automatic(header), Automatic)


# ----------------------------------------------------------------------- loops

notifies = st.sampled_from([None, b"NEVER", b"FAILURE", b"SUCCESS,FAILURE,DELAY", b"DELAY"])
events = st.tuples(st.sampled_from(Outcome), st.sampled_from(["", "delivered", "relayed", "expanded"]), st.booleans())
headers = st.sampled_from([b"", b"Auto-Submitted: auto-generated\n", b"List-Id: <l.example>\n", b"Precedence: bulk\n"])


def queued(new: NewMessage) -> QueuedMessage:
    """A message as the store gives it back."""
    return message(new.content, sender=new.sender, ret=new.ret, envid=new.envid, origin=new.origin, options=new.options)


def answered(
    mail: QueuedMessage, one: QueuedRecipient, event: tuple[Outcome, str, bool], content: bytes
) -> NewMessage | None:
    """The notice about a message to whose recipient this happened."""
    outcome, action, warn = event
    found = owed(one, mail, outcome, SUBMITTED, action=action, warn=warn)
    if found is None:
        return None
    whom = [NewRecipient(address=mail.sender, key="k", notify=b"NEVER")]
    made = composer().compose(
        mail, [found], content[:MAX_HEADER], recipients=whom, now=SUBMITTED, expires=EXPIRES, nonce=NONCE
    )
    return made.message if made is not None else None


@given(
    st.sampled_from([b"", b"ann@example.org", b"mailer-daemon@mail.example.org"]),
    notifies,
    headers,
    st.sampled_from(Automatic),
    st.lists(events, min_size=5, max_size=5),
)
def test_every_chain_of_notices_ends_with_the_first(
    sender: bytes, notify: bytes | None, header: bytes, kept: Automatic, happened: list[tuple[Outcome, str, bool]]
) -> None:
    content = header + ORIGINAL
    mail, one = message(content, sender=sender, options={AUTOMATIC: kept.value}), recipient(notify=notify)
    length = 0
    for event in happened:
        notice = answered(mail, one, event, content)
        if notice is None:
            break
        length += 1
        (to,) = notice.recipients
        assert (notice.sender, to.address, to.notify) == (b"", sender, b"NEVER")
        mail, one, content = queued(notice), recipient(address=to.address, notify=to.notify), notice.content
    assert length <= 1


@given(st.sampled_from([b"ann@example.org", b"bob@example.com"]), notifies, events)
def test_a_notice_that_was_given_another_sender_is_answered_by_none(
    sender: bytes, notify: bytes | None, event: tuple[Outcome, str, bool]
) -> None:
    notice = answered(message(), recipient(), (Outcome.FAILED, "", False), ORIGINAL)
    assert notice is not None
    content = b"Received: from elsewhere\n" + notice.content
    again = message(content, sender=sender)
    assert answered(again, recipient(notify=notify), event, content) is None
