"""Quotas of tenants at a listener: what a client is answered, when it may come again, and that nothing is left."""

from __future__ import annotations

import pytest
from tests.server.test_queueintake import MESSAGE, NOON, queueing, send
from tests.server.test_signing import OWN
from tests.server.test_signing import signing as signing_with_keys
from tests.support.serving import ENVELOPE

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.limits import CHUNK
from zsmtp.queue.quotas import Amount, TenantLimits


def test_the_quota_of_a_tenant_counts_recipients() -> None:
    config = QueueConfig(tenants={"": TenantLimits(recipients_per_hour=3)})
    two = ENVELOPE + b"RCPT TO:<c@example.com>\r\n"
    with queueing(queue=config) as queue, queue.client() as client:
        assert send(client, MESSAGE, two).startswith(b"250")
        assert send(client, MESSAGE, two).startswith(
            b"452 4.7.1 the quota recipients_per_hour of 3 is used up; try again in "
        )
        client.ask(b"RSET")
        assert send(client, MESSAGE).startswith(b"250")
        assert queue.run(queue.store.accepted_by("")) == {int(NOON): Amount(2, queue.octets(), 3)}


@pytest.mark.parametrize("size", [70, CHUNK * 2], ids=["small", "large"])
@pytest.mark.parametrize("signing", [False, True], ids=["unsigned", "signed"])
def test_a_quota_of_the_queue_is_free_again_when_mail_leaves(
    size: int, signing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = QueueConfig(tenants={"": TenantLimits(queued_messages=2)})
    message = b"From: a@example.org\r\n\r\n" + b"hello\r\n" * (size // 7)
    with (
        queueing(OWN, queue=config, signing=signing_with_keys() if signing else None) as queue,
        queue.client() as client,
    ):
        for _ in range(2):
            assert send(client, message).startswith(b"250")
        for _ in range(2):
            assert send(client, message).startswith(
                b"452 4.3.1 the quota queued_messages of 2 is used up; try again when some was delivered"
            )
            client.ask(b"RSET")
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
            "no mail of this tenant is taken: the quota queued_messages = 2 of mail without a tenant is used up (2); "
            "try again when mail of it has left the queue"
        ]
        assert len(queue.rows()) == 2
        assert (b"DKIM-Signature" in queue.content(queue.rows()[0])) == signing
        assert not queue.store._data.uploads


def test_a_message_that_is_more_than_a_quota_is_refused_for_good() -> None:
    config = QueueConfig(tenants={"": TenantLimits(octets_per_hour=CHUNK, recipients_per_hour=1)})
    with queueing(queue=config) as queue, queue.client() as client:
        assert client.ask(b"MAIL FROM:<a@example.net> SIZE=1000000").startswith(b"250")
        assert client.ask(b"RCPT TO:<b@example.com>").startswith(b"250")
        assert client.ask(b"DATA").startswith(b"552 5.3.4 1000000 octets at a time are more than the whole quota of ")
        client.ask(b"RSET")
        long = MESSAGE + b"x\r\n" * CHUNK
        assert send(client, long).startswith(b"552 5.3.4 ")
        client.ask(b"RSET")
        assert send(client, MESSAGE).startswith(b"250")
        assert len(queue.rows()) == 1
        assert not queue.store._data.uploads


def test_a_queue_whose_use_cannot_be_read_takes_nothing() -> None:
    config = QueueConfig(tenants={"": TenantLimits(queued_messages=2)})
    with queueing(queue=config) as queue, queue.client() as client:
        queue.store.fail("queued_by_tenant", QueueUnavailable("the disk is gone"))
        assert send(client, MESSAGE).startswith(b"451 4.3.0")
        assert send(client, MESSAGE).startswith(b"250")
