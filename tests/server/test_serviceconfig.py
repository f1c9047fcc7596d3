"""The configuration of a service: what a table means, and the words for what cannot be used."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zsmtp.client.config import Relay
from zsmtp.errors import ConfigError
from zsmtp.queue.location import DEFAULT as DEFAULT_QUEUE
from zsmtp.queue.quotas import TenantLimits
from zsmtp.queue.schedule import SCHEDULES, FailureClass, Schedule
from zsmtp.queue.settlement import InDoubt
from zsmtp.queue.shaping import Rate
from zsmtp.server.access import ClientRights, read_network
from zsmtp.server.service import needs_restart
from zsmtp.server.serviceconfig import (
    ListenTLS,
    LogFormat,
    Protocol,
    ServiceConfig,
    SocketAddress,
    read_service,
    service_config,
)

EVERYTHING = """
name = "out.example.org"

[queue]
path = "/srv/mail.db"
in_doubt = "hold"
shutdown = "2m"
retention = "7d"

[queue.retry]
expire = "3d"
warn_after = 0

[queue.retry.schedules]
greylisting = "1m 5m then 30m jitter 0%"
mailbox_full = "2h"

[[queue.retry.overrides]]
site = "*.example.com"
schedule = "10m then 1h"
expire = "1d"

[queue.in_doubt_by_site]
"bank.example" = "delivered"

[queue.sites."gmail.com"]
start = 2
most = 10
messages = "14/s"
recipients = ["100/min", "10000/day"]

[queue.tenants.shop]
weight = 2
recipients_per_hour = 1000
queued_octets = 1000000

[listen.submission]
addresses = ["[::1]:587", "*:587", "/run/zsmtp/s"]
tls = "required"
certificate_file = "/etc/cert.pem"
passwords_file = "/etc/passwords"
rates_by_user = "100/h"
max_hold = "1h"

[listen.submission.timeouts]
command = "1m"

[listen.local]
protocol = "lmtp"
networks = ["192.0.2.0/24"]

[[clients]]
login = "shop"
senders = ["*@shop.example"]
tenant = "shop"

[delivery]
relay = "smtp://relay.example:26"

[delivery.timeouts]
connect = "10s"

[notices]
contact = "help@example.org"

[log]
format = "json"
level = "warning"

