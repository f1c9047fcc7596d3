"""The tests of ``signup.py``: each has its own mail server."""

from __future__ import annotations

import pytest
from signup import AddressRefused, welcome

from zsmtp.testing import MailReceiver

pytest_plugins = ["zsmtp.testing.plugin"]  # in your own project this line is in conftest.py


def test_a_new_user_is_welcomed(mail_receiver: MailReceiver) -> None:
    welcome("ann@example.net", mail_receiver.config)
    (mail,) = mail_receiver.outbox
    assert mail.sender == "hello@shop.example"
    assert mail.recipients == ("ann@example.net",)
    assert mail.message["Subject"] == "Welcome"
    assert "Good that you are here." in mail.text


def test_an_address_that_does_not_exist_is_noticed(mail_receiver: MailReceiver) -> None:
    mail_receiver.refuse("nobody@example.net")
    with pytest.raises(AddressRefused):
        welcome("nobody@example.net", mail_receiver.config)
    assert mail_receiver.outbox == []


def test_so_is_a_domain_that_does_not_exist(mail_receiver: MailReceiver) -> None:
    mail_receiver.domains.missing.add("example.ent")
    with pytest.raises(AddressRefused):
        welcome("ann@example.ent", mail_receiver.config)
