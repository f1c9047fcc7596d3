"""Limits that all stores of the queue share: sizes of pieces, and retention times.

They are part of the contract (``zsmtp.queue.store``), which tests verify for every store.
"""

CHUNK = 256 * 1024  # octets of content in one row
PART_RECIPIENTS = 1000  # recipients written in one transaction of an upload
PART_OCTETS = 1 << 20  # content written in one transaction of an upload
MAX_RULES = 10_000
BY_COMMAND = (1 << 31) - 1
"""The hold of recipients that a command holds, until a command releases them.

All other positive numbers are those of rules. Negative ones are the program's own reasons to hold a recipient.
"""
HELD_FOR_DOUBT = -1
"""The hold of recipients whose delivery is in doubt, with ``in-doubt = hold`` in the configuration."""
SPARE_OCTETS = 64 << 20
"""Intake stops when the disk has less room left than this and twice the message: results need room, too."""
NOTICE_WAIT = 300.0
"""Seconds after which a notice is made although other recipients of its message are still in hand."""
NOTICE_RECIPIENTS = 100
"""Recipients in one notice."""
UPLOAD_WAIT = 3600.0
"""Seconds after the last part until an upload that was not accepted is swept."""
KEYS_KEPT = 7 * 86400.0
"""Seconds that an idempotency key is kept after the last end of its message."""
MOVES_KEPT = 7 * 86400.0
"""Seconds that a note on moved recipients is kept after they departed from their source, and a move after it began."""
HISTORY_KEPT = 30 * 86400.0
"""Seconds that history is kept, unless the store is opened with another time."""
