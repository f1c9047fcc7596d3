"""zsmtp: the outbound half of a mail system.

Deliver from Python, straight to the mail exchangers or through a relay::

    import zsmtp

    report = zsmtp.deliver(message, sender="a@example.org", recipients=["b@example.net"])
    for result in report:
        print(result)

``message`` is an ``email.message.EmailMessage``, octets, a path or a binary file; :class:`Config` has the options,
:mod:`zsmtp.aio` is the same for asyncio. :class:`Queue` keeps messages on disk until they are delivered::

    with zsmtp.Queue.open("/var/lib/app/mail.db", deliver=True) as queue:
        queue.submit(message, sender="a@example.org", recipients=["b@example.net"])

Beneath is a delivery engine for SMTP (RFC 5321) and LMTP (RFC 2033) in layers, each usable by itself: ``proto`` (the
protocol as values: bytes in, events out), ``body`` (message content as it goes on the wire), ``dns`` (from host name to
an ordered list of addresses), ``net`` (drivers that carry out the effects of the other layers), ``delivery`` (delivers
one message to its recipients), ``client`` (the functions above), ``queue``, and ``zmailer`` (the ``smtp`` transport
agent).

Importing this package imports none of them, to keep the start-up time of short runs low. Public names are imported at
their first use (PEP 562).
"""

TYPE_CHECKING = False  # typing's own would cost its import; type checkers know the name
if TYPE_CHECKING:
    from zsmtp import aio as aio
    from zsmtp.client.blocking import Client as Client
    from zsmtp.client.blocking import deliver as deliver
    from zsmtp.client.client import MailOptions as MailOptions
    from zsmtp.client.client import Submission as Submission
    from zsmtp.client.config import TLS as TLS
    from zsmtp.client.config import Config as Config
    from zsmtp.client.config import Content as Content
    from zsmtp.client.config import Direct as Direct
    from zsmtp.client.config import DKIMKey as DKIMKey
    from zsmtp.client.config import Level as Level
    from zsmtp.client.config import Limits as Limits
    from zsmtp.client.config import Login as Login
    from zsmtp.client.config import NonMime8Bit as NonMime8Bit
    from zsmtp.client.config import Relay as Relay
    from zsmtp.client.config import Signed8Bit as Signed8Bit
    from zsmtp.client.config import STSUse as STSUse
    from zsmtp.client.config import Timeouts as Timeouts
    from zsmtp.client.dsn import DSN as DSN
    from zsmtp.client.report import Attempt as Attempt
    from zsmtp.client.report import Fate as Fate
    from zsmtp.client.report import Report as Report
    from zsmtp.client.report import Result as Result
    from zsmtp.client.report import Server as Server
    from zsmtp.client.report import TLSSummary as TLSSummary
    from zsmtp.errors import ConfigError as ConfigError
    from zsmtp.errors import Conflict as Conflict
    from zsmtp.errors import NotDelivered as NotDelivered
    from zsmtp.errors import QueueError as QueueError
    from zsmtp.errors import QueueFull as QueueFull
    from zsmtp.errors import QueueUnavailable as QueueUnavailable
    from zsmtp.errors import QuotaExceeded as QuotaExceeded
    from zsmtp.errors import SubmissionError as SubmissionError
    from zsmtp.errors import ZsmtpError as ZsmtpError
    from zsmtp.queue.blocking import Queue as Queue
    from zsmtp.queue.blocking import ShardedQueue as ShardedQueue
    from zsmtp.queue.config import QueueConfig as QueueConfig
    from zsmtp.queue.ingest import QueueSubmission as QueueSubmission

__version__ = "0.1.0"

_HOMES = {
    "zsmtp.client.blocking": ("Client", "deliver"),
    "zsmtp.client.client": ("MailOptions", "Submission"),
    "zsmtp.client.config": (
        "Config",
        "Content",
        "DKIMKey",
        "Direct",
        "Level",
        "Limits",
        "Login",
        "NonMime8Bit",
        "Relay",
        "STSUse",
        "Signed8Bit",
        "TLS",
        "Timeouts",
    ),
    "zsmtp.client.dsn": ("DSN",),
    "zsmtp.client.report": ("Attempt", "Fate", "Report", "Result", "Server", "TLSSummary"),
    "zsmtp.errors": (
        "ConfigError",
        "Conflict",
        "NotDelivered",
        "QueueError",
        "QueueFull",
        "QueueUnavailable",
        "QuotaExceeded",
        "SubmissionError",
        "ZsmtpError",
    ),
    "zsmtp.queue.blocking": ("Queue", "ShardedQueue"),
    "zsmtp.queue.config": ("QueueConfig",),
    "zsmtp.queue.ingest": ("QueueSubmission",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["aio", *_HOME_OF]


def __getattr__(name: str) -> object:
    import importlib

    if name == "aio":
        return importlib.import_module("zsmtp.aio")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zsmtp' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
