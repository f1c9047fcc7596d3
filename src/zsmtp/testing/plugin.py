"""A plugin for pytest with the fixture ``mail_receiver``.

Name it in ``conftest.py`` at the top of your tests::

    pytest_plugins = ["zsmtp.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zsmtp.testing.receiver import MailReceiver


@pytest.fixture
def mail_receiver() -> Iterator[MailReceiver]:
    """A :class:`zsmtp.testing.MailReceiver` with an empty outbox, closed when the test is over."""
    with MailReceiver() as receiver:
        yield receiver
