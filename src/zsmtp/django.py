"""Email backends for Django: one that queues mail durably, one that delivers it during the request.

In the settings::

    EMAIL_BACKEND = "zsmtp.django.QueueBackend"     # or "zsmtp.django.DeliverBackend"
    ZSMTP_QUEUE = "sqlite:///var/lib/app/mail.db"   # without it: the environment's ZSMTP_QUEUE, else the system's queue
    ZSMTP_DATABASE = "default"                      # instead: the queue's tables are in this database
    ZSMTP_CONFIG = "/etc/zsmtp.toml"                # or a zsmtp.Config; delivery options and relays
    ZSMTP_QUEUE_CONFIG = QueueConfig(...)           # zsmtp.queue.config: quotas of tenants, rules for addresses
    ZSMTP_TENANT = "shop"                           # the owner of the mail; without it: no tenant

With ``ZSMTP_DATABASE`` a message is written in the transaction that is open there: mail of a request that is rolled
back was never sent. PostgreSQL (psycopg 3) needs no settings for it; a SQLite database must be in WAL mode with
``synchronous=FULL``, and transactions that send mail must begin with ``BEGIN IMMEDIATE``
(``"OPTIONS": {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}``).
Another process delivers the queue: ``zsmtp.Queue.open(..., deliver=True)``.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import quote, urlencode

from django import conf
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import connections, transaction

from zsmtp.client.client import Client
from zsmtp.client.config import Config
from zsmtp.client.report import Report
from zsmtp.errors import ZsmtpError
from zsmtp.queue.blocking import Queue
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.location import usual_location
from zsmtp.queue.queue import CallersConnection

__all__ = ["DeliverBackend", "QueueBackend"]

_URL_OPTIONS = {"options", "passfile", "service", "sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs"}
"""Options of a database that the queue's own connections use, too."""

_open: dict[tuple[int, str], Queue] = {}
_lock = threading.Lock()


class QueueBackend(BaseEmailBackend):
    """Queues messages; a message counts as sent once it is on disk, or in the open transaction.

    ``queue``, ``database`` and ``tenant`` replace the settings. Raises ZsmtpError unless ``fail_silently``.
    """

    def __init__(
        self,
        fail_silently: bool = False,
        *,
        queue: str | None = None,
        database: str | None = None,
        tenant: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(fail_silently=fail_silently, **options)
        self._database = database or (None if queue else getattr(conf.settings, "ZSMTP_DATABASE", None))
        self._location = queue or getattr(conf.settings, "ZSMTP_QUEUE", None)
        self._tenant: str = getattr(conf.settings, "ZSMTP_TENANT", "") if tenant is None else tenant

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Queue messages one after the other; return the number queued."""
        sent = 0
        for message in email_messages:
            recipients = message.recipients()
            if not recipients:
                continue
            try:
                self._submit(message, recipients)
            except (ZsmtpError, OSError):
                if not self.fail_silently:
                    raise
            else:
                sent += 1
        return sent

    def _submit(self, message: EmailMessage, recipients: list[str]) -> None:
        connection = None if self._database is None else _connection(self._database)
        queue = _queue(_place_of(self._database) if self._database is not None else self._location)
        queue.submit(
            message.message(),
            sender=message.from_email,
            recipients=recipients,
            tenant=self._tenant,
            connection=connection,
        )
        if self._database is not None:
            transaction.on_commit(queue.wake, using=self._database)


class DeliverBackend(BaseEmailBackend):
    """Delivers messages, and returns when servers have accepted or refused them.

    All messages are tried; then the first :class:`~zsmtp.errors.NotDelivered` or other error is raised, unless
    ``fail_silently``.
    """

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Deliver messages concurrently; return the number that were delivered to all their recipients."""
        outcomes = _run(_deliver([message for message in email_messages if message.recipients()]))
        sent = 0
        for outcome in outcomes:
            try:
                if isinstance(outcome, BaseException):
                    raise outcome
                outcome.raise_for_failures()
            except (ZsmtpError, OSError):
                if not self.fail_silently:
                    raise
            else:
                sent += 1
        return sent


async def _deliver(messages: Sequence[EmailMessage]) -> list[Report | BaseException]:
    async with Client(_config()) as client:
        tried = [
            client.deliver(message.message(), sender=message.from_email, recipients=message.recipients())
            for message in messages
        ]
        return await asyncio.gather(*tried, return_exceptions=True)


def _run(work: Coroutine[Any, Any, list[Report | BaseException]]) -> list[Report | BaseException]:
    """Run it on an event loop of its own; beside that of the caller if there is one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, thread_name_prefix="zsmtp") as thread:
        return thread.submit(asyncio.run, work).result()


def _config() -> Config:
    given = getattr(conf.settings, "ZSMTP_CONFIG", None)
    if given is None or isinstance(given, Config):
        return given or Config()
    return Config.from_toml(given)


def _queue_config() -> QueueConfig:
    given = getattr(conf.settings, "ZSMTP_QUEUE_CONFIG", None)
    if given is not None and not isinstance(given, QueueConfig):
        raise ImproperlyConfigured(f"ZSMTP_QUEUE_CONFIG: QueueConfig is expected, not {type(given).__name__}")
    return given or QueueConfig()


def _queue(location: str | None) -> Queue:
    """The queue of this process, which all its threads share; a process made by fork opens its own.

    It is never closed before the process ends: submitted messages are on disk.
    """
    key = os.getpid(), location or ""
    with _lock:
        queue = _open.get(key)
        if queue is None:
            where = location or usual_location().given
            queue = _open[key] = Queue.open(where, config=_config(), queue=_queue_config())
        return queue


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _place_of(alias: str) -> str:
    """The location of the queue in a database of the project: a file, or a URL."""
    settings = connections[alias].settings_dict
    if connections[alias].vendor != "postgresql":
        return str(settings["NAME"])
    options = {name: str(value) for name, value in settings.get("OPTIONS", {}).items() if name in _URL_OPTIONS}
    for name, key in (("host", "HOST"), ("port", "PORT"), ("user", "USER"), ("password", "PASSWORD")):
        if settings.get(key):
            options[name] = str(settings[key])
    return f"postgresql:///{quote(str(settings['NAME']), safe='')}?{urlencode(options, quote_via=quote)}"


def _connection(alias: str) -> CallersConnection:
    """The connection of a database of the project, in this thread."""
    database = connections[alias]
    database.ensure_connection()
    found = database.connection
    if isinstance(found, sqlite3.Connection) or type(found).__module__.partition(".")[0] == "psycopg":
        return cast(CallersConnection, found)
    raise ImproperlyConfigured(
        f"ZSMTP_DATABASE: {alias!r} is neither a SQLite database nor one of PostgreSQL by psycopg 3; "
        "name a queue by ZSMTP_QUEUE"
    )
