"""Delivery status notifications as Sisimai reads them: a parser of bounces that many mail systems use (Perl)."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from tests.interop.servers import Farm
from tests.support.queuenotices import SCENES

pytestmark = pytest.mark.interop

_READ = """
use Sisimai; use JSON;
my @found = map { { recipient => $_->recipient->address, action => $_->action, status => $_->deliverystatus,
    reason => $_->reason, reply => $_->replycode, server => $_->rhost, sender => $_->addresser->address,
    message => $_->messageid } } @{ Sisimai->make('STDIN', delivered => 1) || [] };
print JSON->new->canonical->encode(\\@found);
"""
_OF = {"sender": "ann@example.org", "message": "lunch-17@example.org"}
READ = {
    "failure": [
        {
            "recipient": "bob@example.com",
            "action": "failed",
            "status": "5.1.1",
            "reason": "userunknown",
            "reply": "550",
            "server": "mx1.example.com",
        },
        {
            "recipient": "carl@nowhere.example",
            "action": "failed",
            "status": "5.1.2",
            "reason": "hostunknown",
            "reply": "",
            "server": "mail.example.org",
        },
    ],
    "expired-german": [
        {
            "recipient": "bob@example.com",
            "action": "failed",
            "status": "4.2.2",
            "reason": "mailboxfull",
            "reply": "452",
            "server": "mx1.example.com",
        }
    ],
    "delay": [
        {
            "recipient": "bob@example.com",
            "action": "delayed",
            "status": "4.4.1",
            "reason": "expired",
            "reply": "",
            "server": "mail.example.org",
        }
    ],
    "success": [
        {
            "recipient": "dora@example.org",
            "action": "delivered",
            "status": "2.1.5",
            "reason": "delivered",
            "reply": "250",
            "server": "store",
        },
        {
            "recipient": "bob@example.com",
            "action": "relayed",
            "status": "2.0.0",
            "reason": "delivered",
            "reply": "250",
            "server": "mx1.example.com",
        },
    ],
}


@pytest.mark.parametrize("name", READ)
def test_sisimai_reads_everything(name: str, farm: Farm) -> None:
    root = farm.directory / "root"
    (root / "tmp" / "read.pl").write_text(_READ)  # perl -e would want /dev/null, which a bare root has not
    command = ["chroot", str(root), "/usr/bin/perl", "/tmp/read.pl"]
    done = subprocess.run(command, input=SCENES[name](), capture_output=True, check=True, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert found == [_OF | expected for expected in READ[name]]