[health]
address = "127.0.0.1:8025"
"""


def read(text: str, **given: Any) -> ServiceConfig:
    return service_config(tomllib.loads(text), **given)


def test_everything() -> None:
    config = read(EVERYTHING)
    queue = config.queue
    assert (config.name, config.path) == ("out.example.org", "/srv/mail.db")
    assert (queue.in_doubt, queue.shutdown, queue.retention) == (InDoubt.HOLD, 120.0, 7 * 86400.0)
    assert (queue.retry.expire, queue.retry.warn_after) == (3 * 86400.0, 0.0)
    assert queue.retry.schedules == {
        **SCHEDULES,
        FailureClass.GREYLISTING: Schedule((60.0, 300.0), 1800.0, 0.0),
        FailureClass.MAILBOX_FULL: Schedule((7200.0,), 7200.0),
    }
    assert queue.retry.for_recipient("mx.example.com", "").expire == 86400.0
    assert queue.in_doubt_by_site == {"bank.example": InDoubt.DELIVERED}
    assert queue.sites["gmail.com"].recipients == (Rate(100, 60.0), Rate(10000, 86400.0))
    assert queue.tenants["shop"] == TenantLimits(weight=2.0, recipients_per_hour=1000, queued_octets=1000000)
    submission, local = config.listen["submission"], config.listen["local"]
    assert [str(one) for one in submission.sockets] == ["[::1]:587", "*:587", "/run/zsmtp/s"]
    assert submission.tls is ListenTLS.REQUIRED
    assert submission.rates_by_user == (Rate(100, 3600.0),)
    settings = submission.protocol_settings(config.name)
    assert (settings.starttls, settings.tls_required, settings.max_hold) == (True, True, 3600)
    assert settings.timeouts.command == 60.0
    assert local.protocol is Protocol.LMTP
    assert local.trusted_networks == (read_network("192.0.2.0/24"),)
    assert config.clients == (ClientRights(login="shop", senders=("*@shop.example",), tenant="shop"),)
    assert config.delivery.timeouts.connect == 10.0
    assert str(config.delivery.relay) == "relay.example:26"
    assert (config.notices.host, config.notices.contact) == ("out.example.org", "help@example.org")
    assert (config.log.format, config.health.address) == (LogFormat.JSON, "127.0.0.1:8025")


def test_nothing_is_a_loopback_port_and_a_socket() -> None:
    config = read("")
    assert config.path == DEFAULT_QUEUE
    (local,) = config.listen.values()
    assert local.addresses == ("127.0.0.1:2525", f"{DEFAULT_QUEUE}.sock")
    assert [str(one) for one in local.trusted_networks] == ["127.0.0.0/8", "::1/128"]
    assert read("", queue="/tmp/q").path == "/tmp/q"
    assert read('[queue]\npath = "/a"', queue="/b").path == "/b"
    assert read("", queue="/" + "x" * 120).listen["local"].addresses == ("127.0.0.1:2525",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nmae = 1", "nmae: there is no such key"),
        ('relay = "smtp://127.0.0.1"', r"relay: there is no such key; is delivery\.relay meant\?"),
        ("name = 1", "name: a string is expected"),
        ('name = "a b"', "name: 'a b' "),
        ("[queue]\npth = 1", r"queue\.pth: there is no such key"),
        ("[queue]\nshutdown = true", r"queue\.shutdown: a number of seconds or a duration"),
        ('[queue]\nshutdown = "soon"', r"queue\.shutdown: 'soon' is no duration"),
        ("[queue]\nconnections = 0", r"queue\.connections: 0 is less than 1"),
        ("[queue]\nidempotency = 5", r"queue\.idempotency"),
        ("[queue]\nretry = 5", r"queue\.retry: a table is expected"),
        ('[queue.retry.schedules]\nslow = "1m"', r"queue\.retry\.schedules\.slow: is no class of failures; there are"),
        ('[queue.retry.schedules]\ndns = "soon"', r"queue\.retry\.schedules\.dns: schedule 'soon'"),
        ("[[queue.retry.overrides]]\nsite = 1", r"queue\.retry\.overrides\[0\]\.site: a string is expected"),
        ('[queue.sites."x"]\nmessages = 5', r"queue\.sites\.x\.messages: a rate"),
        ('[queue.sites."x"]\nmessages = "5"', r"queue\.sites\.x\.messages: '5' is no rate"),
        ('[queue.sites."x"]\nstart = 9\nmost = 2', r"queue\.sites\.x\.most: 2 is less than start"),
        ("[queue.tenants.x]\nmessages = 5", r"queue\.tenants\.x\.messages"),
        ("[queue.tenants.x]\nweight = 0", r"queue\.tenants\.x\.weight: 0 is not more than 0"),
        ('[listen.x]\naddresses = ["::1:25"]', r"listen\.x\.addresses\[0\]: '::1:25': an IPv6 address belongs in"),
        ('[listen.x]\naddresses = [":25"]', r"listen\.x\.addresses\[0\]: ':25': no host; \*:25 is every address"),
        ('[listen.x]\naddresses = ["h:99999"]', r"listen\.x\.addresses\[0\]: 'h:99999': host:port"),
        ('[listen.x]\naddresses = ["h"]', r"listen\.x\.addresses\[0\]: 'h': host:port"),
        ('[listen.x]\nnetworks = ["10.0.0.1/8"]', r"listen\.x\.networks\[0\]: 10\.0\.0\.1/8 has host bits set"),
        ('[listen.x]\nsenders = ["example.org"]', r"listen\.x\.senders\[0\]: 'example\.org' is no address"),
        ('[listen.x]\nmode = "rw"', r"listen\.x\.mode: 'rw' is no octal mode"),
        ('[listen.x]\ntls = "required"', r"listen\.x\.certificate_file: is missing"),
        ('[listen.x]\ncertificate_file = "x"', r"listen\.x\.certificate_file: a certificate, and tls is \"none\""),
        ("[listen.x]\nlogin_required = true", r"listen\.x\.login_required: no client can log in"),
        (
            '[listen.x]\npasswords_file = "x"\nmechanisms = ["PLAIN"]',
            r"listen\.x\.passwords_file: no login is possible",
        ),
        ('[listen.x]\nmechanisms = ["CRAM-MD5"]', r"listen\.x\.mechanisms\[0\]: CRAM-MD5 is none of"),
        ("[listen.x]\nmax_size = 5", r"listen\.x\.max_size: 5; 64 KiB"),
        ("[listen.x]\nmax_recipients = 5", r"listen\.x\.max_recipients: 5 is less than 100"),
        ("[listen.x]\nconnections = 0", r"listen\.x\.connections: 0 is less than 1"),
        ("[clients]\nlogin = 1", r"clients: tables are expected: \[\[clients\]\]"),
        ("[[clients]]\ntenant = 'x'", r"clients\[0\]\.login: one of login, network, uid"),
        ("[[clients]]\nuid = 1\n_range = 1", r"clients\[0\]\._range: there is no such key"),
        ("[delivery.limits]\nconnections = 1", r"delivery\.limits: is not for a queue; queue\.connections and"),
        ("[delivery.content]\nadd_missing = true", r"delivery\.content\.add_missing: is not for a queue"),
        ('[notices]\ncontact = "x"', r"notices\.contact: 'x' is no address"),
        ('[log]\nformat = "xml"', r"log\.format: xml is not one of text, json"),
        ('[health]\naddress = "0.0.0.0:80"', r"health\.address: 0\.0\.0\.0:80 can be reached from elsewhere"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        read(text)


def test_what_takes_a_restart() -> None:
    before = read(EVERYTHING)
    assert needs_restart(before, read(EVERYTHING)) == []
    after = replace(
        before,
        path="/other",
        queue=replace(before.queue, connections=5, shutdown=1.0),
        listen={
            "submission": replace(before.listen["submission"], addresses=("*:588",), senders=("a@b",)),
            "new": before.listen["local"],
        },
    )
    assert needs_restart(before, after) == [
        f"{key} changed, which takes a restart"
        for key in ("path", "queue.connections", "listen.local", "listen.new", "listen.submission.addresses")
    ]
    relay = Relay(host="other.example")
    routed = replace(before.delivery, relay=None, routes={"x.example": relay}, sender_routes={"y.example": relay})
    assert needs_restart(before, replace(before, delivery=routed)) == []


def test_addresses_are_shown_as_they_are_read() -> None:
    for text in ("127.0.0.1:25", "[fe80::1%eth0]:25", "*:0", "/run/x"):
        assert str(SocketAddress.parse(text)) == text


def test_where_the_queue_is(tmp_path: Path) -> None:
    """What the command line says goes before the file, and the file before the environment."""
    file = tmp_path / "serve.toml"
    file.write_text('[queue]\npath = "/a/queue.db"\n')
    assert read_service(file, queue="/b/queue.db", usual="/c/queue.db").path == "/b/queue.db"
    assert read_service(file, usual="/c/queue.db").path == "/a/queue.db"
    file.write_text("")
    assert read_service(file, usual="/c/queue.db").path == "/c/queue.db"
    assert read_service(file).path == "/var/lib/zsmtp/queue.db"
