"""For the tests of programs that send mail: a receiver on this machine, an outbox with what came, and nobody else.

:class:`MailReceiver` is a real SMTP server (``zsmtp.server``) on a free port of 127.0.0.1, in a thread of its own. Its
``config`` leads all mail to it, whatever the domain, and no name server is asked; what would go elsewhere cannot leave
the machine. It takes everything until it is told otherwise::

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
