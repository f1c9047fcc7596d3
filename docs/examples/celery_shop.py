"""Mail as tasks of Celery: a task delivers now, and is retried for deferred recipients only."""

from __future__ import annotations

import logging
import os

import celery

import zsmtp

app = celery.Celery("shop", broker=os.environ.get("BROKER", "amqp://localhost"))
RELAY = os.environ.get("MAIL_RELAY", "smtp://localhost")
log = logging.getLogger(__name__)
WAITS = (60, 300, 900, 3600, 7200)  # seconds before each retry; then it is given up


@app.task(bind=True, max_retries=len(WAITS), acks_late=False)
def send(task: celery.Task, message: str, recipients: list[str]) -> None:
    """Deliver a message, and retry later for deferred recipients.

    A recipient in doubt may have the message already, so only deferred ones are retried. A task that is acknowledged
    late would run again after a crash, also for recipients that have the message.
    """
    report = zsmtp.deliver(message.encode(), recipients=recipients, relay=RELAY)
    for result in report:
        log.log(logging.INFO if result.ok else logging.WARNING, "%s", result)
    waiting = [result.recipient for result in report.with_fate(zsmtp.Fate.DEFERRED)]
    if waiting:
        wait = WAITS[min(task.request.retries, len(WAITS) - 1)]
        raise task.retry(args=(message, waiting), countdown=wait)
