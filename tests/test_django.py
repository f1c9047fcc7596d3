"""Django's mail goes into the queue, or to the server, as its backends are asked to send it.

Each test is a program of its own: settings of Django can be made once in a process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.postgres import cluster, needs_postgres
from tests.support.receiver import receiving

if pytest.importorskip("django").VERSION < (5, 1):
    pytest.skip("the test's own settings need Django 5.1", allow_module_level=True)

HEAD = """
import asyncio, os, sys, threading
from pathlib import Path
import django
from django.conf import settings
import zsmtp
home = Path(sys.argv[1])
settings.configure(
    DEFAULT_FROM_EMAIL="shop@example.org",
    EMAIL_BACKEND=f"zsmtp.django.{sys.argv[2]}",
    **{"DATABASES": {"default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": home / "app.db",
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL"},
    }}} | eval(sys.argv[3]),
)
django.setup()
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection, send_mail, send_mass_mail
from django.db import connection, transaction
from zsmtp.queue.filter import Filter

def queued(name):
    async def read():
        async with zsmtp.aio.Queue.open(name if ":" in name else home / name) as queue:
            return [(row.recipient.address.decode(), row.message, b"".join(
                [block async for block in queue.store.content(row.message.id, row.message.size)]
            )) async for row in queue.store.select(Filter())]
    return asyncio.run(read())
"""


def run(program: str, home: Path, backend: str, **options: object) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + program, home, backend, repr(options)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_mail_is_queued(tmp_path: Path) -> None:
    program = """
assert send_mail("Größe", "Hällo", "Shop <shop@example.org>", ["Bob <bob@example.net>", "b@exämple.com"]) == 1
b, c, d = (f"{name}@example.net" for name in "bcd")
note = EmailMultiAlternatives("x", "text", "a@example.org", [b], cc=[c], bcc=[d])
note.attach_alternative("<p>text</p>", "text/html")
note.attach("x.bin", bytes(range(256)), "application/octet-stream")
assert note.send() == 1
assert EmailMessage("nobody", "x", to=[]).send() == 0
assert send_mass_mail([("s", "b", None, ["m1@example.net"]), ("s", "b", None, ["m2@example.net"])]) == 2
found = queued("mail.db")
assert [one[0] for one in found] == ["bob@example.net", "b@exämple.com"] + [
    f"{name}@example.net" for name in ("b", "c", "d", "m1", "m2")], found
assert found[0][1].sender == b"shop@example.org"
assert found[0][1].name.startswith("<") and found[0][1].origin == "library"
assert b"Subject: =?utf-8?" in found[0][2] and b"d@example.net" not in found[4][2]
assert b"multipart/" in found[2][2]
"""
    run(program, tmp_path, "QueueBackend", ZSMTP_QUEUE=f"sqlite://{tmp_path}/mail.db")


def test_mail_of_a_transaction_is_queued_when_it_is_committed(tmp_path: Path) -> None:
    program = """
with zsmtp.Queue.open(home / "app.db"):
    pass
class Undone(Exception): pass
try:
    with transaction.atomic():
        assert send_mail("lost", "x", None, ["lost@example.net"]) == 1
        raise Undone
except Undone:
    pass
woken = []
import zsmtp.queue.blocking
zsmtp.queue.blocking.Queue.wake = lambda self: woken.append(self)
with transaction.atomic():
    assert send_mail("kept", "x", None, ["kept@example.net"]) == 1
    try:
        with transaction.atomic():
            send_mail("inner", "x", None, ["inner@example.net"])
            raise Undone
    except Undone:
        pass
    assert woken == []
assert len(woken) == 1
assert send_mail("alone", "x", None, ["alone@example.net"]) == 1
assert len(woken) == 2
assert [one[0] for one in queued("app.db")] == ["kept@example.net", "alone@example.net"]
"""
    run(program, tmp_path, "QueueBackend", ZSMTP_DATABASE="default")


@needs_postgres
def test_mail_of_a_transaction_in_postgresql(tmp_path: Path) -> None:
    url = cluster().database()
    program = f"""
class Undone(Exception): pass
try:
    with transaction.atomic():
        assert send_mail("lost", "x", None, ["lost@example.net"]) == 1
        raise Undone
except Undone:
    pass
with transaction.atomic():
    assert send_mail("kept", "x", None, ["kept@example.net"]) == 1
    try:
        with transaction.atomic():
            send_mail("inner", "x", None, ["inner@example.net"])
            raise Undone
    except Undone:
        pass
    assert queued({url!r}) == []
assert send_mail("alone", "x", None, ["alone@example.net"]) == 1
assert [one[0] for one in queued({url!r})] == ["kept@example.net", "alone@example.net"]
connection.close()
"""
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.partition("///")[2].partition("?")[0],
        "HOST": str(cluster().folder),
        "USER": "zsmtp",
        "PASSWORD": "not + asked for",
        "OPTIONS": {"options": "-c work_mem=5MB -c jit=on"},
    }
    run(program, tmp_path, "QueueBackend", ZSMTP_DATABASE="default", DATABASES={"default": database})


def test_trouble_is_raised_unless_it_is_to_be_silent(tmp_path: Path) -> None:
    program = """
