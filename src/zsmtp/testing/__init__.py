"""For the tests of programs that send mail: a receiver on this machine, with an outbox of the messages it received.

:class:`MailReceiver` is a real SMTP server (``zsmtp.server``) on a free port of 127.0.0.1, in a thread of its own. Its
``config`` routes all mail to it, for any domain, and queries no name server; no mail can leave the machine. It accepts
every message unless a test scripts another reply::

    with MailReceiver() as receiver:
        receiver.refuse("nobody@example.org")
        report = zsmtp.deliver(message, config=receiver.config)
        (mail,) = receiver.outbox
        assert mail.message["Subject"] == "Hello"

``zsmtp.testing.plugin`` has it as a fixture for pytest, which is needed for that only.
"""

from zsmtp.testing.receiver import MailReceiver, ReceivedMail
from zsmtp.testing.world import ClosedWorld

__all__ = ["ClosedWorld", "MailReceiver", "ReceivedMail"]
