"""A program that sends mail: a message to a new user. ``test_signup.py`` has its tests."""

from __future__ import annotations

from email.message import EmailMessage

import zsmtp


class AddressRefused(Exception):
    """The address does not exist."""


def welcome(address: str, config: zsmtp.Config) -> None:
    """Send a new user the first message; a deferral is retried within the hour."""
    message = EmailMessage()
    message["From"] = "Example <hello@shop.example>"
    message["To"] = address
    message["Subject"] = "Welcome"
    message.set_content("Good that you are here.\n")
    report = zsmtp.deliver(message, config=config, retry_for=3600)
    if report.with_fate(zsmtp.Fate.FAILED):
        raise AddressRefused(address)