mails = [EmailMessage("s", "b", None, ["a b@example.net"]), EmailMessage("s", "b", None, ["b@example.net"])]
try:
    get_connection().send_messages(mails)
    raise SystemExit("not raised")
except zsmtp.SubmissionError:
    pass
assert get_connection(fail_silently=True).send_messages(mails) == 1
assert [one[0] for one in queued("mail.db")] == ["b@example.net"]
other = get_connection(queue=str(home / "none" / "mail.db"))
try:
    other.send_messages(mails[1:])
    raise SystemExit("not raised")
except zsmtp.QueueUnavailable:
    pass
assert get_connection(queue=str(home / "none" / "mail.db"), fail_silently=True).send_messages(mails[1:]) == 0
assert get_connection(queue=str(home / "other.db")).send_messages(mails[1:]) == 1
assert len(queued("other.db")) == 1
"""
    run(program, tmp_path, "QueueBackend", ZSMTP_QUEUE=str(tmp_path / "mail.db"))


@pytest.mark.parametrize("place", [{"ZSMTP_QUEUE": "mail.db"}, {"ZSMTP_DATABASE": "default"}])
def test_quotas_and_rules_of_the_queue_hold(tmp_path: Path, place: dict[str, str]) -> None:
    program = """
from zsmtp.queue.addressrules import AddressRules
from zsmtp.queue.config import QueueConfig, TenantLimits
os.chdir(home)
settings.ZSMTP_QUEUE_CONFIG = QueueConfig(
    tenants={"shop": TenantLimits(messages_per_hour=1)}, addresses=AddressRules(redirect_to="test@example.org"))
settings.ZSMTP_TENANT = "shop"
name = "app.db" if hasattr(settings, "ZSMTP_DATABASE") else "mail.db"
with zsmtp.Queue.open(home / name):
    pass
assert send_mail("one", "x", None, ["bob@example.net"]) == 1
try:
    send_mail("two", "x", None, ["bob@example.net"])
    raise SystemExit("not raised")
except zsmtp.QuotaExceeded as error:
    assert (error.tenant, error.quota) == ("shop", "messages_per_hour")
assert send_mail("three", "x", None, ["bob@example.net"], fail_silently=True) == 0
assert get_connection(tenant="").send_messages([EmailMessage("four", "x", None, ["bob@example.net"])]) == 1
assert [(one[0], one[1].tenant) for one in queued(name)] == [("test@example.org", "shop"), ("test@example.org", "")]
"""
    run(program, tmp_path, "QueueBackend", **place)


def test_a_wrong_configuration_of_the_queue_is_named(tmp_path: Path) -> None:
    program = """
from django.core.exceptions import ImproperlyConfigured
try:
    send_mail("one", "x", None, ["bob@example.net"])
    raise SystemExit("not raised")
except ImproperlyConfigured as error:
    assert str(error) == "ZSMTP_QUEUE_CONFIG: QueueConfig is expected, not str"
"""
    run(program, tmp_path, "QueueBackend", ZSMTP_QUEUE=str(tmp_path / "mail.db"), ZSMTP_QUEUE_CONFIG="/etc/x.toml")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a fork beside threads is a warning from 3.12 on")
def test_a_worker_that_was_forked_off_queues_too(tmp_path: Path) -> None:
    program = """
send_mail("s", "b", None, ["parent@example.net"])
child = os.fork()
if not child:
    os._exit(0 if send_mail("s", "b", None, ["child@example.net"]) == 1 else 1)
assert os.waitpid(child, 0)[1] == 0
send_mail("s", "b", None, ["parent@example.net"])
assert [one[0] for one in queued("mail.db")] == ["parent@example.net", "child@example.net", "parent@example.net"]
"""
    run(program, tmp_path, "QueueBackend", ZSMTP_QUEUE=str(tmp_path / "mail.db"))


def test_mail_is_delivered_at_once(tmp_path: Path) -> None:
    program = """
mails = [EmailMessage("s", "b", None, [to]) for to in ("bob@example.net", "nobody@example.net", "eve@example.net")]
assert send_mail("one", "x", None, ["bob@example.net"]) == 1
try:
    get_connection().send_messages(mails)
    raise SystemExit("not raised")
except zsmtp.NotDelivered as error:
    assert [result.recipient for result in error.report] == ["nobody@example.net"]
assert get_connection(fail_silently=True).send_messages(mails) == 2
async def inside():
    return get_connection().send_messages(mails[:1])
assert asyncio.run(inside()) == 1
"""
    with receiving() as receiver:
        receiver.refuse.add("nobody@example.net")
        config = tmp_path / "zsmtp.toml"
        config.write_text(f'relay = "smtp://127.0.0.1:{receiver.port}"\n')
        run(program, tmp_path, "DeliverBackend", ZSMTP_CONFIG=str(config))
    assert len(receiver.messages) == 1 + 2 + 2 + 1
