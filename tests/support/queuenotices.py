"""Notices for tests: messages, what is owed for them, and the scenes whose notices are kept in ``tests/queue/notices``.

``python -m tests.support.queuenotices`` writes these files anew; read what changed before it is committed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zsmtp.queue import templates
from zsmtp.queue.composer import Composer, NoticeSettings
from zsmtp.queue.ids import first_id
from zsmtp.queue.states import NoticeKind, OwedNotice, QueuedMessage, QueuedRecipient
from zsmtp.queue.store import NewRecipient

KEPT = Path(__file__).parent.parent / "queue" / "notices"
SUBMITTED = 1_772_719_391.0  # 2026-03-05 14:03:11 UTC
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
EXPIRES = SUBMITTED + 5 * DAY
NONCE = bytes(range(16))
PHRASES = templates.load()

ORIGINAL = b"""\
Received: from [192.0.2.7] by mail.example.org; Thu, 5 Mar 2026 14:03:11 +0000
From: Ann <ann@example.org>
To: bob@example.com, carl@nowhere.example
Subject: Lunch on Friday
Date: Thu, 5 Mar 2026 15:03:09 +0100
Message-ID: <lunch-17@example.org>

Shall we have lunch on Friday, at one?

Ann
"""


def composer(**settings: Any) -> Composer:
    """A composer of mail.example.org."""
    return Composer(NoticeSettings(**{"host": "mail.example.org", **settings}), PHRASES)


def to(key: str) -> tuple[NewRecipient, ...]:
    """Whom a notice for Ann goes to."""
    return (NewRecipient(address=b"ann@example.org", key=key, notify=b"NEVER"),)


def message(content: bytes = ORIGINAL, **values: Any) -> QueuedMessage:
    """The message of this content as it was accepted."""
    known: dict[str, Any] = {
        "id": first_id(SUBMITTED) + 7,
        "sender": b"ann@example.org",
        "submitted": SUBMITTED,
        "size": len(content),
        "recipients": 1,
    }
    return QueuedMessage(**known | values)


def recipient(**values: Any) -> QueuedRecipient:
    """One of its recipients."""
    known: dict[str, Any] = {
        "message": first_id(SUBMITTED) + 7,
        "number": 0,
        "address": b"bob@example.com",
        "key": "example.com",
        "due": SUBMITTED,
        "expires": EXPIRES,
    }
    return QueuedRecipient(**known | values)


def notice(kind: NoticeKind = NoticeKind.FAILED, address: bytes = b"bob@example.com", **values: Any) -> OwedNotice:
    """What is owed for one of its recipients."""
    known: dict[str, Any] = {
        "message": first_id(SUBMITTED) + 7,
        "number": 0,
        "kind": kind,
        "at": SUBMITTED + MINUTE,
        "address": address,
        "expires": EXPIRES,
    }
    return OwedNotice(**known | values)


def composed(
    notices: list[OwedNotice],
    content: bytes = ORIGINAL,
    *,
    now: float = SUBMITTED + MINUTE,
    settings: dict[str, Any] | None = None,
    **values: Any,
) -> bytes:
    """The notice that all this makes."""
    made = composer(**(settings or {})).compose(
        message(content, **values),
        notices,
        content,
        recipients=to("example.org"),
        now=now,
        expires=now + 2 * DAY,
        nonce=NONCE,
    )
    assert made is not None
    assert not made.streamed
    return made.message.content


# ---------------------------------------------------------------------- scenes


def failure() -> bytes:
    """One mailbox that does not exist, and one domain."""
    unknown = notice(
        status="5.1.1",
        code=550,
        reason="550 5.1.1 <bob@example.com>: no such user here",
        server="mx1.example.com [192.0.2.25]:25",
        orcpt=b"rfc822;team@example.com",
        last_attempt=SUBMITTED + 2,
    )
    nowhere = notice(
        address=b"carl@nowhere.example", number=1, status="5.1.2", reason="no such domain: nowhere.example"
    )
    return composed([unknown, nowhere], envid=b"order+2017")


def expired_german() -> bytes:
    """A mailbox that stayed full, of a sender who writes German."""
    content = ORIGINAL.replace(
        b"Subject: Lunch on Friday\n",
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?=\nContent-Language: de-AT\n",
    )
    full = notice(
        status="4.2.2",
        code=452,
        reason="4.2.2 mailbox full",
        server="mx1.example.com [192.0.2.25]:25",
        at=EXPIRES,
        last_attempt=EXPIRES - HOUR,
    )
    return composed([full], content, now=EXPIRES + MINUTE)


def delay() -> bytes:
    """A server that does not answer."""
    late = notice(
        NoticeKind.DELAYED,
        status="4.4.1",
        reason="connect to mx1.example.com [192.0.2.25|25]: timed out",
        last_attempt=SUBMITTED + 4 * HOUR,
    )
    return composed([late], now=SUBMITTED + 4 * HOUR + MINUTE)


def success() -> bytes:
    """One recipient delivered by LMTP, one passed on to a server without DSN."""
    here = notice(
        NoticeKind.DELIVERED, b"dora@example.org", status="2.1.5", code=250, reason="250 2.1.5 saved", server="store"
    )
    there = notice(
        NoticeKind.RELAYED, number=1, status="2.0.0", code=250, reason="250 queued", server="mx1.example.com"
    )
    return composed([here, there])


def internationalised() -> bytes:
    """Addresses and a header that are not ASCII (RFC 6533)."""
    content = """\
From: Jürgen <jürgen@bücher.example>
To: 李四 <李四@例え.example>
Subject: Bücher für den Sommer
Date: Thu, 5 Mar 2026 15:03:09 +0100
Message-ID: <books-18@xn--bcher-kva.example>

Siehe oben.
""".encode()
    refused = notice(
        address="李四@例え.example".encode(),
        status="5.6.7",
        code=553,
        reason="553 5.6.7 邮箱 not known",
        server="mx.xn--r8jz45g.example [192.0.2.33]:25",
        orcpt=b"utf-8;\\x{674E}\\x{56DB}@old.example",
    )
    return composed([refused], content, sender="jürgen@bücher.example".encode(), ret=b"HDRS")


def hostile() -> bytes:
    """Foreign text in all places, written to mislead."""
    content = (
        b"From: x\0y <ann@example.org>\r\nSubject: =?utf-8?q?free_=0D=0ABcc=3A_all?= \xe2\x80\xaegnp\r\n"
        b"Message-ID: <a b>\r\nX-Long: " + b"z" * 1200 + b"\r\nDate: Thu, 99 Foo 0000\r\n\r\nhello\r\n"
    )
    one = notice(
        address=b'"a\r\nBcc: all"@example.com',
        status="9.9.9",
        code=550,
        reason="550 no\r\n\r\nFinal-Recipient: rfc822; victim@example.net\r\nAction: delivered\r\n\0\x1b[2J",
        server="evil\r\nX: y",
        orcpt=b"rfc822;a+0D+0AAction:+20delivered",
    )
    return composed([one], content, ret=b"HDRS", envid=b"x+0D+0AStatus:+202.0.0")


SCENES = {
    "failure": failure,
    "expired-german": expired_german,
    "delay": delay,
    "success": success,
    "internationalised": internationalised,
    "hostile": hostile,
}


def main() -> None:
    """Write the notices of all scenes."""
    KEPT.mkdir(exist_ok=True)
    for name, make in SCENES.items():
        (KEPT / f"{name}.eml").write_bytes(make())


if __name__ == "__main__":
    main()
