"""Queue one issue of a newsletter: ``newsletter.py QUEUE ISSUE LETTER ADDRESSES``.

A second run, after a crash or with a longer list, queues only what is missing: each recipient has an idempotency key.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from email.message import EmailMessage
from hashlib import sha256
from itertools import islice

import zsmtp

GROUP = 500  # messages of one commit


def letter(issue: str, date: str, text: str) -> EmailMessage:
    """The message, without what differs from one recipient to the next. Making it is the expensive part."""
    message = EmailMessage()
    message["From"] = "Example News <news@example.org>"
    message["To"] = message["Message-ID"] = message["List-Unsubscribe"] = ""
    message["Subject"] = f"Example News, {issue}"
    message["Date"] = date
    message["List-Id"] = "Example News <news.example.org>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(text)
    return message


def submissions(issue: str, message: EmailMessage, addresses: Iterable[str]) -> Iterator[zsmtp.QueueSubmission]:
    """The messages to queue, one for each recipient. The same arguments make the same octets."""
    for address in addresses:
        token = sha256(f"{issue} {address}".encode()).hexdigest()[:32]
        message.replace_header("To", address)
        message.replace_header("Message-ID", f"<{token}@news.example.org>")
        message.replace_header("List-Unsubscribe", f"<https://example.org/unsubscribe/{token}>")
        yield zsmtp.QueueSubmission(
            message=bytes(message),
            sender="bounces@example.org",
            recipients=[address],
            tenant="news",
            priority=-4,
            idempotency_key=f"{issue} {address}",
        )


def submit(queue: zsmtp.Queue, all_of_them: Iterable[zsmtp.QueueSubmission]) -> int:
    """Queue the messages in groups, each in one commit. Returns their number."""
    ids: set[str] = set()
    waiting = iter(all_of_them)
    while group := list(islice(waiting, GROUP)):
        ids.update(queue.submit_many(group))
    return len(ids)


def new_ends(queue: zsmtp.Queue, cursor: str, counted: dict[str, int]) -> str:
    """Count the ends after a cursor. Returns the next cursor."""
    while True:
        cursor, entries = queue.events(cursor)
        if not entries:
            return cursor
        for entry in entries:
            if entry.tenant == "news" and entry.outcome.end is not None:
                word = entry.outcome.end.value
                counted[word] = counted.get(word, 0) + 1


def main(path: str, issue: str, letter_file: str, address_file: str) -> None:
    """Read the files, and queue."""
    with open(letter_file, encoding="utf-8") as file:
        message = letter(issue, file.readline().strip(), file.read())  # its first line is the date of this issue
    with open(address_file, encoding="utf-8") as file, zsmtp.Queue.open(path) as queue:
        addresses = (line.strip() for line in file if line.strip())
        print(f"queued: {submit(queue, submissions(issue, message, addresses)):,}")


if __name__ == "__main__":
    main(*sys.argv[1:])
